#include "server/store/columns.h"

#include <nlohmann/json.hpp>

namespace modeld {
namespace {

using nlohmann::json;

std::string Dump(const json& value) {
  return JsonbText(value.dump(-1, ' ', false, json::error_handler_t::replace));
}

// Other programs may write to these columns, so that nothing about their content is certain.
json Parse(std::string_view text) { return json::parse(text, nullptr, /*allow_exceptions=*/false); }

template <typename T>
T Value(const json& object, const char* key, T otherwise) {
  if (!object.is_object()) return otherwise;
  const auto found = object.find(key);
  if (found == object.end()) return otherwise;
  try {
    return found->get<T>();
  } catch (const json::exception&) {
    return otherwise;
  }
}

json ToJson(const LoadSpec& spec) {
  return {{"dtype", spec.dtype},
          {"device_map", spec.device_map},
          {"device_map_entries", spec.device_map_entries},
          {"max_context", spec.max_context}};
}

LoadSpec ToLoadSpec(const json& in) {
  LoadSpec spec;
  spec.dtype = Value(in, "dtype", spec.dtype);
  spec.device_map = Value(in, "device_map", spec.device_map);
  spec.device_map_entries = Value(in, "device_map_entries", spec.device_map_entries);
  spec.max_context = Value(in, "max_context", spec.max_context);
  return spec;
}

}  // namespace

std::string Text(std::string_view value) {
  if (value.find('\0') != std::string_view::npos) throw pqxx::argument_error("has a NUL byte");
  return std::string(value);
}

std::string MicrosecondsSql(std::string_view column) {
  return "(extract(epoch FROM " + std::string(column) + ") * 1000000)::bigint";
}

TimePoint Time(const pqxx::field& microseconds) {
  return TimePoint(std::chrono::microseconds(microseconds.as<int64_t>(0)));
}

std::string JsonbText(std::string_view json_text) {
  std::string out = Text(json_text);
  constexpr std::string_view kNul = "\\u0000";
  for (size_t at = 0; at + 1 < out.size(); ++at) {
    if (out[at] != '\\') continue;
    if (out.compare(at, kNul.size(), kNul) == 0) out.replace(at, kNul.size(), "\\ufffd");
    ++at;  // what follows a backslash belongs to it, such as a second backslash
  }
  return out;
}

std::string PatternsJson(const std::vector<std::string>& patterns) { return Dump(json(patterns)); }

std::string LoadSpecJson(const LoadSpec& spec) { return Dump(ToJson(spec)); }

std::string OperationSpecJson(const OperationSpec& spec) {
  json out = {{"revision", spec.revision}, {"load", ToJson(spec.load)}, {"pinned", spec.pinned}};
  if (spec.filter) {
    out["filter"] = {{"allow_patterns", spec.filter->allow_patterns},
                     {"ignore_patterns", spec.filter->ignore_patterns}};
  }
  return Dump(out);
}

std::string FilesJson(const std::vector<FileProgress>& files) {
  json out = json::array();
  for (const FileProgress& file : files) {
    out.push_back({{"path", file.path},
                   {"size_bytes", file.size_bytes},
                   {"bytes_done", file.bytes_done},
                   {"state", static_cast<int>(file.state)}});
  }
  return Dump(out);
}

std::string DevicesJson(const std::vector<DeviceBytes>& devices) {
  json out = json::array();
  for (const DeviceBytes& device : devices) {
    out.push_back({{"device", device.device},
                   {"weights_bytes", device.weights_bytes},
                   {"kv_cache_bytes", device.kv_cache_bytes},
                   {"workspace_bytes", device.workspace_bytes},
                   {"slack_bytes", device.slack_bytes}});
  }
  return Dump(out);
}

std::vector<std::string> PatternsFromJson(std::string_view text) {
  std::vector<std::string> out;
  const json in = Parse(text);
  if (!in.is_array()) return out;
  for (const json& pattern : in) {
    if (pattern.is_string()) out.push_back(pattern.get<std::string>());
  }
  return out;
}

LoadSpec LoadSpecFromJson(std::string_view text) { return ToLoadSpec(Parse(text)); }

OperationSpec OperationSpecFromJson(std::string_view text) {
  const json in = Parse(text);
  OperationSpec spec;
  spec.revision = Value(in, "revision", spec.revision);
  spec.load = ToLoadSpec(Value(in, "load", json::object()));
  spec.pinned = Value(in, "pinned", spec.pinned);
  if (const json filter = Value(in, "filter", json()); filter.is_object()) {
    using Patterns = std::vector<std::string>;
    spec.filter = FileFilter{.allow_patterns = Value(filter, "allow_patterns", Patterns()),
                             .ignore_patterns = Value(filter, "ignore_patterns", Patterns())};
  }
  return spec;
}

std::vector<FileProgress> FilesFromJson(std::string_view text) {
  std::vector<FileProgress> out;
  const json in = Parse(text);
  if (!in.is_array()) return out;
  for (const json& file : in) {
    out.push_back({.path = Value(file, "path", std::string()),
                   .size_bytes = Value(file, "size_bytes", int64_t{0}),
                   .bytes_done = Value(file, "bytes_done", int64_t{0}),
                   .state = static_cast<FileState>(Value(file, "state", 0))});
  }
  return out;
}

std::vector<DeviceBytes> DevicesFromJson(std::string_view text) {
  std::vector<DeviceBytes> out;
  const json in = Parse(text);
  if (!in.is_array()) return out;
  for (const json& device : in) {
    out.push_back({.device = Value(device, "device", std::string()),
                   .weights_bytes = Value(device, "weights_bytes", int64_t{0}),
                   .kv_cache_bytes = Value(device, "kv_cache_bytes", int64_t{0}),
                   .workspace_bytes = Value(device, "workspace_bytes", int64_t{0}),
                   .slack_bytes = Value(device, "slack_bytes", int64_t{0})});
  }
  return out;
}

}  // namespace modeld
