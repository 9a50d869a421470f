#include "server/engines/devices.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "server/base/file.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {
namespace {

// The fake NVML reads the file beside itself, so each test has a copy of its own.
class NvmlTest : public testing::Test {
 protected:
  NvmlTest() { std::filesystem::copy_file(MODELD_FAKE_NVML, library_); }
  void SetDevices(const std::string& lines) {
    ASSERT_THAT(WriteFileAtomically(dir_.path() + "/devices.txt", lines), IsOk());
  }

  TempDir dir_;
  const std::string library_ = dir_.path() + "/libfake_nvml.so";
};

TEST(DevicesTest, SeveralBudgetsOfTheCpuAreDevicesOfTheirOwn) {
  const Devices devices({100, 200}, "");

  const std::vector<DeviceSample> sample = devices.Sample();

  ASSERT_EQ(sample.size(), 2u);
  EXPECT_EQ(sample[0].name, "cpu:0");
  EXPECT_EQ(sample[0].total_bytes, 100);
  EXPECT_EQ(sample[1].name, "cpu:1");
  EXPECT_EQ(sample[1].kind, "cpu");
  EXPECT_EQ(sample[1].total_bytes, 200);
}

TEST(DevicesTest, WithoutNvmlThereIsTheCpuWithItsBudget) {
  const Devices devices({123}, "libno-such-library.so");

  const std::vector<DeviceSample> sample = devices.Sample();

  ASSERT_EQ(sample.size(), 1u);
  EXPECT_EQ(sample[0].name, "cpu");
  EXPECT_EQ(sample[0].kind, "cpu");
  EXPECT_EQ(sample[0].total_bytes, 123);
}

TEST_F(NvmlTest, GpusHaveTotalsNamesAndUuids) {
  SetDevices("1000 100 GPU-aa NVIDIA H200\n2000 0 GPU-bb Tesla T4\n");
  const Devices devices({1}, library_);

  const std::vector<DeviceSample> sample = devices.Sample();

  ASSERT_EQ(sample.size(), 3u);
  EXPECT_EQ(sample[1].name, "cuda:0");
  EXPECT_EQ(sample[1].kind, "cuda");
  EXPECT_EQ(sample[1].product, "NVIDIA H200");
  EXPECT_EQ(sample[1].uuid, "GPU-aa");
  EXPECT_EQ(sample[1].total_bytes, 1000);
  EXPECT_EQ(sample[1].used_bytes, 100);
  EXPECT_EQ(sample[2].name, "cuda:1");
}

TEST_F(NvmlTest, EachSampleIsFresh) {
  SetDevices("1000 100 GPU-aa A\n");
  const Devices devices({1}, library_);
  SetDevices("1000 700 GPU-aa A\n");

  EXPECT_EQ(devices.Sample().at(1).used_bytes, 700);
}

TEST_F(NvmlTest, MachineWithTheDriverAndNoGpuHasTheCpu) {
  SetDevices("");

  EXPECT_EQ(Devices({1}, library_).Sample().size(), 1u);
}

}  // namespace
}  // namespace modeld
