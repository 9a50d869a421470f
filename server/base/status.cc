#include "server/base/status.h"

#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

namespace modeld {
namespace {

// Where the details travel inside an absl::Status.
constexpr char kPayloadUrl[] = "modeld/error-details";

using nlohmann::json;

json DetailsToJson(const ErrorDetails& details) {
  json out = json::object();
  if (!details.reason.empty()) out["reason"] = details.reason;
  if (!details.metadata.empty()) out["metadata"] = details.metadata;
  for (const FieldViolation& field : details.fields) {
    out["fields"].push_back({{"field", field.field}, {"description", field.description}});
  }
  if (details.retry_after) out["retry_after_ms"] = details.retry_after->count();
  if (details.resource) {
    out["resource"] = {{"type", details.resource->type}, {"name", details.resource->name}};
  }
  return out;
}

ErrorDetails DetailsFromJson(const json& in) {
  ErrorDetails details;
  details.reason = in.value("reason", "");
  details.metadata = in.value("metadata", details.metadata);
  for (const json& field : in.value("fields", json::array())) {
    details.fields.push_back({field.value("field", ""), field.value("description", "")});
  }
  if (in.contains("retry_after_ms")) {
    details.retry_after = std::chrono::milliseconds(in["retry_after_ms"].get<int64_t>());
  }
  if (in.contains("resource")) {
    details.resource = {in["resource"].value("type", ""), in["resource"].value("name", "")};
  }
  return details;
}

std::string Dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

absl::Status ErrorWithDetails(absl::StatusCode code, std::string_view message,
                              const ErrorDetails& details) {
  MODELD_CHECK(code != absl::StatusCode::kOk, "an error needs a code");
  absl::Status status(code, std::string(message));
  status.SetPayload(kPayloadUrl, absl::Cord(Dump(DetailsToJson(details))));
  return status;
}

ErrorDetails DetailsOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kPayloadUrl);
  if (!payload) return {};
  return DetailsFromJson(json::parse(std::string(*payload)));
}

std::string ReasonOf(const absl::Status& status) { return DetailsOf(status).reason; }

absl::Status WithContext(const absl::Status& status, std::string_view context) {
  if (status.ok()) return status;
  absl::Status out(status.code(), std::string(context) + ": " + std::string(status.message()));
  status.ForEachPayload(
      [&out](auto url, const absl::Cord& payload) { out.SetPayload(url, payload); });
  return out;
}

std::string StatusToJson(const absl::Status& status) {
  return Dump({{"code", static_cast<int>(status.code())},
               {"message", std::string(status.message())},
               {"details", DetailsToJson(DetailsOf(status))}});
}

absl::Status StatusFromJson(std::string_view text) {
  try {
    const json in = json::parse(text);
    const auto code = static_cast<absl::StatusCode>(in.at("code").get<int>());
    if (code == absl::StatusCode::kOk) return absl::OkStatus();
    return ErrorWithDetails(code, in.at("message").get<std::string>(),
                            DetailsFromJson(in.value("details", json::object())));
  } catch (const json::exception&) {
    return absl::InternalError("not a stored status: " + std::string(text.substr(0, 100)));
  }
}

void Panic(std::string_view what, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: broken invariant: %.*s\n", file, line, static_cast<int>(what.size()),
               what.data());
  std::abort();
}

}  // namespace modeld
