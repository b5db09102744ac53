// Serving a replica through a link: every query ends once, whatever its worker does.
#include <atomic>
#include <thread>
#include <vector>

#include "base/random.h"
#include "isolation_scene.h"

namespace {

using namespace clipper;
using clipper::testing::Peer;
using clipper::testing::Scene;

/// A replica's driver on a thread of its own, with a doorbell that stands for the worker's death.
class Served {
 public:
  Served(Scene& scene, std::size_t replica, Nanos timeout_ns = kNever)
      : replica_(*scene.deployment->replicas()[replica]), link(*scene.deployment, {}), peer(link) {
    DriverOptions options;
    options.pidfd = death.fd();
    options.timeout_ns = timeout_ns;
    driver = std::make_unique<WorkerDriver>(scene.engine, replica_, link, options);
  }

  LinkEvent run() { return driver->run(); }
  void start() {
    thread_ = std::thread([this] { event = driver->run(); });
  }
  LinkEvent join() {
    thread_.join();
    return event;
  }
  void stop() { replica_.stop(); }
  void wait_for_batch(std::uint64_t number) {
    while (peer.posted() < number) std::this_thread::yield();
  }

 private:
  Replica& replica_;
  std::thread thread_;

 public:
  WorkerLink link;
  Peer peer;
  EventFd death;
  std::unique_ptr<WorkerDriver> driver;
  std::atomic<LinkEvent> event{LinkEvent::kNothing};
};

void wait_for(Scene& scene, Query* query) {
  CHECK(scene.engine.wait(*query, scene.clock.now_ns() + 20 * kSecond) == WaitResult::kDone);
}

TEST(answers_what_is_asked_while_it_sleeps) {
  Scene scene;
  Served served(scene, 0);
  served.start();
  for (std::uint64_t i = 1; i <= 50; ++i) {
    Query* query = scene.ask({static_cast<std::int64_t>(i), 5});
    served.wait_for_batch(i);
    served.peer.answer(i);
    wait_for(scene, query);
    const auto answer = scene.take(query);
    CHECK_EQ(answer.outputs[0], static_cast<std::int64_t>(3 * i));
    CHECK_EQ(answer.outputs[1], 15);
  }
  served.stop();
  CHECK(served.join() == LinkEvent::kStopped);
}

TEST(posts_a_second_batch_while_one_runs_and_no_third) {
  Scene scene;
  Served served(scene, 0);
  served.start();
  std::vector<Query*> queries;
  for (int i = 0; i < 3; ++i) {
    queries.push_back(scene.ask(std::vector<std::int64_t>(8, i)));
  }
  served.wait_for_batch(2);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  CHECK_EQ(served.peer.posted(), 2u);
  served.peer.answer(1);
  served.wait_for_batch(3);
  served.peer.answer(2);
  served.peer.answer(3);
  for (Query* query : queries) {
    wait_for(scene, query);
    scene.take(query);
  }
  served.stop();
  CHECK(served.join() == LinkEvent::kStopped);
}

TEST(says_that_the_model_raised_and_goes_on) {
  Scene scene;
  Served served(scene, 0);
  Query* query = scene.ask({1});
  served.start();
  served.wait_for_batch(1);
  served.peer.reply(1, ReplyStatus::kModelError, "ValueError: no");
  CHECK(served.join() == LinkEvent::kModelError);
  CHECK_EQ(served.driver->text(), "ValueError: no");
  served.driver->fail_batch(42);
  const auto answer = scene.take(query);
  CHECK(answer.causes[0] == Cause::kModelError);
  CHECK_EQ(answer.error_id, 42u);
}

TEST(gives_the_rows_of_a_dead_worker_to_another_replica) {
  Scene scene(RowSpec({DTypeCode::kInt, 64}, {}), RowSpec({DTypeCode::kInt, 64}, {}), 2);
  Served dying(scene, 0);
  Query* query = scene.ask({1, 2, 3});
  dying.start();
  dying.wait_for_batch(1);
  dying.peer.run(1);
  dying.death.signal();
  CHECK(dying.join() == LinkEvent::kDied);
  CHECK_EQ(dying.driver->blamed_rows(), 3u);
  CHECK(dying.driver->give_back(scene.clock.now_ns(), 7).empty());
  // Each by itself now.
  Served other(scene, 1);
  other.start();
  for (std::uint64_t batch = 1; batch <= 3; ++batch) {
    other.wait_for_batch(batch);
    CHECK_EQ(other.peer.rows(batch), 1u);
    other.peer.answer(batch);
  }
  wait_for(scene, query);
  const auto answer = scene.take(query);
  CHECK_EQ(answer.outputs[0], 3);
  CHECK_EQ(answer.outputs[2], 9);
  other.stop();
  CHECK(other.join() == LinkEvent::kStopped);
  CHECK(scene.deployment->quarantine().is_empty());  // they have shown that they are harmless
  CHECK_EQ(scene.deployment->outstanding(), 0);
}

TEST(takes_what_was_finished_before_the_death) {
  Scene scene;
  Served served(scene, 0);
  Query* first = scene.ask(std::vector<std::int64_t>(8, 1));
  Query* second = scene.ask({2});
  served.start();
  served.wait_for_batch(2);
  served.peer.answer(1);
  served.death.signal();
  CHECK(served.join() == LinkEvent::kDied);
  CHECK(first->is_done());
  const auto answer = scene.take(first);
  CHECK_EQ(answer.outputs[7], 3);
  CHECK_EQ(served.driver->blamed_rows(), 0u);  // it had not begun
  CHECK(served.driver->give_back(kNever, 7).empty());
  CHECK(scene.take(second).causes[0] == Cause::kCrash);
}

TEST(ends_rows_that_are_due_before_a_worker_will_run) {
  Scene scene;
  Served served(scene, 0);
  Query* soon = scene.ask({1}, kSecond);
  served.start();
  served.wait_for_batch(1);
  served.death.signal();
  CHECK(served.join() == LinkEvent::kDied);
  CHECK(served.driver->give_back(scene.clock.now_ns() + 10 * kSecond, 7).empty());
  const auto answer = scene.take(soon);
  CHECK(answer.causes[0] == Cause::kCrash);
  CHECK_EQ(answer.error_id, 7u);
}

TEST(notices_a_worker_that_is_silent_although_it_rings) {
  Scene scene;
  Served served(scene, 0, 50 * kMillisecond);
  Query* query = scene.ask({1});
  served.start();
  served.wait_for_batch(1);
  std::atomic<bool> ends{false};
  std::thread noise([&] {
    while (!ends.load()) served.peer.ring();
  });
  CHECK(served.join() == LinkEvent::kTimedOut);
  ends.store(true);
  noise.join();
  CHECK(served.driver->give_back(kNever, 1).empty());
  CHECK(scene.take(query).causes[0] == Cause::kCrash);
}

TEST(ends_with_nonsense_and_keeps_the_rows) {
  Scene scene;
  Served served(scene, 0);
  Query* query = scene.ask({1});
  served.start();
  served.wait_for_batch(1);
  served.peer.finish(5);
  CHECK(served.join() == LinkEvent::kNonsense);
  CHECK(!query->is_done());
  CHECK(served.driver->give_back(kNever, 1).empty());
  CHECK(scene.take(query).causes[0] == Cause::kCrash);
  CHECK_EQ(scene.deployment->live_rows(), 0u);
}

TEST(finds_the_row_that_kills_and_refuses_it) {
  Scene scene;
  Query* query = scene.ask({10, 666, 11, 12});
  int deaths = 0;
  for (int worker = 0; worker < 4 && !query->is_done(); ++worker) {
    Served served(scene, 0);
    served.start();
    for (std::uint64_t batch = 1; !query->is_done(); ++batch) {
      while (served.peer.posted() < batch && !query->is_done()) std::this_thread::yield();
      if (query->is_done()) break;
      served.peer.run(batch);
      bool kills = false;
      for (std::uint32_t i = 0; i < served.peer.rows(batch); ++i) {
        kills = kills || served.peer.input<std::int64_t>(batch)[i] == 666;
      }
      if (!kills) {
        served.peer.answer(batch);
        continue;
      }
      served.death.signal();
      CHECK(served.join() == LinkEvent::kDied);
      ++deaths;
      const auto refused =
          served.driver->give_back(scene.clock.now_ns(), static_cast<std::uint32_t>(deaths));
      CHECK_EQ(refused.size(), deaths == 2 ? 1u : 0u);
      break;
    }
    if (served.event.load() == LinkEvent::kNothing) {
      served.stop();
      served.join();
    }
  }
  CHECK_EQ(deaths, 2);
  // Those that waited behind it are answered by a third worker.
  Served last(scene, 0);
  if (!query->is_done()) {
    last.start();
    for (std::uint64_t batch = 1; !query->is_done(); ++batch) {
      while (last.peer.posted() < batch && !query->is_done()) std::this_thread::yield();
      if (last.peer.posted() >= batch) last.peer.answer(batch);
    }
    last.stop();
    last.join();
  }
  const auto answer = scene.take(query);
  CHECK(answer.causes[1] == Cause::kCrash);
  CHECK(answer.causes[0] == Cause::kNone && answer.outputs[0] == 30);
  CHECK(answer.causes[2] == Cause::kNone && answer.outputs[2] == 33);
  CHECK(answer.causes[3] == Cause::kNone && answer.outputs[3] == 36);
  // From now on it does not even wait.
  Query* again = scene.ask({666});
  CHECK(again->is_done());
  CHECK(scene.take(again).causes[0] == Cause::kCrash);
  Query* mixed = scene.ask({1, 666, 2});
  CHECK(!mixed->is_done());
  CHECK_EQ(scene.deployment->waiting_rows(), 2u);
  scene.engine.withdraw(*mixed, Cause::kCancelled);
  CHECK(scene.take(mixed).causes[1] == Cause::kCrash);
}

TEST(every_query_ends_once_while_workers_come_and_go) {
  Scene scene(RowSpec({DTypeCode::kInt, 64}, {}), RowSpec({DTypeCode::kInt, 64}, {}), 2);
  constexpr int kQueries = 2000;
  std::atomic<bool> ends{false};
  const auto serve = [&](std::size_t replica) {
    Random random(replica + 1);
    for (;;) {
      Served served(scene, replica);
      served.start();
      std::uint64_t batch = 1;
      bool dies = false;
      while (!dies && !ends.load()) {
        if (served.peer.posted() < batch) {
          std::this_thread::yield();
          continue;
        }
        dies = random.below(40) == 0;
        if (dies) {
          if (random.below(2) == 0) served.peer.run(batch);
        } else {
          served.peer.answer(batch++);
        }
      }
      if (!dies) {
        served.stop();
        while (served.event.load() == LinkEvent::kNothing && served.peer.posted() >= batch) {
          served.peer.answer(batch++);
        }
        // What was posted while it stopped is answered, too.
        std::thread rest([&] {
          while (served.event.load() == LinkEvent::kNothing) {
            if (served.peer.posted() >= batch) served.peer.answer(batch++);
            std::this_thread::yield();
          }
        });
        served.join();
        rest.join();
        return;
      }
      served.death.signal();
      CHECK(served.join() == LinkEvent::kDied);
      static_cast<void>(served.driver->give_back(scene.clock.now_ns(), 1));
    }
  };
  std::thread first(serve, 0);
  std::thread second(serve, 1);
  std::vector<std::thread> askers;
  std::atomic<std::uint64_t> answered{0};
  std::atomic<std::uint64_t> crashed{0};
  for (int asker = 0; asker < 2; ++asker) {
    askers.emplace_back([&, asker] {
      for (int i = 0; i < kQueries; ++i) {
        const std::int64_t row = 2 * std::int64_t{i} + asker;
        Query* query = scene.ask({row, row + 100000});
        wait_for(scene, query);
        const auto answer = scene.take(query);
        for (std::size_t j = 0; j < 2; ++j) {
          if (answer.causes[j] == Cause::kNone) {
            CHECK_EQ(answer.outputs[j], 3 * (row + 100000 * static_cast<std::int64_t>(j)));
            answered.fetch_add(1);
          } else {
            CHECK(answer.causes[j] == Cause::kCrash);
            crashed.fetch_add(1);
          }
        }
      }
    });
  }
  for (std::thread& asker : askers) asker.join();
  ends.store(true);
  first.join();
  second.join();
  CHECK_EQ(answered.load() + crashed.load(), 2u * 2u * kQueries);
  CHECK(answered.load() > 3u * kQueries);
  CHECK_EQ(scene.deployment->outstanding(), 0);
  CHECK_EQ(scene.deployment->live_rows(), 0u);
}

}  // namespace

int main(int argc, char** argv) { return clipper::testing::run(argc, argv); }
