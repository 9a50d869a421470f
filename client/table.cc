#include "client/table.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/core/bytes.h"

namespace modeld {
namespace {

// Columns that `text` takes: its characters, not its bytes.
size_t Width(const std::string& text) {
  return static_cast<size_t>(
      std::ranges::count_if(text, [](char c) { return (c & 0xc0) != 0x80; }));
}

int TerminalWidth() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

double Share(const v1::Operation& operation) {
  if (operation.bytes_total() <= 0) return 0;
  return std::clamp(
      static_cast<double>(operation.bytes_done()) / static_cast<double>(operation.bytes_total()),
      0.0, 1.0);
}

}  // namespace

std::string FormatTable(const std::vector<std::string>& header,
                        const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const std::string& cell : header) widths.push_back(Width(cell));
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], Width(row[i]));
  }
  std::string out;
  const auto append = [&](const std::vector<std::string>& row) {
    for (size_t i = 0; i < row.size(); ++i) {
      out += row[i];
      if (i + 1 < row.size()) out.append(widths[i] - Width(row[i]) + 2, ' ');
    }
    out += '\n';
  };
  append(header);
  for (const auto& row : rows) append(row);
  return out;
}

std::string FormatDuration(int64_t seconds) {
  seconds = std::max<int64_t>(seconds, 0);
  if (seconds >= 3600) {
    return absl::StrFormat("%d:%02d:%02d", seconds / 3600, seconds / 60 % 60, seconds % 60);
  }
  return absl::StrFormat("%d:%02d", seconds / 60, seconds % 60);
}

std::string EnumWord(const std::string& value_name, const std::string& prefix) {
  const std::string word =
      value_name.starts_with(prefix) ? value_name.substr(prefix.size()) : value_name;
  return absl::AsciiStrToLower(word);
}

std::string FormatProgress(const v1::Operation& operation, int width) {
  // An unload has no phases.
  const bool in_a_phase = !operation.done() && operation.state() == v1::OPERATION_STATE_RUNNING &&
                          operation.phase() != v1::OPERATION_PHASE_UNSPECIFIED;
  const std::string phase =
      in_a_phase ? EnumWord(v1::OperationPhase_Name(operation.phase()), "OPERATION_PHASE_")
                 : EnumWord(v1::OperationState_Name(operation.state()), "OPERATION_STATE_");
  std::string left = absl::StrFormat("%-11s", phase);
  if (operation.bytes_total() <= 0) return std::string(absl::StripAsciiWhitespace(left));
  std::string right =
      absl::StrFormat("%5.1f %%  %s / %s", 100 * Share(operation),
                      FormatBytes(operation.bytes_done()), FormatBytes(operation.bytes_total()));
  if (operation.bytes_per_second() > 0 && !operation.done()) {
    absl::StrAppend(&right, "  ", FormatBytes(operation.bytes_per_second()), "/s");
  }
  if (operation.has_eta() && !operation.done()) {
    absl::StrAppend(&right, "  ETA ", FormatDuration(operation.eta().seconds()));
  }
  if (operation.files_total() > 0 && operation.phase() == v1::OPERATION_PHASE_DOWNLOADING) {
    absl::StrAppend(&right, "  ", operation.files_done(), "/", operation.files_total(), " files");
  }
  const int room = width - static_cast<int>(left.size() + right.size()) - 4;
  if (width <= 0 || room < 10) return left + " " + right;
  const int bar = std::min(room, 40);
  const int full = static_cast<int>(Share(operation) * bar);
  return left + " [" + std::string(static_cast<size_t>(full), '#') +
         std::string(static_cast<size_t>(bar - full), '-') + "] " + right;
}

std::string FormatNote(const v1::Operation& operation) {
  const std::string& why = operation.error().message();
  if (operation.state() == v1::OPERATION_STATE_PAUSED) {
    if (operation.has_error()) {
      return "paused: " + why + "; goes on by itself when there is room";
    }
    return "paused; `modelctl resume " + operation.name() + "` goes on with it";
  }
  if (operation.state() == v1::OPERATION_STATE_PENDING && operation.has_error()) {
    return "will be tried again: " + why;
  }
  return "";
}

ProgressPrinter::ProgressPrinter() : terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressPrinter::~ProgressPrinter() {
  if (drawn_) std::fputc('\n', stderr);
}

void ProgressPrinter::Show(const v1::Operation& operation) {
  if (const std::string note = FormatNote(operation); note != note_) {
    note_ = note;
    if (!note.empty()) std::fprintf(stderr, "%s%s\n", drawn_ ? "\n" : "", note.c_str());
    if (!note.empty()) drawn_ = false;
  }
  if (terminal_) {
    const std::string line = FormatProgress(operation, TerminalWidth() - 1);
    std::fprintf(stderr, "\r\033[K%s", line.c_str());
    std::fflush(stderr);
    drawn_ = true;
    return;
  }
  const std::string key = absl::StrCat(operation.state(), "/", operation.phase(), "/",
                                       static_cast<int>(Share(operation) * 10));
  if (key == last_) return;
  last_ = key;
  std::fprintf(stderr, "%s\n", FormatProgress(operation, 0).c_str());
}

}  // namespace modeld
