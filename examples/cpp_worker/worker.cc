// A worker in C++, written from docs/worker-protocol.md alone: a linear model, read from a file.
//
//   g++ -std=c++20 -O2 worker.cc -o worker
//   engine.deploy("m", "/models/weights.txt", input=Tensor("float32", (n,)),
//                 output=Tensor("float32", (m,)), where=Isolated(command=["./worker"]))
//
// The file holds n, m, and then n rows of m weights, as text.

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr std::uint32_t kMagic = 0x57504C43;
constexpr std::uint16_t kVersion = 1;
constexpr std::size_t kMostBytes = 1 << 16, kHeaderBytes = 16;
enum Kind : std::uint16_t { kHello = 1, kLoad, kLoaded, kMap, kReady, kFailed };

/// Puts values one after the other.
struct Writer {
  std::string bytes;

  template <typename T>
  Writer& number(T value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Writer& text(const std::string& value) {
    number(static_cast<std::uint32_t>(value.size()));
    bytes += value;
    return *this;
  }
  /// One tensor without a name, of float32, with one extent.
  Writer& row(std::int64_t extent) {
    number<std::uint8_t>(0).number<std::uint16_t>(1).text("").text("float32");
    return number<std::uint8_t>(0).number<std::uint8_t>(0).number<std::uint8_t>(1).number(extent);
  }
};

/// Takes values one after the other.
struct Reader {
  std::string bytes;
  std::size_t at = 0;

  const char* take(std::size_t length) {
    if (length > bytes.size() - at) throw std::runtime_error("a message ends too early");
    at += length;
    return bytes.data() + at - length;
  }
  template <typename T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }
  std::string text() {
    const auto length = number<std::uint32_t>();
    return {take(length), length};
  }
  /// Checks that a row is what this worker knows. False: it is left to the worker to say.
  bool row(std::int64_t extent, const std::string& what) {
    const auto named = number<std::uint8_t>();
    const auto count = number<std::uint16_t>();
    if (count == 0) return false;
    text();
    const auto dtype = text();
    const auto kind = number<std::uint8_t>(), ragged = number<std::uint8_t>();
    const auto extents = number<std::uint8_t>();
    if (named != 0 || count != 1 || dtype != "float32" || kind != 0 || ragged != 0 ||
        extents != 1 || number<std::int64_t>() != extent)
      throw std::runtime_error("the " + what + " of this model is Tensor('float32', (" +
                               std::to_string(extent) + ",)): deploy it with that");
    return true;
  }
};

struct Message {
  Reader payload;
  std::vector<int> descriptors;
};

void send(int socket, Kind kind, const std::string& payload) {
  Writer message;
  message.number(kMagic).number(kVersion).number<std::uint16_t>(kind);
  message.number(static_cast<std::uint32_t>(payload.size())).number<std::uint32_t>(0);
  message.bytes += payload;
  if (::send(socket, message.bytes.data(), message.bytes.size(), MSG_NOSIGNAL) < 0) _exit(0);
}

Message receive(int socket, Kind expected) {
  std::string bytes(kHeaderBytes + kMostBytes, '\0');
  alignas(cmsghdr) char control[CMSG_SPACE(32 * sizeof(int))];
  iovec piece{bytes.data(), bytes.size()};
  msghdr header{};
  header.msg_iov = &piece, header.msg_iovlen = 1;
  header.msg_control = control, header.msg_controllen = sizeof control;
  const auto length = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  if (length <= 0) _exit(0);  // the engine has gone
  bytes.resize(static_cast<std::size_t>(length));
  Message message{{bytes}, {}};
  for (auto* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    message.descriptors.resize((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    std::memcpy(message.descriptors.data(), CMSG_DATA(part), part->cmsg_len - CMSG_LEN(0));
  }
  const auto magic = message.payload.number<std::uint32_t>();
  const auto version = message.payload.number<std::uint16_t>();
  if (const auto kind = message.payload.number<std::uint16_t>();
      magic != kMagic || version != kVersion || kind != expected)
    throw std::runtime_error("expected a message of kind " + std::to_string(expected) +
                             " and version 1, got " + std::to_string(kind));
  message.payload.take(8);
  return message;
}

struct Model {
  std::int64_t inputs = 0, outputs = 0;
  std::vector<float> weights;

  explicit Model(const std::string& path) {
    std::ifstream file(path);
    if (!(file >> inputs >> outputs) || inputs < 1 || outputs < 1 || inputs * outputs > 1 << 24)
      throw std::runtime_error(path + " is no model: expected the numbers of inputs and outputs");
    weights.resize(static_cast<std::size_t>(inputs * outputs));
    for (auto& weight : weights)
      if (!(file >> weight)) throw std::runtime_error(path + " holds too few weights");
  }

  void run(const float* row, float* output) const {
    for (std::int64_t to = 0; to < outputs; ++to) output[to] = 0.0F;
    for (std::int64_t from = 0; from < inputs; ++from)
      for (std::int64_t to = 0; to < outputs; ++to)
        output[to] += row[from] * weights[static_cast<std::size_t>(from * outputs + to)];
  }
};

Model load(int socket) {
  auto [payload, descriptors] = receive(socket, kLoad);
  const auto kind = payload.number<std::uint8_t>();
  const auto path = payload.text();
  if (kind != 1) throw std::runtime_error("this worker loads files of weights, not " + path);
  payload.text();     // the device
  payload.take(2);    // pickles, and an example that comes along: neither is needed
  Model model(path);  // which knows what it takes
  payload.row(model.inputs, "input");
  payload.row(model.outputs, "output");
  for (const int descriptor : descriptors) close(descriptor);
  send(socket, kLoaded,
       Writer().row(model.inputs).row(model.outputs).number<std::uint8_t>(0).bytes);
  return model;
}

/// What MAP told of: words of the control segment by their place, and the segments.
struct Session {
  int posted_bell, finished_bell;
  std::vector<char*> segments;
  std::uint64_t output_at;

  explicit Session(Message message) : posted_bell(), finished_bell() {
    auto& [payload, descriptors] = message;
    payload.take(5);  // slots and copies
    std::vector<std::uint64_t> sizes(payload.number<std::uint16_t>());
    for (auto& size : sizes) size = payload.number<std::uint64_t>();
    if (descriptors.size() != sizes.size() + 2 || sizes.size() < 5)
      throw std::runtime_error("MAP came with too few descriptors");
    payload.take(6);  // rows and number of outputs
    output_at = payload.number<std::uint64_t>();
    posted_bell = descriptors[0], finished_bell = descriptors[1];
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const int access = i == 0 || i == 3 || i == 4 ? PROT_READ | PROT_WRITE : PROT_READ;
      void* memory = mmap(nullptr, sizes[i], access, MAP_SHARED, descriptors[i + 2], 0);
      if (memory == MAP_FAILED) throw std::runtime_error("cannot map a segment");
      segments.push_back(static_cast<char*>(memory));
      close(descriptors[i + 2]);
    }
  }

  template <typename T = std::uint64_t>
  std::atomic_ref<T> word(std::size_t at) const {
    return std::atomic_ref<T>(*reinterpret_cast<T*>(segments[0] + at));
  }

  void run(const Model& model, std::uint64_t number) const {
    const std::size_t place = number % 2, slot = 192 + place * 640;
    word(136) = number;  // running
    const auto rows = word<std::uint32_t>(slot + 8).load();
    const char* source = segments[word<std::uint32_t>(slot + 12) == 1 ? 2 : 1];
    const auto* row = reinterpret_cast<const float*>(source + word(slot + 64));
    auto* output = reinterpret_cast<float*>(segments[3 + place] + output_at);
    for (std::uint32_t i = 0; i < rows; ++i, row += model.inputs, output += model.outputs)
      model.run(row, output);
    word(slot + 576) = number;
    word<std::uint32_t>(slot + 584) = 0;
    word<std::uint32_t>(slot + 588) = rows;
    word(slot + 592) = 0;
    word(128) = number;  // finished
    const std::uint64_t one = 1;
    if (write(finished_bell, &one, sizeof one) != sizeof one) _exit(1);
  }

  void serve(int socket, const Model& model) const {
    std::uint64_t done = 0;
    while (true) {
      pollfd waits[] = {{posted_bell, POLLIN, 0}, {socket, 0, 0}};
      if (poll(waits, 2, -1) < 0) continue;
      if (waits[1].revents != 0) return;  // in a container, nothing else tells
      std::uint64_t rings;
      if (read(posted_bell, &rings, sizeof rings) != sizeof rings) continue;
      for (const auto posted = word(64).load(); done < posted;) run(model, ++done);
      if (word(72) != 0) return;  // closing
    }
  }
};

int connect_to(const std::vector<std::string>& arguments) {
  int socket = -1;
  for (std::size_t i = 0; i + 1 < arguments.size(); ++i) {
    if (arguments[i] == "--fd") socket = std::stoi(arguments[i + 1]);
    if (arguments[i] == "--parent") {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != std::stoi(arguments[i + 1])) _exit(1);
    }
    if (arguments[i] == "--connect") {
      sockaddr_un address{AF_UNIX, {}};
      arguments[i + 1].copy(address.sun_path, sizeof address.sun_path - 1);
      socket = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
      if (connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) _exit(1);
    }
  }
  fcntl(socket, F_SETFD, FD_CLOEXEC);
  return socket;
}

}  // namespace

int main(int count, char** arguments) {
  const int socket = connect_to({arguments + 1, arguments + count});
  std::string step = "start";
  try {
    send(socket, kHello,
         Writer()
             .number(kVersion)
             .number(kVersion)
             .number<std::uint32_t>(getpid())
             .text("C++")
             .bytes);
    step = "loading";
    const Model model = load(socket);
    step = "mapping";
    const Session session(receive(socket, kMap));
    send(socket, kReady, "");
    step = "serving";
    session.serve(socket, model);
  } catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
    send(socket, kFailed, Writer().text(step).text(error.what()).text("").bytes);
    return 1;
  }
}
