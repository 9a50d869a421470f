#include "server/config/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <set>
#include <sstream>

#include "server/base/file.h"
#include "server/config/config_keys.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::UnorderedElementsAre;

auto ProblemAt(const std::string& where, const std::string& what) {
  return AllOf(Field("where", &ConfigProblem::where, where),
               Field("what", &ConfigProblem::what, HasSubstr(what)));
}

class ConfigTest : public testing::Test {
 protected:
  ConfigTest() {
    sources_.environment = {{"HOME", "/home/ada"}};
    sources_.program_path = "/usr/local/bin/modeld";
    sources_.file = dir_.path() + "/modeld.toml";
    WriteToml("");
  }

  void WriteToml(const std::string& text) {
    ASSERT_THAT(WriteFileAtomically(sources_.file, text), IsOk());
  }
  std::string WriteSecret(const std::string& text, mode_t mode = 0600) {
    const std::string path = dir_.path() + "/secret";
    EXPECT_THAT(WriteFileAtomically(path, text, mode), IsOk());
    EXPECT_EQ(chmod(path.c_str(), mode), 0);
    return path;
  }
  ConfigResult Load() const { return LoadConfig(sources_); }

  TempDir dir_;
  ConfigSources sources_;
};

TEST_F(ConfigTest, DefaultsAreThoseOfTheContract) {
  const ConfigResult result = Load();

  ASSERT_THAT(result.problems, IsEmpty());
  const Config& config = result.config;
  EXPECT_EQ(config.server.grpc_address, "127.0.0.1:50051");
  EXPECT_EQ(config.server.http_address, "127.0.0.1:8080");
  EXPECT_EQ(config.server.http_threads, 256);
  EXPECT_NE(config.node.name, "");
  EXPECT_EQ(config.node.state_dir, "/var/lib/modeld");
  EXPECT_EQ(config.database.url, "postgresql:///modeld");
  EXPECT_EQ(config.cache.primary, "/home/ada/.cache/huggingface");
  EXPECT_EQ(config.cache.secondary, "");
  EXPECT_THAT(config.cache.custom_roots, IsEmpty());
  EXPECT_EQ(config.hub.endpoint, "https://huggingface.co");
  EXPECT_EQ(config.hub_token, "");
  EXPECT_EQ(config.engine.program, "/usr/local/bin/modeld-engine");
  EXPECT_EQ(config.engine.socket_dir, "/var/lib/modeld/run");
  EXPECT_GT(config.devices.cpu_memory_bytes, 0);
}

TEST_F(ConfigTest, EnvironmentBeatsFileAndFlagsBeatEnvironment) {
  WriteToml(
      "[server]\ngrpc_address = \"127.0.0.1:1\"\nhttp_address = \"127.0.0.1:2\"\nhttp_threads = "
      "33\n");
  sources_.environment["MODELD_SERVER_HTTP_ADDRESS"] = "127.0.0.1:3";
  sources_.environment["MODELD_SERVER_HTTP_THREADS"] = "44";
  sources_.flags["server.http_threads"] = "55";

  const ConfigResult result = Load();

  ASSERT_THAT(result.problems, IsEmpty());
  EXPECT_EQ(result.config.server.grpc_address, "127.0.0.1:1");
  EXPECT_EQ(result.config.server.http_address, "127.0.0.1:3");
  EXPECT_EQ(result.config.server.http_threads, 55);
}

TEST_F(ConfigTest, EveryKeyCanBeSetByEnvironment) {
  for (const ConfigKey& key : AllConfigKeys()) {
    sources_.environment = {{"HOME", "/home/ada"}};
    const bool secret = key.key.ends_with("_file");
    std::string text = "/some/path";
    if (secret) text = WriteSecret("hush");
    if (key.key.ends_with("_address")) text = "localhost:7";
    if (key.name() == "hub.endpoint" || key.name() == "hub.mirrors") text = "http://mirror";
    if (key.name() == "hub.proxy") text = "http://proxy:3128";
    if (!key.choices.empty()) text = key.choices.back();
    const bool is_number =
        key.type() == ConfigType::kInteger || key.type() == ConfigType::kIntegerList;
    if (is_number) text = std::to_string(key.min + 1);
    if (key.type() == ConfigType::kBoolean) text = "true";
    sources_.environment[key.environment_name()] = text;

    ConfigResult result = Load();

    EXPECT_THAT(result.problems, IsEmpty()) << key.name();
    EXPECT_NE(key.default_text(), "") << key.name();
    const ConfigTarget set = key.target(result.config);
    if (const auto* number = std::get_if<int64_t*>(&set)) {
      EXPECT_EQ(**number, key.min + 1) << key.name();
    } else if (const auto* numbers = std::get_if<std::vector<int64_t>*>(&set)) {
      EXPECT_THAT(**numbers, ElementsAre(key.min + 1)) << key.name();
    } else if (const auto* string = std::get_if<std::string*>(&set)) {
      EXPECT_EQ(**string, text) << key.name();
    } else if (const auto* boolean = std::get_if<bool*>(&set)) {
      EXPECT_TRUE(**boolean) << key.name();
    } else {
      EXPECT_THAT(*std::get<std::vector<std::string>*>(set), ElementsAre(text)) << key.name();
    }
  }
}

TEST_F(ConfigTest, EveryProblemIsReportedWithItsLine) {
  WriteToml(
      "[server]\n"
      "http_thread = 3\n"
      "http_threads = 1\n"
      "grpc_address = 7\n"
      "[sever]\n"
      "x = 1\n"
      "[cache]\n"
      "custom_roots = [1]\n"
      "require_mount = \"yes\"\n"
      "[log]\n"
      "level = \"loud\"\n");

  EXPECT_THAT(Load().problems,
              UnorderedElementsAre(
                  ProblemAt("modeld.toml:2", "server.http_thread: unknown key"),
                  ProblemAt("modeld.toml:3", "server.http_threads: is 1, must be 17 to 4096"),
                  ProblemAt("modeld.toml:4", "server.grpc_address: must be a string"),
                  ProblemAt("modeld.toml:5", "[sever]: unknown section"),
                  ProblemAt("modeld.toml:8", "cache.custom_roots: must be a list of strings"),
                  ProblemAt("modeld.toml:9", "cache.require_mount: must be true or false"),
                  ProblemAt("modeld.toml:11", "log.level: is \"loud\", must be one of debug")));
}

TEST_F(ConfigTest, BrokenTomlIsReportedWithItsLine) {
  WriteToml("[server]\nhttp_threads = = 3\n");

  EXPECT_THAT(Load().problems, ElementsAre(ProblemAt("modeld.toml:2", "")));
}

TEST_F(ConfigTest, KeyOutsideItsSectionIsReported) {
  WriteToml("server = 3\n");

  EXPECT_THAT(Load().problems, ElementsAre(ProblemAt("modeld.toml:1", "is a section")));
}

TEST_F(ConfigTest, BadEnvironmentAndFlagsAreReportedByName) {
  sources_.environment["MODELD_SERVER_HTTP_THREADS"] = "many";
  sources_.environment["MODELD_SERVER_PORT"] = "1";
  sources_.flags["server.drain_seconds"] = "-1";
  sources_.flags["server.colour"] = "red";

  EXPECT_THAT(
      Load().problems,
      UnorderedElementsAre(
          ProblemAt("MODELD_SERVER_HTTP_THREADS", "server.http_threads: must be an integer"),
          ProblemAt("MODELD_SERVER_PORT", "unknown key of [server]"),
          ProblemAt("--server-drain-seconds", "server.drain_seconds: is -1"),
          ProblemAt("--server.colour", "unknown key")));
}

TEST_F(ConfigTest, VariablesOfOtherPurposesAreLeftAlone) {
  sources_.environment["MODELD_PRESET"] = "asan";
  sources_.environment["MODELD_TEST_MODELS"] = "/x";
  sources_.environment["MODELD_ENGINE_TRACE"] = "1";

  EXPECT_THAT(Load().problems, IsEmpty());
}

TEST_F(ConfigTest, PathsMustBeAbsoluteAndAddressesComplete) {
  WriteToml(
      "[server]\n"
      "grpc_address = \"localhost\"\n"
      "http_address = \"localhost:70000\"\n"
      "[cache]\n"
      "primary = \"cache\"\n"
      "secondary = \"/a/../b\"\n"
      "custom_roots = [\"/fine\", \"not\"]\n"
      "[hub]\n"
      "endpoint = \"huggingface.co\"\n");

  EXPECT_THAT(Load().problems,
              UnorderedElementsAre(ProblemAt("modeld.toml:2", "is not HOST:PORT"),
                                   ProblemAt("modeld.toml:3", "is not HOST:PORT"),
                                   ProblemAt("modeld.toml:5", "is not an absolute path"),
                                   ProblemAt("modeld.toml:6", "has \".\" or \"..\""),
                                   ProblemAt("modeld.toml:7", "\"not\" is not an absolute path"),
                                   ProblemAt("modeld.toml:9", "is no http:// or https:// URL")));
}

TEST_F(ConfigTest, SocketFolderThatLeavesNoRoomForNamesIsReported) {
  sources_.flags["engine.socket_dir"] = "/" + std::string(70, 'x');

  EXPECT_THAT(Load().problems,
              ElementsAre(ProblemAt("--engine-socket-dir", "has 71 bytes, at most 70")));
}

TEST_F(ConfigTest, NamedFileMustExist) {
  sources_.file = dir_.path() + "/missing.toml";

  EXPECT_THAT(Load().problems, ElementsAre(ProblemAt(sources_.file, "missing.toml")));
}

TEST_F(ConfigTest, SystemdAndHuggingFaceVariablesFillWhatIsSilent) {
  sources_.environment["STATE_DIRECTORY"] = "/var/lib/one:/var/lib/two";
  sources_.environment["RUNTIME_DIRECTORY"] = "/run/modeld";
  sources_.environment["HF_HOME"] = "/data/hf";
  sources_.environment["HF_ENDPOINT"] = "http://127.0.0.1:9/";
  sources_.environment["HF_TOKEN"] = "hf_secret";

  const ConfigResult result = Load();

  ASSERT_THAT(result.problems, IsEmpty());
  EXPECT_EQ(result.config.node.state_dir, "/var/lib/one");
  EXPECT_EQ(result.config.engine.socket_dir, "/run/modeld");
  EXPECT_EQ(result.config.cache.primary, "/data/hf");
  EXPECT_EQ(result.config.hub.endpoint, "http://127.0.0.1:9");
  EXPECT_EQ(result.config.hub_token, "hf_secret");
}

TEST_F(ConfigTest, SocketsFollowTheStateDirectory) {
  sources_.flags["node.state_dir"] = "/srv/state";

  EXPECT_EQ(Load().config.engine.socket_dir, "/srv/state/run");
}

TEST_F(ConfigTest, SecretsComeFromFilesWithoutTheirNewline) {
  sources_.flags["database.password_file"] = WriteSecret("open sesame\n");

  const ConfigResult result = Load();

  ASSERT_THAT(result.problems, IsEmpty());
  EXPECT_EQ(result.config.database_password, "open sesame");
  EXPECT_THAT(result.warnings, IsEmpty());
}

TEST_F(ConfigTest, SecretThatEverybodyCanReadIsWarnedOf) {
  sources_.flags["hub.token_file"] = WriteSecret("hf_x", 0644);

  const ConfigResult result = Load();

  EXPECT_EQ(result.config.hub_token, "hf_x");
  EXPECT_THAT(result.warnings,
              ElementsAre(ProblemAt("hub.token_file", "can be read by everybody")));
}

TEST_F(ConfigTest, BareNameOfASecretIsASystemdCredential) {
  WriteSecret("from systemd");
  sources_.flags["database.password_file"] = "secret";

  EXPECT_THAT(Load().problems, ElementsAre(ProblemAt("database.password_file",
                                                     "$CREDENTIALS_DIRECTORY is not set")));

  sources_.environment["CREDENTIALS_DIRECTORY"] = dir_.path();

  EXPECT_EQ(Load().config.database_password, "from systemd");
}

TEST_F(ConfigTest, TheHubsTokenIsFoundAmongTheCredentials) {
  ASSERT_THAT(WriteFileAtomically(dir_.path() + "/hub_token", "hf_systemd\n", 0600), IsOk());
  sources_.environment["CREDENTIALS_DIRECTORY"] = dir_.path();

  const Config config = Load().config;
  EXPECT_EQ(config.hub_token, "hf_systemd");
  EXPECT_EQ(config.hub_token_path, dir_.path() + "/hub_token");
  EXPECT_EQ(config.hub.credentials_dir, dir_.path());

  sources_.environment["HF_TOKEN"] = "hf_environment";
  EXPECT_EQ(Load().config.hub_token, "hf_environment");
  EXPECT_EQ(Load().config.hub_token_path, "");
}

TEST_F(ConfigTest, MirrorsSayWhetherTheyGetTheToken) {
  WriteToml("[hub]\nmirrors = [\"https://a.example/\", \"http://b.example send-token\"]\n");

  const ConfigResult result = Load();

  ASSERT_THAT(result.problems, IsEmpty());
  EXPECT_THAT(result.config.hub_mirrors, ElementsAre(Config::Mirror{"https://a.example", false},
                                                     Config::Mirror{"http://b.example", true}));
}

TEST_F(ConfigTest, MirrorsInTheEnvironmentAreSeparatedByCommas) {
  sources_.environment["MODELD_HUB_MIRRORS"] = "https://a:8443,https://b send-token";

  EXPECT_THAT(Load().config.hub_mirrors, ElementsAre(Config::Mirror{"https://a:8443", false},
                                                     Config::Mirror{"https://b", true}));
}

TEST_F(ConfigTest, AMirrorThatCannotBeReadIsAProblem) {
  sources_.flags["hub.mirrors"] = "https://a send-tokens";
  EXPECT_THAT(Load().problems, ElementsAre(ProblemAt("hub.mirrors", "neither")));

  sources_.flags["hub.mirrors"] = "a.example";
  EXPECT_THAT(Load().problems, ElementsAre(ProblemAt("--hub-mirrors", "no http")));
}

TEST_F(ConfigTest, TheSwitchOfHuggingFaceTakesTheHubOffline) {
  EXPECT_FALSE(Load().config.hub.offline);
  for (const char* on : {"1", "on", "Yes", "TRUE"}) {
    sources_.environment["HF_HUB_OFFLINE"] = on;
    EXPECT_TRUE(Load().config.hub.offline) << on;
  }
  sources_.environment["HF_HUB_OFFLINE"] = "0";
  EXPECT_FALSE(Load().config.hub.offline);
}

TEST_F(ConfigTest, AProxyThatIsNoneIsRefusedWithoutItsPassword) {
  sources_.flags["hub.proxy"] = "ada:hush@proxy:3128";

  const ConfigResult result = Load();

  ASSERT_THAT(result.problems, ElementsAre(ProblemAt("--hub-proxy", "no URL of a proxy")));
  EXPECT_THAT(result.problems[0].what, Not(HasSubstr("hush")));
}

TEST_F(ConfigTest, AMissingFileOfAuthoritiesIsAProblem) {
  sources_.flags["hub.ca_file"] = "/nowhere/ca.pem";

  EXPECT_THAT(Load().problems, ElementsAre(ProblemAt("--hub-ca-file", "/nowhere/ca.pem")));
}

TEST_F(ConfigTest, MissingSecretIsAProblemThatNamesItsFile) {
  sources_.flags["hub.token_file"] = "/nowhere/token";

  EXPECT_THAT(Load().problems, ElementsAre(ProblemAt("hub.token_file", "/nowhere/token")));
}

TEST_F(ConfigTest, CustomRootsInTheEnvironmentAreSeparatedByColons) {
  sources_.environment["MODELD_CACHE_CUSTOM_ROOTS"] = "/a:/b";

  EXPECT_THAT(Load().config.cache.custom_roots, ElementsAre("/a", "/b"));
}

TEST_F(ConfigTest, BudgetsOfTheCpuAreListsOfBytes) {
  WriteToml("[devices]\ncpu_budgets = [1000, 2000]\n");
  EXPECT_THAT(Load().config.devices.cpu_budgets, ElementsAre(1000, 2000));

  sources_.environment["MODELD_DEVICES_CPU_BUDGETS"] = "3000:4000";
  EXPECT_THAT(Load().config.devices.cpu_budgets, ElementsAre(3000, 4000));
}

TEST_F(ConfigTest, BudgetsThatAreNoneAreRefused) {
  sources_.environment["MODELD_DEVICES_CPU_BUDGETS"] = "3000:many";
  EXPECT_THAT(Load().problems,
              ElementsAre(ProblemAt("MODELD_DEVICES_CPU_BUDGETS",
                                    "devices.cpu_budgets: must be a list of integers")));

  sources_.environment.clear();
  WriteToml("[devices]\ncpu_budgets = [1000, 0]\n");
  EXPECT_THAT(Load().problems, ElementsAre(ProblemAt("modeld.toml:2",
                                                     "devices.cpu_budgets: is 0, must be 1 to "
                                                     "9223372036854775807")));
}

TEST(ConfigSampleTest, CommittedSampleIsTheOneOfTheTable) {
  const auto committed = ReadFile(MODELD_SOURCE_DIR "/deploy/modeld.toml");

  ASSERT_THAT(committed, IsOk());
  EXPECT_EQ(*committed, RenderConfigSample());
}

TEST_F(ConfigTest, SampleWithEveryKeySwitchedOnParsesToTheDefaults) {
  std::string text;
  std::istringstream lines(RenderConfigSample());
  for (std::string line; std::getline(lines, line);) {
    const bool key = line.size() > 1 && line[0] == '#' && line[1] != ' ';
    text += (key ? line.substr(1) : line) + "\n";
  }
  const Config silent = Load().config;
  WriteToml(text);

  ConfigResult result = Load();

  ASSERT_THAT(result.problems, IsEmpty());
  Config expected = silent;
  for (const ConfigKey& key : AllConfigKeys()) {
    std::visit(
        [&](auto* value) {
          EXPECT_EQ(*value, *std::get<decltype(value)>(key.target(expected))) << key.name();
        },
        key.target(result.config));
  }
}

TEST(ConfigKeysTest, NamesAreUniqueAndExplained) {
  std::set<std::string> names;
  for (const ConfigKey& key : AllConfigKeys()) {
    EXPECT_TRUE(names.insert(key.name()).second) << key.name();
    EXPECT_GT(key.help.size(), 10u) << key.name();
  }
  EXPECT_THAT(names,
              testing::IsSupersetOf({"server.grpc_address", "server.http_threads", "node.state_dir",
                                     "database.url", "cache.custom_roots", "hub.endpoint",
                                     "engine.program", "devices.cpu_memory_bytes"}));
}

}  // namespace
}  // namespace modeld
