#include "server/engines/inspector.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/file.h"
#include "server/base/status.h"
#include "server/core/bytes.h"
#include "server/core/reason.h"
#include "server/engines/child_process.h"

namespace modeld {
namespace {

constexpr int64_t kErrorBytesMax = 64 << 10;  // of stderr; the rest is read and dropped

absl::Status Refuse(std::string_view what) {
  return Error(Reason::kInvalidRepository,
               absl::StrCat("the repository could not be inspected: ", std::string(what)));
}

std::string LastLine(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  const size_t begin = text.rfind('\n');
  return begin == std::string::npos ? text : text.substr(begin + 1);
}

// One conversation with the child. One thread.
class Conversation {
 public:
  Conversation(const InspectorOptions& options, const std::string& request)
      : options_(options), request_(request) {}

  absl::Status Start();
  // Until the child closed its output; everything is in output_ and errors_ then.
  absl::Status Talk(std::stop_token stop);
  // Kills what still runs; says how it ended.
  std::string Finish();

  const std::string& output() const { return output_; }
  const std::string& errors() const { return errors_; }

 private:
  void WriteSome();
  absl::Status ReadSome(UniqueFd& from, std::string& to, int64_t bytes_max);

  const InspectorOptions& options_;
  const std::string& request_;
  size_t written_ = 0;
  Child child_;
  UniqueFd input_;  // a socket: MSG_NOSIGNAL keeps SIGPIPE from us when the child is gone
  UniqueFd out_;
  UniqueFd err_;
  std::string output_;
  std::string errors_;
};

absl::Status Conversation::Start() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
    return FileError(errno, "make", "a socket pair");
  }
  input_ = UniqueFd(ends[0]);
  const UniqueFd childs_input(ends[1]);
  ASSIGN_OR_RETURN(Pipe out, MakePipe());
  ASSIGN_OR_RETURN(Pipe err, MakePipe());
  ASSIGN_OR_RETURN(child_, SpawnChild({.arguments = {options_.program, "inspect"},
                                       .environment = ChildEnvironment(environ),
                                       .descriptors = {{childs_input.get(), STDIN_FILENO},
                                                       {out.write.get(), STDOUT_FILENO},
                                                       {err.write.get(), STDERR_FILENO}}}));
  out_ = std::move(out.read);
  err_ = std::move(err.read);
  for (const UniqueFd* fd : {&input_, &out_, &err_}) fcntl(fd->get(), F_SETFL, O_NONBLOCK);
  return absl::OkStatus();
}

absl::Status Conversation::Talk(std::stop_token stop) {
  const UniqueFd stopped(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const std::stop_callback wake(stop, [&] { eventfd_write(stopped.get(), 1); });
  const auto deadline = std::chrono::steady_clock::now() + options_.timeout;
  while (out_.valid() || err_.valid()) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) {
      return Refuse(absl::StrCat("no answer within ", options_.timeout.count(), " ms"));
    }
    std::array<pollfd, 4> wanted{{{stopped.get(), POLLIN, 0},
                                  {input_.get(), POLLOUT, 0},
                                  {out_.get(), POLLIN, 0},
                                  {err_.get(), POLLIN, 0}}};
    if (poll(wanted.data(), wanted.size(), static_cast<int>(left.count())) < 0 && errno != EINTR) {
      return FileError(errno, "poll", "the pipes of modeld-engine inspect");
    }
    if (stop.stop_requested()) return absl::CancelledError("the inspection was stopped");
    if (wanted[1].revents != 0) WriteSome();
    if (wanted[2].revents != 0) RETURN_IF_ERROR(ReadSome(out_, output_, options_.output_bytes_max));
    if (wanted[3].revents != 0) RETURN_IF_ERROR(ReadSome(err_, errors_, -kErrorBytesMax));
  }
  if (!WaitForEnd(child_.pidfd.get(), std::chrono::seconds(1))) return Refuse("it did not end");
  return absl::OkStatus();
}

void Conversation::WriteSome() {
  const ssize_t count =
      send(input_.get(), request_.data() + written_, request_.size() - written_, MSG_NOSIGNAL);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count > 0) written_ += static_cast<size_t>(count);
  if (count < 0 || written_ == request_.size())
    input_.Reset();  // the child sees the end of its stdin
}

// A negative `bytes_max` drops what is beyond it instead of failing.
absl::Status Conversation::ReadSome(UniqueFd& from, std::string& to, int64_t bytes_max) {
  std::array<char, 65536> buffer;
  const ssize_t count = read(from.get(), buffer.data(), buffer.size());
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return absl::OkStatus();
  if (count <= 0) {
    from.Reset();
    return absl::OkStatus();
  }
  to.append(buffer.data(), static_cast<size_t>(count));
  if (bytes_max >= 0 && std::ssize(to) > bytes_max) {
    return Refuse(absl::StrCat("the answer has more than ", FormatBytes(bytes_max)));
  }
  if (bytes_max < 0 && std::ssize(to) > -bytes_max)
    to.erase(0, to.size() - static_cast<size_t>(-bytes_max));
  return absl::OkStatus();
}

std::string Conversation::Finish() {
  if (!WaitForEnd(child_.pidfd.get(), std::chrono::milliseconds(0))) kill(child_.pid, SIGKILL);
  return ReapChild(child_);
}

}  // namespace

absl::StatusOr<Inspection> RunInspector(const InspectorOptions& options,
                                        const std::string& request_json, std::stop_token stop) {
  Conversation conversation(options, request_json);
  RETURN_IF_ERROR(conversation.Start());
  const absl::Status talked = conversation.Talk(std::move(stop));
  const std::string ending = conversation.Finish();
  RETURN_IF_ERROR(talked);
  if (ending != "exit status 0") {
    return Refuse(absl::StrCat("modeld-engine inspect ended with ", ending, ": ",
                               LastLine(conversation.errors())));
  }
  absl::StatusOr<Inspection> inspection = InspectionFromJson(conversation.output());
  if (!inspection.ok()) return Refuse(std::string(inspection.status().message()));
  return inspection;
}

}  // namespace modeld
