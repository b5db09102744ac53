"""Two inputs share an answer of the cache only if they are the same, byte by byte."""

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import clipper

ROWS = hnp.arrays(
    np.float32, 3, elements=st.sampled_from([0.0, -0.0, 1.0, np.nan, np.inf, 1e-45, 2.0])
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(ROWS, min_size=1, max_size=12))
def test_inputs_share_an_answer_only_if_all_their_bytes_agree(
    engine: clipper.Engine, rows: list[np.ndarray]
) -> None:
    ran: list[bytes] = []

    def echo(batch: np.ndarray) -> np.ndarray:
        ran.extend(row.tobytes() for row in batch)
        return batch.copy()

    row_type = clipper.Tensor("float32", (3,))
    model = engine.deploy("echo", echo, input=row_type, output=row_type, cache=True)
    for row in rows:
        assert model.predict(row).output.tobytes() == row.tobytes()
    assert model.predict_many(np.stack(rows)).output.tobytes() == np.stack(rows).tobytes()
    assert sorted(ran) == sorted({row.tobytes() for row in rows})


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.tuples(st.text("ab", max_size=4), st.lists(st.sampled_from([0, 1]), max_size=3)),
        min_size=1,
        max_size=12,
    )
)
def test_ragged_inputs_share_an_answer_only_if_their_lengths_agree_too(
    engine: clipper.Engine, rows: list[tuple[str, list[int]]]
) -> None:
    ran: list[str] = []

    def describe(text: list[str], numbers: clipper.Ragged) -> list[str]:
        made = [f"{one} {many.tolist()}" for one, many in zip(text, numbers, strict=True)]
        ran.extend(made)
        return made

    model = engine.deploy(
        "describe", describe, cache=True, output=clipper.Tensor("text"),
        input={"text": clipper.Tensor("text"), "numbers": clipper.Tensor("uint8", (None,))},
    )  # fmt: skip
    expected = [f"{text} {numbers}" for text, numbers in rows]
    for (text, numbers), answer in zip(rows, expected, strict=True):
        row = {"text": text, "numbers": np.array(numbers, np.uint8)}
        assert model.predict(row).output == answer
    assert sorted(ran) == sorted(set(expected))


def test_the_same_bytes_of_another_dtype_are_another_input(engine: clipper.Engine) -> None:
    for dtype in ("int32", "float32"):
        row_type = clipper.Tensor(dtype, (2,))
        engine.deploy(dtype, lambda batch: batch * 2, input=row_type, output=row_type, cache=True)
    ones = np.ones(2, np.float32)
    assert engine.model("float32").predict(ones).output.tolist() == [2.0, 2.0]
    assert (
        engine.model("int32").predict(ones.view(np.int32)).output.tolist()
        == [2 * int(ones.view(np.int32)[0])] * 2
    )
