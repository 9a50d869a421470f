#include "server/engine/sandbox.h"

#include <fcntl.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

constexpr std::string_view kSecrets[] = {"HF_TOKEN",
                                         "HUGGING_FACE_HUB_TOKEN",
                                         "HUGGINGFACE_HUB_TOKEN",
                                         "HF_TOKEN_PATH",
                                         "PGPASSWORD",
                                         "PGPASSFILE",
                                         "DATABASE_URL",
                                         "CREDENTIALS_DIRECTORY",
                                         "AWS_SECRET_ACCESS_KEY"};

absl::Status SystemError(std::string_view call, int error) {
  return Error(Reason::kInternal,
               absl::StrCat("sandbox: ", std::string(call), " failed: ", strerror(error)));
}

absl::Status Limit(__rlimit_resource resource, int64_t value, std::string_view name) {
  const rlimit limit{static_cast<rlim_t>(value), static_cast<rlim_t>(value)};
  if (setrlimit(resource, &limit) != 0) return SystemError(name, errno);
  return absl::OkStatus();
}

struct ReleaseFilter {
  void operator()(void* filter) const { seccomp_release(filter); }
};

// A list of refusals, not of permissions: what libtorch, OpenBLAS and a CUDA driver call is not
// ours to know.
absl::Status RefuseCalls(SocketRule sockets) {
  const std::unique_ptr<void, ReleaseFilter> filter(seccomp_init(SCMP_ACT_ALLOW));
  if (!filter) return SystemError("seccomp_init", ENOMEM);
  // OpenBLAS has threads before main().
  int error = seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_TSYNC, 1);
  const uint32_t no_family = SCMP_ACT_ERRNO(EAFNOSUPPORT);
  for (const int call : {SCMP_SYS(socket), SCMP_SYS(socketpair)}) {
    if (error != 0) break;
    error = sockets == SocketRule::kNone
                ? seccomp_rule_add(filter.get(), no_family, call, 0)
                : seccomp_rule_add(filter.get(), no_family, call, 1,
                                   SCMP_A0(SCMP_CMP_NE, static_cast<scmp_datum_t>(AF_UNIX)));
  }
  for (const int call :
       {SCMP_SYS(ptrace), SCMP_SYS(process_vm_readv), SCMP_SYS(process_vm_writev),
        SCMP_SYS(io_uring_setup), SCMP_SYS(io_uring_enter), SCMP_SYS(io_uring_register)}) {
    if (error != 0) break;
    error = seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(EPERM), call, 0);
  }
  if (error == 0) error = seccomp_load(filter.get());
  if (error != 0) return SystemError("seccomp", -error);
  return absl::OkStatus();
}

}  // namespace

absl::Status EnterSandbox(const SandboxOptions& options) {
  RETURN_IF_ERROR(Limit(RLIMIT_CORE, 0, "setrlimit(RLIMIT_CORE)"));
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  if (options.address_space_bytes > 0) {
    RETURN_IF_ERROR(Limit(RLIMIT_AS, options.address_space_bytes, "setrlimit(RLIMIT_AS)"));
  }
#endif
  if (options.cpu_seconds > 0) {
    RETURN_IF_ERROR(Limit(RLIMIT_CPU, options.cpu_seconds, "setrlimit(RLIMIT_CPU)"));
  }
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return SystemError("PR_SET_DUMPABLE", errno);
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return SystemError("PR_SET_NO_NEW_PRIVS", errno);
  return RefuseCalls(options.sockets);
}

void ForgetSecrets() {
  std::vector<std::string> names;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const std::string_view name = text.substr(0, text.find('='));
    if (!name.starts_with("MODELD_") && std::ranges::find(kSecrets, name) == std::end(kSecrets)) {
      continue;
    }
    names.emplace_back(name);
    explicit_bzero(*entry + name.size(), text.size() - name.size());
    if (text.size() > name.size()) (*entry)[name.size()] = '=';
  }
  for (const std::string& name : names) unsetenv(name.c_str());
}

}  // namespace modeld
