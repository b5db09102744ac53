"""Every batching strategy serves, by its class and by its shorthand."""

import threading

import numpy as np
import pytest

import clipper

STRATEGIES = [
    clipper.Fixed(8),
    clipper.Aimd(),
    clipper.Quantile(),
    clipper.Deadline(max_batch=64),
    "aimd",
    "quantile",
    "deadline",
]


@pytest.mark.parametrize("batching", STRATEGIES, ids=repr)
def test_every_strategy_answers_each_row_with_its_own_output(batching) -> None:
    with clipper.Engine() as engine:
        model = engine.deploy(
            "double",
            lambda batch: batch * 2,
            input=clipper.Tensor("float32", (3,)),
            output=clipper.Tensor("float32", (3,)),
            batching=batching,
        )
        failures: list[int] = []

        def ask(start: int) -> None:
            for i in range(start, start + 100):
                row = np.full(3, i, dtype=np.float32)
                if not np.array_equal(model.predict(row).output, row * 2):
                    failures.append(i)

        threads = [threading.Thread(target=ask, args=(1000 * t,)) for t in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []


def test_an_unknown_strategy_is_refused_with_those_there_are() -> None:
    with clipper.Engine() as engine, pytest.raises(ValueError, match="quantile"):
        engine.deploy("m", lambda batch: batch, warmup=[1.0], batching="quantil")
