// Has a repository inspected by the engine program, from its small files and the heads of its
// weights.
#pragma once

#include <cstdint>
#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/cache/repo_cache.h"
#include "server/core/inspection.h"
#include "server/core/repo.h"
#include "server/engines/engines.h"
#include "server/hub/hub_client.h"

namespace modeld {

// Gives the bytes [offset, offset + length) of a file, fewer at its end.
using RangeReader = std::function<absl::StatusOr<std::string>(const std::string& path,
                                                              int64_t offset, int64_t length)>;
// Reads at the hub. `hub` outlives it.
RangeReader HubReader(HubClient& hub, HubRepo repo, std::string commit,
                      HubClient::Patience patience, std::stop_token stop);
// Reads the blobs that `cache` has, and what it lacks with `rest`: what is there is not fetched
// again.
RangeReader CacheReader(RepoCache cache, std::vector<RepoFile> files, RangeReader rest);
// Reads below a folder.
RangeReader FolderReader(std::string folder);

// Whether the heads of the weight files are read too: one or two reads each, some at a time.
enum class Heads {
  kNo,
  kIfTheyCome,  // without them nothing is said of tensors
  kAll,
};

struct PreflightRequest {
  std::vector<RepoFile> files;  // those that would be fetched, or are there
  bool trust_remote_code = false;
  Heads heads = Heads::kAll;
};

// What `modeld-engine inspect` says; the errors of `read`, which some threads call at once, and of
// Engines::Inspect(). What is wrong with the repository is in the answer.
absl::StatusOr<Inspection> InspectFiles(Engines& engines, const PreflightRequest& request,
                                        const RangeReader& read, std::stop_token stop);

}  // namespace modeld
