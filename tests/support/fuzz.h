// Property tests of parsers: honest inputs, changed at random. Whatever comes out, the parser must
// answer in time and with little memory.
#pragma once

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace modeld {

// What a parser is fed with.
struct FuzzCorpus {
  std::vector<std::string> inputs;
  // Pieces of the format that are put in here and there: keys, odd numbers.
  std::vector<std::string> pieces;
};

// Makes inputs out of a corpus. The same seed makes the same ones.
class Mutator {
 public:
  Mutator(const FuzzCorpus& corpus, uint64_t seed);

  std::string Next();

 private:
  size_t Below(size_t bound) { return random_() % bound; }
  void ChangeBytes(std::string& input);
  void ChangeNumber(std::string& input);
  void ChangePieces(std::string& input);

  const FuzzCorpus& corpus_;
  std::mt19937_64 random_;
};

// Runs `parse` for two seconds, with MODELD_LONG=1 for a minute, at least once for each input as it
// is. The seed is printed; MODELD_FUZZ_SEED sets another. The test fails when an answer is neither
// OK nor an error with a reason of the contract, when one takes more than a minute (which ends the
// process, naming the round), or when the process ever held more than 1 GB. Answers that are OK are
// counted and must occur.
void Fuzz(const FuzzCorpus& corpus, const std::function<absl::Status(const std::string&)>& parse);

}  // namespace modeld
