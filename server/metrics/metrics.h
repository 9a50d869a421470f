// Every metric family of the contract in one struct. Base units; labels in the comments.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include <memory>
#include <string>

namespace modeld {

// Thread-safe: Add() of a family gives the one series of its labels and lasts until Remove().
// A scrape reads these numbers only; whoever owns a figure writes it here when it changes.
struct Metrics {
  explicit Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // The text of GET /metrics (text/plain; version=0.0.4).
  std::string Scrape() const;

  // Drops every series with the label model=`model_name`, when its row is deleted.
  void ForgetModel(const std::string& model_name);

  const std::shared_ptr<prometheus::Registry> registry;

  prometheus::Family<prometheus::Counter>& download_bytes;       // model, cache
  prometheus::Family<prometheus::Counter>& download_wire_bytes;  // model, host
  prometheus::Family<prometheus::Counter>& download_files;  // model, result: fetched|present|failed
  prometheus::Family<prometheus::Counter>& download_retries;  // reason
  // Received and not written: with download_bytes it adds up to download_wire_bytes.
  prometheus::Family<prometheus::Counter>&
      download_discarded_bytes;  // model, reason: refetched|unwritten
  // Not received since they were there.
  prometheus::Family<prometheus::Counter>& download_reused_bytes;  // model, source: resume|blob
  prometheus::Gauge& download_active;
  prometheus::Gauge& download_queue_length;
  prometheus::Family<prometheus::Gauge>& download_bytes_per_second;      // model
  prometheus::Family<prometheus::Gauge>& download_remaining_bytes;       // model
  prometheus::Family<prometheus::Histogram>& download_duration_seconds;  // result
  prometheus::Histogram& verify_duration_seconds;
  prometheus::Family<prometheus::Histogram>& load_duration_seconds;  // model, result

  prometheus::Family<prometheus::Gauge>& cache_free_bytes;  // cache
  prometheus::Family<prometheus::Gauge>& cache_size_bytes;  // cache
  prometheus::Family<prometheus::Gauge>& cache_used_bytes;  // cache

  prometheus::Family<prometheus::Gauge>& device_memory_total_bytes;  // node, device, kind
  prometheus::Family<prometheus::Gauge>& device_memory_used_bytes;   // node, device, kind
  prometheus::Family<prometheus::Gauge>& model_memory_bytes;         // node, device, model
  prometheus::Family<prometheus::Gauge>& models;                     // state
  prometheus::Family<prometheus::Gauge>& instances;                  // state

  prometheus::Family<prometheus::Counter>& inference_requests;  // model, method, finish_reason
  prometheus::Family<prometheus::Counter>&
      inference_tokens;                                      // model, kind: prompt|generated|cached
  prometheus::Family<prometheus::Gauge>& inference_active;   // model
  prometheus::Family<prometheus::Gauge>& inference_waiting;  // model
  prometheus::Family<prometheus::Gauge>& kv_cache_used_ratio;              // model
  prometheus::Family<prometheus::Histogram>& queue_seconds;                // model
  prometheus::Family<prometheus::Histogram>& time_to_first_token_seconds;  // model
  prometheus::Family<prometheus::Histogram>& inter_token_seconds;          // model
  prometheus::Family<prometheus::Histogram>& request_duration_seconds;     // model, method

  prometheus::Family<prometheus::Counter>& grpc_server_handled;             // service, method, code
  prometheus::Family<prometheus::Histogram>& grpc_server_duration_seconds;  // service, method

  prometheus::Gauge& db_up;
  prometheus::Family<prometheus::Gauge>& build_info;  // version, commit, libtorch
};

// Upper bounds in seconds for Family<Histogram>::Add(labels, buckets).
prometheus::Histogram::BucketBoundaries TimeToFirstTokenBuckets();  // 1 ms to 2560 s
prometheus::Histogram::BucketBoundaries InterTokenBuckets();        // 0.5 ms to 80 s
prometheus::Histogram::BucketBoundaries RequestBuckets();           // 10 ms to 7680 s
prometheus::Histogram::BucketBoundaries TransferBuckets();  // 100 ms to 6 h: download, verify, load
prometheus::Histogram::BucketBoundaries GrpcBuckets();      // 0.5 ms to 60 s

}  // namespace modeld
