#include "server/wire/convert.h"

#include <chrono>

#include "server/wire/status_wire.h"

namespace modeld {
namespace {

template <typename T, typename U>
std::optional<T> Optional(bool has, U value) {
  return has ? std::optional<T>(static_cast<T>(value)) : std::nullopt;
}

}  // namespace

google::protobuf::Timestamp ToProto(TimePoint time) {
  const auto ns =
      std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
  google::protobuf::Timestamp out;
  out.set_seconds(ns / 1'000'000'000);
  out.set_nanos(static_cast<int32_t>(ns % 1'000'000'000));
  return out;
}

google::protobuf::Duration ToProto(std::chrono::milliseconds duration) {
  google::protobuf::Duration out;
  out.set_seconds(duration.count() / 1000);
  out.set_nanos(static_cast<int32_t>(duration.count() % 1000 * 1'000'000));
  return out;
}

std::chrono::milliseconds FromProto(const google::protobuf::Duration& duration) {
  return std::chrono::seconds(duration.seconds()) +
         std::chrono::milliseconds(duration.nanos() / 1'000'000);
}

modeld::v1::Model ToProto(const ModelView& view) {
  const Model& model = view.model;
  modeld::v1::Model out;
  out.set_id(model.id);
  out.set_model_name(model.model_name);
  out.set_hf_path(model.hf_path);
  out.set_revision(model.revision);
  out.set_commit(model.commit);
  out.set_trust_remote_code(model.trust_remote_code);
  out.set_cache_location(std::string(CacheLocationName(model.cache_location)));
  out.set_cache_path(model.cache_path);
  out.set_snapshot_path(model.snapshot_path);
  out.set_estimated_size_bytes(model.estimated_size_bytes);
  out.set_size_bytes(model.size_bytes);
  out.set_state(static_cast<modeld::v1::ModelState>(view.state));
  if (!view.error.ok()) *out.mutable_error() = ToRpcStatus(view.error);
  *out.mutable_create_time() = ToProto(model.create_time);
  *out.mutable_update_time() = ToProto(model.update_time);
  if (!model.inspection_json.empty()) {
    if (const auto inspection = InspectionFromJson(model.inspection_json); inspection.ok()) {
      *out.mutable_preflight() = ToProto(*inspection);
    }
  }
  out.set_token_credential(model.token_credential);
  out.mutable_allow_patterns()->Assign(model.filter.allow_patterns.begin(),
                                       model.filter.allow_patterns.end());
  out.mutable_ignore_patterns()->Assign(model.filter.ignore_patterns.begin(),
                                        model.filter.ignore_patterns.end());
  return out;
}

modeld::v1::Preflight ToProto(const Inspection& inspection) {
  modeld::v1::Preflight out;
  out.set_model_type(inspection.model_type);
  out.set_architecture(inspection.architecture);
  out.set_supported(inspection.supported);
  out.set_unsupported_reason(inspection.reason);
  out.set_unsupported_message(inspection.message);
  out.set_has_remote_code(inspection.has_remote_code);
  out.set_parameter_count(inspection.parameters);
  out.mutable_weights_bytes()->insert(inspection.weights_bytes.begin(),
                                      inspection.weights_bytes.end());
  out.mutable_kv_cache_bytes_per_token()->insert(inspection.kv_bytes_per_token.begin(),
                                                 inspection.kv_bytes_per_token.end());
  out.set_max_context(inspection.max_context);
  out.set_makes_vectors(inspection.makes_vectors);
  out.set_state_bytes_per_sequence(inspection.state_bytes_per_sequence);
  out.set_workspace_bytes(inspection.pass_bytes + inspection.logits_bytes);
  out.set_weights_file_bytes(inspection.weights_file_bytes);
  return out;
}

modeld::v1::FileProgress ToProto(const FileProgress& file) {
  modeld::v1::FileProgress out;
  out.set_path(file.path);
  out.set_size_bytes(file.size_bytes);
  out.set_bytes_done(file.bytes_done);
  out.set_state(static_cast<modeld::v1::FileState>(file.state));
  return out;
}

modeld::v1::Operation ToProto(const Operation& operation) {
  const OperationProgress& progress = operation.progress;
  modeld::v1::Operation out;
  out.set_name(operation.name);
  out.set_kind(static_cast<modeld::v1::OperationKind>(operation.kind));
  out.set_model_name(operation.model_name);
  out.set_state(static_cast<modeld::v1::OperationState>(operation.state));
  out.set_phase(static_cast<modeld::v1::OperationPhase>(progress.phase));
  out.set_bytes_done(progress.bytes_done);
  out.set_bytes_total(progress.bytes_total);
  out.set_bytes_per_second(static_cast<int64_t>(progress.bytes_per_second));
  if (progress.eta) *out.mutable_eta() = ToProto(*progress.eta);
  out.set_files_done(progress.files_done);
  out.set_files_total(progress.files_total);
  for (const FileProgress& file : progress.files) *out.add_files() = ToProto(file);
  if (!operation.error.ok()) *out.mutable_error() = ToRpcStatus(operation.error);
  *out.mutable_create_time() = ToProto(operation.create_time);
  if (operation.end_time) *out.mutable_end_time() = ToProto(*operation.end_time);
  out.set_done(operation.done());
  out.set_priority(operation.spec.priority);
  out.set_bytes_per_second_max(operation.spec.bytes_per_second_max);
  return out;
}

modeld::v1::Instance ToProto(const Instance& instance, const std::string& node_name) {
  modeld::v1::Instance out;
  out.set_instance_id(instance.instance_id);
  out.set_model_name(instance.model_name);
  out.set_node(node_name);
  out.set_pid(instance.pid);
  for (const DeviceBytes& bytes : instance.devices) {
    auto* device = out.add_devices();
    device->set_device(bytes.device);
    device->set_resident_bytes(bytes.total());
    device->set_weights_bytes(bytes.weights_bytes);
    device->set_kv_cache_bytes(bytes.kv_cache_bytes);
    device->set_workspace_bytes(bytes.workspace_bytes);
    device->set_slack_bytes(bytes.slack_bytes);
  }
  out.set_dtype(instance.spec.dtype);
  out.set_state(static_cast<modeld::v1::InstanceState>(instance.state));
  out.set_load_seconds(instance.load_seconds);
  out.set_active_requests(instance.active_requests);
  out.set_waiting_requests(instance.waiting_requests);
  out.set_commit(instance.commit);
  out.set_device_map(instance.spec.device_map);
  out.set_max_context(instance.spec.max_context);
  *out.mutable_create_time() = ToProto(instance.create_time);
  return out;
}

modeld::engine::v1::DeviceMemory ToProto(const DeviceBytes& bytes) {
  modeld::engine::v1::DeviceMemory out;
  out.set_device(bytes.device);
  out.set_weights_bytes(bytes.weights_bytes);
  out.set_kv_cache_bytes(bytes.kv_cache_bytes);
  out.set_workspace_bytes(bytes.workspace_bytes);
  out.set_slack_bytes(bytes.slack_bytes);
  return out;
}

DeviceBytes FromProto(const modeld::engine::v1::DeviceMemory& memory) {
  return {.device = memory.device(),
          .weights_bytes = memory.weights_bytes(),
          .kv_cache_bytes = memory.kv_cache_bytes(),
          .workspace_bytes = memory.workspace_bytes(),
          .slack_bytes = memory.slack_bytes()};
}

LoadSpec FromProto(const modeld::v1::LoadModelRequest& request) {
  LoadSpec spec;
  if (!request.dtype().empty()) spec.dtype = request.dtype();
  spec.device_map_entries = {request.device_map_entries().begin(),
                             request.device_map_entries().end()};
  if (!request.device_map().empty()) {
    spec.device_map = request.device_map();
  } else if (!spec.device_map_entries.empty()) {
    spec.device_map.clear();
  }
  spec.max_context = request.max_context();
  return spec;
}

SamplingRequest FromProto(const modeld::v1::Sampling& in) {
  SamplingRequest out;
  out.max_tokens = Optional<int64_t>(in.has_max_tokens(), in.max_tokens());
  out.temperature = Optional<double>(in.has_temperature(), in.temperature());
  out.top_p = Optional<double>(in.has_top_p(), in.top_p());
  out.top_k = Optional<int64_t>(in.has_top_k(), in.top_k());
  out.min_p = Optional<double>(in.has_min_p(), in.min_p());
  out.repetition_penalty = Optional<double>(in.has_repetition_penalty(), in.repetition_penalty());
  out.presence_penalty = Optional<double>(in.has_presence_penalty(), in.presence_penalty());
  out.frequency_penalty = Optional<double>(in.has_frequency_penalty(), in.frequency_penalty());
  out.seed = Optional<uint64_t>(in.has_seed(), in.seed());
  out.stop = {in.stop().begin(), in.stop().end()};
  out.logprobs = Optional<int32_t>(in.has_logprobs(), in.logprobs());
  out.ignore_eos = Optional<bool>(in.has_ignore_eos(), in.ignore_eos());
  out.typical_p = Optional<double>(in.has_typical_p(), in.typical_p());
  out.top_n_sigma = Optional<double>(in.has_top_n_sigma(), in.top_n_sigma());
  out.logit_bias = {in.logit_bias().begin(), in.logit_bias().end()};
  out.min_tokens = Optional<int64_t>(in.has_min_tokens(), in.min_tokens());
  out.bad_words = {in.bad_words().begin(), in.bad_words().end()};
  out.allowed_token_ids = {in.allowed_token_ids().begin(), in.allowed_token_ids().end()};
  out.stop_token_ids = {in.stop_token_ids().begin(), in.stop_token_ids().end()};
  out.dry_multiplier = Optional<double>(in.has_dry_multiplier(), in.dry_multiplier());
  out.dry_base = Optional<double>(in.has_dry_base(), in.dry_base());
  out.dry_allowed_length = Optional<int64_t>(in.has_dry_allowed_length(), in.dry_allowed_length());
  out.dry_penalty_last_n = Optional<int64_t>(in.has_dry_penalty_last_n(), in.dry_penalty_last_n());
  out.dry_sequence_breakers = {in.dry_sequence_breakers().begin(),
                               in.dry_sequence_breakers().end()};
  out.xtc_probability = Optional<double>(in.has_xtc_probability(), in.xtc_probability());
  out.xtc_threshold = Optional<double>(in.has_xtc_threshold(), in.xtc_threshold());
  out.n = Optional<int32_t>(in.has_n(), in.n());
  out.best_of = Optional<int32_t>(in.has_best_of(), in.best_of());
  out.prompt_logprobs = Optional<int32_t>(in.has_prompt_logprobs(), in.prompt_logprobs());
  out.num_beams = Optional<int32_t>(in.has_num_beams(), in.num_beams());
  out.length_penalty = Optional<double>(in.has_length_penalty(), in.length_penalty());
  out.early_stopping = Optional<std::string>(in.has_early_stopping(), in.early_stopping());
  return out;
}

modeld::engine::v1::RequestLimits ToProto(const RequestLimits& limits) {
  modeld::engine::v1::RequestLimits out;
  out.set_prompt_bytes_max(limits.prompt_bytes_max);
  out.set_choices_max(limits.choices_max);
  out.set_stop_max(limits.stop_max);
  out.set_stop_bytes_max(limits.stop_bytes_max);
  out.set_logprobs_max(limits.logprobs_max);
  out.set_logit_bias_max(limits.logit_bias_max);
  out.set_bad_words_max(limits.bad_words_max);
  out.set_dry_breakers_max(limits.dry_breakers_max);
  out.set_schema_bytes_max(limits.schema_bytes_max);
  out.set_regex_bytes_max(limits.regex_bytes_max);
  out.set_grammar_bytes_max(limits.grammar_bytes_max);
  out.set_structure_choices_max(limits.structure_choices_max);
  out.set_tools_max(limits.tools_max);
  return out;
}

RequestLimits FromProto(const modeld::engine::v1::RequestLimits& in) {
  RequestLimits out;
  const auto take = [](int64_t from, int64_t& to) { to = from > 0 ? from : to; };
  take(in.prompt_bytes_max(), out.prompt_bytes_max);
  take(in.choices_max(), out.choices_max);
  take(in.stop_max(), out.stop_max);
  take(in.stop_bytes_max(), out.stop_bytes_max);
  take(in.logprobs_max(), out.logprobs_max);
  take(in.logit_bias_max(), out.logit_bias_max);
  take(in.bad_words_max(), out.bad_words_max);
  take(in.dry_breakers_max(), out.dry_breakers_max);
  take(in.schema_bytes_max(), out.schema_bytes_max);
  take(in.regex_bytes_max(), out.regex_bytes_max);
  take(in.grammar_bytes_max(), out.grammar_bytes_max);
  take(in.structure_choices_max(), out.structure_choices_max);
  take(in.tools_max(), out.tools_max);
  return out;
}

}  // namespace modeld
