// Identifiers and jitter. Thread-safe.
#pragma once

#include <string>

namespace modeld {

// A random UUID (version 4), lower case with hyphens.
std::string RandomUuid();

// `bytes` random bytes as lower-case hex.
std::string RandomHex(int bytes);

// Uniform in [0, 1); for jitter, not for secrets.
double RandomUnit();

}  // namespace modeld
