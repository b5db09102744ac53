// Callers that wait drive a worker themselves while its thread sleeps, and give the seat back.
#include <atomic>
#include <thread>
#include <vector>

#include "base/random.h"
#include "isolation_scene.h"

namespace {

using namespace clipper;
using clipper::testing::Peer;
using clipper::testing::Scene;

/// A replica whose thread lends its seat, and whose worker is scripted.
class Lending {
 public:
  explicit Lending(Nanos timeout_ns = kNever) {
    DriverOptions options;
    options.pidfd = death.fd();
    options.timeout_ns = timeout_ns;
    driver = std::make_unique<WorkerDriver>(scene.engine, replica(), link, options);
  }

  Replica& replica() { return *scene.deployment->replicas()[0]; }
  void start() {
    thread_ = std::thread([this] { event = driver->run(); });
  }
  LinkEvent join() {
    thread_.join();
    return event;
  }
  void stop() {
    replica().stop();
    CHECK(join() == LinkEvent::kStopped);
  }
  /// Until the thread sleeps and its seat is to be had: borrows it once, and gives it back.
  void wait_until_lent() {
    while (replica().loan().borrow() == nullptr) std::this_thread::yield();
    CHECK(replica().loan().give_back());
  }
  void wait_for_batch(std::uint64_t number) {
    while (peer.posted() < number) std::this_thread::yield();
  }
  /// What predict() does: nobody is woken for the rows, because their owner waits.
  Scene::Answer predict(const std::vector<std::int64_t>& rows, Nanos budget_ns = kNever) {
    Query* query = scene.ask(rows, budget_ns, true);
    CHECK(scene.engine.lead(*query, scene.clock.now_ns(), kNever) == nullptr);
    while (scene.engine.wait(*query, query->answer_by_ns) == WaitResult::kInterrupted) {
    }
    if (!query->is_done()) scene.engine.withdraw(*query, Cause::kDeadline);
    return scene.take(query);
  }
  /// Predicts one row, which three times its value must come of.
  void predict_rightly(std::int64_t row) {
    const auto answer = predict({row});
    CHECK_EQ(answer.outputs[0], 3 * row);
  }

  Scene scene{RowSpec({DTypeCode::kInt, 64}, {}), RowSpec({DTypeCode::kInt, 64}, {}), 1, true};
  WorkerLink link{*scene.deployment, {}};
  Peer peer{link};
  EventFd death;
  std::unique_ptr<WorkerDriver> driver;
  std::atomic<LinkEvent> event{LinkEvent::kNothing};

 private:
  std::thread thread_;
};

/// A worker that answers every batch, until it is destroyed.
class Worker {
 public:
  explicit Worker(Peer& peer, int pause_us = 0) {
    thread_ = std::thread([this, &peer, pause_us] {
      for (std::uint64_t batch = 1; !ends_.load();) {
        if (peer.posted() < batch) {
          std::this_thread::yield();
          continue;
        }
        std::this_thread::sleep_for(std::chrono::microseconds(pause_us));
        peer.answer(batch++);
      }
    });
  }
  ~Worker() {
    ends_.store(true);
    thread_.join();
  }

 private:
  std::atomic<bool> ends_{false};
  std::thread thread_;
};

TEST(a_caller_carries_its_rows_while_the_thread_sleeps) {
  Lending lending;
  lending.start();
  lending.wait_until_lent();
  const Worker worker(lending.peer);
  for (std::int64_t i = 0; i < 100; ++i) {
    const auto answer = lending.predict({i, i + 1});
    CHECK_EQ(answer.outputs[0], 3 * i);
    CHECK_EQ(answer.outputs[1], 3 * i + 3);
    // Nobody was woken: the seat is still to be had.
    CHECK(lending.replica().loan().borrow() != nullptr);
    CHECK(lending.replica().loan().give_back());
  }
  lending.stop();
}

TEST(rows_that_come_meanwhile_wake_the_thread_and_go_with_a_second_batch) {
  Lending lending;
  lending.start();
  lending.wait_until_lent();
  std::thread caller([&] { lending.predict_rightly(1); });
  lending.wait_for_batch(1);
  Query* second = lending.scene.ask({2});
  lending.wait_for_batch(2);  // although the first has not been answered
  lending.peer.answer(1);
  lending.peer.answer(2);
  caller.join();
  CHECK(lending.scene.engine.wait(*second, kNever) == WaitResult::kDone);
  const auto answer = lending.scene.take(second);
  CHECK_EQ(answer.outputs[0], 6);
  lending.stop();
}

TEST(a_death_under_a_caller_is_the_threads_to_see_to) {
  Lending lending;
  lending.start();
  lending.wait_until_lent();
  std::thread caller([&] { CHECK(lending.predict({1}).causes[0] == Cause::kCrash); });
  lending.wait_for_batch(1);
  lending.peer.run(1);
  lending.death.signal();
  CHECK(lending.join() == LinkEvent::kDied);
  CHECK_EQ(lending.driver->blamed_rows(), 1u);
  CHECK(lending.driver->give_back(kNever, 7).empty());
  caller.join();
  CHECK_EQ(lending.scene.deployment->outstanding(), 0);
}

TEST(a_worker_that_hangs_under_a_caller_is_noticed_in_time) {
  Lending lending(50 * kMillisecond);
  lending.start();
  lending.wait_until_lent();
  std::thread caller([&] { CHECK(lending.predict({1}).causes[0] == Cause::kCrash); });
  CHECK(lending.join() == LinkEvent::kTimedOut);
  CHECK(lending.driver->give_back(kNever, 7).empty());
  caller.join();
}

TEST(what_the_model_raised_to_a_caller_is_noted_by_the_thread) {
  Lending lending;
  lending.start();
  lending.wait_until_lent();
  std::thread caller([&] {
    const auto answer = lending.predict({1});
    CHECK(answer.causes[0] == Cause::kModelError);
    CHECK_EQ(answer.error_id, 42u);
  });
  lending.wait_for_batch(1);
  lending.peer.reply(1, ReplyStatus::kModelError, "ValueError: no");
  CHECK(lending.join() == LinkEvent::kModelError);
  CHECK_EQ(lending.driver->text(), "ValueError: no");
  lending.driver->fail_batch(42);
  caller.join();
}

TEST(nonsense_told_to_a_caller_reaches_the_thread) {
  Lending lending;
  lending.start();
  lending.wait_until_lent();
  std::thread caller([&] { CHECK(lending.predict({1}).causes[0] == Cause::kCrash); });
  lending.wait_for_batch(1);
  lending.peer.finish(5);
  CHECK(lending.join() == LinkEvent::kNonsense);
  CHECK(lending.driver->give_back(kNever, 7).empty());
  caller.join();
}

TEST(a_caller_leaves_at_its_deadline_and_the_thread_takes_the_answer) {
  Lending lending;
  lending.start();
  lending.wait_until_lent();
  CHECK(lending.predict({1}, 20 * kMillisecond).causes[0] == Cause::kDeadline);
  lending.wait_for_batch(1);
  lending.peer.answer(1);
  lending.wait_until_lent();  // the batch has ended
  CHECK_EQ(lending.scene.deployment->outstanding(), 0);
  lending.stop();
}

TEST(a_stopped_thread_gets_its_seat_back_and_ends_with_the_batch) {
  Lending lending;
  lending.start();
  lending.wait_until_lent();
  std::thread caller([&] { lending.predict_rightly(5); });
  lending.wait_for_batch(1);
  lending.replica().stop();
  lending.peer.answer(1);
  CHECK(lending.join() == LinkEvent::kStopped);
  caller.join();
}

TEST(every_query_of_many_callers_ends_once) {
  Lending lending;
  lending.start();
  std::atomic<int> answered{0};
  {
    const Worker worker(lending.peer, 20);
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 4; ++caller) {
      callers.emplace_back([&, caller] {
        Random random(static_cast<std::uint64_t>(caller) + 1);
        for (int i = 0; i < 1500; ++i) {
          const std::int64_t row = 4 * std::int64_t{i} + caller;
          if (random.below(4) == 0) {  // as a future: the thread is woken
            Query* query = lending.scene.ask({row});
            CHECK(lending.scene.engine.wait(*query, kNever) == WaitResult::kDone);
            const auto answer = lending.scene.take(query);
            CHECK_EQ(answer.outputs[0], 3 * row);
          } else {
            lending.predict_rightly(row);
          }
          answered.fetch_add(1);
          if (random.below(8) == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
        }
      });
    }
    for (std::thread& caller : callers) caller.join();
  }
  CHECK_EQ(answered.load(), 4 * 1500);
  CHECK_EQ(lending.scene.deployment->outstanding(), 0);
  CHECK_EQ(lending.scene.deployment->live_rows(), 0u);
  lending.stop();
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
