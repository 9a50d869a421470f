// modelctl completion bash|zsh|fish.
#pragma once

#include <string>

namespace CLI {
class App;
}

namespace modeld {

// The script for one shell: subcommands and their options, read off `app` itself. `shell` is one of
// bash, zsh, fish.
std::string CompletionScript(const CLI::App& app, const std::string& shell);

// Adds the subcommand, which prints the script.
void AddCompletionCommand(CLI::App& app);

}  // namespace modeld
