// The real modeld-engine as a child process, and calls to it.
#pragma once

#include <grpcpp/grpcpp.h>
#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "modeld/engine/v1/engine.grpc.pb.h"
#include "modeld/v1/inference.grpc.pb.h"
#include "server/base/file.h"
#include "tests/support/temp_dir.h"

namespace modeld {

// What a finished child left.
struct Finished {
  int exit_status = -1;  // -1: ended by a signal
  std::string output;    // of stdout
};

// Runs the program to its end with `input` on stdin.
Finished RunEngineProgram(const std::vector<std::string>& args, const std::string& input);

// `modeld-engine serve` with a control socket that this object holds. The destructor closes it and
// waits for the process.
class EngineProcess {
 public:
  // `environment`: more NAME=value.
  explicit EngineProcess(const std::vector<std::string>& environment = {});
  ~EngineProcess();
  EngineProcess(const EngineProcess&) = delete;
  EngineProcess& operator=(const EngineProcess&) = delete;

  pid_t pid() const { return pid_; }
  modeld::v1::Inference::Stub& inference() { return *inference_; }
  modeld::engine::v1::Engine::Stub& engine() { return *engine_; }

  // Lets go of the control socket, as a daemon does that dies.
  void CloseControl() { control_.Reset(); }
  // Waits for the process; its exit status, or -1.
  int Wait();

  // Loads tests/data/models/NAME, or the folder NAME, in float32 on the CPU; `limits` that are 0
  // have their defaults. Every message, and how the call ended.
  struct LoadResult {
    std::vector<modeld::engine::v1::LoadResponse> messages;
    absl::Status status;
  };
  LoadResult Load(const std::string& name, const modeld::engine::v1::RequestLimits& limits = {},
                  bool prefix_cache = true);

  // Reads a whole stream into one message.
  struct Answer {
    modeld::v1::GenerateResponse all;
    absl::Status status;
  };
  Answer Generate(const modeld::v1::GenerateRequest& request);
  Answer Chat(const modeld::v1::ChatRequest& request);

  // The first message of a Stats stream.
  modeld::engine::v1::StatsResponse StatsNow();

 private:
  TempDir folder_;
  UniqueFd control_;
  pid_t pid_ = -1;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<modeld::v1::Inference::Stub> inference_;
  std::unique_ptr<modeld::engine::v1::Engine::Stub> engine_;
};

}  // namespace modeld
