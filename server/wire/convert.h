// core <-> proto: the only conversions. Total functions; validation belongs to core and control.
#pragma once

#include <vector>

#include "google/protobuf/duration.pb.h"
#include "google/protobuf/timestamp.pb.h"
#include "modeld/engine/v1/engine.pb.h"
#include "modeld/v1/inference.pb.h"
#include "modeld/v1/model.pb.h"
#include "modeld/v1/operation.pb.h"
#include "modeld/v1/orchestrator.pb.h"
#include "server/core/inspection.h"
#include "server/core/model.h"
#include "server/core/operation.h"
#include "server/core/sampling.h"

namespace modeld {

google::protobuf::Timestamp ToProto(TimePoint time);
google::protobuf::Duration ToProto(std::chrono::milliseconds duration);
std::chrono::milliseconds FromProto(const google::protobuf::Duration& duration);

modeld::v1::Model ToProto(const ModelView& view);
modeld::v1::Preflight ToProto(const Inspection& inspection);
modeld::v1::FileProgress ToProto(const FileProgress& file);
modeld::v1::Operation ToProto(const Operation& operation);
// `node_name` is what people call the node.
modeld::v1::Instance ToProto(const Instance& instance, const std::string& node_name);
modeld::engine::v1::DeviceMemory ToProto(const DeviceBytes& bytes);
DeviceBytes FromProto(const modeld::engine::v1::DeviceMemory& memory);

// Empty dtype and device_map become "bfloat16" and "auto".
LoadSpec FromProto(const modeld::v1::LoadModelRequest& request);
SamplingRequest FromProto(const modeld::v1::Sampling& sampling);
modeld::engine::v1::RequestLimits ToProto(const RequestLimits& limits);
RequestLimits FromProto(const modeld::engine::v1::RequestLimits& limits);

}  // namespace modeld
