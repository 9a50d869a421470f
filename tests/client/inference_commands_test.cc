#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <string>

#include "absl/strings/str_replace.h"
#include "client/commands.h"

namespace modeld {
namespace {

TEST(InferenceCommandsTest, GenerateAndRunHaveAnOptionForEachFieldOfSampling) {
  Cli cli;
  CLI::App app("test", "modelctl");
  AddInferenceCommands(app, cli);
  const google::protobuf::Descriptor* sampling = v1::Sampling::descriptor();
  ASSERT_GT(sampling->field_count(), 20);

  for (const char* command : {"generate", "run"}) {
    const std::string help = app.get_subcommand(command)->help();
    for (int i = 0; i < sampling->field_count(); ++i) {
      const std::string option =
          "--" + absl::StrReplaceAll(sampling->field(i)->name(), {{"_", "-"}});
      EXPECT_NE(help.find(option + " "), std::string::npos) << command << " " << option;
    }
  }
}

TEST(InferenceCommandsTest, GenerateHasAnOptionForEachFieldOfItsRequest) {
  Cli cli;
  CLI::App app("test", "modelctl");
  AddInferenceCommands(app, cli);
  const google::protobuf::Descriptor* request = v1::GenerateRequest::descriptor();
  const std::string help = app.get_subcommand("generate")->help();

  for (int i = 0; i < request->field_count(); ++i) {
    const std::string name = request->field(i)->name();
    const bool has_parts = name == "sampling" || name == "structure";  // with options of their own
    if (name == "model_name" || name == "prompt" || has_parts) continue;
    EXPECT_NE(help.find("--" + absl::StrReplaceAll(name, {{"_", "-"}}) + " "), std::string::npos)
        << name;
  }
}

TEST(InferenceCommandsTest, AStructureHasAnOptionForEachOfItsForms) {
  Cli cli;
  CLI::App app("test", "modelctl");
  AddInferenceCommands(app, cli);
  ASSERT_EQ(v1::Structure::descriptor()->field_count(), 5);

  for (const char* command : {"generate", "run"}) {
    const std::string help = app.get_subcommand(command)->help();
    for (const char* option : {"--json-schema", "--json", "--regex", "--choice", "--grammar"}) {
      EXPECT_NE(help.find(std::string(option) + " "), std::string::npos) << command << option;
    }
  }
}

TEST(InferenceCommandsTest, ABiasWithoutATokenIsWrongUsage) {
  for (const char* bias : {"5", "=1", "5=", "five=1", "5=many"}) {
    Cli cli;
    CLI::App app("test", "modelctl");
    AddInferenceCommands(app, cli);
    EXPECT_THROW(app.parse(std::string("generate m text --logit-bias ") + bias),
                 CLI::ValidationError)
        << bias;
  }
}

TEST(InferenceCommandsTest, AListTakesOneValueForEachOption) {
  Cli cli;
  CLI::App app("test", "modelctl");
  AddInferenceCommands(app, cli);

  app.parse("generate m --stop a --stop b text --stop-token-ids 5 --logit-bias 5=-1.5");

  EXPECT_EQ(app.get_subcommand("generate")->count("PROMPT"), 1U);
  EXPECT_EQ(app.get_subcommand("generate")->count("--stop"), 2U);
  EXPECT_TRUE(cli.action);
}

}  // namespace
}  // namespace modeld
