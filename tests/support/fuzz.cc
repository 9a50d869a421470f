#include "tests/support/fuzz.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "server/base/status.h"

namespace modeld {
namespace {

constexpr unsigned kAnswerSecondsMax = 60;
constexpr size_t kInputBytesMax = 1 << 20;
constexpr uint64_t kSeed = 20261125;

// What a sanitizer keeps of memory that was given back counts too.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int64_t kPeakMegabytesMax = 4000;
#else
constexpr int64_t kPeakMegabytesMax = 1000;
#endif

char last_words[100];  // NOLINT(cppcoreguidelines-avoid-non-const-global-variables)

extern "C" void SayThatItHangs(int) {
  const ssize_t ignored = write(STDERR_FILENO, last_words, sizeof(last_words));
  (void)ignored;
  _exit(1);
}

int64_t PeakMegabytes() {
  struct rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss / 1024;
}

std::string Variable(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe)
  return value == nullptr ? "" : value;
}

}  // namespace

Mutator::Mutator(const FuzzCorpus& corpus, uint64_t seed) : corpus_(corpus), random_(seed) {}

std::string Mutator::Next() {
  std::string input = corpus_.inputs[Below(corpus_.inputs.size())];
  for (size_t changes = 1 + Below(5); changes > 0; --changes) {
    switch (Below(4)) {
      case 0:
        ChangeBytes(input);
        break;
      case 1:
        ChangeNumber(input);
        break;
      default:
        ChangePieces(input);
    }
    if (input.size() > kInputBytesMax) input.resize(kInputBytesMax);
  }
  return input;
}

void Mutator::ChangeBytes(std::string& input) {
  if (input.empty()) return;
  const size_t at = Below(input.size());
  switch (Below(4)) {
    case 0:
      input[at] = static_cast<char>(random_());
      break;
    case 1:
      input[at] = static_cast<char>(input[at] ^ (1 << Below(8)));
      break;
    case 2:
      input.erase(at, 1 + Below(16));
      break;
    default:
      input.resize(at);
  }
}

// Numbers decide about sizes: a digit becomes another, or a number a much larger one.
void Mutator::ChangeNumber(std::string& input) {
  const size_t from = input.empty() ? 0 : Below(input.size());
  const size_t at = input.find_first_of("0123456789", from);
  if (at == std::string::npos) return;
  static const std::vector<std::string> kNumbers = {"0",
                                                    "-1",
                                                    "65536",
                                                    "4294967295",
                                                    "1e9",
                                                    "0.5",
                                                    "2147483648",
                                                    "9223372036854775807",
                                                    "",
                                                    "null",
                                                    "18446744073709551616"};
  if (Below(2) == 0) {
    input[at] = static_cast<char>('0' + Below(10));
  } else {
    const size_t end = std::min(input.find_first_not_of("0123456789", at), input.size());
    input.replace(at, end - at, kNumbers[Below(kNumbers.size())]);
  }
}

void Mutator::ChangePieces(std::string& input) {
  const size_t at = Below(input.size() + 1);
  switch (Below(3)) {
    case 0: {  // the end of another input
      const std::string& other = corpus_.inputs[Below(corpus_.inputs.size())];
      input.replace(at, std::string::npos, other, std::min(at, other.size()));
      break;
    }
    case 1:  // a part once more
      if (at < input.size()) {
        input.insert(Below(input.size()), input.substr(at, 1 + Below(200)));
      }
      break;
    default:
      if (!corpus_.pieces.empty()) input.insert(at, corpus_.pieces[Below(corpus_.pieces.size())]);
  }
}

void Fuzz(const FuzzCorpus& corpus, const std::function<absl::Status(const std::string&)>& parse) {
  ASSERT_FALSE(corpus.inputs.empty());
  const std::string wanted_seed = Variable("MODELD_FUZZ_SEED");
  const uint64_t seed = wanted_seed.empty() ? kSeed : std::stoull(wanted_seed);
  const std::chrono::seconds time(Variable("MODELD_LONG") == "1" ? 60 : 2);
  signal(SIGALRM, SayThatItHangs);
  Mutator mutator(corpus, seed);
  size_t rounds = 0;
  size_t accepted = 0;
  const auto end = std::chrono::steady_clock::now() + time;
  while (rounds < corpus.inputs.size() || std::chrono::steady_clock::now() < end) {
    const std::string input =
        rounds < corpus.inputs.size() ? corpus.inputs[rounds] : mutator.Next();
    std::snprintf(last_words, sizeof(last_words), "seed %llu, round %zu took too long\n",
                  static_cast<unsigned long long>(seed), rounds);
    alarm(kAnswerSecondsMax);
    const absl::Status status = parse(input);
    alarm(0);
    if (status.ok()) ++accepted;
    ASSERT_TRUE(status.ok() || !ReasonOf(status).empty())
        << status << " in round " << rounds << " of seed " << seed;
    ASSERT_LT(PeakMegabytes(), kPeakMegabytesMax) << "in round " << rounds << " of seed " << seed;
    ++rounds;
  }
  EXPECT_GT(accepted, 0U);
  std::printf("seed %llu: %zu inputs, %zu of them accepted, at most %lld MB\n",
              static_cast<unsigned long long>(seed), rounds, accepted,
              static_cast<long long>(PeakMegabytes()));
}

}  // namespace modeld
