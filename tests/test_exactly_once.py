"""Random queries from several threads while models fail, keep batches and are redeployed."""

import os
import random
import threading
import time
from collections import Counter

import numpy as np
import pytest

import clipper

#: The full run is a million: CLIPPER_STRESS_QUERIES=1000000 pytest tests/test_exactly_once.py
QUERIES = int(os.environ.get("CLIPPER_STRESS_QUERIES", "40000"))
THREADS = 4
ALLOWED = (
    clipper.DeadlineExceededError,
    clipper.OverloadedError,
    clipper.ModelError,
    clipper.NoReplicaError,
)


class Moody:
    """Answers 3x + 1; now and then it fails, dawdles, or keeps its batch."""

    def __init__(self, seed: int) -> None:
        self.is_awake = False  # even-tempered while it is warmed up
        self._random = random.Random(seed)
        self._kept: list[tuple[np.ndarray, np.ndarray]] = []

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        mood = self._random.random() if self.is_awake else 0.5
        if mood < 0.01:
            raise RuntimeError("in a mood")
        if mood < 0.012:
            time.sleep(0.005)
        if mood > 0.99:
            self._kept = [*self._kept[-50:], (batch, batch.copy())]
        return 3 * batch[:, 0] + 1

    def kept_batches_are_intact(self) -> bool:
        return all(np.array_equal(view, copy) for view, copy in self._kept)


class Asker(threading.Thread):
    """Asks in every way, and checks that what comes back is its own answer, once."""

    def __init__(self, model: clipper.Model, seed: int, queries: int) -> None:
        super().__init__(daemon=True)
        self._model = model
        self._random = random.Random(seed)
        self._left = queries
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.callbacks = 0
        self.callbacks_run: list[int] = []

    def run(self) -> None:
        while self._left > 0:
            way = self._random.choice((self._one, self._many, self._future, self._abandoned))
            try:
                way()
            except ALLOWED as error:
                self.outcomes[type(error).__name__] += 1
            except Exception as error:
                self.wrong.append(repr(error))
                return

    def _input(self) -> np.ndarray:
        return np.array([self._random.randrange(1 << 40), 7], np.int64)

    def _deadline(self) -> float | None:
        return self._random.choice((None, None, 0.1, 0.01, 0.001, 0.0001))

    def _check(self, row: np.ndarray, output: int) -> None:
        if output != 3 * row[0] + 1:
            self.wrong.append(f"{row[0]} was answered {output}")
        self.outcomes["answered"] += 1

    def _one(self) -> None:
        self._left -= 1
        row = self._input()
        self._check(row, self._model.predict(row, deadline=self._deadline()).output)

    def _many(self) -> None:
        rows = np.stack([self._input() for _ in range(self._random.randint(1, 9))])
        self._left -= len(rows)
        answers = self._model.predict_many(rows, deadline=self._deadline())
        for row, output, why in zip(rows, answers.output, answers.why, strict=True):
            if why is None:
                self._check(row, output)
            else:
                self.outcomes[why.name] += 1

    def _future(self) -> None:
        rows = [self._input() for _ in range(self._random.randint(1, 9))]
        self._left -= len(rows)
        futures = [self._model.submit(row, deadline=self._deadline()) for row in rows]
        if self._random.random() < 0.3:
            number = self.callbacks
            self.callbacks += 1
            futures[0].add_done_callback(lambda _: self.callbacks_run.append(number))
        for row, future in zip(rows, futures, strict=True):
            error = future.exception()
            if error is None:
                self._check(row, future.result().output)
            else:
                self.outcomes[type(error).__name__] += 1

    def _abandoned(self) -> None:
        self._left -= 1
        future = self._model.submit(self._input(), deadline=self._deadline())
        if self._random.random() < 0.5:
            future.cancel()
        self.outcomes["abandoned"] += 1


@pytest.mark.parametrize("seed", [1])
def test_each_query_is_answered_exactly_once_with_its_own_answer(seed: int) -> None:
    engine = clipper.Engine()
    moods = [Moody(seed)]
    model = engine.deploy("moody", moods[0], warmup=np.zeros(2, np.int64))
    moods[0].is_awake = True
    askers = [Asker(model, seed * 100 + i, QUERIES // THREADS) for i in range(THREADS)]
    for asker in askers:
        asker.start()
    while any(asker.is_alive() for asker in askers):
        time.sleep(0.3)
        moods.append(Moody(seed + len(moods)))
        engine.deploy("moody", moods[-1], warmup=np.zeros(2, np.int64))
        moods[-1].is_awake = True
    for asker in askers:
        asker.join(60)
        assert asker.wrong == [], f"seed {seed}"
    assert all(mood.kept_batches_are_intact() for mood in moods)
    until = time.monotonic() + 10
    while time.monotonic() < until and any(
        len(asker.callbacks_run) < asker.callbacks for asker in askers
    ):
        time.sleep(0.01)
    for asker in askers:
        assert sorted(asker.callbacks_run) == list(range(asker.callbacks)), f"seed {seed}"
    while time.monotonic() < until and _outstanding(model):
        time.sleep(0.01)
    assert _outstanding(model) == 0
    total = sum(sum(asker.outcomes.values()) for asker in askers)
    statistics = model.statistics()
    assert statistics["rows"] == total, f"seed {seed}: asked and counted"
    engine.close()


def _outstanding(model: clipper.Model) -> int:
    versions = model.describe()["versions"].values()
    return sum(version["outstanding_rows"] for version in versions)
