// Hears of changes that any daemon made: LISTEN on one connection of its own.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "server/store/database.h"

namespace modeld {

// What changed: "model:<model_name>", "operation:<name>", "load:<node_id>"; "" means anything may
// have (after each connect: notifications in the gap are lost).
using OnChange = std::function<void(const std::string& what)>;

// One thread; calls `on_change` on it, in order. Reconnects for ever with backoff. The destructor
// ends it within a second.
class ChangeListener {
 public:
  ChangeListener(const Database::Options& options, OnChange on_change);
  ~ChangeListener();
  ChangeListener(const ChangeListener&) = delete;
  ChangeListener& operator=(const ChangeListener&) = delete;

 private:
  struct Rep;
  const std::unique_ptr<Rep> rep_;
};

}  // namespace modeld
