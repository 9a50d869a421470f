#include "tests/support/fake_hub.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>

#include "server/curl/http_client.h"
#include "server/curl/url.h"

namespace modeld {
namespace {

[[noreturn]] void Die(const std::string& why) {
  std::fprintf(stderr, "the fake hub: %s\n", why.c_str());
  std::abort();
}

struct Pipe {
  UniqueFd read_end;
  UniqueFd write_end;
};

Pipe NewPipe() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) Die("pipe2 fails");
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::string ReadLine(int fd) {
  std::string line;
  char c = 0;
  while (read(fd, &c, 1) == 1 && c != '\n') line += c;
  return line;
}

void WriteNewFile(const std::string& path, std::string_view content) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  std::ofstream file(path, std::ios::binary);
  if (!(file << content).flush()) Die("cannot write " + path);
}

// A client of its own for each command: a test may hold many connections, but not of ours.
std::string Get(const std::string& url) {
  HttpClient client(HttpSettings{});
  std::string body;
  const auto response = client.Send({.url = url}, {},
                                    [&body](std::span<const char> piece) {
                                      body.append(piece.data(), piece.size());
                                      return absl::OkStatus();
                                    },
                                    {});
  if (!response.ok()) Die(response.status().ToString());
  if (response->status != 200) Die(body);
  return body;
}

}  // namespace

FakeHub::FakeHub(const std::vector<std::string>& tokens) {
  std::string folder = (std::filesystem::temp_directory_path() / "modeld-hub-XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) Die("mkdtemp fails");
  root_ = folder;
  Start(tokens);
}

FakeHub::~FakeHub() {
  lifeline_.Reset();
  int status = 0;
  waitpid(pid_, &status, 0);
  std::error_code ignored;  // a folder that stays is not the test's failure
  std::filesystem::remove_all(root_, ignored);
}

void FakeHub::Start(const std::vector<std::string>& tokens) {
  Pipe input = NewPipe();
  Pipe output = NewPipe();
  std::vector<std::string> command = {"python3", MODELD_SOURCE_DIR "/deploy/hub/hub_server.py",
                                      root_,     "--port",
                                      "0",       "--until-eof"};
  for (const std::string& token : tokens) command.push_back("--token=" + token);
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input.read_end.get(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output.write_end.get(), STDOUT_FILENO);
  const int error = posix_spawnp(&pid_, "python3", &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) Die("python3 does not start");
  lifeline_ = std::move(input.write_end);
  output.write_end.Reset();

  const nlohmann::json ready =
      nlohmann::json::parse(ReadLine(output.read_end.get()), nullptr, false);
  if (!ready.is_object()) Die("hub_server.py did not become ready");
  url_ = "http://127.0.0.1:" + std::to_string(ready["port"].get<int>());
  cdn_url_ = "http://127.0.0.1:" + std::to_string(ready["cdn_port"].get<int>());
}

void FakeHub::AddFile(std::string_view repo, std::string_view path, std::string_view content) {
  WriteNewFile(root_ + "/" + std::string(repo) + "/" + std::string(path), content);
}

void FakeHub::AddRevisionFile(std::string_view repo, std::string_view revision,
                              std::string_view path, std::string_view content) {
  AddFile(repo, ".revisions/" + std::string(revision) + "/" + std::string(path), content);
}

void FakeHub::AddSparseFile(std::string_view repo, std::string_view revision, std::string_view path,
                            int64_t size_bytes) {
  constexpr int64_t kStep = 7'777'777;
  AddRevisionFile(repo, revision, path, "");
  const std::string name = root_ + "/" + std::string(repo) + "/.revisions/" +
                           std::string(revision) + "/" + std::string(path);
  const UniqueFd fd(open(name.c_str(), O_WRONLY | O_CLOEXEC));
  if (ftruncate(fd.get(), size_bytes) != 0) Die("cannot lengthen " + name);
  for (int64_t at = 0; at < size_bytes; at += kStep) {
    const std::string mark = std::to_string(at);
    const int64_t room = std::min<int64_t>(std::ssize(mark), size_bytes - at);
    if (pwrite(fd.get(), mark.data(), static_cast<size_t>(room), at) != room) {
      Die("cannot write " + name);
    }
  }
}

void FakeHub::ChangeRepo(std::string_view repo, std::string_view settings) {
  Control(R"({"change":{")" + std::string(repo) + "\":" + std::string(settings) + "}}");
}

void FakeHub::Set(std::string_view settings) {
  Control(R"({"set":)" + std::string(settings) + "}");
}

void FakeHub::AddFault(std::string_view fault) {
  Control(R"({"add":[)" + std::string(fault) + "]}");
}

void FakeHub::ClearFaults() { Control(R"({"clear":["faults"]})"); }

void FakeHub::ClearRequests() { Control(R"({"clear":["log"]})"); }

std::vector<FakeHubRequest> FakeHub::Requests() {
  std::vector<FakeHubRequest> requests;
  for (const auto& entry : nlohmann::json::parse(Get(url_ + "/_ctl/log"))) {
    requests.push_back({.port = entry["port"],
                        .on = entry["on"],
                        .method = entry["method"],
                        .path = entry["path"],
                        .query = entry["query"],
                        .range = entry["range"].is_null() ? "" : entry["range"],
                        .status = entry["status"],
                        .bytes = entry["bytes"],
                        .had_token = entry["had_token"]});
  }
  return requests;
}

void FakeHub::Control(const std::string& command) {
  Get(url_ + "/_ctl?command=" + PercentEncode(command));
}

std::string TestBytes(int64_t size_bytes, uint32_t seed) {
  std::mt19937 next(seed);
  std::string bytes(static_cast<size_t>(size_bytes), '\0');
  for (char& byte : bytes) byte = static_cast<char>(next() >> 24);
  return bytes;
}

}  // namespace modeld
