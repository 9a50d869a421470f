// What modelctl prints: tables, sizes, times and progress.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "modeld/v1/operation.pb.h"

namespace modeld {

// Columns padded to their widest cell, two spaces between, no line wider than its cells need.
std::string FormatTable(const std::vector<std::string>& header,
                        const std::vector<std::vector<std::string>>& rows);

// "0:41", "1:02:03".
std::string FormatDuration(int64_t seconds);

// The word of an enum value: "OPERATION_STATE_RUNNING" without its prefix, in lower case.
std::string EnumWord(const std::string& value_name, const std::string& prefix);

// One line of an operation: phase, bytes, rate, time left, files. With `width` > 0 a bar that makes
// the line at most so many columns wide.
std::string FormatProgress(const v1::Operation& operation, int width);

// What a bar cannot say: why an operation is paused or tried again, and what makes it go on; empty
// when there is nothing to say.
std::string FormatNote(const v1::Operation& operation);

// Shows an operation on stderr while it goes on: one line that is drawn over on a terminal, else a
// line when the phase changes and at every tenth.
class ProgressPrinter {
 public:
  ProgressPrinter();  // looks whether stderr is a terminal
  // Ends the line that is being drawn over.
  ~ProgressPrinter();
  ProgressPrinter(const ProgressPrinter&) = delete;
  ProgressPrinter& operator=(const ProgressPrinter&) = delete;

  void Show(const v1::Operation& operation);

 private:
  const bool terminal_;
  bool drawn_ = false;
  std::string last_;
  std::string note_;  // that was shown last
};

}  // namespace modeld
