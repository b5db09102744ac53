// What a link passes on, what it takes back, and that it believes nothing.
#include <functional>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/utf8.h"
#include "isolation_scene.h"

namespace {

using namespace clipper;
using clipper::testing::Peer;
using clipper::testing::Scene;

const TensorSpec kText{{DTypeCode::kUInt, 8}, {}, true};

RowRun store(Deployment& deployment, const std::vector<std::int64_t>& rows) {
  const ColumnRows source{reinterpret_cast<const std::byte*>(rows.data())};
  Lane lane = 0;
  const auto run = deployment.store(&source, 0, static_cast<std::uint32_t>(rows.size()), lane);
  CHECK(run.has_value());
  return *run;
}

RowRun store_text(Deployment& deployment, const std::vector<std::string>& rows) {
  std::string joined;
  std::vector<std::int64_t> offsets{0};
  for (const std::string& row : rows) {
    joined += row;
    offsets.push_back(static_cast<std::int64_t>(joined.size()));
  }
  ColumnRows source{reinterpret_cast<const std::byte*>(joined.data())};
  source.offsets = offsets.data();
  Lane lane = 0;
  const auto run = deployment.store(&source, 0, static_cast<std::uint32_t>(rows.size()), lane);
  CHECK(run.has_value());
  return *run;
}

TEST(passes_rows_where_they_lie_and_takes_outputs) {
  Scene scene;
  WorkerLink link(*scene.deployment, {});
  Peer peer(link);
  const RowRun run = store(*scene.deployment, {5, 6, 7});
  CHECK(link.post(run));
  CHECK_EQ(peer.posted(), 1u);
  CHECK_EQ(peer.rows(1), 3u);
  CHECK_EQ(peer.slot(1).segment, static_cast<std::uint32_t>(Segment::kRows));
  CHECK_EQ(peer.input<std::int64_t>(1)[2], 7);
  CHECK(link.take(3) == Reply::kNone);
  peer.answer(1);
  CHECK(link.take(3) == Reply::kOutputs);
  CHECK_EQ(reinterpret_cast<const std::int64_t*>(link.outputs()[0].data)[1], 18);
  CHECK_EQ(link.batches_copied.load(), 0u);
  RowBlocks::release(*run.block, 3);
}

TEST(takes_batches_in_the_order_in_which_they_were_posted) {
  Scene scene;
  WorkerLink link(*scene.deployment, {});
  Peer peer(link);
  const RowRun first = store(*scene.deployment, {1});
  const RowRun second = store(*scene.deployment, {2, 3});
  CHECK(link.post(first));
  CHECK(link.post(second));
  peer.answer(1);
  peer.answer(2);
  CHECK(link.take(1) == Reply::kOutputs);
  CHECK_EQ(reinterpret_cast<const std::int64_t*>(link.outputs()[0].data)[0], 3);
  CHECK(link.take(2) == Reply::kOutputs);
  CHECK_EQ(reinterpret_cast<const std::int64_t*>(link.outputs()[0].data)[1], 9);
  CHECK(link.take(1) == Reply::kNone);
}

TEST(copies_ragged_rows_that_lie_on_the_heap) {
  Scene scene{RowSpec(kText), RowSpec(kText)};
  WorkerLink link(*scene.deployment, {});
  Peer peer(link);
  const std::string large(std::size_t{3} << 20, 'x');
  const RowRun run = store_text(*scene.deployment, {"ab", large, "c"});
  CHECK(run.block->own_memory != nullptr);
  CHECK(link.post({run.block, 1, 2}));  // not from its first row on
  CHECK_EQ(peer.slot(1).segment, static_cast<std::uint32_t>(Segment::kCopy));
  const std::int64_t* offsets = peer.input_offsets(1);
  CHECK_EQ(offsets[0], 0);
  CHECK_EQ(offsets[1], static_cast<std::int64_t>(large.size()));
  CHECK_EQ(offsets[2], offsets[1] + 1);
  CHECK_EQ(peer.input<char>(1)[offsets[1]], 'c');
  CHECK_EQ(link.batches_copied.load(), 1u);
  RowBlocks::release(*run.block, 3);
}

TEST(hands_over_what_the_model_raised) {
  Scene scene;
  WorkerLink link(*scene.deployment, {});
  Peer peer(link);
  CHECK(link.post(store(*scene.deployment, {1})));
  peer.reply(1, ReplyStatus::kModelError, "ValueError: no");
  CHECK(link.take(1) == Reply::kModelError);
  CHECK_EQ(link.text(), "ValueError: no");
}

/// Posts a batch of two texts, lets the peer answer it well, then spoils the answer.
void expect_nonsense(const std::function<void(Peer&)>& spoil, const std::string& says) {
  Scene scene{RowSpec(kText), RowSpec(kText)};
  LinkOptions options;
  options.ragged_output_bytes = 4096;
  options.text_outputs = {true};
  WorkerLink link(*scene.deployment, options);
  Peer peer(link);
  CHECK(link.post(store_text(*scene.deployment, {"a", "b"})));
  std::memcpy(peer.output<char>(1), "ab", 2);
  const std::int64_t offsets[]{0, 1, 2};
  std::memcpy(peer.output_offsets(1), offsets, sizeof offsets);
  peer.reply(1, ReplyStatus::kOutputs);
  spoil(peer);
  const Reply reply = link.take(2);
  if (says.empty()) {
    CHECK(reply == Reply::kOutputs);
    return;
  }
  CHECK(reply == Reply::kNonsense);
  if (link.text().find(says) == std::string::npos) CHECK_EQ(link.text(), says);
  CHECK_EQ(link.taken(), 0u);
}

TEST(refuses_every_word_that_cannot_be) {
  expect_nonsense([](Peer&) {}, "");
  expect_nonsense([](Peer& peer) { peer.finish(2); }, "batch 2 is finished");
  expect_nonsense([](Peer& peer) { peer.finish(~std::uint64_t{0}); }, "is finished");
  expect_nonsense([](Peer& peer) { peer.slot(1).reply_sequence.store(7); }, "numbered 7");
  expect_nonsense([](Peer& peer) { peer.slot(1).status.store(9); }, "status 9");
  expect_nonsense([](Peer& peer) { peer.slot(1).reply_rows.store(3); }, "with 3");
  expect_nonsense(
      [](Peer& peer) {
        peer.slot(1).status.store(1);
        peer.slot(1).text_bytes.store(std::uint64_t{1} << 40);
      },
      "text of");
  const std::string rise = "do not rise";
  expect_nonsense([](Peer& peer) { peer.output_offsets(1)[0] = 1; }, rise);
  expect_nonsense([](Peer& peer) { peer.output_offsets(1)[1] = -5; }, rise);
  expect_nonsense([](Peer& peer) { peer.output_offsets(1)[1] = 3; }, rise);
  expect_nonsense([](Peer& peer) { peer.output_offsets(1)[2] = 4097; }, rise);
  expect_nonsense([](Peer& peer) { peer.output_offsets(1)[2] = INT64_MAX; }, rise);
  expect_nonsense([](Peer& peer) { peer.output<char>(1)[1] = '\xff'; }, "not UTF-8");
}

TEST(does_not_care_what_the_worker_writes_into_the_engines_words) {
  Scene scene;
  WorkerLink link(*scene.deployment, {});
  Peer peer(link);
  CHECK(link.post(store(*scene.deployment, {1})));
  peer.slot(1).rows = 1000;
  peer.slot(1).sequence = 99;
  peer.control().posted.store(77);
  peer.control().closing.store(5);
  std::int64_t* output = peer.output<std::int64_t>(1);
  *output = 3;
  peer.slot(1).reply_sequence.store(1);
  peer.slot(1).reply_rows.store(1);
  peer.finish(1);
  CHECK(link.take(1) == Reply::kOutputs);
  CHECK_EQ(link.posted(), 1u);
}

TEST(survives_garbage_in_all_that_a_worker_can_write) {
  const TensorSpec fixed{{DTypeCode::kFloat, 32}, {3}, false};
  const TensorSpec ragged{{DTypeCode::kInt, 32}, {2}, true};
  RowSpec output;
  output.columns = {fixed, ragged, kText};
  LinkOptions options;
  options.ragged_output_bytes = 1024;
  options.text_outputs = {false, false, true};
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    Random random(seed);
    Scene scene(RowSpec({DTypeCode::kInt, 64}, {}), output);
    WorkerLink link(*scene.deployment, options);
    Peer peer(link);
    const RowRun run = store(*scene.deployment, {1, 2, 3});
    CHECK(link.post(run));
    // Garbage everywhere, or a few wild words in an answer that is right otherwise.
    if (seed % 2 == 0) {
      auto* words = reinterpret_cast<std::uint64_t*>(&peer.control());
      for (std::size_t i = 0; i < sizeof(ControlWords) / 8; ++i) words[i] = random();
      for (std::size_t i = 0; i < peer.output_bytes(); i += 8) {
        const std::uint64_t word = random();
        std::memcpy(peer.outputs(1) + i, &word, sizeof word);
      }
      if (random.below(2) == 0) peer.control().finished.store(1);
    } else {
      peer.reply(1, random.below(4) == 0 ? ReplyStatus::kModelError : ReplyStatus::kOutputs);
      for (int i = 0; i < 3; ++i) {
        peer.output_offsets(1, 1 + random.below(2))[random.below(4)] =
            static_cast<std::int64_t>(random.below(2) == 0 ? random() : random.below(200));
      }
    }
    const Reply reply = link.take(3);
    if (reply == Reply::kOutputs) {  // then all of it must be readable
      const OutputLayout layout(output);
      std::vector<std::byte> rows(3 * layout.row_bytes());
      layout.prepare(rows.data(), 3);
      CHECK(layout.write(rows.data(), link.outputs(), 0, 3));
      layout.clear(rows.data(), 3);
    }
    CHECK(link.running() <= link.taken() + 1 || link.running() <= link.posted());
    RowBlocks::release(*run.block, 3);
  }
}

TEST(says_what_is_utf8_as_the_standard_does) {
  const auto is_text = [](const char* text, std::size_t bytes) {
    return is_utf8(reinterpret_cast<const std::byte*>(text), bytes);
  };
  CHECK(is_text("", 0));
  CHECK(is_text("a\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80", 10));
  CHECK(is_text("\xed\x9f\xbf\xee\x80\x80\xf4\x8f\xbf\xbf", 10));
  CHECK(!is_text("\xc3", 1));              // cut off
  CHECK(!is_text("\x80", 1));              // begins in the middle
  CHECK(!is_text("\xc0\xaf", 2));          // overlong
  CHECK(!is_text("\xe0\x9f\xbf", 3));      // overlong
  CHECK(!is_text("\xf0\x8f\xbf\xbf", 4));  // overlong
  CHECK(!is_text("\xed\xa0\x80", 3));      // a surrogate
  CHECK(!is_text("\xf4\x90\x80\x80", 4));  // beyond Unicode
  CHECK(!is_text("\xf5\x80\x80\x80", 4));
  CHECK(!is_text("\xe2\x28\xa1", 3));
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
