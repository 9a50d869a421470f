#include "server/metrics/metrics.h"

#include <prometheus/text_serializer.h>

#include <type_traits>

namespace modeld {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;

auto& Counters(prometheus::Registry& registry, const char* name, const char* help) {
  return BuildCounter().Name(name).Help(help).Register(registry);
}
auto& Gauges(prometheus::Registry& registry, const char* name, const char* help) {
  return BuildGauge().Name(name).Help(help).Register(registry);
}
auto& Histograms(prometheus::Registry& registry, const char* name, const char* help) {
  return BuildHistogram().Name(name).Help(help).Register(registry);
}

// Removes the series of `family` that have the label model=`model_name`. prometheus-cpp hands out
// no list of its series, so the names come from what it collects.
template <typename T>
void Forget(prometheus::Family<T>& family, const std::string& model_name) {
  for (const prometheus::MetricFamily& collected : family.Collect()) {
    for (const prometheus::ClientMetric& metric : collected.metric) {
      prometheus::Labels labels;
      bool of_model = false;
      for (const auto& label : metric.label) {
        labels[label.name] = label.value;
        of_model |= label.name == "model" && label.value == model_name;
      }
      if (!of_model) continue;
      if constexpr (std::is_same_v<T, prometheus::Histogram>) {
        // Add() of known labels answers the series that is there, whatever the buckets.
        family.Remove(&family.Add(labels, prometheus::Histogram::BucketBoundaries{}));
      } else {
        family.Remove(&family.Add(labels));
      }
    }
  }
}

}  // namespace

Metrics::Metrics()
    : registry(std::make_shared<prometheus::Registry>()),
      download_bytes(
          Counters(*registry, "modeld_download_bytes_total", "Body bytes written to disk.")),
      download_wire_bytes(Counters(*registry, "modeld_download_wire_bytes_total",
                                   "Body bytes received from a host.")),
      download_files(Counters(*registry, "modeld_download_files_total",
                              "Files that ended as fetched, present or failed.")),
      download_retries(
          Counters(*registry, "modeld_download_retries_total", "Requests that were tried again.")),
      download_discarded_bytes(Counters(*registry, "modeld_download_discarded_bytes_total",
                                        "Body bytes received and not written.")),
      download_reused_bytes(Counters(*registry, "modeld_download_reused_bytes_total",
                                     "Bytes not fetched since they were there.")),
      download_active(Gauges(*registry, "modeld_download_active", "Files in flight.").Add({})),
      download_queue_length(
          Gauges(*registry, "modeld_download_queue_length", "Files that wait for a worker.")
              .Add({})),
      download_bytes_per_second(Gauges(*registry, "modeld_download_bytes_per_second",
                                       "Rate of the download of a model now.")),
      download_remaining_bytes(Gauges(*registry, "modeld_download_remaining_bytes",
                                      "Bytes of a model still to be fetched.")),
      download_duration_seconds(
          Histograms(*registry, "modeld_download_duration_seconds", "Time of whole downloads.")),
      verify_duration_seconds(Histograms(*registry, "modeld_verify_duration_seconds",
                                         "Time to check one file's digest.")
                                  .Add({}, TransferBuckets())),
      load_duration_seconds(Histograms(*registry, "modeld_load_duration_seconds",
                                       "Time from the start of an engine to READY or failure.")),
      cache_free_bytes(
          Gauges(*registry, "modeld_cache_free_bytes", "Free bytes on the filesystem of a cache.")),
      cache_size_bytes(
          Gauges(*registry, "modeld_cache_size_bytes", "Size of the filesystem of a cache.")),
      cache_used_bytes(
          Gauges(*registry, "modeld_cache_used_bytes", "Bytes that a cache itself holds.")),
      device_memory_total_bytes(
          Gauges(*registry, "modeld_device_memory_total_bytes", "Memory of a device.")),
      device_memory_used_bytes(Gauges(*registry, "modeld_device_memory_used_bytes",
                                      "Memory of a device in use, by anybody.")),
      model_memory_bytes(
          Gauges(*registry, "modeld_model_memory_bytes", "Memory of a device that a model holds.")),
      models(Gauges(*registry, "modeld_models", "Registered models by state.")),
      instances(Gauges(*registry, "modeld_instances", "Engine processes by state.")),
      inference_requests(
          Counters(*registry, "modeld_inference_requests_total", "Finished inference requests.")),
      inference_tokens(
          Counters(*registry, "modeld_inference_tokens_total",
                   "Tokens read (prompt), taken from a cache (cached) and generated.")),
      inference_active(Gauges(*registry, "modeld_inference_active", "Requests being answered.")),
      inference_waiting(
          Gauges(*registry, "modeld_inference_waiting", "Requests that wait for their turn.")),
      kv_cache_used_ratio(
          Gauges(*registry, "modeld_kv_cache_used_ratio", "Share of the KV cache in use, 0 to 1.")),
      queue_seconds(Histograms(*registry, "modeld_queue_seconds",
                               "From the request to the first step that worked on it.")),
      time_to_first_token_seconds(Histograms(*registry, "modeld_time_to_first_token_seconds",
                                             "From the request to its first token.")),
      inter_token_seconds(Histograms(*registry, "modeld_inter_token_seconds",
                                     "From one token of a request to the next.")),
      request_duration_seconds(
          Histograms(*registry, "modeld_request_duration_seconds", "Whole inference requests.")),
      grpc_server_handled(
          Counters(*registry, "modeld_grpc_server_handled_total", "Finished calls by code.")),
      grpc_server_duration_seconds(
          Histograms(*registry, "modeld_grpc_server_duration_seconds", "Time of finished calls.")),
      db_up(Gauges(*registry, "modeld_db_up", "1 while PostgreSQL answers.").Add({})),
      build_info(Gauges(*registry, "modeld_build_info", "Always 1.")) {}

std::string Metrics::Scrape() const {
  return prometheus::TextSerializer().Serialize(registry->Collect());
}

void Metrics::ForgetModel(const std::string& model_name) {
  for (auto* family :
       {&download_bytes, &download_wire_bytes, &download_files, &download_discarded_bytes,
        &download_reused_bytes, &inference_requests, &inference_tokens}) {
    Forget(*family, model_name);
  }
  for (auto* family : {&download_bytes_per_second, &download_remaining_bytes, &model_memory_bytes,
                       &inference_active, &inference_waiting, &kv_cache_used_ratio}) {
    Forget(*family, model_name);
  }
  for (auto* family : {&load_duration_seconds, &queue_seconds, &time_to_first_token_seconds,
                       &inter_token_seconds, &request_duration_seconds}) {
    Forget(*family, model_name);
  }
}

prometheus::Histogram::BucketBoundaries TimeToFirstTokenBuckets() {
  return {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
          1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
}

prometheus::Histogram::BucketBoundaries InterTokenBuckets() {
  return {0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1,
          0.15,   0.2,   0.3,   0.5,   0.75, 1,    2.5,  5,    10,    80};
}

prometheus::Histogram::BucketBoundaries RequestBuckets() {
  return {0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1,   1.5, 2,   2.5, 5,    10,
          15,   20,   30,  40,  50,  60,  120, 240, 480, 960, 1920, 7680};
}

prometheus::Histogram::BucketBoundaries TransferBuckets() {
  return {0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5400, 10800, 21600};
}

prometheus::Histogram::BucketBoundaries GrpcBuckets() {
  return {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60};
}

}  // namespace modeld
