# Checks that every include follows server/layers.txt, and that a library's headers stay in its folder.
#   find server -mindepth 2 -name '*.[hc]*' -exec awk -f tests/style/layers.awk server/layers.txt {} +
FILENAME ~ /layers\.txt$/ {
  from = $1
  sub(":", "", from)
  known[from]
  may[from, from]
  for (i = 2; i <= NF; i++) {
    if ($i in known) may[from, $i]
    else {
      print FILENAME ":" FNR ": " $i " comes later"
      bad = 1
    }
  }
  next
}
{
  split(FILENAME, at, "/")
  folder = at[2]
}
/^#include "server\/[a-z_]+\// {
  split($0, to, "/")
  if (!((folder, to[2]) in may)) {
    print FILENAME ":" FNR ": " folder " may not include " to[2]
    bad = 1
  }
}
/^#include <curl\// && folder != "curl" { only("curl.h", "curl") }
/^#include <pqxx\// && folder != "store" { only("pqxx", "store") }
/^#include <(torch|ATen|c10)\// && folder != "engine" { only("torch", "engine") }
/^#include ["<][a-z_\/0-9]+\.pb\.h[">]/ && folder !~ /^(wire|rpc|http|engines|engine)$/ {
  only("generated protobuf headers", "wire, rpc, http, engines, engine")
}
function only(what, where) {
  print FILENAME ":" FNR ": " what " is for " where " only"
  bad = 1
}
END { exit bad }
