"""Rows of every kind reach the model and come back bit for bit, whatever way they were asked."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import clipper

DTYPES = [
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "longdouble", "complex64", "complex128", "bfloat16",
]  # fmt: skip


def same(a: Any, b: Any) -> bool:
    """Whether two rows are equal bit for bit, NaN and negative zero included."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, (bytes, str)):
        return type(a) is type(b) and a == b
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype == np.longdouble:  # its padding bits are nobody's
        return a.dtype == b.dtype and np.array_equal(a, b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@st.composite
def tensors(draw: st.DrawFn) -> clipper.Tensor:
    kind = draw(st.sampled_from(["array", "array", "array", "bytes", "text"]))
    if kind != "array":
        return clipper.Tensor(kind)
    if draw(st.sampled_from([False, False, False, False, True])):
        pytest.importorskip("ml_dtypes")
    shape: list[int | None] = draw(st.lists(st.integers(1, 4), max_size=3))
    if draw(st.booleans()):
        shape.insert(0, None)
    return clipper.Tensor(draw(st.sampled_from(DTYPES)), tuple(shape))


row_types = st.one_of(
    tensors(),
    st.dictionaries(st.sampled_from("abcdef"), tensors(), min_size=1, max_size=4),
)


def make_row(row_type: Any, rng: np.random.Generator) -> Any:
    if isinstance(row_type, dict):
        return {name: make_row(tensor, rng) for name, tensor in row_type.items()}
    length = int(rng.integers(0, 9))
    if row_type.kind == "text":
        return "".join(rng.choice(list("aß語🙂 \n\0"), length))
    if row_type.kind == "bytes":
        return rng.bytes(length)
    shape = tuple(length if extent is None else extent for extent in row_type.shape)
    if row_type.dtype == np.longdouble:
        return rng.standard_normal(shape).astype(np.longdouble)
    if row_type.dtype == bool:
        return np.asarray(rng.integers(0, 2, shape) > 0)
    count = int(np.prod(shape, dtype=int)) * row_type.dtype.itemsize
    return np.frombuffer(rng.bytes(count), row_type.dtype).reshape(shape)


def join(row_type: Any, rows: list[Any], as_ragged: bool) -> Any:
    """Several rows as predict_many takes them."""
    if isinstance(row_type, dict):
        return {
            name: join(row_type[name], [row[name] for row in rows], as_ragged) for name in row_type
        }
    if row_type.kind != "array":
        return rows
    if row_type.is_ragged:
        return clipper.Ragged.from_rows(rows) if as_ragged else rows
    return np.stack(rows)


def is_read_only(batch: Any) -> bool:
    if isinstance(batch, clipper.Ragged):
        batch = batch.values
    return not isinstance(batch, np.ndarray) or not batch.flags.writeable


def echo_of(row_type: Any) -> Callable[..., Any]:
    """A model that gives back what it gets."""
    if not isinstance(row_type, dict):

        def echo(batch: Any) -> Any:
            assert is_read_only(batch)
            return batch

        return echo

    def echo_all(**batches: Any) -> Any:
        assert all(is_read_only(batch) for batch in batches.values())
        return batches

    return echo_all


async def _ask_async(model: clipper.Model, rows: list[Any]) -> list[clipper.Prediction]:
    return await asyncio.gather(*(model.predict_async(row) for row in rows))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(row_type=row_types, seed=st.integers(0, 2**32 - 1), data=st.data())
def test_rows_of_any_kind_come_back_bit_for_bit(row_type: Any, seed: int, data: Any) -> None:
    rng = np.random.default_rng(seed)
    rows = [make_row(row_type, rng) for _ in range(data.draw(st.integers(1, 12)))]
    batching = data.draw(st.sampled_from(["deadline", clipper.Fixed(1), clipper.Fixed(3)]))
    buckets = ()
    flat = row_type.values() if isinstance(row_type, dict) else [row_type]
    if any(tensor.is_ragged for tensor in flat):
        buckets = data.draw(st.sampled_from([(), (3,), (2, 5)]))
    with clipper.Engine() as engine:
        model = engine.deploy(
            "echo", echo_of(row_type), input=row_type, output=row_type, batching=batching,
            length_buckets=buckets,
        )  # fmt: skip
        futures = [model.submit(row) for row in rows]
        many = model.predict_many(join(row_type, rows, data.draw(st.booleans())))
        awaited = asyncio.run(_ask_async(model, rows))
        for i, row in enumerate(rows):
            assert same(model.predict(row).output, row)
            assert same(futures[i].result().output, row)
            assert same(awaited[i].output, row)
            assert same(many[i].output, row)
        assert len(many) == len(rows)


def test_threads_get_their_own_rows_back(engine: clipper.Engine) -> None:
    import threading

    row_type = {
        "ids": clipper.Tensor("int64", (None,)),
        "text": clipper.Tensor("text"),
        "image": clipper.Tensor("uint8", (3, 5)),
    }
    model = engine.deploy("echo", echo_of(row_type), input=row_type, output=row_type)
    wrong: list[Any] = []

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        pick = random.Random(seed)
        for _ in range(150):
            rows = [make_row(row_type, rng) for _ in range(pick.randint(1, 5))]
            if pick.random() < 0.5:
                found = [future.result().output for future in [model.submit(r) for r in rows]]
            else:
                found = [p.output for p in model.predict_many(join(row_type, rows, True))]
            wrong.extend(
                (row, got) for row, got in zip(rows, found, strict=True) if not same(row, got)
            )

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert wrong == []


def test_large_rows_are_served_within_the_budget(engine: clipper.Engine) -> None:
    image = clipper.Tensor("uint8", (1024, 1024, 3))
    model = engine.deploy(
        "mean", lambda batch: batch.reshape(len(batch), -1).mean(axis=1), input=image,
        output=clipper.Tensor("float64"), memory="32MiB",
    )  # fmt: skip
    images = np.random.default_rng(0).integers(0, 255, (4, 1024, 1024, 3), dtype=np.uint8)
    found = model.predict_many(images)
    assert found.output.tolist() == [image.mean() for image in images]
    assert not found.is_default.any()

    blobs = engine.deploy(
        "sizes", lambda batch: np.array([len(blob) for blob in batch]),
        input=clipper.Tensor("bytes"), output=clipper.Tensor("int64"), memory="32MiB",
    )  # fmt: skip
    # Larger than any block: it gets one of its own.
    assert blobs.predict(bytes(20_000_000)).output == 20_000_000
    # Larger than the budget: refused, and the next is served.
    with pytest.raises(clipper.OverloadedError):
        blobs.predict(bytes(40_000_000))
    assert blobs.predict(b"abc").output == 3
    assert blobs.predict_many([bytes(n) for n in range(3000)]).output.tolist() == [*range(3000)]


def test_batches_that_are_kept_are_never_overwritten(engine: clipper.Engine) -> None:
    kept: list[tuple[clipper.Ragged, list[bytes]]] = []

    def keep(batch: clipper.Ragged) -> np.ndarray:
        kept.append((batch, [row.tobytes() for row in batch]))
        return batch.lengths

    model = engine.deploy(
        "keep", keep, input=clipper.Tensor("int32", (None, 2)), output=clipper.Tensor("int64"),
        memory="2MiB", warmup=False,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    for _ in range(200):
        rows = [rng.integers(0, 99, (rng.integers(0, 40), 2), dtype=np.int32) for _ in range(7)]
        found = model.predict_many(rows)
        assert found.output.tolist() == [len(row) for row in rows]
    for batch, contents in kept:
        assert [row.tobytes() for row in batch] == contents


def test_tensors_of_torch_come_in_through_dlpack(engine: clipper.Engine) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("ml_dtypes")
    model = engine.deploy("twice", lambda batch: batch * 2, warmup=np.zeros(3, np.float32))
    assert model.predict(torch.tensor([1.0, 2.0, 3.0])).output.tolist() == [2, 4, 6]
    assert model.predict_many(torch.ones(2, 3)).output.tolist() == [[2, 2, 2]] * 2
    with pytest.raises(TypeError, match="needs no gradient"):
        model.predict(torch.ones(3, requires_grad=True))
    brain = engine.deploy(
        "brain", lambda batch: batch.astype(np.float32),
        input=clipper.Tensor("bfloat16", (2,)), output=clipper.Tensor("float32", (2,)),
    )  # fmt: skip
    row = torch.tensor([1.5, -2.0], dtype=torch.bfloat16)
    assert brain.predict(row).output.tolist() == [1.5, -2.0]


def test_rows_of_like_length_are_batched_together(engine: clipper.Engine) -> None:
    import threading

    seen: list[list[int]] = []
    begun, go = threading.Event(), threading.Event()

    def spread(batch: clipper.Ragged) -> np.ndarray:
        if len(batch[0]) == 0:
            begun.set()
            go.wait(10)
        else:
            seen.append(sorted(batch.lengths.tolist()))
        return batch.lengths

    model = engine.deploy(
        "spread", spread, input=clipper.Tensor("int64", (None,)), output=clipper.Tensor("int64"),
        length_buckets=(4, 16), caller_runs=False, batching=clipper.Fixed(100),
    )  # fmt: skip
    blocker = model.submit(np.zeros(0, np.int64))
    assert begun.wait(10)
    lengths = [1, 20, 4, 16, 5, 30, 2]
    futures = [model.submit(np.zeros(n, np.int64)) for n in lengths]
    go.set()
    assert [future.result().output for future in futures] == lengths
    assert blocker.result().output == 0
    assert sorted(seen) == [[1, 2, 4], [5, 16], [20, 30]]


@pytest.mark.parametrize(
    ("tensor", "row", "says"),
    [
        (clipper.Tensor("text"), b"abc", "expects text: give a str"),
        (clipper.Tensor("bytes"), "abc", "expects bytes"),
        (clipper.Tensor("int64", (None,)), np.zeros((2, 2), np.int64), "of shape (length,)"),
        (clipper.Tensor("int64", (None,)), np.zeros(2), "expects int64"),
        ({"a": clipper.Tensor("int64")}, 3, "expected is a dict with 'a'"),
        ({"a": clipper.Tensor("int64")}, {"b": 3}, "expected are exactly ['a']"),
        ({"a": clipper.Tensor("int64", (2,))}, {"a": [1, 2, 3]}, "'a': the input has shape (3,)"),
    ],
)
def test_rows_of_another_kind_are_refused(
    engine: clipper.Engine, tensor: Any, row: Any, says: str
) -> None:
    output = clipper.Tensor("int64")
    model = engine.deploy("any", lambda *_, **__: None, input=tensor, output=output)
    for ask in (model.predict, model.submit):
        with pytest.raises((TypeError, ValueError)) as error:
            ask(row)
        assert says in str(error.value)


def test_names_must_have_equally_many_rows(engine: clipper.Engine) -> None:
    both = {"a": clipper.Tensor("int64"), "b": clipper.Tensor("text")}
    model = engine.deploy("both", lambda a, b: a, input=both, output=clipper.Tensor("int64"))
    assert model.predict_many({"a": [1, 2], "b": ["x", "y"]}).output.tolist() == [1, 2]
    with pytest.raises(ValueError, match="2 rows of 'a' and 1 of 'b'"):
        model.predict_many({"a": [1, 2], "b": ["x"]})


@pytest.mark.parametrize(
    ("output", "returned", "says"),
    [
        (clipper.Tensor("text"), ["a", 3], "row that is int"),
        (clipper.Tensor("text"), ["a"], "1 outputs for 2 inputs"),
        (clipper.Tensor("bytes"), None, "returned None"),
        (clipper.Tensor("int64", (None,)), [[1], [[2]]], "has shape (1, 1)"),
        ({"y": clipper.Tensor("int64")}, np.array([1, 2]), "expected a dict with exactly ['y']"),
        ({"y": clipper.Tensor("int64")}, {"y": np.array([1])}, "1 outputs for 2 inputs"),
    ],
)
def test_outputs_of_another_kind_fail_that_batch_only(
    engine: clipper.Engine, output: Any, returned: Any, says: str
) -> None:
    good = (
        {"y": np.array([1, 2])}
        if isinstance(output, dict)
        else [b"", b""] if output.kind == "bytes" else ["", ""] if output.kind == "text"
        else [[1], []]
    )  # fmt: skip
    answers = [returned, good]
    model = engine.deploy(
        "any", lambda batch: answers.pop(0), input=clipper.Tensor("int64"), output=output,
        batching=clipper.Fixed(2),
    )  # fmt: skip
    failed = model.predict_many([1, 2])
    assert [why and why.name for why in failed.why] == ["MODEL_ERROR"] * 2
    [text] = model.errors
    assert says in text
    assert not model.predict_many([1, 2]).is_default.any()


def test_rows_without_an_answer_hold_the_default(engine: clipper.Engine) -> None:
    both = {"label": clipper.Tensor("int64"), "tokens": clipper.Tensor("int64", (None,))}

    def fail_on_negative(batch: np.ndarray) -> Any:
        if (batch < 0).any():
            raise ValueError("negative")
        return {"label": batch, "tokens": [[n] * int(n) for n in batch]}

    engine.deploy(
        "picky", fail_on_negative, input=clipper.Tensor("int64"), output=both,
        batching=clipper.Fixed(1), caller_runs=True,
    )  # fmt: skip
    app = engine.create_application(
        "app", models=["picky"], slo=5.0, default={"label": -1, "tokens": [7]}
    )
    found = app.predict_many([2, -5, 0])
    assert found.output["label"].tolist() == [2, -1, 0]
    assert [row.tolist() for row in found.output["tokens"]] == [[2, 2], [7], []]
    assert found[1].output == {"label": -1, "tokens": [7]}


def test_votes_count_whole_rows(engine: clipper.Engine) -> None:
    for name, answer in (("a", "yes"), ("b", "no"), ("c", "yes")):
        engine.deploy(
            name, lambda batch, answer=answer: [answer] * len(batch),
            input=clipper.Tensor("text"), output=clipper.Tensor("text"),
        )  # fmt: skip
    vote = engine.create_application(
        "vote", models=["a", "b", "c"], slo=5.0, policy=clipper.MajorityVote()
    )
    found = vote.predict("well?")
    assert (found.output, round(found.confidence, 3)) == ("yes", 0.667)
    assert vote.predict_many(["well?", ""]).output == ["yes", "yes"]
