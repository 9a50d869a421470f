#include "server/metrics/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace modeld {
namespace {

using testing::HasSubstr;
using testing::Not;

// A family of the contract: its name, its type, and labels that any series of it has.
struct ContractFamily {
  std::string name;
  std::string type;
  std::set<std::string> labels;
};

std::vector<ContractFamily> Contract() {
  return {
      {"modeld_download_bytes_total", "counter", {"model", "cache"}},
      {"modeld_download_wire_bytes_total", "counter", {"model", "host"}},
      {"modeld_download_files_total", "counter", {"model", "result"}},
      {"modeld_download_retries_total", "counter", {"reason"}},
      {"modeld_download_discarded_bytes_total", "counter", {"model", "reason"}},
      {"modeld_download_reused_bytes_total", "counter", {"model", "source"}},
      {"modeld_download_active", "gauge", {}},
      {"modeld_download_queue_length", "gauge", {}},
      {"modeld_download_bytes_per_second", "gauge", {"model"}},
      {"modeld_download_remaining_bytes", "gauge", {"model"}},
      {"modeld_download_duration_seconds", "histogram", {"result"}},
      {"modeld_verify_duration_seconds", "histogram", {}},
      {"modeld_load_duration_seconds", "histogram", {"model", "result"}},
      {"modeld_cache_free_bytes", "gauge", {"cache"}},
      {"modeld_cache_size_bytes", "gauge", {"cache"}},
      {"modeld_cache_used_bytes", "gauge", {"cache"}},
      {"modeld_device_memory_total_bytes", "gauge", {"node", "device", "kind"}},
      {"modeld_device_memory_used_bytes", "gauge", {"node", "device", "kind"}},
      {"modeld_model_memory_bytes", "gauge", {"node", "device", "model"}},
      {"modeld_models", "gauge", {"state"}},
      {"modeld_instances", "gauge", {"state"}},
      {"modeld_inference_requests_total", "counter", {"model", "method", "finish_reason"}},
      {"modeld_inference_tokens_total", "counter", {"model", "kind"}},
      {"modeld_inference_active", "gauge", {"model"}},
      {"modeld_inference_waiting", "gauge", {"model"}},
      {"modeld_kv_cache_used_ratio", "gauge", {"model"}},
      {"modeld_queue_seconds", "histogram", {"model"}},
      {"modeld_time_to_first_token_seconds", "histogram", {"model"}},
      {"modeld_inter_token_seconds", "histogram", {"model"}},
      {"modeld_request_duration_seconds", "histogram", {"model", "method"}},
      {"modeld_grpc_server_handled_total", "counter", {"service", "method", "code"}},
      {"modeld_grpc_server_duration_seconds", "histogram", {"service", "method"}},
      {"modeld_db_up", "gauge", {}},
      {"modeld_build_info", "gauge", {"version", "commit", "libtorch"}},
  };
}

// One series in each family, with the labels that metrics.h promises, all of the model "m".
void Fill(Metrics& metrics) {
  metrics.download_bytes.Add({{"model", "m"}, {"cache", "primary"}}).Increment(3);
  metrics.download_wire_bytes.Add({{"model", "m"}, {"host", "h"}}).Increment();
  metrics.download_files.Add({{"model", "m"}, {"result", "fetched"}}).Increment();
  metrics.download_retries.Add({{"reason", "stall"}}).Increment();
  metrics.download_discarded_bytes.Add({{"model", "m"}, {"reason", "refetched"}}).Increment();
  metrics.download_reused_bytes.Add({{"model", "m"}, {"source", "blob"}}).Increment();
  metrics.download_bytes_per_second.Add({{"model", "m"}}).Set(1);
  metrics.download_remaining_bytes.Add({{"model", "m"}}).Set(1);
  metrics.download_duration_seconds.Add({{"result", "ok"}}, TransferBuckets()).Observe(1);
  metrics.load_duration_seconds.Add({{"model", "m"}, {"result", "ok"}}, TransferBuckets())
      .Observe(1);
  metrics.cache_free_bytes.Add({{"cache", "primary"}}).Set(1);
  metrics.cache_size_bytes.Add({{"cache", "primary"}}).Set(1);
  metrics.cache_used_bytes.Add({{"cache", "primary"}}).Set(1);
  const prometheus::Labels device{{"node", "n"}, {"device", "cpu"}, {"kind", "cpu"}};
  metrics.device_memory_total_bytes.Add(device).Set(1);
  metrics.device_memory_used_bytes.Add(device).Set(1);
  metrics.model_memory_bytes.Add({{"node", "n"}, {"device", "cpu"}, {"model", "m"}}).Set(1);
  metrics.models.Add({{"state", "ready"}}).Set(1);
  metrics.instances.Add({{"state", "ready"}}).Set(1);
  metrics.inference_requests.Add({{"model", "m"}, {"method", "Chat"}, {"finish_reason", "stop"}})
      .Increment();
  metrics.inference_tokens.Add({{"model", "m"}, {"kind", "prompt"}}).Increment();
  metrics.inference_active.Add({{"model", "m"}}).Set(1);
  metrics.inference_waiting.Add({{"model", "m"}}).Set(1);
  metrics.kv_cache_used_ratio.Add({{"model", "m"}}).Set(0.5);
  metrics.queue_seconds.Add({{"model", "m"}}, TimeToFirstTokenBuckets()).Observe(1);
  metrics.time_to_first_token_seconds.Add({{"model", "m"}}, TimeToFirstTokenBuckets()).Observe(1);
  metrics.inter_token_seconds.Add({{"model", "m"}}, InterTokenBuckets()).Observe(1);
  metrics.request_duration_seconds.Add({{"model", "m"}, {"method", "Chat"}}, RequestBuckets())
      .Observe(1);
  metrics.grpc_server_handled.Add({{"service", "s"}, {"method", "x"}, {"code", "OK"}}).Increment();
  metrics.grpc_server_duration_seconds.Add({{"service", "s"}, {"method", "x"}}, GrpcBuckets())
      .Observe(1);
  metrics.build_info.Add({{"version", "0"}, {"commit", "c"}, {"libtorch", "t"}}).Set(1);
}

// A sample line of the text format.
struct Sample {
  std::string name;
  std::map<std::string, std::string> labels;
  double value = 0;
};

struct Exposition {
  std::map<std::string, std::string> types;
  std::set<std::string> helped;
  std::vector<Sample> samples;
  std::vector<std::string> unread;  // lines that are no Prometheus text
};

// Takes a metric's or label's name from the front of `text`; empty when there is none.
std::string TakeName(std::string_view& text) {
  size_t length = 0;
  while (length < text.size() && (std::isalnum(static_cast<unsigned char>(text[length])) != 0 ||
                                  text[length] == '_' || text[length] == ':')) {
    ++length;
  }
  const std::string name(text.substr(0, length));
  text.remove_prefix(length);
  return name.empty() || std::isdigit(static_cast<unsigned char>(name[0])) != 0 ? "" : name;
}

bool Take(std::string_view expected, std::string_view& text) {
  if (!text.starts_with(expected)) return false;
  text.remove_prefix(expected.size());
  return true;
}

// A quoted value with the escapes \\, \" and \n, and no others.
bool TakeQuoted(std::string_view& text, std::string& value) {
  if (!Take("\"", text)) return false;
  while (!text.empty() && text[0] != '"') {
    if (text[0] == '\\') {
      text.remove_prefix(1);
      if (text.empty() || std::string_view("\\\"n").find(text[0]) == std::string_view::npos)
        return false;
    }
    value += text[0];
    text.remove_prefix(1);
  }
  return Take("\"", text);
}

bool ParseSample(std::string_view line, Sample& sample) {
  sample.name = TakeName(line);
  if (sample.name.empty()) return false;
  if (Take("{", line)) {
    do {
      const std::string label = TakeName(line);
      if (label.empty() || !Take("=", line) || !TakeQuoted(line, sample.labels[label]))
        return false;
    } while (Take(",", line));
    if (!Take("}", line)) return false;
  }
  if (!Take(" ", line)) return false;
  const std::string number(line);
  char* end = nullptr;
  sample.value = std::strtod(number.c_str(), &end);
  return !number.empty() && *end == '\0';
}

// https://prometheus.io/docs/instrumenting/exposition_formats/
Exposition Parse(const std::string& text) {
  Exposition found;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty()) continue;
    std::string_view rest = line;
    Sample sample;
    if (Take("# TYPE ", rest)) {
      const std::string name = TakeName(rest);
      const bool known = rest == " counter" || rest == " gauge" || rest == " histogram";
      if (!known || name.empty()) found.unread.push_back(line);
      found.types[name] = rest.substr(1);
    } else if (Take("# HELP ", rest)) {
      const std::string name = TakeName(rest);
      if (rest.size() < 2) found.unread.push_back(line);
      found.helped.insert(name);
    } else if (ParseSample(line, sample)) {
      found.samples.push_back(sample);
    } else {
      found.unread.push_back(line);
    }
  }
  return found;
}

TEST(MetricsTest, EveryFamilyHasTheContractsNameTypeAndLabels) {
  Metrics metrics;
  Fill(metrics);

  const Exposition text = Parse(metrics.Scrape());

  for (const ContractFamily& family : Contract()) {
    ASSERT_TRUE(text.types.contains(family.name)) << family.name;
    EXPECT_EQ(text.types.at(family.name), family.type) << family.name;
    EXPECT_TRUE(text.helped.contains(family.name)) << family.name;
    const std::string sample_name = family.name + (family.type == "histogram" ? "_count" : "");
    bool seen = false;
    for (const Sample& sample : text.samples) {
      if (sample.name != sample_name) continue;
      std::set<std::string> labels;
      for (const auto& [label, value] : sample.labels) labels.insert(label);
      EXPECT_EQ(labels, family.labels) << family.name;
      seen = true;
    }
    EXPECT_TRUE(seen) << family.name;
  }
  EXPECT_EQ(text.types.size(), Contract().size()) << "a family that the contract lacks";
}

TEST(MetricsTest, ScrapeIsPrometheusText) {
  Metrics metrics;
  Fill(metrics);
  metrics.download_bytes.Add({{"model", "quote\" back\\slash\nline"}, {"cache", "primary"}})
      .Increment();

  const Exposition text = Parse(metrics.Scrape());

  EXPECT_THAT(text.unread, testing::IsEmpty());
  EXPECT_GT(text.samples.size(), Contract().size());
}

TEST(MetricsTest, HistogramsEndWithInfinityAndAreCumulative) {
  Metrics metrics;
  auto& histogram = metrics.inter_token_seconds.Add({{"model", "m"}}, InterTokenBuckets());
  histogram.Observe(0.004);
  histogram.Observe(1000);

  double before = 0;
  double last = 0;
  for (const Sample& sample : Parse(metrics.Scrape()).samples) {
    if (sample.name != "modeld_inter_token_seconds_bucket") continue;
    EXPECT_GE(sample.value, before);
    before = sample.value;
    if (sample.labels.at("le") == "+Inf") last = sample.value;
  }
  EXPECT_EQ(last, 2);
}

TEST(MetricsTest, BucketsRise) {
  for (const auto& buckets : {TimeToFirstTokenBuckets(), InterTokenBuckets(), RequestBuckets(),
                              TransferBuckets(), GrpcBuckets()}) {
    EXPECT_TRUE(std::is_sorted(buckets.begin(), buckets.end()));
    EXPECT_EQ(std::set<double>(buckets.begin(), buckets.end()).size(), buckets.size());
  }
}

TEST(MetricsTest, ForgottenModelHasNoSeriesAndOthersStay) {
  Metrics metrics;
  Fill(metrics);
  metrics.inference_active.Add({{"model", "other"}}).Set(2);

  metrics.ForgetModel("m");

  const std::string text = metrics.Scrape();
  EXPECT_THAT(text, Not(HasSubstr("model=\"m\"")));
  EXPECT_THAT(text, HasSubstr("modeld_inference_active{model=\"other\"} 2"));
  EXPECT_THAT(text, HasSubstr("modeld_models{state=\"ready\"} 1"));
}

TEST(MetricsTest, ForgottenModelBeginsAtZeroAgain) {
  Metrics metrics;
  metrics.download_bytes.Add({{"model", "m"}, {"cache", "primary"}}).Increment(5);
  metrics.ForgetModel("m");

  EXPECT_EQ(metrics.download_bytes.Add({{"model", "m"}, {"cache", "primary"}}).Value(), 0);
}

}  // namespace
}  // namespace modeld
