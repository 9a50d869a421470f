#include "server/hub/hub_tokens.h"

#include "server/base/file.h"
#include "server/base/log.h"
#include "server/base/status.h"
#include "server/core/model.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

constexpr int64_t kTokenBytesMax = 64 << 10;

// Files end with a line break, and a token has no blanks.
std::string WithoutBlanks(std::string text) {
  std::erase_if(text, [](char c) { return c == '\r' || c == '\n' || c == ' ' || c == '\t'; });
  return text;
}

absl::StatusOr<std::string> ReadToken(const std::string& path) {
  ASSIGN_OR_RETURN(std::string text, ReadFile(path, kTokenBytesMax));
  text = WithoutBlanks(std::move(text));
  if (text.empty()) return absl::FailedPreconditionError(path + " is empty");
  return text;
}

}  // namespace

absl::StatusOr<std::string> HubTokens::OwnToken() {
  if (options_.token_file.empty()) return WithoutBlanks(options_.token);
  absl::StatusOr<std::string> token = ReadToken(options_.token_file);
  MutexLock lock(mutex_);
  if (token.ok()) {
    last_good_ = *token;
    said_unreadable_ = false;
    return token;
  }
  if (last_good_.empty()) {
    return Error(Reason::kHubAccessDenied,
                 "the hub's token: " + std::string(token.status().message()),
                 {{"token_file", options_.token_file}});
  }
  // It may just be written anew.
  if (!said_unreadable_) LogWarning("hub_token_not_read", {{"error", token.status()}});
  said_unreadable_ = true;
  return last_good_;
}

absl::StatusOr<std::string> HubTokens::Get(const std::string& credential) {
  if (credential.empty()) return OwnToken();
  RETURN_IF_ERROR(ValidateTokenCredential(credential));
  const auto denied = [&](const std::string& why) {
    return Error(Reason::kHubAccessDenied, "credential \"" + credential + "\" " + why,
                 {{"credential", credential}});
  };
  if (options_.credentials_dir.empty()) {
    return denied(
        "is asked for, but neither hub.credentials_dir nor $CREDENTIALS_DIRECTORY is set");
  }
  absl::StatusOr<std::string> token = ReadToken(options_.credentials_dir + "/" + credential);
  if (token.ok()) return token;
  if (absl::IsNotFound(token.status())) return denied("is not in " + options_.credentials_dir);
  return denied("is of no use: " + std::string(token.status().message()));
}

}  // namespace modeld
