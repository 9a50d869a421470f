#include "server/engine/weights/inspect_command.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/base/status.h"
#include "server/core/inspection.h"
#include "server/engine/weights/inspect.h"

namespace modeld {
namespace {

using Json = nlohmann::json;

constexpr size_t kInputBytesMax = size_t{256} << 20;

// Throws Json::exception when a value has another type than the format says.
InspectedRepository RepositoryOf(const Json& input) {
  InspectedRepository repository;
  repository.trust_remote_code = input.value("trust_remote_code", false);
  for (const Json& file : input.value("files", Json::array())) {
    repository.files[file.at("path").get<std::string>()] = file.value("size_bytes", int64_t{-1});
  }
  repository.config_json = input.at("config").get<std::string>();
  const auto optional = [&](const char* key) {
    const auto text = input.find(key);
    return text == input.end() || text->is_null() ? std::nullopt
                                                  : std::optional(text->get<std::string>());
  };
  repository.index_json = optional("index");
  repository.torch_index_json = optional("torch_index");
  repository.texts = input.value("texts", std::map<std::string, std::string>());
  return repository;
}

absl::StatusOr<InspectedRepository> ParseInput(std::string_view text) {
  try {
    const Json input = Json::parse(text);
    InspectedRepository repository = RepositoryOf(input);
    const Json headers = input.value("headers", Json::object());
    for (const auto& [file, encoded] : headers.items()) {
      std::string head;
      if (!absl::Base64Unescape(encoded.get_ref<const std::string&>(), &head)) {
        return absl::InvalidArgumentError(absl::StrFormat("the header of %s is not base64", file));
      }
      repository.headers.emplace(file, std::move(head));
    }
    return repository;
  } catch (const Json::exception& e) {
    return absl::InvalidArgumentError(
        absl::StrCat("the input is not what inspect reads: ", e.what()));
  }
}

absl::StatusOr<std::string> ReadStdin() {
  std::string text;
  std::vector<char> buffer(1 << 16);
  while (true) {
    const ssize_t count = read(STDIN_FILENO, buffer.data(), buffer.size());
    if (count == 0) return text;
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return absl::InternalError(absl::StrCat("read stdin: errno ", errno));
    text.append(buffer.data(), static_cast<size_t>(count));
    if (text.size() > kInputBytesMax) {
      return absl::InvalidArgumentError(
          absl::StrFormat("stdin has more than %d bytes", kInputBytesMax));
    }
  }
}

absl::StatusOr<std::string> Answer() {
  ASSIGN_OR_RETURN(const std::string input, ReadStdin());
  return RunInspect(input);
}

}  // namespace

absl::StatusOr<std::string> RunInspect(std::string_view input) {
  ASSIGN_OR_RETURN(const InspectedRepository repository, ParseInput(input));
  return InspectionToJson(Inspect(repository));
}

int InspectMain() {
  const absl::StatusOr<std::string> answer = Answer();
  if (!answer.ok()) {
    const std::string message(answer.status().message());
    std::fprintf(stderr, "modeld-engine inspect: %s\n", message.c_str());
    return 1;
  }
  std::printf("%s\n", answer->c_str());
  return std::fflush(stdout) == 0 ? 0 : 1;
}

}  // namespace modeld
