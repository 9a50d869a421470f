// delay NAMESPACE NAMESPACE ONE_WAY_MS: joins two network namespaces by a pair of TUN devices, tun0
// in each, with a fixed delay. For kernels without netem. Prints "ready" when both devices are
// there. Packets pass as TCP hands them to a network card, up to 64 KB at once and without
// checksums (TSO), so that the way takes little of the processors that the programs at its ends
// need.
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kPacketsMax = 4096;
constexpr size_t kPacketBytesMax = 10 + 65536;  // virtio_net_hdr, which C++ cannot include, and IP

[[noreturn]] void Die(const std::string& what) {
  std::perror(what.c_str());
  std::exit(1);
}

// Moves this thread into the namespace, for good.
int NewDevice(const std::string& name) {
  const std::string path = "/var/run/netns/" + name;
  const int space = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (space < 0 || setns(space, CLONE_NEWNET) != 0) Die(path);
  close(space);
  const int device = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
  ifreq request{};
  request.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR;
  std::strncpy(request.ifr_name, "tun0", IFNAMSIZ);
  if (device < 0 || ioctl(device, TUNSETIFF, &request) != 0 ||
      ioctl(device, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) != 0) {
    Die("/dev/net/tun");
  }
  return device;
}

// Packets on their way from one device to the other, in a ring of buffers.
class Direction {
 public:
  Direction(int from, int to, std::chrono::microseconds delay)
      : from_(from), to_(to), delay_(delay), packets_(kPacketsMax) {
    for (Packet& packet : packets_) packet.bytes.resize(kPacketBytesMax);
  }

  void Receive() {
    while (true) {
      Packet& packet = packets_[received_ % kPacketsMax];
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return received_ - sent_ < kPacketsMax; });
      }
      packet.size = read(from_, packet.bytes.data(), packet.bytes.size());
      if (packet.size <= 0) std::exit(0);  // its namespace is gone
      packet.due = Clock::now() + delay_;
      const std::lock_guard lock(mutex_);
      ++received_;
      changed_.notify_all();
    }
  }

  void Send() {
    while (true) {
      const Packet& packet = packets_[sent_ % kPacketsMax];
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return received_ > sent_; });
      }
      std::this_thread::sleep_until(packet.due);
      // A packet that the device refuses is lost, as on any network.
      [[maybe_unused]] const ssize_t written =
          write(to_, packet.bytes.data(), static_cast<size_t>(packet.size));
      const std::lock_guard lock(mutex_);
      ++sent_;
      changed_.notify_all();
    }
  }

 private:
  struct Packet {
    std::string bytes;
    ssize_t size = 0;
    Clock::time_point due;
  };

  const int from_;
  const int to_;
  const std::chrono::microseconds delay_;
  std::vector<Packet> packets_;
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t received_ = 0;
  size_t sent_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const std::chrono::microseconds delay(std::stol(argv[3]) * 1000);
  const int first = NewDevice(argv[1]);
  const int second = NewDevice(argv[2]);
  Direction there(first, second, delay);
  Direction back(second, first, delay);
  std::puts("ready");
  std::fflush(stdout);
  std::jthread threads[] = {
      std::jthread(&Direction::Receive, &there), std::jthread(&Direction::Send, &there),
      std::jthread(&Direction::Receive, &back), std::jthread(&Direction::Send, &back)};
  return 0;
}
