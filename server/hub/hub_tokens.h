// Access tokens for the hub: the daemon's own one, and those of credentials that models name.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "server/base/mutex.h"

namespace modeld {

// Files are read anew each time, so that a changed token counts from the next request on. No
// message has a token in it. Thread-safe.
class HubTokens {
 public:
  struct Options {
    std::string token;            // the daemon's own, unless token_file has it; empty: none
    std::string token_file;       // absolute path
    std::string credentials_dir;  // folder of the credentials; empty: there are none
  };

  explicit HubTokens(const Options& options) : options_(options) {}

  // The daemon's own token for "", else that of the credential with this name. HUB_ACCESS_DENIED
  // naming the credential or the file when it cannot be read or is empty; of the daemon's own file
  // the last good content counts then.
  absl::StatusOr<std::string> Get(const std::string& credential);

 private:
  absl::StatusOr<std::string> OwnToken() ABSL_LOCKS_EXCLUDED(mutex_);

  const Options options_;
  Mutex mutex_;
  std::string last_good_ ABSL_GUARDED_BY(mutex_);  // of token_file
  bool said_unreadable_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace modeld
