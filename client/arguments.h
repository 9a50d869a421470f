// Arguments that many subcommands of modelctl have.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "client/rate.h"

namespace modeld {

// The required argument MODEL, which sets model_name of `request`.
template <typename Request>
void AddModelArgument(CLI::App* command, const std::shared_ptr<Request>& request) {
  command
      ->add_option_function<std::string>(
          "MODEL", [request](const std::string& name) { request->set_model_name(name); },
          "Name of the model")
      ->required();
}

// --location, --cache-path and --token-credential: where a repository goes and with whose token.
template <typename Request>
void AddPlaceOptions(CLI::App* command, const std::shared_ptr<Request>& request) {
  command->add_option_function<std::string>(
      "--location", [request](const std::string& v) { request->set_cache_location(v); },
      "primary, secondary or custom (primary)");
  command->add_option_function<std::string>(
      "--cache-path", [request](const std::string& v) { request->set_cache_path(v); },
      "Path for the location custom");
  command->add_option_function<std::string>(
      "--token-credential", [request](const std::string& v) { request->set_token_credential(v); },
      "Name of the daemon's credential with the token for this repository");
}

// --allow and --ignore, each repeatable, which fill the patterns of `request`.
template <typename Request>
void AddPatternOptions(CLI::App* command, const std::shared_ptr<Request>& request) {
  command->add_option_function<std::vector<std::string>>(
      "--allow,--include",
      [request](const std::vector<std::string>& patterns) {
        request->mutable_allow_patterns()->Assign(patterns.begin(), patterns.end());
      },
      "Only files that match this pattern (repeatable)");
  command->add_option_function<std::vector<std::string>>(
      "--ignore,--exclude",
      [request](const std::vector<std::string>& patterns) {
        request->mutable_ignore_patterns()->Assign(patterns.begin(), patterns.end());
      },
      "Not files that match this pattern (repeatable)");
}

// An option for a rate such as 50MB/s, handed to `set` in bytes a second.
inline void AddRateOption(CLI::App* command, const std::string& names,
                          std::function<void(int64_t)> set) {
  command->add_option_function<std::string>(
      names,
      [names, set = std::move(set)](const std::string& text) {
        const std::optional<int64_t> rate = ParseRate(text);
        if (!rate) throw CLI::ValidationError(names, "\"" + text + "\" is no rate such as 50MB/s");
        set(*rate);
      },
      "Bytes a second, such as 50MB/s; 0 or none: no limit");
}

}  // namespace modeld
