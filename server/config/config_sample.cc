#include <sstream>
#include <string>
#include <vector>

#include "server/config/config_keys.h"

namespace modeld {
namespace {

constexpr size_t kColumns = 100;

// `text` as comment lines.
std::string Comment(const std::string& text) {
  std::string out;
  std::string line = "#";
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    if (line.size() + 1 + word.size() > kColumns) {
      out += line + "\n";
      line = "#";
    }
    line += " " + word;
  }
  return out + line + "\n";
}

}  // namespace

std::string RenderConfigSample() {
  std::string out = Comment(
      "Configuration of modeld, read once at its start: this file (--config FILE, default "
      "/etc/modeld/modeld.toml), "
      "over it environment variables (MODELD_SECTION_KEY), over those flags. Every key is here "
      "with its default; "
      "remove the '#' in front of a key to set it. `modeld --check-config` says what is wrong, "
      "with line numbers.");
  std::string section;
  for (const ConfigKey& key : AllConfigKeys()) {
    if (key.section != section) out += "\n[" + key.section + "]\n";
    section = key.section;
    std::string help = key.help;
    if (!key.choices.empty()) {
      help += " One of";
      for (const std::string& choice : key.choices) help += " " + choice;
      help += ".";
    }
    if (key.max > 0 && key.max < 1'000'000'000'000) {
      help += " " + std::to_string(key.min) + " to " + std::to_string(key.max) + ".";
    }
    if (!key.empty.empty()) help += " " + key.default_text() + " means: " + key.empty + ".";
    out += Comment(help) + "#" + key.key + " = " + key.default_text() + "\n";
  }
  return out;
}

}  // namespace modeld
