#include "tests/support/fake_engine/script.h"

#include <nlohmann/json.hpp>

#include "server/base/file.h"
#include "server/base/status.h"

namespace modeld {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(
    FakeEngineScript, start_crash, start_hang, ignore_eof, ignore_drain, load_steps, load_step_ms,
    load_crash_step, load_hang, load_error, load_gate, device, weights_bytes, kv_cache_bytes,
    workspace_bytes, max_context, sequences_max, tokens, token_ms, crash_after_tokens,
    hang_after_tokens, no_chat_template, stats_ms, active_requests, waiting_requests, report)

namespace {

absl::Status MergeFile(const std::string& path, nlohmann::json& merged) {
  const absl::StatusOr<std::string> text = ReadFile(path);
  if (absl::IsNotFound(text.status())) return absl::OkStatus();
  RETURN_IF_ERROR(text.status());
  const nlohmann::json script = nlohmann::json::parse(*text, nullptr, false);
  if (!script.is_object()) return absl::InvalidArgumentError(path + " is no JSON object");
  merged.update(script);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<FakeEngineScript> ReadScript(const std::string& program_path,
                                            const std::string& snapshot_path) {
  nlohmann::json merged = nlohmann::json::object();
  RETURN_IF_ERROR(MergeFile(program_path + ".json", merged));
  if (!snapshot_path.empty()) {
    RETURN_IF_ERROR(MergeFile(snapshot_path + "/fake_engine.json", merged));
  }
  try {
    return merged.get<FakeEngineScript>();
  } catch (const nlohmann::json::exception& e) {
    return absl::InvalidArgumentError(std::string("the script of the fake engine: ") + e.what());
  }
}

}  // namespace modeld
