// A libnvidia-ml.so for tests. It reads the devices, one a line, from the file devices.txt beside
// itself each time it is asked: total_bytes used_bytes uuid name. Signatures and return codes are
// those of NVML's manual (https://docs.nvidia.com/deploy/nvml-api/).
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace {

constexpr int kSuccess = 0;           // NVML_SUCCESS
constexpr int kInvalidArgument = 2;   // NVML_ERROR_INVALID_ARGUMENT
constexpr int kInsufficientSize = 7;  // NVML_ERROR_INSUFFICIENT_SIZE

struct Device {
  unsigned long long total = 0;
  unsigned long long used = 0;
  std::string uuid;
  std::string name;
};

struct Memory {  // nvmlMemory_t
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};

void Here() {}

std::vector<Device> ReadDevices() {
  Dl_info info{};
  dladdr(reinterpret_cast<void*>(&Here), &info);
  const std::string library = info.dli_fname;
  std::ifstream in(library.substr(0, library.rfind('/') + 1) + "devices.txt");
  std::vector<Device> devices;
  for (std::string line; std::getline(in, line);) {
    Device device;
    std::istringstream fields(line);
    if (fields >> device.total >> device.used >> device.uuid) {
      std::getline(fields >> std::ws, device.name);
      devices.push_back(device);
    }
  }
  return devices;
}

// Handles are index + 1, so that none is null.
const Device* Find(void* handle, const std::vector<Device>& devices) {
  const auto index = reinterpret_cast<size_t>(handle) - 1;
  return index < devices.size() ? &devices[index] : nullptr;
}

int Copy(const std::string& text, char* out, unsigned int length) {
  if (text.size() + 1 > length) return kInsufficientSize;
  std::memcpy(out, text.c_str(), text.size() + 1);
  return kSuccess;
}

}  // namespace

extern "C" {

int nvmlInit_v2() { return kSuccess; }
int nvmlShutdown() { return kSuccess; }

int nvmlDeviceGetCount_v2(unsigned int* count) {
  *count = static_cast<unsigned int>(ReadDevices().size());
  return kSuccess;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void** handle) {
  if (index >= ReadDevices().size()) return kInvalidArgument;
  *handle = reinterpret_cast<void*>(static_cast<size_t>(index) + 1);
  return kSuccess;
}

int nvmlDeviceGetMemoryInfo(void* handle, Memory* memory) {
  const std::vector<Device> devices = ReadDevices();
  const Device* device = Find(handle, devices);
  if (device == nullptr) return kInvalidArgument;
  *memory = {device->total, device->total - device->used, device->used};
  return kSuccess;
}

int nvmlDeviceGetName(void* handle, char* name, unsigned int length) {
  const std::vector<Device> devices = ReadDevices();
  const Device* device = Find(handle, devices);
  return device == nullptr ? kInvalidArgument : Copy(device->name, name, length);
}

int nvmlDeviceGetUUID(void* handle, char* uuid, unsigned int length) {
  const std::vector<Device> devices = ReadDevices();
  const Device* device = Find(handle, devices);
  return device == nullptr ? kInvalidArgument : Copy(device->uuid, uuid, length);
}

}  // extern "C"
