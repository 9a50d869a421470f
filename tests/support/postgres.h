// A private PostgreSQL server for tests: real, of this machine's package, and gone afterwards.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <utility>

#include "server/base/file.h"

namespace modeld {

// A server in a temporary folder, reached through a Unix socket in it, without fsync. A small
// process of its own waits for the end of this one, whatever ends it, then stops the server and
// removes the folder. What fails here ends the test program with the reason. Thread-safe, but for
// Stop() and Start().
class TestPostgres {
 public:
  // Starts a server of one's own, for tests that stop it.
  TestPostgres();
  ~TestPostgres();
  TestPostgres(const TestPostgres&) = delete;
  TestPostgres& operator=(const TestPostgres&) = delete;

  // The server of this process, started by the first call; with MODELD_TEST_POSTGRES set (the
  // socket folder of a running private server) that one.
  static TestPostgres& Shared();

  // Makes an empty database and gives its URL, without a password.
  std::string NewDatabase();

  // Ends the server, and every connection with it; and lets it run again with the same data. Not
  // for Shared().
  void Stop();
  void Start();

  // Where the socket lies.
  const std::string& socket_dir() const { return socket_dir_; }

 private:
  explicit TestPostgres(std::string socket_dir) : socket_dir_(std::move(socket_dir)) {}

  std::string socket_dir_;
  UniqueFd lifeline_;  // its end of file tells the warden to clean up
  pid_t warden_ = -1;  // none for a server of somebody else
};

// Runs SQL on the database at `url` through psql as its superuser and gives the rows as text,
// columns parted by '|'.
std::string RunSql(const std::string& url, std::string_view sql);

}  // namespace modeld
