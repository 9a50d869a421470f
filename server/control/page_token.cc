#include "server/control/page_token.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "server/base/sha256.h"
#include "server/base/status.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

constexpr std::string_view kVersion = "1.";
constexpr size_t kCheckLength = 16;  // hex digits; against mistakes, not against forgers
constexpr size_t kTokenLengthMax = 4096;

std::string Check(std::string_view query, std::string_view cursor) {
  Sha256 digest;
  digest.Update(kVersion);
  digest.Update(std::to_string(query.size()) + ".");
  digest.Update(query);
  digest.Update(cursor);
  return digest.HexDigest().substr(0, kCheckLength);
}

}  // namespace

std::string MakePageToken(std::string_view query, std::string_view cursor) {
  const std::string plain = std::string(kVersion) + Check(query, cursor) + std::string(cursor);
  return absl::WebSafeBase64Escape(plain);
}

absl::StatusOr<std::string> ReadPageToken(std::string_view query, std::string_view token) {
  if (token.empty()) return std::string();
  const absl::Status bad = InvalidField(
      "page_token", "is not the next_page_token of a page of this query; begin without one");
  std::string plain;
  if (token.size() > kTokenLengthMax || !absl::WebSafeBase64Unescape(std::string(token), &plain)) {
    return bad;
  }
  const size_t head = kVersion.size() + kCheckLength;
  if (plain.size() <= head || !plain.starts_with(kVersion)) return bad;
  std::string cursor = plain.substr(head);
  if (plain.substr(kVersion.size(), kCheckLength) != Check(query, cursor)) return bad;
  return cursor;
}

absl::StatusOr<int64_t> EffectivePageSize(int64_t page_size) {
  if (page_size < 0) return InvalidField("page_size", "is below 0");
  return page_size == 0 ? 50 : std::min<int64_t>(page_size, 1000);
}

}  // namespace modeld
