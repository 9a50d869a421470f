// Values as columns and back: texts, times, and what is kept as JSONB. For the files of this folder
// only.
#pragma once

#include <chrono>
#include <pqxx/pqxx>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "server/core/model.h"
#include "server/core/operation.h"

namespace modeld {

// `value` as a parameter. Throws pqxx::argument_error (Database answers INVALID_FIELD) for a NUL
// byte: libpq would cut the text there, and another row would be meant.
std::string Text(std::string_view value);

// SQL for a TIMESTAMPTZ column as microseconds since 1970, and what Time() makes of them.
std::string MicrosecondsSql(std::string_view column);
TimePoint Time(const pqxx::field& microseconds);

// JSON text for JSONB parameters. A NUL in a string, which JSONB cannot keep, becomes U+FFFD.
std::string JsonbText(std::string_view json);
std::string PatternsJson(const std::vector<std::string>& patterns);
std::string LoadSpecJson(const LoadSpec& spec);
// Without priority and limit, which have columns of their own.
std::string OperationSpecJson(const OperationSpec& spec);
std::string FilesJson(const std::vector<FileProgress>& files);
std::string DevicesJson(const std::vector<DeviceBytes>& devices);

// And back. Text that none of the above wrote gives defaults for what is missing or of another
// kind.
std::vector<std::string> PatternsFromJson(std::string_view json);
LoadSpec LoadSpecFromJson(std::string_view json);
OperationSpec OperationSpecFromJson(std::string_view json);
std::vector<FileProgress> FilesFromJson(std::string_view json);
std::vector<DeviceBytes> DevicesFromJson(std::string_view json);

}  // namespace modeld
