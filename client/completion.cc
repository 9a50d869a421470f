#include "client/completion.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <vector>

#include "absl/strings/str_join.h"

namespace modeld {
namespace {

std::vector<std::string> OptionsOf(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

std::vector<const CLI::App*> Subcommands(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

std::string BashScript(const CLI::App& app) {
  std::vector<std::string> commands;
  std::string cases;
  for (const CLI::App* command : Subcommands(app)) {
    commands.push_back(command->get_name());
    cases += "    " + command->get_name() + ") words=\"" + absl::StrJoin(OptionsOf(*command), " ") +
             "\" ;;\n";
  }
  return "_modelctl() {\n"
         "  local words=\"" +
         absl::StrJoin(commands, " ") + " " + absl::StrJoin(OptionsOf(app), " ") +
         "\" word\n"
         "  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n"
         "    case \"$word\" in\n" +
         cases +
         "    esac\n"
         "  done\n"
         "  COMPREPLY=($(compgen -W \"$words\" -- \"${COMP_WORDS[COMP_CWORD]}\"))\n"
         "}\n"
         "complete -F _modelctl modelctl\n";
}

std::string FishScript(const CLI::App& app) {
  std::string out = "complete -c modelctl -f\n";
  for (const CLI::App* command : Subcommands(app)) {
    out += "complete -c modelctl -n __fish_use_subcommand -a " + command->get_name() + " -d '" +
           command->get_description() + "'\n";
    for (const std::string& option : OptionsOf(*command)) {
      out += "complete -c modelctl -n '__fish_seen_subcommand_from " + command->get_name() +
             "' -l " + option.substr(2) + "\n";
    }
  }
  return out;
}

}  // namespace

std::string CompletionScript(const CLI::App& app, const std::string& shell) {
  if (shell == "fish") return FishScript(app);
  // zsh runs bash's completions.
  if (shell == "zsh") return "autoload -U +X bashcompinit && bashcompinit\n" + BashScript(app);
  return BashScript(app);
}

void AddCompletionCommand(CLI::App& app) {
  auto* command = app.add_subcommand("completion", "Print the completion script of a shell");
  auto shell = std::make_shared<std::string>();
  command->add_option("SHELL", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  command->callback([&app, shell] { std::fputs(CompletionScript(app, *shell).c_str(), stdout); });
}

}  // namespace modeld
