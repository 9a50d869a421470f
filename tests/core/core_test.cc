#include <gtest/gtest.h>

#include <set>
#include <string>

#include "server/core/bytes.h"
#include "server/core/cache_location.h"
#include "server/core/file_filter.h"
#include "server/core/inspection.h"
#include "server/core/model.h"
#include "server/core/operation.h"
#include "server/core/reason.h"
#include "server/core/repo.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using testing::ElementsAre;

TEST(BytesTest, SizesReadAsPeopleWriteThem) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(999), "999 B");
  EXPECT_EQ(FormatBytes(1000), "1.0 kB");
  EXPECT_EQ(FormatBytes(999'949), "999.9 kB");
  EXPECT_EQ(FormatBytes(999'999), "1.0 MB");
  EXPECT_EQ(FormatBytes(14'200'000'000), "14.2 GB");
}

TEST(ReasonTest, EveryReasonHasItsNameAndErrorsCarryBoth) {
  EXPECT_EQ(ReasonName(Reason::kHubRepoNotFound), "HUB_REPO_NOT_FOUND");
  EXPECT_EQ(ParseReason("QUEUE_FULL"), Reason::kQueueFull);
  EXPECT_EQ(ParseReason("NO_SUCH_REASON"), std::nullopt);

  const absl::Status status =
      InsufficientBytes(Reason::kInsufficientDisk, "/data", 14'200'000'000, 9'100'000'000);

  EXPECT_THAT(status, HasReasonOf(Reason::kInsufficientDisk));
  EXPECT_EQ(status.message(), "needs 14.2 GB, 9.1 GB free on /data");
  EXPECT_EQ(DetailsOf(status).metadata.at("required_bytes"), "14200000000");
}

TEST(RepoTest, RepositoryIdsFollowTheHubsRule) {
  for (const char* good : {"gpt2", "Qwen/Qwen2.5-3B-Instruct", "a/b_c.d-e"}) {
    EXPECT_THAT(ValidateRepoId(good), IsOk()) << good;
  }
  const std::string long_name(97, 'a');
  for (const std::string& bad :
       {std::string(), std::string("/"), std::string("a/"), std::string("/a"), std::string("a/b/c"),
        std::string("-a/b"), std::string("a/b."), std::string("a/b--c"), std::string("a/b..c"),
        std::string("a/b.git"), std::string("a b"), std::string("ä/b"), "a/" + long_name,
        std::string("../etc"), std::string("a\0b", 3)}) {
    EXPECT_THAT(ValidateRepoId(bad), NamesField("hf_path")) << bad;
  }
  EXPECT_EQ(RepoFolder("Qwen/Qwen2.5"), "models--Qwen--Qwen2.5");
  EXPECT_EQ(RepoFolder("gpt2"), "models--gpt2");
}

TEST(RepoTest, RevisionsAreWhatGitAllows) {
  for (const char* good : {"main", "v1.0", "refs/pr/1", "feature/x"}) {
    EXPECT_THAT(ValidateRevision(good), IsOk()) << good;
  }
  for (const char* bad : {"", "/main", "main/", "a//b", "a..b", "a b", "a\\b", "a:b", ".hidden",
                          "a/.b", "-x", "a\nb"}) {
    EXPECT_THAT(ValidateRevision(bad), NamesField("revision")) << bad;
  }
  EXPECT_TRUE(IsCommit(std::string(40, 'a')));
  EXPECT_FALSE(IsCommit(std::string(40, 'A')));
  EXPECT_FALSE(IsCommit("main"));
}

TEST(RepoTest, HostileFileNamesAreRefused) {
  for (const std::string& good : {std::string("config.json"), std::string("a b#%/ü.bin"),
                                  std::string("onnx/model.onnx"), std::string(255, 'x')}) {
    EXPECT_THAT(ValidateFilePath(good), IsOk()) << good;
  }
  for (const std::string& bad :
       {std::string(), std::string("/etc/passwd"), std::string("../x"), std::string("a/../../x"),
        std::string("a//b"), std::string("a/"), std::string("a/./b"), std::string("a\\b"),
        std::string("C:x"), std::string("a\nb"), std::string(256, 'x')}) {
    EXPECT_THAT(ValidateFilePath(bad), HasReasonOf(Reason::kInvalidRepository)) << bad;
  }
}

TEST(RepoTest, EqualBlobsCountOnce) {
  EXPECT_EQ(TotalBytes({{.path = "a", .size_bytes = 5, .blob = "x"},
                        {.path = "b", .size_bytes = 5, .blob = "x"},
                        {.path = "c", .size_bytes = 7, .blob = "y"}}),
            12);
}

TEST(RepoTest, OnlyDigestsAreBlobNames) {
  EXPECT_TRUE(IsBlobName(std::string(40, '0')));
  EXPECT_TRUE(IsBlobName(std::string(64, 'f')));
  for (const std::string& bad : {std::string("../../etc/passwd"), std::string(40, 'G'),
                                 std::string(41, '0'), std::string()}) {
    EXPECT_FALSE(IsBlobName(bad)) << bad;
  }
}

// Expected values of Python 3.11's fnmatch.fnmatchcase.
TEST(FileFilterTest, PatternsMatchAsFnmatchcase) {
  struct Case {
    const char* path;
    const char* pattern;
    bool matches;
  };
  for (const Case& c :
       {Case{"a/b.bin", "*.bin", true}, Case{"a/b.bin", "b.bin", false},
        Case{"model.safetensors", "*.SAFETENSORS", false}, Case{"abc", "a?c", true},
        Case{"a/c", "a?c", true}, Case{"aüc", "a?c", true}, Case{"a1", "a[0-9]", true},
        Case{"ax", "a[!0-9]", true}, Case{"a1", "a[!0-9]", false}, Case{"a[", "a[", true},
        Case{"a]", "a[]]", true}, Case{"ax", "a[]x]", true}, Case{"", "*", true},
        Case{"art/x/y", "art/", true}, Case{"art", "art/", false},
        Case{"aaaaaaaaaaaaaaaaaaaab", "*a*a*a*a*a*a*a*c", false}}) {
    EXPECT_EQ(MatchesPattern(c.path, c.pattern), c.matches) << c.path << " against " << c.pattern;
  }
}

std::vector<RepoFile> FilesOf(const std::vector<std::string>& paths) {
  std::vector<RepoFile> files;
  for (const std::string& path : paths) files.push_back({.path = path, .size_bytes = 1});
  return files;
}

std::vector<std::string> KeptBy(const FileFilter& filter, const std::vector<std::string>& paths) {
  std::vector<std::string> kept;
  for (const RepoFile& file : filter.Apply(FilesOf(paths))) kept.push_back(file.path);
  return kept;
}

TEST(FileFilterTest, WhatNobodyNeedsBesideSafetensorsIsLeftOut) {
  const std::vector<std::string> paths = {"2_Dense/model.safetensors",
                                          "2_Dense/pytorch_model.bin",
                                          "3_Dense/pytorch_model.bin",
                                          "config.json",
                                          "flax_model.msgpack",
                                          "model-00001-of-00002.safetensors",
                                          "model.safetensors.index.json",
                                          "onnx/config.json",
                                          "original/params.json",
                                          "pytorch_model-00001-of-00002.bin",
                                          "pytorch_model.bin.index.json",
                                          "q4.gguf",
                                          "tf_model.h5",
                                          "tokenizer.json",
                                          "weights/model.onnx",
                                          "x.pth"};

  EXPECT_THAT(KeptBy({}, paths),
              ElementsAre("2_Dense/model.safetensors", "3_Dense/pytorch_model.bin", "config.json",
                          "model-00001-of-00002.safetensors", "model.safetensors.index.json",
                          "tokenizer.json"));
  EXPECT_EQ(KeptBy({.allow_patterns = {"*"}}, paths), paths);
  EXPECT_THAT(KeptBy({.ignore_patterns = {"*.json", "2*", "3*"}}, paths),
              ElementsAre("model-00001-of-00002.safetensors"));
}

TEST(FileFilterTest, OtherFormatsAreKeptWhereTheyAreAllThereIs) {
  EXPECT_THAT(KeptBy({}, {"config.json", "model.gguf"}), ElementsAre("config.json", "model.gguf"));
  EXPECT_THAT(KeptBy({}, {"part-0.bin", "x.onnx"}), ElementsAre("part-0.bin", "x.onnx"));
  EXPECT_THAT(KeptBy({}, {"pytorch_model.bin", "tf_model.h5"}), ElementsAre("pytorch_model.bin"));
  EXPECT_THAT(KeptBy({}, {"adapter_model.safetensors", "pytorch_model.bin"}),
              ElementsAre("adapter_model.safetensors", "pytorch_model.bin"));
}

TEST(FileFilterTest, WhatIsLeftOutSaysWhy) {
  const auto why = [](const FileFilter& filter, const std::string& path) {
    const auto left_out = filter.LeftOut(FilesOf({"model.safetensors", path}));
    return left_out.empty() ? "" : left_out.back().why;
  };

  EXPECT_EQ(why({}, "config.json"), "");
  EXPECT_EQ(why({}, "pytorch_model.bin"), "beside safetensors, which are loaded");
  EXPECT_EQ(why({}, "a.gguf"), "GGUF, which is not loaded");
  EXPECT_EQ(why({.allow_patterns = {"*.json"}}, "a.gguf"), "matches no allow pattern");
  EXPECT_EQ(why({.ignore_patterns = {"*.js*"}}, "a.json"), "matches ignore pattern *.js*");
}

TEST(FileFilterTest, IgnoreWinsOverAllow) {
  const FileFilter filter{.allow_patterns = {"*.json", "*.bin"}, .ignore_patterns = {"b*"}};
  EXPECT_THAT(KeptBy(filter, {"a.json", "b.json", "a.txt"}), ElementsAre("a.json"));
  EXPECT_THAT(KeptBy({}, {"anything"}), ElementsAre("anything"));
  EXPECT_THAT(ValidateFileFilter({.allow_patterns = {""}}), NamesField("allow_patterns"));
  EXPECT_THAT(ValidateFileFilter({.ignore_patterns = std::vector<std::string>(1001, "x")}),
              NamesField("ignore_patterns"));
}

TEST(CacheLocationTest, ConfiguredRootsAreFoundAndOthersNamed) {
  const CacheRoots roots{.primary = "/fast", .custom_roots = {"/data/models", "/srv"}};

  EXPECT_EQ(*ResolveCachePath(roots, CacheLocation::kPrimary, ""), "/fast");
  EXPECT_THAT(ResolveCachePath(roots, CacheLocation::kSecondary, ""), NamesField("cache_location"));
  EXPECT_THAT(ResolveCachePath(roots, CacheLocation::kPrimary, "/x"), NamesField("cache_path"));
  EXPECT_EQ(*ResolveCachePath(roots, CacheLocation::kCustom, "/data/models/a/"), "/data/models/a");
  EXPECT_EQ(*ResolveCachePath(roots, CacheLocation::kCustom, "/srv"), "/srv");
  EXPECT_THAT(ParseCacheLocation("tertiary"), NamesField("cache_location"));
  EXPECT_EQ(*ParseCacheLocation("custom"), CacheLocation::kCustom);
}

TEST(CacheLocationTest, CustomPathsCannotLeaveTheirRoot) {
  const CacheRoots roots{.primary = "/fast", .custom_roots = {"/data/models"}};
  for (const char* bad : {"", "relative", "/data/models/../etc", "/data/modelsx", "/data",
                          "/data/models/./x", "/data/models//x", "/"}) {
    EXPECT_THAT(ResolveCachePath(roots, CacheLocation::kCustom, bad), NamesField("cache_path"))
        << bad;
  }
}

TEST(CacheLocationTest, DefaultFollowsTheEnvironment) {
  EXPECT_EQ(DefaultCachePath("/hf/", "/xdg", "/root"), "/hf");
  EXPECT_EQ(DefaultCachePath("", "/xdg", "/root"), "/xdg/huggingface");
  EXPECT_EQ(DefaultCachePath(nullptr, nullptr, "/root"), "/root/.cache/huggingface");
}

TEST(ModelTest, NamesFollowTheContract) {
  for (const std::string& good :
       {std::string("qwen-3b"), std::string("A.b_c"), std::string(96, 'x')}) {
    EXPECT_THAT(ValidateModelName(good), IsOk()) << good;
  }
  for (const std::string& bad : {std::string(), std::string("-a"), std::string("a b"),
                                 std::string("a/b"), std::string(97, 'x'), std::string("ü")}) {
    EXPECT_THAT(ValidateModelName(bad), NamesField("model_name")) << bad;
  }
}

TEST(ModelTest, ACredentialIsTheNameOfAFileInItsFolder) {
  for (const std::string& good : {std::string(), std::string("hub_token"), std::string(".hidden"),
                                  std::string("team-a.v2"), std::string(255, 'x')}) {
    EXPECT_THAT(ValidateTokenCredential(good), IsOk()) << good;
  }
  for (const std::string& bad :
       {std::string("."), std::string(".."), std::string("..."), std::string("a/b"),
        std::string("../hub_token"), std::string("a b"), std::string("a\0b", 3),
        std::string(256, 'x'), std::string("ü")}) {
    EXPECT_THAT(ValidateTokenCredential(bad), NamesField("token_credential")) << bad;
  }
}

TEST(ModelTest, FirstFactThatHoldsIsTheState) {
  ModelFacts facts;
  EXPECT_EQ(ComputeModelState(facts), ModelState::kRegistered);
  facts.copy_complete = true;
  EXPECT_EQ(ComputeModelState(facts), ModelState::kDownloaded);
  facts.last_operation_failed = true;
  EXPECT_EQ(ComputeModelState(facts), ModelState::kFailed);
  facts.download_active = true;
  EXPECT_EQ(ComputeModelState(facts), ModelState::kDownloading);
  facts.instance_loading = true;
  EXPECT_EQ(ComputeModelState(facts), ModelState::kLoading);
  facts.instance_ready = true;
  EXPECT_EQ(ComputeModelState(facts), ModelState::kReady);
}

TEST(ModelTest, LoadSpecsAreChecked) {
  EXPECT_THAT(ValidateLoadSpec({}), IsOk());
  EXPECT_THAT(ValidateLoadSpec({.device_map = "cuda:3"}), IsOk());
  EXPECT_THAT(ValidateLoadSpec({.dtype = "int3"}), NamesField("dtype"));
  EXPECT_THAT(ValidateLoadSpec({.device_map = "tpu"}), NamesField("device_map"));
  EXPECT_THAT(ValidateLoadSpec({.device_map = "cuda:x"}), NamesField("device_map"));
  EXPECT_THAT(ValidateLoadSpec({.device_map = "", .device_map_entries = {{"model", "disk"}}}),
              NamesField("device_map_entries"));
  EXPECT_THAT(ValidateLoadSpec({.max_context = -1}), NamesField("max_context"));
}

TEST(OperationTest, OnlyLegalStepsAreAllowed) {
  using enum OperationState;
  const std::set<std::pair<OperationState, OperationState>> legal = {
      {kPending, kRunning},   {kPending, kPaused},    {kPending, kSucceeded},
      {kPending, kFailed},    {kPending, kCancelled}, {kRunning, kPending},
      {kRunning, kPaused},    {kRunning, kSucceeded}, {kRunning, kFailed},
      {kRunning, kCancelled}, {kPaused, kPending},    {kPaused, kCancelled},
      {kPaused, kFailed}};
  for (const OperationState from : {kPending, kRunning, kPaused, kSucceeded, kFailed, kCancelled}) {
    for (const OperationState to : {kPending, kRunning, kPaused, kSucceeded, kFailed, kCancelled}) {
      EXPECT_EQ(MayFollow(from, to), from == to || legal.contains({from, to}))
          << OperationStateName(from) << " -> " << OperationStateName(to);
    }
    EXPECT_FALSE(MayFollow(from, kUnspecified));
  }
}

TEST(InspectionTest, JsonComesBackAndGarbageIsAnError) {
  Inspection inspection;
  inspection.model_type = "llama";
  inspection.weights_bytes = {{"bfloat16", 269}};
  inspection.reason = "UNSUPPORTED_WEIGHTS";
  inspection.message = "why";

  const auto read = InspectionFromJson(InspectionToJson(inspection));

  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->weights_bytes.at("bfloat16"), 269);
  EXPECT_THAT(read->Supported(), HasReasonOf(Reason::kUnsupportedWeights));
  EXPECT_THAT(InspectionFromJson("{"), HasReasonOf(Reason::kInternal));
  EXPECT_THAT(InspectionFromJson("{\"parameters\":\"x\"}"), HasReasonOf(Reason::kInternal));
}

}  // namespace
}  // namespace modeld
