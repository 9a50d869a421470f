#include "client/table.h"

#include <gtest/gtest.h>

#include <CLI/CLI.hpp>

#include "client/commands.h"
#include "client/completion.h"

namespace modeld {
namespace {

v1::Operation HalfWay() {
  v1::Operation operation;
  operation.set_state(v1::OPERATION_STATE_RUNNING);
  operation.set_phase(v1::OPERATION_PHASE_DOWNLOADING);
  operation.set_bytes_done(500'000'000);
  operation.set_bytes_total(1'000'000'000);
  operation.set_bytes_per_second(25'000'000);
  operation.mutable_eta()->set_seconds(41);
  operation.set_files_done(3);
  operation.set_files_total(12);
  return operation;
}

TEST(TableTest, ColumnsAreAsWideAsTheirWidestCellInCharacters) {
  EXPECT_EQ(FormatTable({"A", "B"}, {{"long", "x"}, {"ü", "y"}}),
            "A     B\n"
            "long  x\n"
            "ü     y\n");
}

TEST(TableTest, DurationsReadAsClocks) {
  EXPECT_EQ(FormatDuration(41), "0:41");
  EXPECT_EQ(FormatDuration(3723), "1:02:03");
  EXPECT_EQ(FormatDuration(-5), "0:00");
}

TEST(ProgressTest, LineSaysBytesRateTimeLeftAndFiles) {
  EXPECT_EQ(FormatProgress(HalfWay(), 0),
            "downloading  50.0 %  500.0 MB / 1.0 GB  25.0 MB/s  ETA 0:41  3/12 files");
}

TEST(ProgressTest, BarFillsTheWidthButNotMore) {
  const std::string line = FormatProgress(HalfWay(), 100);

  EXPECT_LE(line.size(), 100U);
  EXPECT_NE(line.find("[###"), std::string::npos);
  EXPECT_EQ(FormatProgress(HalfWay(), 20).find('['), std::string::npos);
}

TEST(ProgressTest, UnknownTotalAndEtaAreLeftOut) {
  v1::Operation operation = HalfWay();
  operation.clear_eta();
  EXPECT_EQ(FormatProgress(operation, 0).find("ETA"), std::string::npos);
  operation.set_bytes_total(0);
  EXPECT_EQ(FormatProgress(operation, 0), "downloading");
}

TEST(ProgressTest, WhatHasNoPhasesIsRunning) {
  v1::Operation operation;
  operation.set_kind(v1::OPERATION_KIND_UNLOAD);
  operation.set_state(v1::OPERATION_STATE_RUNNING);
  EXPECT_EQ(FormatProgress(operation, 80), "running");
}

TEST(NoteTest, SaysWhyAnOperationIsPausedAndWhatMakesItGoOn) {
  v1::Operation operation = HalfWay();
  operation.set_name("op");
  EXPECT_EQ(FormatNote(operation), "");

  operation.set_state(v1::OPERATION_STATE_PAUSED);
  EXPECT_EQ(FormatNote(operation), "paused; `modelctl resume op` goes on with it");
  operation.mutable_error()->set_message("needs 5 GB, 1 GB free on /data");
  EXPECT_EQ(FormatNote(operation),
            "paused: needs 5 GB, 1 GB free on /data; goes on by itself when there is room");
  operation.set_state(v1::OPERATION_STATE_PENDING);
  EXPECT_EQ(FormatNote(operation), "will be tried again: needs 5 GB, 1 GB free on /data");
}

TEST(CompletionTest, EveryShellKnowsEverySubcommandAndItsOptions) {
  Cli cli;
  CLI::App app("test", "modelctl");
  AddRegistryCommands(app, cli);
  AddOrchestratorCommands(app, cli);
  AddLimitCommands(app, cli);
  AddInferenceCommands(app, cli);

  for (const char* shell : {"bash", "zsh", "fish"}) {
    const std::string script = CompletionScript(app, shell);
    for (const char* word : {"register", "list",   "show",   "update",
                             "delete",   "caches", "space",  "download",
                             "load",     "unload", "ps",     "devices",
                             "nodes",    "ops",    "watch",  "cancel",
                             "pause",    "resume", "run",    "generate",
                             "tokenize", "embed",  "status", "temperature",
                             "revision", "plan",   "limits", "connections-per-host",
                             "include"}) {
      EXPECT_NE(script.find(word), std::string::npos) << shell << " " << word;
    }
  }
}

}  // namespace
}  // namespace modeld
