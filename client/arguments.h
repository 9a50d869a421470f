// Arguments that many subcommands of modelctl have.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

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

}  // namespace modeld
