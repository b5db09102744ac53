"""Pipelines: several models within one query and one deadline, each taking what others made."""

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import clipper
from clipper import INPUT, Cause, Pipeline, Source, Tensor, first, when

LONG = 30.0  # seconds; more than anything here takes on a busy machine
Floats = NDArray[np.float32]

NUMBER = Tensor("float32")


@pytest.fixture
def engine() -> Iterator[clipper.Engine]:
    with clipper.Engine() as made:
        yield made


def deploy_numbers(engine: clipper.Engine, **functions: Any) -> None:
    """Deploy functions of one number."""
    for name, function in functions.items():
        engine.deploy(name, function, input=NUMBER, output=NUMBER, warmup=1.0)


def assert_nothing_is_left(engine: clipper.Engine) -> None:
    """Every row that entered a model has left it."""
    until = time.monotonic() + LONG
    while time.monotonic() < until:
        models = engine.describe()["models"].values()
        left = [each["outstanding_rows"] for m in models for each in m["versions"].values()]
        if not any(left):
            return
        time.sleep(0.001)
    pytest.fail(f"rows are still outstanding: {left}")


def chain(engine: clipper.Engine, **options: Any) -> clipper.Application:
    deploy_numbers(engine, one=lambda x: x + 1, two=lambda x: 2 * x, three=lambda x: x - 3)
    policy = Pipeline({"one": INPUT, "two": "one", "three": "two"})
    return engine.create_application(
        "chain", models=["three", "one", "two"], policy=policy, slo=options.pop("slo", LONG),
        **options,
    )  # fmt: skip


# ---- digits: bytes in, a label out --------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> Iterator[tuple[clipper.Application, list[bytes], list[str], list[str]]]:
    """The application, images as bytes, what scikit-learn says of them alone, and the truth."""
    images, truth = load_digits(return_X_y=True)
    images = images.astype(np.float32)
    known = LogisticRegression(max_iter=300).fit(images[:1000] / 16, truth[:1000])
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]

    def decode(files: list[bytes]) -> Floats:
        return np.stack([np.frombuffer(file, np.uint8) for file in files]).astype(np.float32) / 16

    with clipper.Engine() as engine:
        example = bytes(64)
        engine.deploy(
            "decode", decode, input=Tensor("bytes"), output=Tensor("float32", (64,)),
            warmup=example,
        )  # fmt: skip
        engine.deploy(
            "model", lambda x: known.predict_proba(x).astype(np.float32),
            input=Tensor("float32", (64,)), output=Tensor("float32", (10,)),
            warmup=np.zeros(64, np.float32),
        )  # fmt: skip
        engine.deploy(
            "labels", lambda p: [names[i] for i in p.argmax(axis=1)],
            input=Tensor("float32", (10,)), output=Tensor("text"),
            warmup=np.zeros(10, np.float32),
        )  # fmt: skip
        application = engine.create_application(
            "digits", models=["decode", "model", "labels"], slo=LONG,
            policy=Pipeline({"decode": INPUT, "model": "decode", "labels": "model"}),
        )  # fmt: skip
        held_out = images[1000:1200]
        files = [image.astype(np.uint8).tobytes() for image in held_out]
        alone = [names[i] for i in known.predict(held_out / 16)]
        yield application, files, alone, [names[i] for i in truth[1000:1200]]


def test_images_in_bytes_come_out_as_the_words_that_the_models_alone_would_say(digits: Any) -> None:
    application, files, alone, truth = digits
    said = [application.predict(file).output for file in files]
    assert said == alone
    assert np.mean(np.array(said) == np.array(truth)) > 0.85


def test_many_images_come_out_in_their_order(digits: Any) -> None:
    application, files, alone, _ = digits
    predictions = application.predict_many(files)
    assert list(predictions.output) == alone
    assert not predictions.is_default.any()
    assert predictions[7].models == {"decode": 1, "model": 1, "labels": 1}


def test_event_loops_and_futures_get_the_same_words(digits: Any) -> None:
    application, files, alone, _ = digits

    async def ask_all() -> list[Any]:
        return await asyncio.gather(*[application.predict_async(file) for file in files])

    assert [p.output for p in asyncio.run(ask_all())] == alone
    futures = [application.submit(file) for file in files]
    assert [future.result(LONG).output for future in futures] == alone


def test_threads_at_once_get_each_their_own(digits: Any) -> None:
    application, files, alone, _ = digits
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda file: application.predict(file).output, files)) == alone


# ---- the way through ----------------------------------------------------------------------------


def test_a_chain_says_which_stages_ran_and_is_sure(engine: clipper.Engine) -> None:
    prediction = chain(engine).predict(4.0)
    assert prediction.output == 7.0
    assert prediction.models == {"one": 1, "two": 1, "three": 1}
    assert prediction.missing == {}
    assert prediction.confidence == 1.0
    assert_nothing_is_left(engine)


def test_whoever_waits_leads_one_stage_after_another(engine: clipper.Engine) -> None:
    application = chain(engine)
    threads = {threading.get_ident()}
    seen = set()

    def here(x: Floats) -> Floats:
        seen.add(threading.get_ident())
        return x

    engine.deploy("three", here, version=2, input=NUMBER, output=NUMBER, warmup=1.0)
    seen.clear()
    for _ in range(50):
        assert application.predict(4.0).output == 10.0
    assert seen == threads


def test_an_event_loop_leads_the_stages_of_a_turn_as_one_batch_each(engine: clipper.Engine) -> None:
    application = chain(engine)
    sizes: list[int] = []

    def counted(x: Floats) -> Floats:
        sizes.append(len(x))
        return x

    engine.deploy("three", counted, version=2, input=NUMBER, output=NUMBER, warmup=1.0)
    sizes.clear()

    async def ask() -> list[float]:
        asked = [application.predict_async(float(i)) for i in range(10)]
        return [prediction.output for prediction in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == [2.0 * (i + 1) for i in range(10)]
    assert sizes == [10]


def test_a_condition_chooses_the_branch_of_each_row(engine: clipper.Engine) -> None:
    deploy_numbers(
        engine, score=lambda x: x / 10, high=lambda x: x + 100, low=lambda x: -x,
        after=lambda x: 2 * x,
    )  # fmt: skip
    policy = Pipeline({
        "score": INPUT,
        "high": when("score", ">=", 0.5).then(INPUT),
        "low": when("score", "<", 0.5).then(INPUT),
        "after": first("high", "low"),
    })  # fmt: skip
    application = engine.create_application(
        "branches", models=["score", "high", "low", "after"], policy=policy, slo=LONG
    )
    high, low = application.predict(7.0), application.predict(3.0)
    assert (high.output, low.output) == (214.0, -6.0)
    assert high.models == {"score": 1, "high": 1, "after": 1}
    assert low.models == {"score": 1, "low": 1, "after": 1}
    assert high.missing == low.missing == {}
    rows = np.arange(10, dtype=np.float32)
    many = application.predict_many(rows)
    np.testing.assert_array_equal(many.output, np.where(rows >= 5, 2 * (rows + 100), -2 * rows))
    assert many[9].models == high.models
    assert many[0].models == low.models
    assert_nothing_is_left(engine)


def test_a_diamond_joins_what_both_sides_made_and_the_input_itself(engine: clipper.Engine) -> None:
    deploy_numbers(engine, left=lambda x: x + 1, right=lambda x: 2 * x)
    engine.deploy(
        "join", lambda a, b, c: 100 * a + 10 * b + c,
        input={"a": NUMBER, "b": NUMBER, "c": NUMBER}, output=NUMBER,
        warmup={"a": 0.0, "b": 0.0, "c": 0.0},
    )  # fmt: skip
    policy = Pipeline({
        "left": INPUT, "right": INPUT, "join": {"a": "left", "b": "right", "c": INPUT},
    })  # fmt: skip
    application = engine.create_application(
        "diamond", models=["left", "right", "join"], policy=policy, slo=LONG
    )
    assert application.predict(3.0).output == 463.0
    rows = np.arange(300, dtype=np.float32)
    many = application.predict_many(rows)
    np.testing.assert_array_equal(many.output, 100 * (rows + 1) + 20 * rows + rows)

    async def ask() -> list[float]:
        asked = [application.predict_async(float(i)) for i in range(20)]
        return [prediction.output for prediction in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == [100.0 * (i + 1) + 20 * i + i for i in range(20)]
    assert_nothing_is_left(engine)


def test_stages_take_single_tensors_of_what_others_make(engine: clipper.Engine) -> None:
    engine.deploy(
        "detector", lambda image, word: {"score": image.sum(axis=1), "said": word},
        input={"image": Tensor("float32", (3,)), "word": Tensor("text")},
        output={"score": NUMBER, "said": Tensor("text")},
        warmup={"image": np.zeros(3, np.float32), "word": "x"},
    )  # fmt: skip
    engine.deploy(
        "speak", lambda text, number: [f"{t} {n:g}" for t, n in zip(text, number, strict=True)],
        input={"text": Tensor("text"), "number": NUMBER}, output=Tensor("text"),
        warmup={"text": "x", "number": 0.0},
    )  # fmt: skip
    engine.deploy(
        "shout", lambda text: [each.upper() for each in text],
        input=Tensor("text"), output=Tensor("text"), warmup="x",
    )  # fmt: skip
    policy = Pipeline({
        "detector": INPUT,
        "speak": {"text": INPUT["word"], "number": Source("detector", "score")},
        "shout": when("detector", ">", 5, of="score").then("speak"),
    }, answer=["shout", "speak"])  # fmt: skip
    application = engine.create_application(
        "app", models=["detector", "speak", "shout"], policy=policy, slo=LONG
    )
    ones = np.ones(3, np.float32)
    assert application.predict({"image": ones, "word": "few"}).output == "few 3"
    assert application.predict({"image": 3 * ones, "word": "many"}).output == "MANY 9"
    rows = {"image": np.stack([ones, 3 * ones, ones]), "word": ["a", "bc", ""]}
    assert list(application.predict_many(rows).output) == ["a 3", "BC 9", " 3"]
    assert_nothing_is_left(engine)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (when("said", "==", "de"), ["de"]),
        (when("said", "in", ["de", "fr"]), ["de", "fr"]),
        (when("said", "!=", "de"), ["fr", "", "deutsch"]),
        (when("said", "not in", ["de", ""]), ["fr", "deutsch"]),
        (when("said", "!=", "de") & when("said", "!=", "fr"), ["", "deutsch"]),
    ],
)
def test_text_is_compared_as_a_label(
    engine: clipper.Engine, condition: Any, expected: list[str]
) -> None:
    for name in ("said", "told"):
        engine.deploy(name, list, input=Tensor("text"), output=Tensor("text"), warmup="x")
    application = engine.create_application(
        "app", models=["said", "told"], slo=LONG, default=None,
        policy=Pipeline({"said": INPUT, "told": condition}),
    )  # fmt: skip
    words = ["de", "fr", "", "deutsch"]
    predictions = application.predict_many(words)
    assert [word for word, p in zip(words, predictions, strict=True) if not p.is_default] == (
        expected
    )
    assert {p.why for p in predictions if p.is_default} <= {Cause.LOW_CONFIDENCE}


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "bool", "float16", "float64"])
def test_numbers_of_every_type_can_decide(engine: clipper.Engine, dtype: str) -> None:
    pair = Tensor(dtype, (2,))
    for name in ("looked", "ran"):
        engine.deploy(name, lambda x: x, input=pair, output=pair, warmup=np.zeros(2, dtype))
    models = ["looked", "ran"]
    largest = engine.create_application(
        "largest", models=models, slo=LONG, default=None,
        policy=Pipeline({"looked": INPUT, "ran": when("looked", ">=", 1)}),
    )  # fmt: skip
    second = engine.create_application(
        "second", models=models, slo=LONG, default=None,
        policy=Pipeline({"looked": INPUT, "ran": when("looked", "==", 1, at=1)}),
    )  # fmt: skip
    rows = np.array([[0, 0], [1, 0], [0, 1]], dtype)
    assert largest.predict_many(rows).is_default.tolist() == [True, False, False]
    assert second.predict_many(rows).is_default.tolist() == [True, True, False]


# ---- when something goes wrong ------------------------------------------------------------------


def raising(x: Floats) -> Floats:
    if (x > 1).any():
        raise RuntimeError("out of paper")
    return x


def test_a_stage_that_raises_ends_the_query_with_its_error(engine: clipper.Engine) -> None:
    application = chain(engine)
    engine.deploy("two", raising, version=2, input=NUMBER, output=NUMBER, warmup=1.0)
    with pytest.raises(clipper.ModelError, match=r"missing: two \(.*out of paper") as caught:
        application.predict(4.0)
    assert caught.value.prediction.models == {"one": 1}
    assert caught.value.prediction.missing == {"two": Cause.MODEL_ERROR}
    assert_nothing_is_left(engine)


def test_a_stage_that_raises_gives_the_default_and_other_rows_their_answers(
    engine: clipper.Engine,
) -> None:
    application = chain(engine, default=-1.0)
    engine.deploy(
        "two", raising, version=2, input=NUMBER, output=NUMBER, warmup=1.0,
        batching=clipper.Fixed(1),
    )  # fmt: skip
    predictions = application.predict_many(np.array([-5, 4, -7], np.float32))
    assert predictions.output.tolist() == [-7.0, -1.0, -9.0]
    assert predictions.why == [None, Cause.MODEL_ERROR, None]
    assert predictions[1].missing == {"two": Cause.MODEL_ERROR}
    assert predictions[0].missing == {}


def test_a_stage_that_is_gone_ends_the_query(engine: clipper.Engine) -> None:
    application = chain(engine, default=None)
    engine.undeploy("two")
    prediction = application.predict(4.0)
    assert (prediction.is_default, prediction.why) == (True, Cause.NO_REPLICA)
    assert prediction.models == {"one": 1}


def test_a_deadline_in_the_middle_starts_nothing_more(engine: clipper.Engine) -> None:
    application = chain(engine, default=None)
    ran = threading.Event()
    go_on = threading.Event()

    def hang(x: Floats) -> Floats:
        if x[0] != 1.0:
            ran.set()
            go_on.wait(LONG)
        return x

    engine.deploy("two", hang, version=2, input=NUMBER, output=NUMBER, warmup=1.0,
                  caller_runs=False)  # fmt: skip
    before = engine.describe()["models"]["three"]["versions"]["1"]["arrived_rows"]
    prediction = application.predict(4.0, deadline=0.2)
    assert ran.is_set()
    assert prediction.why is Cause.DEADLINE
    assert prediction.models == {"one": 1}
    assert prediction.missing == {"two": Cause.DEADLINE}
    go_on.set()
    assert_nothing_is_left(engine)
    assert engine.describe()["models"]["three"]["versions"]["1"]["arrived_rows"] == before


def test_a_task_that_is_cancelled_withdraws_its_query_wherever_it_is(
    engine: clipper.Engine,
) -> None:
    application = chain(engine)
    go_on = threading.Event()

    def hang(x: Floats) -> Floats:
        if x[0] != 1.0:
            go_on.wait(LONG)
        return x

    engine.deploy("two", hang, version=2, input=NUMBER, output=NUMBER, warmup=1.0,
                  caller_runs=False)  # fmt: skip

    async def ask() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(application.predict_async(4.0), 0.1)

    asyncio.run(ask())
    go_on.set()
    assert_nothing_is_left(engine)


def test_a_model_that_asks_a_pipeline_that_it_is_part_of_is_told_so(engine: clipper.Engine) -> None:
    application = chain(engine)

    def nested(x: Floats) -> Floats:
        return x if x[0] == 1.0 else np.full_like(x, application.predict(1.0).output)

    engine.deploy("two", nested, version=2, input=NUMBER, output=NUMBER, warmup=1.0)
    with pytest.raises(clipper.ModelError, match="asked itself"):
        application.predict(4.0)


def test_no_way_to_an_answer_is_low_confidence(engine: clipper.Engine) -> None:
    deploy_numbers(engine, score=lambda x: x, ran=lambda x: x)
    application = engine.create_application(
        "app", models=["score", "ran"], slo=LONG,
        policy=Pipeline({"score": INPUT, "ran": when("score", ">", 0)}),
    )  # fmt: skip
    assert application.predict(1.0).output == 1.0
    with pytest.raises(clipper.LowConfidenceError, match="no condition led to an answer"):
        application.predict(-1.0)


def test_versions_switch_under_a_pipeline_and_no_query_is_lost(engine: clipper.Engine) -> None:
    application = chain(engine)
    stop = threading.Event()
    outputs: list[float] = []

    def ask() -> None:
        while not stop.is_set():
            outputs.append(application.predict(4.0).output)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for version in range(2, 6):
        engine.deploy("two", lambda x: 2 * x, version=version, input=NUMBER, output=NUMBER,
                      warmup=1.0)  # fmt: skip
    engine.model("two").rollback()
    stop.set()
    for thread in threads:
        thread.join(LONG)
    assert set(outputs) == {7.0}
    assert_nothing_is_left(engine)
