// What the machine can do, without any HTTP library.
//   floor fetch FOLDER ADDRESS PORT PATH...   GETs each path on a raw socket and thread of its own,
//   writes it
//                                             to FOLDER and hashes it with SHA-256 meanwhile
//   floor hash FILE...                        hashes the files one after another
#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace {

constexpr size_t kPieceBytes = 256 << 10;

[[noreturn]] void Die(const std::string& what) {
  std::perror(what.c_str());
  std::exit(1);
}

class Sha256 {
 public:
  Sha256() { EVP_DigestInit_ex(context_, EVP_sha256(), nullptr); }
  ~Sha256() { EVP_MD_CTX_free(context_); }
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Update(std::string_view bytes) { EVP_DigestUpdate(context_, bytes.data(), bytes.size()); }

 private:
  EVP_MD_CTX* context_ = EVP_MD_CTX_new();
};

int Connect(const std::string& address, int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in peer{};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(static_cast<uint16_t>(port));
  inet_pton(AF_INET, address.c_str(), &peer.sin_addr);
  if (connect(fd, reinterpret_cast<sockaddr*>(&peer), sizeof peer) != 0) Die("connect");
  return fd;
}

// The answer's head, one byte after the other, so that the body's first byte is the next one.
std::string ReadHead(int fd) {
  std::string head;
  char byte = 0;
  while (!head.ends_with("\r\n\r\n")) {
    if (read(fd, &byte, 1) != 1) Die("head");
    head += byte;
  }
  return head;
}

void Fetch(const std::string& folder, const std::string& address, int port,
           const std::string& path) {
  const int socket_fd = Connect(address, port);
  const std::string request =
      "GET " + path + " HTTP/1.1\r\nHost: " + address + "\r\nConnection: close\r\n\r\n";
  if (write(socket_fd, request.data(), request.size()) != std::ssize(request)) Die("request");
  const std::string head = ReadHead(socket_fd);
  const size_t length = head.find("Content-Length: ");
  if (!head.starts_with("HTTP/1.1 200") || length == std::string::npos) Die(head);
  size_t left = std::strtoull(head.c_str() + length + 16, nullptr, 10);

  const std::string name = folder + path.substr(path.rfind('/'));
  const int fd = open(name.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0644);
  if (fd < 0) Die(name);
  std::string piece(kPieceBytes, '\0');
  Sha256 digest;
  while (left > 0) {
    const size_t wanted = std::min(left, piece.size());
    for (size_t got = 0; got < wanted;) {
      const ssize_t count = recv(socket_fd, piece.data() + got, wanted - got, 0);
      if (count <= 0) Die("body");
      got += static_cast<size_t>(count);
    }
    digest.Update(std::string_view(piece).substr(0, wanted));
    if (write(fd, piece.data(), wanted) != static_cast<ssize_t>(wanted)) Die(name);
    left -= wanted;
  }
  close(fd);
  close(socket_fd);
}

void Hash(const std::string& name) {
  const int fd = open(name.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) Die(name);
  std::string piece(kPieceBytes, '\0');
  Sha256 digest;
  ssize_t count = 0;
  while ((count = read(fd, piece.data(), piece.size())) > 0) {
    digest.Update(std::string_view(piece).substr(0, static_cast<size_t>(count)));
  }
  if (count < 0) Die(name);
  close(fd);
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() >= 5 && words[0] == "fetch") {
    std::vector<std::jthread> threads;
    for (size_t i = 4; i < words.size(); ++i) {
      threads.emplace_back(Fetch, words[1], words[2], std::stoi(words[3]), words[i]);
    }
  } else if (words.size() >= 2 && words[0] == "hash") {
    for (size_t i = 1; i < words.size(); ++i) Hash(words[i]);
  } else {
    std::fputs("floor fetch FOLDER ADDRESS PORT PATH... | floor hash FILE...\n", stderr);
    return 2;
  }
  return 0;
}
