// What the daemon tells systemd. Every call is a no-op where NOTIFY_SOCKET is not set.
#pragma once

#include <chrono>
#include <optional>
#include <string>

namespace modeld {

// READY=1: sockets are bound and the database was reached once.
void NotifyReady();
// STOPPING=1.
void NotifyStopping();
// STATUS=..., one line for `systemctl status`.
void NotifyStatus(const std::string& status);
// WATCHDOG=1.
void NotifyWatchdog();
// EXTEND_TIMEOUT_USEC=...: the start (or stop) may take this much longer from now.
void NotifyExtendTimeout(std::chrono::microseconds by);
// How often systemd wants NotifyWatchdog() at least; nothing when it does not.
std::optional<std::chrono::microseconds> WatchdogInterval();

}  // namespace modeld
