#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "client/arguments.h"
#include "client/commands.h"
#include "client/table.h"
#include "server/base/status.h"
#include "server/core/bytes.h"

namespace modeld {
namespace {

using Result = v1::VerifyModelResponse::Result;

std::string TimeText(const google::protobuf::Timestamp& time) {
  const time_t seconds = time.seconds();
  tm utc{};
  char text[32] = "-";
  if (seconds > 0 && gmtime_r(&seconds, &utc) != nullptr) {
    std::strftime(text, sizeof text, "%Y-%m-%d %H:%M", &utc);
  }
  return text;
}

std::string Joined(const google::protobuf::RepeatedPtrField<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : ",") + word;
  return out.empty() ? "-" : out;
}

void PrintFiles(const v1::ScanCachesResponse& response) {
  std::vector<std::vector<std::string>> rows;
  for (const v1::CachedRepository& repository : response.repositories()) {
    for (const v1::CachedRevision& revision : repository.revisions()) {
      for (const v1::CachedFile& file : revision.files()) {
        rows.push_back({repository.hf_path(), revision.commit().substr(0, 12), file.path(),
                        FormatBytes(file.size_bytes()), file.blob().empty() ? "-" : file.blob()});
      }
    }
  }
  std::fputs(FormatTable({"REPOSITORY", "COMMIT", "FILE", "SIZE", "BLOB"}, rows).c_str(), stdout);
}

absl::Status Scan(const Cli& cli, const Client& client, v1::ScanCachesRequest request) {
  request.set_omit_files(request.omit_files() && !cli.json());
  ASSIGN_OR_RETURN(const v1::ScanCachesResponse response,
                   client.Call(&v1::Registry::Stub::ScanCaches, client.registry(), request));
  if (cli.json()) {
    PrintJson(response);
    return absl::OkStatus();
  }
  if (!request.omit_files()) {
    PrintFiles(response);
  } else {
    std::vector<std::vector<std::string>> rows;
    for (const v1::CachedRepository& repository : response.repositories()) {
      for (const v1::CachedRevision& revision : repository.revisions()) {
        rows.push_back({repository.repository_type(), repository.hf_path(),
                        revision.commit().substr(0, 12), Joined(revision.refs()),
                        FormatBytes(revision.size_bytes()), TimeText(revision.last_modified_time()),
                        repository.model_name().empty() ? "-" : repository.model_name()});
      }
    }
    std::fputs(
        FormatTable({"TYPE", "REPOSITORY", "COMMIT", "REFS", "SIZE", "MODIFIED", "MODEL"}, rows)
            .c_str(),
        stdout);
  }
  for (const v1::ScannedCache& cache : response.caches()) {
    std::printf("%s: %s\n", cache.cache_path().c_str(), FormatBytes(cache.size_bytes()).c_str());
  }
  for (const v1::PartialFile& file : response.partial_files()) {
    std::printf("partial: %s %s\n", FormatBytes(file.size_bytes()).c_str(), file.path().c_str());
  }
  for (const v1::CacheWarning& warning : response.warnings()) {
    std::printf("warning: %s %s\n", warning.path().c_str(), warning.message().c_str());
  }
  return absl::OkStatus();
}

// Progress on stderr, drawn over on a terminal only; the lines of broken files on stdout.
class VerifyPrinter {
 public:
  explicit VerifyPrinter(const Cli& cli) : cli_(cli) {}

  void Show(const v1::VerifyModelResponse& message) {
    last_ = message;
    if (cli_.json()) {
      PrintJson(message, /*compact=*/true);
    } else if (message.path().empty()) {
      DrawProgress();
    } else if (message.result() != Result::VerifyModelResponse_Result_RESULT_OK) {
      PrintFile(message);
    }
    Count(message);
  }
  int64_t broken() const { return broken_; }
  void Finish() const {
    if (cli_.json()) return;
    if (terminal_) std::fputs("\r\033[K", stderr);
    std::printf("%d files of commit %s, %s: %lld broken\n", last_.files_total(),
                last_.commit().c_str(), FormatBytes(last_.bytes_total()).c_str(),
                static_cast<long long>(broken_));
  }

 private:
  void DrawProgress() const {
    if (!terminal_) return;
    std::fprintf(stderr, "\r\033[K%s / %s, %d/%d files", FormatBytes(last_.bytes_done()).c_str(),
                 FormatBytes(last_.bytes_total()).c_str(), last_.files_done(), last_.files_total());
  }
  void PrintFile(const v1::VerifyModelResponse& message) const {
    if (terminal_) std::fputs("\r\033[K", stderr);
    const std::string word =
        EnumWord(v1::VerifyModelResponse::Result_Name(message.result()), "RESULT_");
    std::printf("%-8s  %s\n", word.c_str(), message.path().c_str());
    if (message.result() == Result::VerifyModelResponse_Result_RESULT_CORRUPT) {
      std::printf("          expected %s\n          actual   %s\n",
                  message.expected_digest().c_str(), message.actual_digest().c_str());
    }
  }
  void Count(const v1::VerifyModelResponse& message) {
    if (message.result() == Result::VerifyModelResponse_Result_RESULT_MISSING ||
        message.result() == Result::VerifyModelResponse_Result_RESULT_CORRUPT) {
      ++broken_;
    }
    if (message.result() == Result::VerifyModelResponse_Result_RESULT_REPAIRED) --broken_;
  }

  const Cli& cli_;
  const bool terminal_ = isatty(STDERR_FILENO) == 1;
  v1::VerifyModelResponse last_;
  int64_t broken_ = 0;
};

absl::Status Verify(const Cli& cli, const Client& client, const v1::VerifyModelRequest& request) {
  grpc::ClientContext context;
  const auto stream = client.registry().VerifyModel(&context, request);
  VerifyPrinter printer(cli);
  v1::VerifyModelResponse message;
  while (stream->Read(&message)) printer.Show(message);
  RETURN_IF_ERROR(Client::ToStatus(stream->Finish()));
  printer.Finish();
  if (printer.broken() == 0) return absl::OkStatus();
  return absl::DataLossError(std::to_string(printer.broken()) + " files of " +
                             request.model_name() + " are missing or corrupt");
}

void PrintRemoved(const google::protobuf::RepeatedPtrField<v1::RemovedEntry>& removed,
                  int64_t freed_bytes, bool dry_run) {
  std::vector<std::vector<std::string>> rows;
  for (const v1::RemovedEntry& entry : removed) {
    rows.push_back({EnumWord(v1::RemovedEntry::Kind_Name(entry.kind()), "KIND_"),
                    FormatBytes(entry.freed_bytes()), entry.path()});
  }
  if (!rows.empty()) std::fputs(FormatTable({"REMOVED", "FREED", "PATH"}, rows).c_str(), stdout);
  std::printf("%s %s\n", FormatBytes(freed_bytes).c_str(), dry_run ? "would be freed" : "freed");
}

void AddScan(CLI::App& app, Cli& cli) {
  auto* command = app.add_subcommand("scan", "Show what lies in the caches");
  auto request = std::make_shared<v1::ScanCachesRequest>();
  request->set_omit_files(true);
  command->add_option_function<std::string>(
      "--cache-path", [request](const std::string& v) { request->set_cache_path(v); },
      "Only this cache");
  command->add_option_function<std::string>(
      "HF_PATH", [request](const std::string& v) { request->set_hf_path(v); },
      "Only this repository");
  command->add_flag_function(
      "--files", [request](int64_t) { request->set_omit_files(false); }, "Show each file");
  command->callback([&cli, request] {
    cli.action = [&cli, request](Client& client) { return Scan(cli, client, *request); };
  });
}

void AddAdopt(CLI::App& app, Cli& cli) {
  auto* command = app.add_subcommand("adopt", "Make a row for files that are in a cache already");
  auto request = std::make_shared<v1::AdoptModelRequest>();
  AddModelArgument(command, request);
  command
      ->add_option_function<std::string>(
          "HF_PATH", [request](const std::string& v) { request->set_hf_path(v); },
          "Repository id, such as Qwen/Qwen2.5-0.5B-Instruct")
      ->required();
  command->add_option_function<std::string>(
      "--revision", [request](const std::string& v) { request->set_revision(v); },
      "Branch, tag or commit that is there (main)");
  AddPlaceOptions(command, request);
  command->add_flag_function(
      "--trust-remote-code", [request](int64_t) { request->set_trust_remote_code(true); },
      "Let code of the repository run");
  AddPatternOptions(command, request);
  command->callback([&cli, request] {
    cli.action = [&cli, request](Client& client) -> absl::Status {
      ASSIGN_OR_RETURN(const v1::Model model,
                       client.Call(&v1::Registry::Stub::AdoptModel, client.registry(), *request));
      return ShowModel(cli, model);
    };
  });
}

void AddVerify(CLI::App& app, Cli& cli) {
  auto* command = app.add_subcommand("verify", "Check the files of a model against their digests");
  auto request = std::make_shared<v1::VerifyModelRequest>();
  AddModelArgument(command, request);
  command->add_option_function<std::string>(
      "--revision", [request](const std::string& v) { request->set_revision(v); },
      "Commit, or a ref of the cache (the model's commit)");
  command->add_flag_function(
      "--repair", [request](int64_t) { request->set_repair(true); }, "Fetch broken files again");
  command->callback([&cli, request] {
    cli.action = [&cli, request](Client& client) { return Verify(cli, client, *request); };
  });
}

void AddPrune(CLI::App& app, Cli& cli) {
  auto* command = app.add_subcommand("prune", "Remove from a cache what nobody needs");
  auto request = std::make_shared<v1::PruneCacheRequest>();
  command->add_option_function<std::string>(
      "HF_PATH", [request](const std::string& v) { request->set_hf_path(v); },
      "Only this repository");
  command->add_option_function<std::string>(
      "--cache-path", [request](const std::string& v) { request->set_cache_path(v); },
      "Which cache (the primary one)");
  command->add_flag_function(
      "--dry-run", [request](int64_t) { request->set_dry_run(true); }, "Only say what would go");
  command->add_flag_function(
      "--detached", [request](int64_t) { request->set_detached_revisions(true); },
      "Remove snapshots that neither a ref nor a model names");
  command->add_option_function<int64_t>(
      "--older-than", [request](int64_t v) { request->mutable_older_than()->set_seconds(v); },
      "Only what has not changed for so many seconds (600)");
  command->callback([&cli, request] {
    cli.action = [&cli, request](Client& client) -> absl::Status {
      ASSIGN_OR_RETURN(const v1::PruneCacheResponse response,
                       client.Call(&v1::Registry::Stub::PruneCache, client.registry(), *request));
      if (cli.json()) {
        PrintJson(response);
      } else {
        PrintRemoved(response.removed(), response.freed_bytes(), request->dry_run());
      }
      return absl::OkStatus();
    };
  });
}

void AddDeleteRevision(CLI::App& app, Cli& cli) {
  auto* command = app.add_subcommand("delete-revision", "Remove one snapshot of a model");
  auto request = std::make_shared<v1::DeleteRevisionRequest>();
  AddModelArgument(command, request);
  command
      ->add_option_function<std::string>(
          "REVISION", [request](const std::string& v) { request->set_revision(v); },
          "Commit, or a ref of the cache")
      ->required();
  command->add_flag_function(
      "--dry-run", [request](int64_t) { request->set_dry_run(true); }, "Only say what would go");
  command->callback([&cli, request] {
    cli.action = [&cli, request](Client& client) -> absl::Status {
      ASSIGN_OR_RETURN(
          const v1::DeleteRevisionResponse response,
          client.Call(&v1::Registry::Stub::DeleteRevision, client.registry(), *request));
      if (cli.json()) {
        PrintJson(response);
      } else {
        PrintRemoved(response.removed(), response.freed_bytes(), request->dry_run());
      }
      return absl::OkStatus();
    };
  });
}

}  // namespace

void AddCacheCommands(CLI::App& app, Cli& cli) {
  AddScan(app, cli);
  AddAdopt(app, cli);
  AddVerify(app, cli);
  AddDeleteRevision(app, cli);
  AddPrune(app, cli);
}

}  // namespace modeld
