// modeld-engine from outside: how it ends and what it keeps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <sstream>
#include <string>

#include "nlohmann/json.hpp"
#include "tests/engine/serve/engine_process.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string ReadAll(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

TEST(ProgramTest, EndsWhenTheDaemonLetsGoOfTheControlSocket) {
  EngineProcess engine;

  engine.CloseControl();

  EXPECT_EQ(engine.Wait(), 0);
}

TEST(ProgramTest, EndsInOrderOnSigterm) {
  EngineProcess engine;
  ASSERT_THAT(engine.Load("tiny-llama").status, IsOk());

  kill(engine.pid(), SIGTERM);

  EXPECT_EQ(engine.Wait(), 0);
}

// Only root may read the file once the process is not dumpable; what root reads has no secret
// either.
TEST(ProgramTest, TheEnvironmentOfTheProcessShowsNoSecret) {
  EngineProcess engine({"HF_TOKEN=hf_topsecret", "PGPASSWORD=topsecret",
                        "MODELD_DATABASE_URL=postgresql://u:topsecret@h/d"});

  const std::string environment = ReadAll("/proc/" + std::to_string(engine.pid()) + "/environ");

  EXPECT_THAT(environment, Not(HasSubstr("topsecret")));
}

TEST(ProgramTest, InspectAnswersFromItsSandbox) {
  const std::string folder = std::string(MODELD_TEST_MODELS) + "/tiny-llama";
  const nlohmann::json input = {{"trust_remote_code", false},
                                {"files", {{{"path", "model.safetensors"}, {"size_bytes", 1000}}}},
                                {"config", ReadAll(folder + "/config.json")}};

  const Finished finished = RunEngineProgram({"inspect"}, input.dump());

  EXPECT_EQ(finished.exit_status, 0);
  const nlohmann::json answer = nlohmann::json::parse(finished.output, nullptr, false);
  EXPECT_TRUE(answer.is_object()) << finished.output;
}

TEST(ProgramTest, WrongUsageIsStatusTwo) {
  EXPECT_EQ(RunEngineProgram({}, "").exit_status, 2);
  EXPECT_EQ(RunEngineProgram({"serve"}, "").exit_status, 2);
}

TEST(ProgramTest, VersionNamesTheBuild) {
  const Finished finished = RunEngineProgram({"--version"}, "");

  EXPECT_EQ(finished.exit_status, 0);
  EXPECT_THAT(finished.output, HasSubstr("modeld-engine 0.1.0 commit "));
  EXPECT_THAT(finished.output, HasSubstr("libtorch "));
}

}  // namespace
}  // namespace modeld
