// The devices of this machine: the CPU with its configured budget or divided into several, and GPUs
// as NVML reports them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace modeld {

// What is known of a device without knowing of models.
struct DeviceSample {
  std::string name;  // "cpu", "cpu:0", "cuda:0"
  std::string kind;  // "cpu", "cuda"
  std::string product;
  std::string uuid;
  int64_t total_bytes = 0;
  int64_t used_bytes = 0;  // by anybody; 0 for cpu, whose budget only our models use
};

// One thread at a time.
class Devices {
 public:
  // One budget is the device "cpu", several are "cpu:0", "cpu:1", ... `nvml_library` is opened with
  // dlopen; where that fails there is no GPU.
  Devices(std::vector<int64_t> cpu_budgets, const std::string& nvml_library);
  ~Devices();
  Devices(const Devices&) = delete;
  Devices& operator=(const Devices&) = delete;

  // The CPU first, then the GPUs by index. Asks the driver: a few ms. A GPU that does not answer is
  // left out.
  std::vector<DeviceSample> Sample() const;

 private:
  struct Nvml;
  const std::vector<int64_t> cpu_budgets_;
  std::unique_ptr<Nvml> nvml_;
};

}  // namespace modeld
