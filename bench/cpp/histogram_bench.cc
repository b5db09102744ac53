// Recording latencies: the shared histogram against samples behind a mutex.
#include <memory>
#include <mutex>
#include <vector>

#include "base/histogram.h"
#include "base/random.h"
#include "measure.h"

namespace {

using namespace clipper;

class LockedSamples {
 public:
  void record(Nanos value) {
    const std::scoped_lock lock(mutex_);
    samples_[next_++ % samples_.size()] = value;
  }

 private:
  std::mutex mutex_;
  std::vector<Nanos> samples_ = std::vector<Nanos>(4096);
  std::size_t next_ = 0;
};

template <typename Recorder>
void record(Recorder& recorder, std::uint64_t seed, std::uint64_t operations) {
  Random random(seed);
  for (std::uint64_t i = 0; i < operations; ++i) {
    recorder.record(static_cast<Nanos>(random() >> 44));  // up to about a millisecond
  }
}

template <typename Recorder>
void record_on(Recorder& recorder, unsigned threads, std::uint64_t operations) {
  bench::on_threads(threads,
                    [&](unsigned number) { record(recorder, number, operations / threads); });
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Bench bench(argc, argv);
  const auto histogram = std::make_unique<Histogram>();
  LockedSamples samples;
  bench.compare("one thread records", 400'000,
                {{"mutex and ring of samples", [&](auto n) { record(samples, 1, n); }},
                 {"histogram", [&](auto n) { record(*histogram, 1, n); }}});
  bench.compare("two threads record", 400'000,
                {{"mutex and ring of samples", [&](auto n) { record_on(samples, 2, n); }},
                 {"histogram", [&](auto n) { record_on(*histogram, 2, n); }}});
  bench::expect(histogram->snapshot().count() > 0, "what was recorded is there");
  return 0;
}
