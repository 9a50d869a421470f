#include "server/engines/devices.h"

#include <dlfcn.h>

#include <array>
#include <utility>

#include "server/base/log.h"

namespace modeld {
namespace {

// From NVML's manual, https://docs.nvidia.com/deploy/nvml-api/; there is no header in Debian's
// main.
using NvmlDevice = void*;
constexpr int kSuccess = 0;
struct NvmlMemory {  // nvmlMemory_t
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};
constexpr size_t kTextBytes = 96;  // NVML_DEVICE_NAME_V2_BUFFER_SIZE, UUIDs are no longer

template <typename F>
bool Resolve(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  return function != nullptr;
}

}  // namespace

struct Devices::Nvml {
  ~Nvml() {
    if (shutdown != nullptr) shutdown();
    dlclose(library);
  }

  void* library = nullptr;
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;  // set once init succeeded
  int (*count)(unsigned int*) = nullptr;
  int (*handle)(unsigned int, NvmlDevice*) = nullptr;
  int (*memory)(NvmlDevice, NvmlMemory*) = nullptr;
  int (*name)(NvmlDevice, char*, unsigned int) = nullptr;
  int (*uuid)(NvmlDevice, char*, unsigned int) = nullptr;

  static std::unique_ptr<Nvml> Open(const std::string& path) {
    void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return nullptr;
    auto nvml = std::make_unique<Nvml>();
    nvml->library = library;
    const bool complete = Resolve(library, "nvmlInit_v2", nvml->init) &&
                          Resolve(library, "nvmlDeviceGetCount_v2", nvml->count) &&
                          Resolve(library, "nvmlDeviceGetHandleByIndex_v2", nvml->handle) &&
                          Resolve(library, "nvmlDeviceGetMemoryInfo", nvml->memory) &&
                          Resolve(library, "nvmlDeviceGetName", nvml->name) &&
                          Resolve(library, "nvmlDeviceGetUUID", nvml->uuid);
    const int code = complete ? nvml->init() : -1;
    if (code != kSuccess) {
      LogWarning("nvml_unusable", {{"library", path}, {"complete", complete}, {"code", code}});
      return nullptr;
    }
    Resolve(library, "nvmlShutdown", nvml->shutdown);
    return nvml;
  }
};

Devices::Devices(std::vector<int64_t> cpu_budgets, const std::string& nvml_library)
    : cpu_budgets_(std::move(cpu_budgets)),
      nvml_(nvml_library.empty() ? nullptr : Nvml::Open(nvml_library)) {}

Devices::~Devices() = default;

std::vector<DeviceSample> Devices::Sample() const {
  std::vector<DeviceSample> devices;
  for (size_t i = 0; i < cpu_budgets_.size(); ++i) {
    const std::string name = cpu_budgets_.size() == 1 ? "cpu" : "cpu:" + std::to_string(i);
    devices.push_back({.name = name, .kind = "cpu", .total_bytes = cpu_budgets_[i]});
  }
  unsigned int count = 0;
  if (nvml_ == nullptr || nvml_->count(&count) != kSuccess) return devices;
  for (unsigned int index = 0; index < count; ++index) {
    NvmlDevice handle = nullptr;
    NvmlMemory memory{};
    if (nvml_->handle(index, &handle) != kSuccess || nvml_->memory(handle, &memory) != kSuccess) {
      continue;
    }
    DeviceSample device{.name = "cuda:" + std::to_string(index), .kind = "cuda"};
    device.total_bytes = static_cast<int64_t>(memory.total);
    device.used_bytes = static_cast<int64_t>(memory.used);
    std::array<char, kTextBytes> text{};
    if (nvml_->name(handle, text.data(), text.size()) == kSuccess) device.product = text.data();
    if (nvml_->uuid(handle, text.data(), text.size()) == kSuccess) device.uuid = text.data();
    devices.push_back(std::move(device));
  }
  return devices;
}

}  // namespace modeld
