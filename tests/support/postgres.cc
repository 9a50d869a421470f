#include "tests/support/postgres.h"

#include <fcntl.h>
#include <pwd.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "server/base/random.h"
#include "server/base/status.h"

extern char** environ;

namespace modeld {
namespace {

using Command = std::vector<std::string>;

[[noreturn]] void Fail(const std::string& what) {
  Panic("the PostgreSQL of the tests: " + what, __FILE__, __LINE__);
}

std::vector<char*> Argv(const Command& command) {
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  return argv;
}

int WaitFor(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) Fail(std::string("waitpid: ") + std::strerror(errno));
  }
  return status;
}

// Runs `command` to its end; gives what it wrote, and Fails when it fails.
std::string Run(const Command& command) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) Fail("pipe2");
  UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, write_end.get(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, write_end.get(), STDERR_FILENO);
  pid_t pid = -1;
  const int error =
      posix_spawnp(&pid, command[0].c_str(), &actions, nullptr, Argv(command).data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) Fail(command[0] + ": " + std::strerror(error));
  write_end.Reset();

  std::string output;
  char buffer[4096];
  for (;;) {
    const ssize_t got = read(read_end.get(), buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    output.append(buffer, static_cast<size_t>(got));
  }
  if (WaitFor(pid) != 0) Fail(command[0] + " failed: " + output);
  return output;
}

// The folder of initdb and pg_ctl, which Debian keeps out of $PATH; the newest version of several.
std::string BinDir() {
  std::string found;
  std::error_code ignored;
  int newest = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/usr/lib/postgresql", ignored)) {
    const int version = std::atoi(entry.path().filename().c_str());
    if (version > newest && std::filesystem::exists(entry.path() / "bin" / "initdb")) {
      newest = version;
      found = entry.path() / "bin";
    }
  }
  if (!found.empty()) return found;
  std::string dir = Run({"pg_config", "--bindir"});
  while (!dir.empty() && dir.back() == '\n') dir.pop_back();
  return dir;
}

// PostgreSQL refuses to run as root, so that root lets the package's user run it.
Command AsServerUser(Command command) {
  if (geteuid() != 0) return command;
  Command out = {"runuser", "-u", "postgres", "--"};
  out.insert(out.end(), command.begin(), command.end());
  return out;
}

Command PgCtl(const std::string& dir, const Command& verb) {
  Command command = {BinDir() + "/pg_ctl", "-D", dir + "/data", "-s", "-w"};
  command.insert(command.end(), verb.begin(), verb.end());
  return AsServerUser(std::move(command));
}

// The folder lies in /tmp, not in $TMPDIR: the server's user must reach it, and a socket path is
// short.
std::string MakeServerDir() {
  char path[] = "/tmp/modeld-pg-XXXXXX";
  if (mkdtemp(path) == nullptr) Fail("mkdtemp");
  if (geteuid() == 0) {
    const passwd* user = getpwnam("postgres");
    if (user == nullptr) Fail("no user postgres");
    if (chown(path, user->pw_uid, user->pw_gid) != 0) Fail("chown");
  }
  if (chmod(path, 0755) != 0) Fail("chmod");
  return path;
}

// Starts the process that waits for the end of its standard input and then cleans up. It has a
// session of its own, so that what ends the tests' process group does not end it.
pid_t StartWarden(const std::string& dir, int lifeline) {
  static constexpr char kScript[] =
      "trap '' INT TERM HUP; cat >/dev/null; dir=$1; shift; "
      "\"$@\" >/dev/null 2>&1; rm -rf \"$dir\"";
  Command command = {"sh", "-c", kScript, "sh", dir};
  const Command stop = PgCtl(dir, {"-m", "immediate", "stop"});
  command.insert(command.end(), stop.begin(), stop.end());

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, lifeline, STDIN_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addchdir_np(&actions, "/");
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, "sh", &actions, &attributes, Argv(command).data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) Fail(std::string("the warden: ") + std::strerror(error));
  return pid;
}

}  // namespace

TestPostgres::TestPostgres() : socket_dir_(MakeServerDir()) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) Fail("pipe2");
  const UniqueFd read_end(ends[0]);
  lifeline_ = UniqueFd(ends[1]);
  warden_ = StartWarden(socket_dir_, read_end.get());
  Run(AsServerUser({BinDir() + "/initdb", "-D", socket_dir_ + "/data", "-U", "postgres",
                    "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"}));
  Start();
}

TestPostgres::~TestPostgres() {
  if (warden_ < 0) return;
  lifeline_.Reset();
  WaitFor(warden_);
}

TestPostgres& TestPostgres::Shared() {
  static const std::unique_ptr<TestPostgres> shared = [] {
    const char* running = std::getenv("MODELD_TEST_POSTGRES");
    if (running == nullptr || *running == '\0') return std::make_unique<TestPostgres>();
    return std::unique_ptr<TestPostgres>(new TestPostgres(std::string(running)));
  }();
  return *shared;
}

std::string TestPostgres::NewDatabase() {
  const std::string name = "test_" + RandomHex(8);
  const std::string host = "?host=" + socket_dir_;
  RunSql("postgresql://postgres@/postgres" + host, "CREATE DATABASE " + name);
  return "postgresql://postgres@/" + name + host;
}

void TestPostgres::Stop() {
  if (warden_ < 0) Fail("Stop() of a server that others use");
  Run(PgCtl(socket_dir_, {"-m", "fast", "stop"}));
}

void TestPostgres::Start() {
  if (warden_ < 0) Fail("Start() of a server that others use");
  Run(PgCtl(socket_dir_, {"-l", socket_dir_ + "/log", "-o",
                          "-k " + socket_dir_ +
                              " -c listen_addresses= -c fsync=off -c synchronous_commit=off"
                              " -c full_page_writes=off -c shared_buffers=32MB"
                              " -c max_connections=200",
                          "start"}));
}

std::string RunSql(const std::string& url, std::string_view sql) {
  return Run(
      {"psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", std::string(sql)});
}

}  // namespace modeld
