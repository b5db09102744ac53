#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <span>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/random.h"
#include "check.h"
#include "counting_policy.h"
#include "selection/context_store.h"
#include "selection/context_table.h"
#include "selection/feedback_journal.h"

namespace {

using namespace clipper;
using clipper::testing::CountingPolicy;
using Waited = FeedbackJournal::Waited;

constexpr std::size_t kPlenty = std::size_t{1} << 20;
constexpr std::uint16_t kModels = 2;
constexpr std::size_t kKept = 2 * kModels + 1;

const CountingPolicy kPolicy;
const std::array<Observation, 1> kOne{{{1, 0.5F, 0.25F}}};
const std::array<Observation, 2> kTwo{{{0, 1.0F, 1.0F}, {1, 0.0F, 1.0F}}};

EntryNumber note(FeedbackJournal& journal, std::uint32_t application, std::uint64_t context) {
  FeedbackJournal::Entry entry = journal.open(application, context, true, kOne);
  CHECK(static_cast<bool>(entry));
  const EntryNumber number = entry.number();
  entry.commit();
  return number;
}

// ---- the journal --------------------------------------------------------------------------------

TEST(entries_are_read_back_as_they_were_noted_in_their_order) {
  FeedbackJournal journal(40, kPlenty);
  CHECK_EQ(note(journal, 7, 0xfedcba9876543210), 41u);
  CHECK_EQ(note(journal, 8, 5), 42u);
  FeedbackJournal::Entry own = journal.open(7, 0, false, kTwo);
  own.commit();
  own = {};
  const std::vector<JournalSegment>& taken = journal.take();
  CHECK_EQ(taken.size(), 2u);
  CHECK_EQ(taken[0].application, 7u);
  CHECK_EQ(taken[0].first, 41u);
  CHECK_EQ(taken[0].last, 43u);
  std::span<const std::byte> rest = taken[0].entries;
  JournalEntry entry;
  CHECK(read_entry(rest, entry));
  CHECK_EQ(entry.context, 0xfedcba9876543210);
  CHECK(entry.has_context);
  CHECK_EQ(entry.observations.size(), 1u);
  CHECK_EQ(entry.observations[0].model, 1);
  CHECK_EQ(entry.observations[0].loss, 0.5F);
  CHECK_EQ(entry.observations[0].propensity, 0.25F);
  CHECK(read_entry(rest, entry));
  CHECK_EQ(entry.number, 43u);
  CHECK(!entry.has_context);
  CHECK_EQ(entry.observations.size(), 2u);
  CHECK(!read_entry(rest, entry));
  CHECK(rest.empty());
}

TEST(entries_that_are_cut_off_are_not_read) {
  FeedbackJournal journal(0, kPlenty);
  (void)note(journal, 1, 2);
  const std::vector<std::byte> whole = journal.take()[0].entries;
  JournalEntry entry;
  for (std::size_t size = 1; size < whole.size(); ++size) {
    std::span<const std::byte> part = std::span(whole).first(size);
    CHECK(!read_entry(part, entry));
    CHECK_EQ(part.size(), size);
  }
}

TEST(what_is_not_learned_leaves_no_entry) {
  FeedbackJournal journal(0, kPlenty);
  { const FeedbackJournal::Entry entry = journal.open(1, 2, true, kOne); }
  CHECK_EQ(journal.appended(), 0u);
  CHECK_EQ(journal.take().size(), 0u);
}

TEST(who_waits_leads_and_is_told_what_became_of_it) {
  FeedbackJournal journal(0, kPlenty);
  const EntryNumber number = note(journal, 1, 2);
  CHECK_EQ(journal.wait(number), Waited::kLead);
  CHECK_EQ(journal.take().size(), 1u);
  const EntryNumber later = note(journal, 1, 3);
  journal.settle();
  journal.stop_leading();
  CHECK_EQ(journal.wait(number), Waited::kDurable);
  CHECK_EQ(journal.look(later), Waited::kLead);
  CHECK_EQ(journal.wait(later), Waited::kLead);
  journal.give_up();
  journal.stop_leading();
  CHECK_EQ(journal.wait(later), Waited::kGivenUp);
  // It is written in the end: nothing is lost by a store that is away for a while.
  journal.lead();
  CHECK_EQ(journal.take().size(), 1u);
  journal.settle();
  journal.stop_leading();
  CHECK_EQ(journal.wait(later), Waited::kDurable);
  CHECK_EQ(journal.counts().bytes, 0u);
}

TEST(what_was_taken_and_not_settled_is_taken_again) {
  FeedbackJournal journal(0, kPlenty);
  (void)note(journal, 1, 2);
  CHECK_EQ(journal.take().size(), 1u);
  (void)note(journal, 1, 3);
  CHECK_EQ(journal.take().size(), 2u);
  CHECK_EQ(journal.take()[1].first, 2u);
}

TEST(beyond_its_bound_entries_are_dropped_and_whoever_waits_is_told) {
  FeedbackJournal journal(0, 100);
  for (int i = 0; i < 3; ++i) (void)note(journal, 1, 2);
  const EntryNumber dropped = note(journal, 1, 2);
  CHECK_EQ(dropped, 4u);
  CHECK_EQ(journal.counts().dropped, 1u);
  CHECK(journal.counts().bytes <= 100);
  journal.lead();
  CHECK_EQ(journal.take()[0].last, 3u);
  journal.settle();
  journal.stop_leading();
  CHECK_EQ(journal.wait(dropped), Waited::kGivenUp);
  CHECK_EQ(journal.counts().bytes, 0u);
  CHECK_EQ(journal.wait(note(journal, 1, 2)), Waited::kLead);
}

TEST(every_waiter_is_released_and_nothing_is_written_twice) {
  FeedbackJournal journal(0, kPlenty);
  constexpr int kThreads = 8;
  constexpr int kEach = 2000;
  std::vector<EntryNumber> written;  // by whoever leads
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&journal, &written, thread] {
      for (int i = 0; i < kEach; ++i) {
        const EntryNumber number =
            note(journal, static_cast<std::uint32_t>(thread % 3), static_cast<std::uint64_t>(i));
        while (journal.wait(number) == Waited::kLead) {
          for (const JournalSegment& segment : journal.take()) {
            std::span<const std::byte> rest = segment.entries;
            JournalEntry entry;
            while (read_entry(rest, entry)) written.push_back(entry.number);
          }
          journal.settle();
          journal.stop_leading();
        }
        CHECK_EQ(journal.look(number), Waited::kDurable);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::sort(written.begin(), written.end());
  CHECK_EQ(written.size(), std::size_t{kThreads * kEach});
  for (std::size_t i = 0; i < written.size(); ++i) CHECK_EQ(written[i], i + 1);
}

// ---- states and their entries -------------------------------------------------------------------

/// What lasts: states, and the journal behind them. Dies at any moment.
struct Disk {
  std::unordered_map<std::uint64_t, std::vector<double>> states;
  std::vector<double> own;
  std::vector<JournalEntry> entries;
  EntryNumber last = 0;
};

/// An engine's part of it: a table, and the drainer that writes what it evicts.
class Living {
 public:
  explicit Living(Disk& disk)
      : disk_(disk),
        journal_(disk.last, kPlenty),
        table_(kPolicy, kModels, {2800, 2, true, &journal_, 1},
               std::make_unique<DrainedContextStore>(kKept, 6)),
        store_(static_cast<DrainedContextStore*>(table_.store())) {
    if (!disk.own.empty()) table_.restore_own(disk.own);
    for (const JournalEntry& entry : disk.entries) {
      while (table_.replay(entry) == Observed::kRefused) drain();
    }
    while (table_.counts().waiting > 0) drain();
  }

  [[nodiscard]] ContextTable& table() { return table_; }
  [[nodiscard]] FeedbackJournal& journal() { return journal_; }

  void write_journal() {
    for (const JournalSegment& segment : journal_.take()) {
      std::span<const std::byte> rest = segment.entries;
      JournalEntry entry;
      while (read_entry(rest, entry)) disk_.entries.push_back(entry);
    }
    journal_.settle();
  }
  void drain() {
    ContextBatch batch;
    store_->take_spilled(batch, 1000);
    write(batch);
    store_->take_wanted(wanted_, 1000);
    std::erase_if(wanted_, [&](std::uint64_t context) {
      const auto found = disk_.states.find(context);
      return table_.put_loaded(context, found == disk_.states.end()
                                            ? std::span<const double>()
                                            : std::span<const double>(found->second));
    });
  }
  /// One step of saving the whole table; entries that all states have in them go at the end.
  void checkpoint_step() {
    if (shard_ == 0) {
      store_->hold(true);
      covered_ = journal_.appended();
      std::vector<double> own(kKept);
      table_.save_own(own.data());
      disk_.own = own;
    }
    ContextBatch batch;
    const EntryNumber first = table_.take_changed(shard_, batch);
    covered_ = std::min(covered_, first - 1);
    if (++shard_ == table_.shards()) {
      store_->take_spilled(batch, 1000);
      store_->hold(false);
      shard_ = 0;
      write(batch);
      std::erase_if(disk_.entries,
                    [&](const JournalEntry& entry) { return entry.number <= covered_; });
    } else {
      write(batch);
    }
  }

 private:
  /// States never go to the disk without the entries that they have in them.
  void write(const ContextBatch& batch) {
    write_journal();
    disk_.last = journal_.appended();
    for (std::size_t i = 0; i < batch.contexts.size(); ++i) {
      const double* state = batch.numbers.data() + i * kKept;
      disk_.states[batch.contexts[i]].assign(state, state + kKept);
    }
  }

  Disk& disk_;
  FeedbackJournal journal_;
  ContextTable table_;
  DrainedContextStore* store_;
  std::vector<std::uint64_t> wanted_;
  std::size_t shard_ = 0;
  EntryNumber covered_ = 0;
};

/// How often each context was told, by its states and the entries after them.
double told_of(Living& living, std::uint64_t context) {
  for (int attempt = 0; attempt < 100; ++attempt) {
    const ContextPin pin = living.table().pin(context);
    const PolicyState state = pin.state();
    if (state.data() != living.table().own().data()) return state[0].load() + state[2].load();
    living.drain();
  }
  return -1;
}

TEST(a_table_that_dies_at_any_moment_has_learned_each_entry_once_afterwards) {
  constexpr std::uint64_t kContexts = 120;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    Random random(seed);
    Disk disk;
    std::map<std::uint64_t, double> told;
    double own = 0;
    for (int life = 0; life < 4; ++life) {
      auto living = std::make_unique<Living>(disk);
      for (int step = 0; step < 3000; ++step) {
        const std::uint64_t what = random.below(100);
        if (what < 80) {
          const std::uint64_t context = random.below(kContexts);
          if (living->table().observe(context, kOne) != Observed::kRefused) told[context] += 1;
        } else if (what < 85) {
          CHECK_EQ(living->table().observe(kOne), Observed::kLearned);
          own += 1;
        } else if (what < 95) {
          living->drain();
        } else {
          living->checkpoint_step();
        }
      }
      living->write_journal();  // what was acknowledged; then kill -9
      disk.last = living->journal().appended();
    }
    Living after(disk);
    CHECK_EQ(after.table().own()[2].load(), own);
    // Those that began after the application itself had learned start from that.
    double sum = 0;
    for (const auto& [context, times] : told) {
      const double has = told_of(after, context);
      CHECK(has >= times);
      sum += times;
    }
    CHECK(sum > 100);
  }
}

TEST(contexts_that_begin_with_nothing_count_exactly) {
  constexpr std::uint64_t kContexts = 120;
  for (std::uint64_t seed = 100; seed <= 140; ++seed) {
    Random random(seed);
    Disk disk;
    std::map<std::uint64_t, double> told;
    for (int life = 0; life < 4; ++life) {
      auto living = std::make_unique<Living>(disk);
      for (int step = 0; step < 3000; ++step) {
        const std::uint64_t what = random.below(100);
        const std::uint64_t context = random.below(kContexts);
        if (what < 75) {
          if (living->table().observe(context, kOne) != Observed::kRefused) told[context] += 1;
        } else if (what < 85) {
          (void)living->table().pin(context);
        } else if (what < 95) {
          living->drain();
        } else {
          living->checkpoint_step();
        }
      }
      living->write_journal();
      disk.last = living->journal().appended();
      if (random.below(2) == 0) {
        for (std::size_t i = 0; i < 2 * living->table().shards(); ++i) living->checkpoint_step();
      }
    }
    Living after(disk);
    for (const auto& [context, times] : told) CHECK_EQ(told_of(after, context), times);
  }
}

TEST(checkpoints_empty_the_journal) {
  Disk disk;
  Living living(disk);
  for (std::uint64_t context = 0; context < 1000; ++context) {
    while (living.table().observe(context % 90, kOne) == Observed::kRefused) living.drain();
    if (context % 10 == 0) living.drain();
  }
  while (living.table().counts().waiting > 0) living.drain();
  for (std::size_t i = 0; i < living.table().shards(); ++i) living.checkpoint_step();
  CHECK_EQ(disk.entries.size(), 0u);
  CHECK_EQ(disk.states.size(), 90u);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
