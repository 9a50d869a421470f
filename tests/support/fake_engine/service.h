// Engine and Inference of the fake engine. An answer repeats the words of the prompt, one a token,
// with the token ids 0, 1, 2, ...; Tokenize makes one token of each byte.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "modeld/engine/v1/engine.grpc.pb.h"
#include "modeld/v1/inference.grpc.pb.h"
#include "server/base/mutex.h"
#include "tests/support/fake_engine/script.h"

namespace modeld {

// What the two services share. Thread-safe.
class FakeEngineState {
 public:
  explicit FakeEngineState(std::string program_path) : program_path_(std::move(program_path)) {}

  const std::string& program_path() const { return program_path_; }
  FakeEngineScript script() const;
  void SetLoaded(const FakeEngineScript& script,
                 std::vector<modeld::engine::v1::DeviceMemory> devices);

  // MODEL_NOT_READY before the load and after the drain began.
  absl::Status Begin();
  void AddTokens(int64_t prompt, int64_t generated);
  void End(const std::string& method, const std::string& finish_reason);

  // Refuses new requests; waits for the running ones until `timeout_ms` passed, then has them cut
  // off.
  int64_t Drain(int64_t timeout_ms);
  bool cut_off() const;
  modeld::engine::v1::StatsResponse Stats() const;

 private:
  const std::string program_path_;
  mutable Mutex mutex_;
  CondVar changed_;
  FakeEngineScript script_ ABSL_GUARDED_BY(mutex_);
  bool loaded_ ABSL_GUARDED_BY(mutex_) = false;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool cut_off_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<modeld::engine::v1::DeviceMemory> devices_ ABSL_GUARDED_BY(mutex_);
  int64_t active_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t prompt_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t generated_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::pair<std::string, std::string>, int64_t> finished_ ABSL_GUARDED_BY(mutex_);
};

class FakeEngineService final : public modeld::engine::v1::Engine::Service {
 public:
  explicit FakeEngineService(FakeEngineState& state) : state_(state) {}
  grpc::Status Load(grpc::ServerContext* context, const modeld::engine::v1::LoadRequest* request,
                    grpc::ServerWriter<modeld::engine::v1::LoadResponse>* writer) override;
  grpc::Status Stats(grpc::ServerContext* context, const modeld::engine::v1::StatsRequest* request,
                     grpc::ServerWriter<modeld::engine::v1::StatsResponse>* writer) override;
  grpc::Status Drain(grpc::ServerContext* context, const modeld::engine::v1::DrainRequest* request,
                     modeld::engine::v1::DrainResponse* response) override;

 private:
  FakeEngineState& state_;
};

class FakeInferenceService final : public modeld::v1::Inference::Service {
 public:
  explicit FakeInferenceService(FakeEngineState& state) : state_(state) {}
  grpc::Status Generate(grpc::ServerContext* context, const modeld::v1::GenerateRequest* request,
                        grpc::ServerWriter<modeld::v1::GenerateResponse>* writer) override;
  grpc::Status Chat(grpc::ServerContext* context, const modeld::v1::ChatRequest* request,
                    grpc::ServerWriter<modeld::v1::GenerateResponse>* writer) override;
  grpc::Status Embed(grpc::ServerContext* context, const modeld::v1::EmbedRequest* request,
                     modeld::v1::EmbedResponse* response) override;
  grpc::Status Tokenize(grpc::ServerContext* context, const modeld::v1::TokenizeRequest* request,
                        modeld::v1::TokenizeResponse* response) override;
  grpc::Status Detokenize(grpc::ServerContext* context,
                          const modeld::v1::DetokenizeRequest* request,
                          modeld::v1::DetokenizeResponse* response) override;
  grpc::Status ApplyChatTemplate(grpc::ServerContext* context,
                                 const modeld::v1::ApplyChatTemplateRequest* request,
                                 modeld::v1::ApplyChatTemplateResponse* response) override;

 private:
  struct Answer;
  grpc::Status Stream(grpc::ServerContext& context, const Answer& answer,
                      grpc::ServerWriter<modeld::v1::GenerateResponse>& writer);

  FakeEngineState& state_;
};

}  // namespace modeld
