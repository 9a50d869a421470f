// A Hugging Face hub of the test's own: deploy/hub/hub_server.py on ephemeral ports of 127.0.0.1
// over a temporary folder of repositories.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "server/base/file.h"

namespace modeld {

// One request that the hub or its CDN answered.
struct FakeHubRequest {
  std::string port;  // "hub" or "cdn"
  std::string on;    // "api", "resolve" or "cdn"
  std::string method;
  std::string path;   // decoded
  std::string query;  // of the hub's port only
  std::string range;  // the Range header, "" without one
  int status = 0;
  int64_t bytes = 0;  // of the body, as sent
  bool had_token = false;
};

// Files of a repository may be added at any time; a branch's commit is computed when it is asked
// for. What fails here ends the test program with the reason. The server ends with this object or
// with the test program, whatever ends it. One thread at a time.
class FakeHub {
 public:
  // `tokens`: the only good ones; none: every token is good.
  explicit FakeHub(const std::vector<std::string>& tokens = {});
  ~FakeHub();
  FakeHub(const FakeHub&) = delete;
  FakeHub& operator=(const FakeHub&) = delete;

  // Origins, without a trailing slash.
  const std::string& url() const { return url_; }
  const std::string& cdn_url() const { return cdn_url_; }

  // A file of a repository with one revision, the branch main. *.safetensors and files of 10 MiB
  // are LFS.
  void AddFile(std::string_view repo, std::string_view path, std::string_view content);
  // A file of one of several revisions. Each is a tag; the last by name is the branch main.
  void AddRevisionFile(std::string_view repo, std::string_view revision, std::string_view path,
                       std::string_view content);

  // A file of a revision that takes little room here whatever its size: zeros with some other bytes
  // among them.
  void AddSparseFile(std::string_view repo, std::string_view revision, std::string_view path,
                     int64_t size_bytes);

  // JSON text, all of them. Settings of a repository: {"branches":{"main":"v2"},"gated":"auto",
  // "private":true,"disabled":true,"tokens":["t"]}.
  void ChangeRepo(std::string_view repo, std::string_view settings);
  // {"page_size":2,"url_ttl_s":0.5,"resolve_cache":true,
  // "quotas":{"api":5,"resolvers":9,"window_s":60}}.
  void Set(std::string_view settings);
  // As listed in deploy/hub/faults.py: {"kind":"cut","on":"cdn","bytes":1000,"times":2}.
  void AddFault(std::string_view fault);
  void ClearFaults();

  // In the order in which they began; what ClearRequests() forgot is not among them.
  std::vector<FakeHubRequest> Requests();
  void ClearRequests();

 private:
  void Start(const std::vector<std::string>& tokens);
  void Control(const std::string& command);

  std::string root_;
  std::string url_;
  std::string cdn_url_;
  UniqueFd lifeline_;  // its end of file ends the server
  pid_t pid_ = -1;
};

// `size_bytes` bytes that no compression shortens and that differ by `seed`.
std::string TestBytes(int64_t size_bytes, uint32_t seed);

}  // namespace modeld
