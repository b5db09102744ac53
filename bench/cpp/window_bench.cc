// The deadline-ordered window against a heap and a tree of all rows.
#include <map>
#include <queue>

#include "base/random.h"
#include "measure.h"
#include "queue/window.h"

namespace {

using namespace clipper;

constexpr std::size_t kWaiting = 256;

struct Later {
  bool operator()(const WaitingRows& a, const WaitingRows& b) const {
    return a.deadline_ns > b.deadline_ns;
  }
};

/// Keeps no order among equal deadlines: even so it is slower.
class Heap {
 public:
  void push(const WaitingRows& entry) { rows_.push(entry); }
  [[nodiscard]] Nanos pop() {
    const Nanos deadline_ns = rows_.top().deadline_ns;
    rows_.pop();
    return deadline_ns;
  }

 private:
  std::priority_queue<WaitingRows, std::vector<WaitingRows>, Later> rows_;
};

class Tree {
 public:
  void push(const WaitingRows& entry) { rows_.emplace(entry.deadline_ns, entry); }
  [[nodiscard]] Nanos pop() {
    const Nanos deadline_ns = rows_.begin()->first;
    rows_.erase(rows_.begin());
    return deadline_ns;
  }

 private:
  std::multimap<Nanos, WaitingRows> rows_;
};

class Ours {
 public:
  void push(const WaitingRows& entry) { window_.push(entry); }
  [[nodiscard]] Nanos pop() {
    const Nanos deadline_ns = window_.head().deadline_ns;
    window_.pop_head();
    return deadline_ns;
  }

 private:
  Window window_;
};

/// Rows come and go while 256 wait. Their objectives differ by `spread_ns`.
template <typename Order>
void pass_through(Nanos spread_ns, std::uint64_t operations) {
  Order order;
  Random random(1);
  WaitingRows entry;
  entry.run.rows = 1;
  Nanos last_ns = 0;
  for (std::uint64_t i = 0; i < operations + kWaiting; ++i) {
    const Nanos extra_ns =
        spread_ns == 0 ? 0
                       : static_cast<Nanos>(random.below(static_cast<std::uint64_t>(spread_ns)));
    entry.deadline_ns = static_cast<Nanos>(i) * kMicrosecond + extra_ns;
    order.push(entry);
    if (i < kWaiting) continue;
    const Nanos deadline_ns = order.pop();
    if (spread_ns == 0) bench::expect(deadline_ns >= last_ns, "deadlines come in order");
    last_ns = deadline_ns;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Bench bench(argc, argv);
  for (const Nanos spread_ns : {Nanos{0}, 500 * kMicrosecond}) {
    bench.compare(spread_ns == 0 ? "push and pop, equal objectives, 256 wait"
                                 : "push and pop, mixed objectives, 256 wait",
                  100'000,
                  {{"std::priority_queue", [=](auto n) { pass_through<Heap>(spread_ns, n); }},
                   {"std::multimap", [=](auto n) { pass_through<Tree>(spread_ns, n); }},
                   {"window", [=](auto n) { pass_through<Ours>(spread_ns, n); }}});
  }
  return 0;
}
