"""Pipelines and cascades use the prediction caches of their models."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import clipper
from clipper import INPUT, Cascade, Pipeline, Tensor

LONG = 30.0  # seconds; more than anything here takes on a busy machine
Floats = NDArray[np.float32]


class Noting:
    """A function that notes every row it is run on."""

    def __init__(self, function: Any) -> None:
        self.function = function
        self.ran: list[Any] = []

    def __call__(self, rows: Any) -> Any:
        self.ran += [bytes(row) if isinstance(row, bytes) else row.tolist() for row in rows]
        return self.function(rows)


@pytest.fixture
def engine() -> Iterator[clipper.Engine]:
    with clipper.Engine() as made:
        yield made


def cache_of(engine: clipper.Engine, name: str) -> dict[str, Any]:
    counters: dict[str, Any] = engine.model(name).describe()["cache"]
    return counters


def decoding(engine: clipper.Engine) -> tuple[clipper.Application, Noting, Noting]:
    """Bytes are decoded, behind a cache, and then summed up, without one."""
    decode = Noting(lambda rows: np.stack([np.frombuffer(r, np.uint8) for r in rows]) / 1)
    total = Noting(lambda x: x.sum(axis=1))
    engine.deploy("decode", decode, input=Tensor("bytes"), output=Tensor("float64", (4,)),
                  warmup=bytes(4), cache=True)  # fmt: skip
    engine.deploy("total", total, input=Tensor("float64", (4,)), output=Tensor("float64"),
                  warmup=np.zeros(4))  # fmt: skip
    decode.ran.clear()
    total.ran.clear()
    application = engine.create_application(
        "app", models=["decode", "total"], slo=LONG,
        policy=Pipeline({"decode": INPUT, "total": "decode"}),
    )  # fmt: skip
    return application, decode, total


def test_a_cached_decoder_runs_once_for_repeated_files(engine: clipper.Engine) -> None:
    application, decode, total = decoding(engine)
    for _ in range(5):
        prediction = application.predict(b"\1\2\3\4")
        assert prediction.output == 10.0
        assert prediction.models == {"decode": 1, "total": 1}
    assert decode.ran == [b"\1\2\3\4"]
    assert len(total.ran) == 5
    assert cache_of(engine, "decode")["hits"] == 4


def test_rows_of_one_batch_of_files_are_decoded_once_each(engine: clipper.Engine) -> None:
    application, decode, _ = decoding(engine)
    files = [bytes([i % 3] * 4) for i in range(30)]
    outputs = application.predict_many(files).output
    np.testing.assert_array_equal(outputs, [4.0 * (i % 3) for i in range(30)])
    assert sorted(decode.ran) == [bytes([i] * 4) for i in range(3)]


def test_tasks_that_ask_for_the_same_file_at_once_share_its_decoding(
    engine: clipper.Engine,
) -> None:
    application, decode, _ = decoding(engine)

    async def ask() -> list[float]:
        asked = [application.predict_async(bytes([i % 2] * 4)) for i in range(20)]
        return [float(prediction.output) for prediction in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == [4.0 * (i % 2) for i in range(20)]
    assert sorted(decode.ran) == [bytes(4), bytes([1] * 4)]


def test_who_bypasses_caches_is_decoded_anew(engine: clipper.Engine) -> None:
    application, decode, _ = decoding(engine)
    for _ in range(3):
        assert application.predict(bytes(4), bypass_cache=True).output == 0.0
    assert len(decode.ran) == 3
    assert cache_of(engine, "decode")["entries"] == 0


def test_a_decoder_that_fails_is_asked_again(engine: clipper.Engine) -> None:
    application, decode, total = decoding(engine)
    working = decode.function

    def broken(rows: Any) -> Any:
        raise ValueError("no such format")

    decode.function = broken
    for _ in range(2):
        with pytest.raises(clipper.ModelError):
            application.predict(bytes(4))
    decode.function = working
    assert application.predict(bytes(4)).output == 0.0
    assert len(decode.ran) == 3
    assert len(total.ran) == 1


def test_a_new_version_of_a_stage_knows_nothing_of_the_former_one(engine: clipper.Engine) -> None:
    application, _, _ = decoding(engine)
    assert application.predict(b"\1\2\3\4").output == 10.0
    engine.deploy("decode", lambda rows: np.ones((len(rows), 4)), input=Tensor("bytes"),
                  output=Tensor("float64", (4,)), warmup=bytes(4), cache=True)  # fmt: skip
    assert application.predict(b"\1\2\3\4").output == 4.0


def test_the_small_model_of_a_cascade_is_cached_and_the_large_one_still_asked(
    engine: clipper.Engine,
) -> None:
    small = Noting(lambda x: np.concatenate([x, 1 - x], axis=1))
    large = Noting(lambda x: np.concatenate([1 - x, x], axis=1))
    for name, function, options in (("small", small, {"cache": True}), ("large", large, {})):
        engine.deploy(name, function, input=Tensor("float32", (1,)),
                      output=Tensor("float32", (2,)), warmup=np.ones(1, np.float32),
                      **options)  # fmt: skip
        function.ran.clear()
    application = engine.create_application(
        "app", models=["small", "large"], policy=Cascade(0.9), slo=LONG
    )
    unsure = np.array([0.25], np.float32)
    for _ in range(3):
        prediction = application.predict(unsure)
        np.testing.assert_array_equal(prediction.output, np.float32([0.75, 0.25]))
        assert prediction.models == {"small": 1, "large": 1}
    sure = np.array([1.0], np.float32)
    for _ in range(3):
        assert application.predict(sure).models == {"small": 1}
    # The large model was given what was asked, though the small one was not run for it.
    assert large.ran == [[0.25]] * 3
    assert small.ran == [[0.25], [1.0]]


def test_a_query_that_runs_out_of_time_behind_a_hit_leaves_nothing(engine: clipper.Engine) -> None:
    application, decode, _ = decoding(engine)
    assert application.predict(bytes(4)).output == 0.0
    with pytest.raises((clipper.DeadlineExceededError, clipper.OverloadedError)):
        application.predict(bytes(4), deadline=1e-6)
    assert application.predict(bytes(4)).output == 0.0
    assert len(decode.ran) == 1
    for name in ("decode", "total"):
        versions = engine.describe()["models"][name]["versions"].values()
        assert [each["outstanding_rows"] for each in versions] == [0]
