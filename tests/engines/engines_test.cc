// Engines over real processes and sockets; the program is the fake engine.
#include "server/engines/engines.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <future>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <thread>

#include "modeld/v1/inference.grpc.pb.h"
#include "server/base/file.h"
#include "server/base/mutex.h"
#include "server/engines/engine_process.h"
#include "server/engines/instance.h"
#include "server/wire/status_wire.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;
using testing::AllOf;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::StartsWith;

constexpr int64_t kMB = 1'000'000;
constexpr auto kSoon =
    std::chrono::seconds(30);  // for what must come; never waited out in a good run

// What Engines told its listener, in order.
class EventLog {
 public:
  void Add(const Engines::Event& event) {
    MutexLock lock(mutex_);
    events_.push_back(event);
    changed_.NotifyAll();
  }
  // The first event that `wanted` likes; nothing when none came in time.
  std::optional<Engines::Event> WaitFor(const std::function<bool(const Engines::Event&)>& wanted) {
    const auto deadline = std::chrono::steady_clock::now() + kSoon;
    MutexLock lock(mutex_);
    for (size_t next = 0;; ++next) {
      while (next >= events_.size()) {
        if (!changed_.WaitUntil(mutex_, deadline)) return std::nullopt;
      }
      if (wanted(events_[next])) return events_[next];
    }
  }
  std::vector<Engines::Event> All() {
    MutexLock lock(mutex_);
    return events_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::vector<Engines::Event> events_ ABSL_GUARDED_BY(mutex_);
};

class EnginesTest : public testing::Test {
 protected:
  EnginesTest() {
    std::filesystem::create_symlink(MODELD_FAKE_ENGINE, program_);
    Script({{"stats_ms", 10}});
    options_ = {.program = program_,
                .socket_dir = dir_.path() + "/run",
                .node_name = "node",
                .cpu_memory_bytes = 1000 * kMB,
                .requests_waiting_max = 2,
                .nvml_library = ""};
    Restart();
  }

  // What every engine of this test does.
  void Script(const json& script) {
    ASSERT_THAT(WriteFileAtomically(program_ + ".json", script.dump()), IsOk());
  }
  void Restart() {
    engines_.reset();
    engines_ =
        std::make_unique<Engines>(options_, metrics_, Clock::Real(),
                                  [this](const Engines::Event& event) { events_.Add(event); });
  }
  // A load of `name`, whose engine does what `script` says.
  EngineLoad MakeLoad(const std::string& name, const json& script = json::object()) {
    const std::string snapshot = dir_.path() + "/" + name;
    EXPECT_THAT(MakeDirectories(snapshot), IsOk());
    EXPECT_THAT(WriteFileAtomically(snapshot + "/fake_engine.json", script.dump()), IsOk());
    EngineLoad load{.model_name = name,
                    .model_id = 7,
                    .node_id = "n1",
                    .commit = "c",
                    .snapshot_path = snapshot};
    load.placement = {.budget_bytes = {{"cpu", 100 * kMB}}, .max_context = 512};
    return load;
  }
  absl::StatusOr<Instance> Load(const std::string& name, const json& script = json::object()) {
    return engines_->Load(MakeLoad(name, script), {}, {});
  }
  Inspection ModelOf(int64_t weights_mb) {
    Inspection inspection;
    inspection.supported = true;
    inspection.weights_bytes["bfloat16"] = weights_mb * kMB;
    inspection.max_context = 256;
    return inspection;
  }
  bool Gone(const std::string& instance_id) {
    return events_
        .WaitFor([&](const auto& e) { return e.gone && e.instance.instance_id == instance_id; })
        .has_value();
  }

  TempDir dir_;
  const std::string program_ = dir_.path() + "/engine";
  Metrics metrics_;
  EventLog events_;
  Engines::Options options_;
  std::unique_ptr<Engines> engines_;
};

// One Generate call on its own thread.
class Generation {
 public:
  Generation(EngineHandle handle, const std::string& prompt, int64_t max_tokens = 16)
      : handle_(std::move(handle)),
        thread_([this, prompt, max_tokens] { Run(prompt, max_tokens); }) {}

  void WaitForText() { first_text_.get_future().wait(); }
  // Of the finished call; lets the handle go.
  grpc::Status Finish() {
    thread_.join();
    handle_ = {};
    return status_;
  }
  void Cancel() { context_.TryCancel(); }
  const std::string& text() const { return text_; }
  modeld::v1::FinishReason reason() const { return reason_; }

 private:
  void Run(const std::string& prompt, int64_t max_tokens) {
    modeld::v1::GenerateRequest request;
    request.set_model_name("m");
    request.set_prompt(prompt);
    request.mutable_sampling()->set_max_tokens(max_tokens);
    request.mutable_sampling()->set_ignore_eos(true);
    const auto stub = modeld::v1::Inference::NewStub(handle_.channel());
    const auto reader = stub->Generate(&context_, request);
    bool first = true;
    for (modeld::v1::GenerateResponse message; reader->Read(&message);) {
      text_ += message.text();
      if (message.has_finish_reason()) reason_ = message.finish_reason();
      if (std::exchange(first, false)) first_text_.set_value();
    }
    if (first) first_text_.set_value();
    status_ = reader->Finish();
  }

  EngineHandle handle_;
  grpc::ClientContext context_;
  std::promise<void> first_text_;
  std::string text_;
  modeld::v1::FinishReason reason_ = modeld::v1::FINISH_REASON_UNSPECIFIED;
  grpc::Status status_;
  std::jthread thread_;  // last
};

TEST_F(EnginesTest, LoadedModelAnswers) {
  const absl::StatusOr<Instance> instance = Load("m");
  ASSERT_THAT(instance, IsOk());
  EXPECT_EQ(instance->state, InstanceState::kReady);
  EXPECT_EQ(instance->model_id, 7);
  EXPECT_EQ(instance->spec.max_context, 512);
  EXPECT_GT(instance->pid, 0);
  ASSERT_EQ(instance->devices.size(), 1u);
  EXPECT_EQ(instance->devices[0].total(), 1'230'000);

  absl::StatusOr<EngineHandle> handle = engines_->Pin("m");
  ASSERT_THAT(handle, IsOk());
  EXPECT_EQ(handle->instance_id(), instance->instance_id);
  Generation generation(*std::move(handle), "one two", 3);

  EXPECT_TRUE(generation.Finish().ok());
  EXPECT_EQ(generation.text(), "one two one ");
}

TEST_F(EnginesTest, LoadReportsItsProgress) {
  std::vector<int64_t> done;

  ASSERT_THAT(engines_->Load(MakeLoad("m", {{"weights_bytes", 400}, {"load_steps", 4}}),
                             [&](int64_t bytes_done, int64_t bytes_total) {
                               EXPECT_EQ(bytes_total, 400);
                               done.push_back(bytes_done);
                             },
                             {}),
              IsOk());

  EXPECT_THAT(done, ElementsAre(100, 200, 300, 400, 400));
}

TEST_F(EnginesTest, EngineGetsWhatThePlacementSaysAndTheLimitsOfRequests) {
  const std::string report = dir_.path() + "/report.json";
  options_.limits.stop_max = 3;
  Restart();
  ASSERT_THAT(Load("m", {{"report", report}}), IsOk());

  const json said = json::parse(*ReadFile(report));

  EXPECT_EQ(said["load"]["budget_bytes"]["cpu"], 100 * kMB);
  EXPECT_EQ(said["load"]["max_context"], 512);
  EXPECT_EQ(said["load"]["dtype"], "bfloat16");
  EXPECT_EQ(said["load"]["snapshot_path"], dir_.path() + "/m");
  EXPECT_EQ(said["load"]["stop_max"], 3);
}

TEST_F(EnginesTest, EngineSeesNoSecretAndInheritsNoDescriptor) {
  const std::string report = dir_.path() + "/report.json";
  // Without close-on-exec, as a library might open one.
  const UniqueFd leaky(open(report.c_str(), O_RDWR | O_CREAT, 0600));
  ASSERT_TRUE(leaky.valid());

  ASSERT_THAT(Load("m", {{"report", report}}), IsOk());

  const json said = json::parse(*ReadFile(report));
  for (const std::string entry : said["environment"]) {
    EXPECT_THAT(entry, testing::AnyOf(StartsWith("PATH="), StartsWith("LANG="), StartsWith("TZ="),
                                      StartsWith("CUDA_"), StartsWith("NVIDIA_"),
                                      StartsWith("OMP_"), StartsWith("MODELD_ENGINE_")));
  }
  for (const std::string descriptor : said["descriptors"]) {
    EXPECT_THAT(descriptor, Not(HasSubstr(dir_.path())));
  }
}

TEST_F(EnginesTest, EventsTellTheLifeOfAnInstance) {
  ASSERT_THAT(Load("m"), IsOk());
  const std::string id = engines_->List().at(0).instance_id;
  ASSERT_THAT(engines_->Unload("m", kSoon), IsOk());
  ASSERT_TRUE(Gone(id));

  std::vector<InstanceState> states;
  for (const Engines::Event& event : events_.All()) {
    EXPECT_EQ(event.instance.instance_id, id);
    EXPECT_THAT(event.error, IsOk());
    if (states.empty() || states.back() != event.instance.state)
      states.push_back(event.instance.state);
  }
  EXPECT_THAT(states, ElementsAre(InstanceState::kLoading, InstanceState::kReady,
                                  InstanceState::kDraining));
  EXPECT_TRUE(events_.All().back().gone);
}

TEST_F(EnginesTest, RefusedLoadKeepsTheEnginesReason) {
  EXPECT_THAT(Load("m", {{"load_error", "UNSUPPORTED_WEIGHTS"}}),
              HasReasonOf(Reason::kUnsupportedWeights));
  EXPECT_THAT(engines_->List(), IsEmpty());
}

TEST_F(EnginesTest, DeathWhileItLoadsIsEngineLostWithTheLastWords) {
  const auto instance = Load("m", {{"load_crash_step", 1}});

  ASSERT_THAT(instance, HasReasonOf(Reason::kEngineLost));
  EXPECT_THAT(instance.status().message(),
              AllOf(HasSubstr("signal 6"), HasSubstr("told to crash while it loads")));
  EXPECT_THAT(engines_->List(), IsEmpty());
  const auto gone = events_.WaitFor([](const auto& e) { return e.gone; });
  ASSERT_TRUE(gone.has_value());
  EXPECT_THAT(gone->error, HasReasonOf(Reason::kEngineLost));
}

TEST_F(EnginesTest, DeathBeforeItListensIsEngineLostWithTheExitStatus) {
  Script({{"start_crash", true}});

  const auto instance = Load("m");

  ASSERT_THAT(instance, HasReasonOf(Reason::kEngineLost));
  EXPECT_THAT(instance.status().message(), HasSubstr("exit status 3"));
}

TEST_F(EnginesTest, EngineThatNeverListensRunsIntoTheTimeout) {
  Script({{"start_hang", true}});
  EngineLoad load = MakeLoad("m");
  load.timeout = milliseconds(100);

  EXPECT_THAT(engines_->Load(load, {}, {}), StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(engines_->List(), IsEmpty());
}

TEST_F(EnginesTest, LoadThatHangsRunsIntoTheTimeout) {
  EngineLoad load = MakeLoad("m", {{"load_hang", true}});
  load.timeout = milliseconds(500);

  EXPECT_THAT(engines_->Load(load, {}, {}), StatusIs(absl::StatusCode::kDeadlineExceeded));
}

TEST_F(EnginesTest, StoppedLoadEndsTheEngine) {
  std::stop_source stop;
  auto load = std::async(std::launch::async, [&] {
    return engines_->Load(MakeLoad("m", {{"load_hang", true}}), {}, stop.get_token());
  });
  const auto started = events_.WaitFor([](const auto& e) { return e.instance.pid > 0; });
  ASSERT_TRUE(started.has_value());

  stop.request_stop();

  EXPECT_THAT(load.get(), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(engines_->List(), IsEmpty());
  EXPECT_EQ(kill(static_cast<pid_t>(started->instance.pid), 0), -1);
}

TEST_F(EnginesTest, MissingProgramIsNamed) {
  options_.program = "/no/such/engine";
  Restart();

  EXPECT_THAT(Load("m").status().message(), HasSubstr("/no/such/engine"));
  EXPECT_THAT(engines_->List(), IsEmpty());
}

TEST_F(EnginesTest, SocketPathThatIsTooLongIsSaidWithFigures) {
  options_.socket_dir = dir_.path() + "/" + std::string(90, 'x');
  Restart();

  const auto instance = Load("m");

  EXPECT_THAT(instance, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(instance.status().message(), HasSubstr("at most 107"));
}

TEST_F(EnginesTest, UnloadWaitsForTheHandles) {
  ASSERT_THAT(Load("m"), IsOk());
  absl::StatusOr<EngineHandle> handle = engines_->Pin("m");
  ASSERT_THAT(handle, IsOk());
  auto unload = std::async(std::launch::async, [&] { return engines_->Unload("m", kSoon); });
  ASSERT_TRUE(
      events_.WaitFor([](const auto& e) { return e.instance.state == InstanceState::kDraining; }));

  // The instance takes nobody new, and the request that is there still works.
  EXPECT_THAT(engines_->Pin("m"), HasReasonOf(Reason::kModelNotReady));
  EXPECT_EQ(unload.wait_for(milliseconds(0)), std::future_status::timeout);
  Generation generation(*std::move(handle), "word", 2);

  EXPECT_TRUE(generation.Finish().ok());
  EXPECT_THAT(unload.get(), IsOk());
  EXPECT_THAT(engines_->List(), IsEmpty());
}

TEST_F(EnginesTest, UnloadCutsOffWhatTakesTooLong) {
  ASSERT_THAT(Load("m", {{"hang_after_tokens", 1}}), IsOk());
  Generation generation(*engines_->Pin("m"), "word", 5);
  generation.WaitForText();

  ASSERT_THAT(engines_->Unload("m", milliseconds(50)), IsOk());

  const grpc::Status status = generation.Finish();
  EXPECT_TRUE(generation.reason() == modeld::v1::FINISH_REASON_CANCELLED ||
              status.error_code() == grpc::StatusCode::UNAVAILABLE)
      << status.error_message();
}

TEST_F(EnginesTest, EngineThatIgnoresItsDrainIsEndedAllTheSame) {
  const auto instance = Load("m", {{"ignore_drain", true}});
  ASSERT_THAT(instance, IsOk());

  EXPECT_THAT(engines_->Unload("m", milliseconds(10)), IsOk());

  EXPECT_EQ(kill(static_cast<pid_t>(instance->pid), 0), -1);
}

TEST_F(EnginesTest, UnloadOfWhatIsNotLoadedIsFine) {
  EXPECT_THAT(engines_->Unload("m", kSoon), IsOk());
}

TEST_F(EnginesTest, PinOfWhatIsNotLoadedIsModelNotReady) {
  EXPECT_THAT(engines_->Pin("m"), HasReasonOf(Reason::kModelNotReady));
}

TEST_F(EnginesTest, ModelThatIsStillLoadingIsNotReady) {
  const std::string gate = dir_.path() + "/gate";
  auto load = std::async(std::launch::async, [&] { return Load("m", {{"load_gate", gate}}); });
  ASSERT_TRUE(events_.WaitFor([](const auto& e) { return e.instance.pid > 0; }));

  EXPECT_THAT(engines_->Pin("m"), HasReasonOf(Reason::kModelNotReady));
  ASSERT_EQ(engines_->List().size(), 1u);
  EXPECT_EQ(engines_->List()[0].state, InstanceState::kLoading);

  ASSERT_THAT(WriteFileAtomically(gate, ""), IsOk());
  EXPECT_THAT(load.get(), IsOk());
  EXPECT_THAT(engines_->Pin("m"), IsOk());
}

TEST_F(EnginesTest, KilledEngineEndsItsStreamAndIsToldAsLost) {
  const auto instance = Load("m", {{"hang_after_tokens", 1}});
  ASSERT_THAT(instance, IsOk());
  Generation generation(*engines_->Pin("m"), "word", 5);
  generation.WaitForText();

  kill(static_cast<pid_t>(instance->pid), SIGKILL);

  EXPECT_EQ(generation.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  const auto gone = events_.WaitFor([](const auto& e) { return e.gone; });
  ASSERT_TRUE(gone.has_value());
  EXPECT_THAT(gone->error, HasReasonOf(Reason::kEngineLost));
  EXPECT_THAT(gone->error.message(), HasSubstr("signal 9 (Killed)"));
  EXPECT_TRUE(DetailsOf(gone->error).retry_after.has_value());
  EXPECT_THAT(engines_->List(), IsEmpty());
  EXPECT_THAT(engines_->Pin("m"), HasReasonOf(Reason::kModelNotReady));
}

TEST_F(EnginesTest, EngineThatCrashesInAStreamSaysItsLastWords) {
  ASSERT_THAT(Load("m", {{"crash_after_tokens", 1}}), IsOk());
  Generation generation(*engines_->Pin("m"), "word", 5);

  EXPECT_EQ(generation.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  const auto gone = events_.WaitFor([](const auto& e) { return e.gone; });
  ASSERT_TRUE(gone.has_value());
  EXPECT_THAT(gone->error.message(), HasSubstr("told to crash while it generates"));
}

TEST_F(EnginesTest, LostModelCanBeLoadedAgain) {
  const auto first = Load("m");
  ASSERT_THAT(first, IsOk());
  kill(static_cast<pid_t>(first->pid), SIGKILL);
  ASSERT_TRUE(Gone(first->instance_id));

  ASSERT_THAT(Load("m"), IsOk());

  EXPECT_THAT(engines_->Pin("m"), IsOk());
}

TEST_F(EnginesTest, NewInstanceTakesOverAndTheOldOneDrains) {
  const auto old_instance = Load("m");
  ASSERT_THAT(old_instance, IsOk());
  std::optional<EngineHandle> old_handle = *engines_->Pin("m");

  const auto new_instance = Load("m");

  ASSERT_THAT(new_instance, IsOk());
  EXPECT_EQ(engines_->Pin("m")->instance_id(), new_instance->instance_id);
  EXPECT_EQ(old_handle->instance_id(), old_instance->instance_id);
  EXPECT_EQ(engines_->List().size(), 2u);
  old_handle.reset();
  EXPECT_TRUE(Gone(old_instance->instance_id));
  EXPECT_EQ(engines_->List().size(), 1u);
}

TEST_F(EnginesTest, FailedReplacementLeavesTheOldInstanceAlone) {
  const auto old_instance = Load("m");
  ASSERT_THAT(old_instance, IsOk());

  EXPECT_THAT(Load("m", {{"load_error", "INVALID_REPOSITORY"}}),
              HasReasonOf(Reason::kInvalidRepository));

  EXPECT_EQ(engines_->Pin("m")->instance_id(), old_instance->instance_id);
}

TEST_F(EnginesTest, QueueIsFullOnceTooManyWaitBeyondWhatRuns) {
  ASSERT_THAT(Load("m", {{"sequences_max", 1}}), IsOk());
  std::vector<EngineHandle> handles;
  for (int i = 0; i < 3; ++i) handles.push_back(*engines_->Pin("m"));  // 1 runs, 2 wait

  const auto refused = engines_->Pin("m");

  EXPECT_THAT(refused, HasReasonOf(Reason::kQueueFull));
  EXPECT_TRUE(DetailsOf(refused.status()).retry_after.has_value());
  handles.pop_back();
  EXPECT_THAT(engines_->Pin("m"), IsOk());
}

TEST(WaitingRequestsTest, TheLargerOfBothCountsIsBelieved) {
  EXPECT_EQ(WaitingRequests(0, 16, 0), 0);
  EXPECT_EQ(WaitingRequests(10, 16, 0), 0);
  EXPECT_EQ(WaitingRequests(20, 16, 0), 4) << "more than run at once";
  EXPECT_EQ(WaitingRequests(10, 16, 7), 7) << "the engine is out of KV cache";
  EXPECT_EQ(WaitingRequests(3, 16, 7), 3) << "what it said is old: those requests are gone";
  EXPECT_EQ(WaitingRequests(9, 0, 2), 2) << "an engine that does not say how many it runs";
}

TEST_F(EnginesTest, LoadBeyondTheBudgetIsRefusedWithBothFigures) {
  EngineLoad load = MakeLoad("m");
  load.placement.budget_bytes["cpu"] = 1001 * kMB;

  const auto instance = engines_->Load(load, {}, {});

  ASSERT_THAT(instance, HasReasonOf(Reason::kInsufficientDeviceMemory));
  EXPECT_EQ(DetailsOf(instance.status()).metadata.at("required_bytes"), "1001000000");
  EXPECT_EQ(DetailsOf(instance.status()).metadata.at("free_bytes"), "1000000000");
}

TEST_F(EnginesTest, PlanCountsWhatIsLoadedAndEvictsTheLeastRecentlyUsed) {
  for (const char* name : {"first", "second"}) {
    EngineLoad load = MakeLoad(name);
    load.placement.budget_bytes["cpu"] = 400 * kMB;
    ASSERT_THAT(engines_->Load(load, {}, {}), IsOk());
  }
  ASSERT_THAT(engines_->Pin("first"), IsOk());  // a use: "second" is now the older one

  const auto small = engines_->Plan("new", ModelOf(100), {}, false);
  const auto large = engines_->Plan("new", ModelOf(500), {}, false);
  engines_->SetPinned("second", true);
  const auto beside_pinned = engines_->Plan("new", ModelOf(500), {}, false);
  engines_->SetPinned("first", true);
  const auto all_pinned = engines_->Plan("new", ModelOf(500), {}, false);

  ASSERT_THAT(small, IsOk());
  EXPECT_THAT(small->evict, IsEmpty());
  ASSERT_THAT(large, IsOk());
  EXPECT_THAT(large->evict, ElementsAre("second"));
  ASSERT_THAT(beside_pinned, IsOk());
  EXPECT_THAT(beside_pinned->evict, ElementsAre("first"));
  EXPECT_THAT(all_pinned, HasReasonOf(Reason::kInsufficientDeviceMemory));
}

TEST_F(EnginesTest, MemoryIsFreeAgainAfterUnload) {
  EngineLoad load = MakeLoad("m");
  load.placement.budget_bytes["cpu"] = 900 * kMB;
  ASSERT_THAT(engines_->Load(load, {}, {}), IsOk());
  ASSERT_THAT(engines_->Unload("m", kSoon), IsOk());

  EXPECT_THAT(engines_->Load(load, {}, {}), IsOk());
}

TEST_F(EnginesTest, DevicesShowWhatModelsHold) {
  ASSERT_THAT(Load("m"), IsOk());

  const std::vector<DeviceInfo> devices = engines_->Devices();

  ASSERT_EQ(devices.size(), 1u);
  EXPECT_EQ(devices[0].name, "cpu");
  EXPECT_EQ(devices[0].total_bytes, 1000 * kMB);
  EXPECT_EQ(devices[0].used_bytes, 1'230'000);
  EXPECT_EQ(devices[0].model_bytes.at("m"), 1'230'000);
}

TEST_F(EnginesTest, GpuBytesOfOthersAreForeign) {
  const std::string library = dir_.path() + "/libfake_nvml.so";
  std::filesystem::copy_file(MODELD_FAKE_NVML, library);
  ASSERT_THAT(WriteFileAtomically(dir_.path() + "/devices.txt",
                                  "9000000000 2000000000 GPU-a NVIDIA Test\n"),
              IsOk());
  options_.nvml_library = library;
  Restart();

  const std::vector<DeviceInfo> devices = engines_->Devices();

  ASSERT_EQ(devices.size(), 2u);
  EXPECT_EQ(devices[1].name, "cuda:0");
  EXPECT_EQ(devices[1].product, "NVIDIA Test");
  EXPECT_EQ(devices[1].foreign_bytes, 2'000'000'000);
  const auto placement = engines_->Plan("m", ModelOf(1000), {}, false);
  ASSERT_THAT(placement, IsOk());
  EXPECT_TRUE(placement->budget_bytes.contains("cuda:0"));
  EXPECT_THAT(engines_->Plan("m", ModelOf(8000), {.device_map = "cuda"}, false),
              HasReasonOf(Reason::kInsufficientDeviceMemory));
}

TEST_F(EnginesTest, MetricsFollowTheLifeOfAModel) {
  ASSERT_THAT(Load("m"), IsOk());
  std::string text = metrics_.Scrape();
  EXPECT_THAT(
      text,
      HasSubstr("modeld_model_memory_bytes{device=\"cpu\",model=\"m\",node=\"node\"} 1230000"));
  EXPECT_THAT(text, HasSubstr("modeld_device_memory_total_bytes{device=\"cpu\",kind=\"cpu\",node="
                              "\"node\"} 1000000000"));
  EXPECT_THAT(
      text,
      HasSubstr(
          "modeld_device_memory_used_bytes{device=\"cpu\",kind=\"cpu\",node=\"node\"} 1230000"));
  EXPECT_THAT(text, HasSubstr("modeld_instances{state=\"ready\"} 1"));
  EXPECT_THAT(text, HasSubstr("modeld_load_duration_seconds_count{model=\"m\",result=\"ok\"} 1"));

  Generation generation(*engines_->Pin("m"), "some words", 5);
  ASSERT_TRUE(generation.Finish().ok());
  ASSERT_THAT(engines_->Unload("m", kSoon), IsOk());

  text = metrics_.Scrape();
  EXPECT_THAT(text, HasSubstr("modeld_inference_tokens_total{kind=\"generated\",model=\"m\"} 5"));
  EXPECT_THAT(text, HasSubstr("modeld_inference_tokens_total{kind=\"prompt\",model=\"m\"} 10"));
  EXPECT_THAT(text, HasSubstr("modeld_inference_requests_total{finish_reason=\"length\",method="
                              "\"Generate\",model=\"m\"} 1"));
  EXPECT_THAT(text, HasSubstr("modeld_instances{state=\"ready\"} 0"));
  EXPECT_THAT(text, Not(HasSubstr("modeld_model_memory_bytes{")));
  EXPECT_THAT(text, Not(HasSubstr("modeld_inference_active{")));
}

TEST_F(EnginesTest, ActiveAndWaitingRequestsAreTold) {
  ASSERT_THAT(Load("m", {{"active_requests", 3}, {"waiting_requests", 1}}), IsOk());

  const auto told = events_.WaitFor([](const auto& e) { return e.instance.active_requests == 3; });

  ASSERT_TRUE(told.has_value());
  EXPECT_EQ(told->instance.waiting_requests, 1);
  EXPECT_THAT(metrics_.Scrape(), HasSubstr("modeld_inference_waiting{model=\"m\"} 1"));
}

TEST_F(EnginesTest, DestructorEndsEveryEngineAlsoThoseThatIgnoreIt) {
  Script({{"ignore_eof", true}});
  const auto stubborn = Load("stubborn");
  Script(json::object());
  const auto meek = Load("meek");
  ASSERT_THAT(stubborn, IsOk());
  ASSERT_THAT(meek, IsOk());

  engines_.reset();

  EXPECT_EQ(kill(static_cast<pid_t>(stubborn->pid), 0), -1);
  EXPECT_EQ(kill(static_cast<pid_t>(meek->pid), 0), -1);
  EXPECT_TRUE(std::filesystem::is_empty(dir_.path() + "/run"));
}

TEST_F(EnginesTest, HandleMayOutliveEngines) {
  ASSERT_THAT(Load("m"), IsOk());
  const EngineHandle handle = *engines_->Pin("m");

  engines_.reset();

  EXPECT_TRUE(handle);
}

TEST_F(EnginesTest, LeftoversOfAnEarlierDaemonAreEndedAtTheStart) {
  // As kill -9 of the daemon leaves it: an engine that ignores EOF, with its pid file.
  Script({{"ignore_eof", true}});
  std::promise<void> exited;
  auto leftover = EngineProcess::Start({.program = program_,
                                        .socket_dir = options_.socket_dir,
                                        .instance_id = "0123",
                                        .model_name = "old"},
                                       [&] { exited.set_value(); });
  ASSERT_THAT(leftover, IsOk());

  Restart();

  EXPECT_EQ(exited.get_future().wait_for(kSoon), std::future_status::ready);
  EXPECT_THAT((*leftover)->ExitText(), HasSubstr("signal 9"));
  EXPECT_THAT(Load("m"), IsOk());
}

TEST_F(EnginesTest, InspectAnswersWhatTheProgramSays) {
  const json request{{"config", R"({"model_type":"qwen2"})"}, {"files", json::array()}};

  const auto inspection = engines_->Inspect(request.dump(), {});

  ASSERT_THAT(inspection, IsOk());
  EXPECT_EQ(inspection->model_type, "qwen2");
}

}  // namespace
}  // namespace modeld
