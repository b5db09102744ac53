"""TorchModel with several inputs, several outputs and ragged inputs, alone and in the engine."""

import pickle
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import nn

import clipper
from clipper import ModelAdapter, Ragged, Tensor
from clipper_adapters import Pad, TorchModel

WORDS = Tensor("int64", (None,))
PAIR = {"left": Tensor("float32", (3,)), "right": Tensor("float32", (4,))}


class Bilinear(nn.Module):
    """Two inputs by keyword, two outputs by name."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.form = nn.Bilinear(3, 4, 5)

    def forward(self, left, right):
        scores = self.form(left, right)
        return {"scores": scores, "best": scores.argmax(1)}


class Bag(nn.Module):
    """The mean of the embeddings of real tokens; and each token's own."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(50, 6)

    def forward(self, tokens, real):
        each = self.table(tokens)
        weights = real.to(each.dtype)[:, :, None]
        return {"mean": (each * weights).sum(1) / weights.sum(1).clamp(min=1), "each": each}


class Spy(nn.Module):
    """Keeps what it is given; returns the sum of each row's real tokens."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, tokens, mask):
        self.seen.append((tokens.clone(), mask.clone()))
        return (tokens * mask).sum(1)


def rows_of(*shape, seed=0):
    rows = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    rows.flags.writeable = False
    return rows


def tokens_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 50, n) for n in lengths]


def bare(module, *arrays, **named):
    with torch.inference_mode():
        return module(
            *[torch.from_numpy(array.copy()) for array in arrays],
            **{name: torch.from_numpy(array.copy()) for name, array in named.items()},
        )


def bag(**options):
    pad = Pad(mask="real", **{"buckets": (4, 8), **options})
    return TorchModel(Bag(), input=WORDS, pad=pad)


def test_several_inputs_come_as_keywords_and_several_outputs_go_by_name():
    model = TorchModel(Bilinear(), input=PAIR)
    assert isinstance(model, ModelAdapter)
    assert model.output == {"scores": Tensor("float32", (5,)), "best": Tensor("int64")}
    run = model.load("cpu")
    for n in (1, 2, 7):
        left, right = rows_of(n, 3), rows_of(n, 4)
        found = run(left=left, right=right)
        for name, tensor in bare(Bilinear(), left=left, right=right).items():
            np.testing.assert_array_equal(found[name], tensor.numpy())


def test_outputs_chooses_among_named_ones():
    left, right = rows_of(2, 3), rows_of(2, 4)
    expected = bare(Bilinear(), left=left, right=right)
    one = TorchModel(Bilinear(), input=PAIR, outputs="best")
    assert one.output == Tensor("int64")
    np.testing.assert_array_equal(one.load("cpu")(left=left, right=right), expected["best"])
    some = TorchModel(Bilinear(), input=PAIR, outputs=["scores"])
    assert list(some.load("cpu")(left=left, right=right)) == ["scores"]
    with pytest.raises(ValueError, match=r"no output 'worst'.*it has scores, best.*outputs="):
        TorchModel(Bilinear(), input=PAIR, outputs="worst")


def test_the_parts_of_a_tuple_are_named_by_the_caller():
    lstm = nn.LSTM(3, 4, batch_first=True)
    with pytest.raises(TypeError, match=r"LSTM returned a tuple of 2.*outputs= with a name for ea"):
        TorchModel(lstm, input=Tensor("float32", (5, 3)))
    with pytest.raises(ValueError, match=r"returned 2 outputs, but outputs=.* names 1"):
        TorchModel(lstm, input=Tensor("float32", (5, 3)), outputs=["states"])
    model = TorchModel(lstm, input=Tensor("float32", (5, 3)), outputs=["states", None])
    assert model.output == {"states": Tensor("float32", (5, 4))}
    rows = rows_of(2, 5, 3)
    for _ in range(2):
        found = model.load("cpu")(rows)
        np.testing.assert_array_equal(found["states"], bare(lstm, rows)[0])


def test_a_named_tuple_names_its_own_parts():
    Both = namedtuple("Both", "plus minus")

    class Signs(nn.Module):
        def forward(self, x):
            return Both(x + 1, x - 1)

    model = TorchModel(Signs(), input=Tensor("float32", (3,)))
    assert list(model.output) == ["plus", "minus"]
    rows = rows_of(2, 3)
    run = model.load("cpu")
    for _ in range(2):
        np.testing.assert_array_equal(run(rows)["minus"], rows - 1)


def test_an_output_that_is_no_tensor_is_named():
    class Half(nn.Module):
        def forward(self, x):
            return {"y": x + 1, "state": None}

    with pytest.raises(ValueError, match="a NoneType as its output 'state'"):
        TorchModel(Half(), input=Tensor("float32", (3,)))
    chosen = TorchModel(Half(), input=Tensor("float32", (3,)), outputs="y")
    assert chosen.output == Tensor("float32", (3,))


def test_an_output_of_brain_floats_is_refused_with_advice():
    class Brain(nn.Module):
        def forward(self, x):
            return x.bfloat16()

    with pytest.raises(TypeError, match=r"returned bfloat16, which NumPy lacks: let it return"):
        TorchModel(Brain(), input=Tensor("float32", (3,)))


def test_a_module_of_several_inputs_can_neither_write_to_them_nor_return_them():
    class Greedy(nn.Module):
        def forward(self, left, right):
            left += 1
            return {"left": left, "right": right}

    run = TorchModel(Greedy(), input=PAIR).load("cpu")
    left, right = rows_of(2, 3), rows_of(2, 4)
    before = left.copy()
    for _ in range(3):
        found = run(left=left, right=right)
        np.testing.assert_array_equal(found["left"], before + 1)
        np.testing.assert_array_equal(left, before)
        assert not np.shares_memory(found["right"], right)


@pytest.mark.parametrize(
    ("lengths", "bucket"), [([1, 4], 4), ([0, 0], 4), ([5], 8), ([0, 3, 8, 2], 8), ([4] * 5, 4)]
)
def test_ragged_rows_are_padded_to_the_smallest_bucket_that_holds_them(lengths, bucket):
    spy = Spy()
    model = TorchModel(spy, input=WORDS, pad=Pad(value=7, buckets=(4, 8), mask="mask"))
    assert model.length_buckets == (4, 8)
    rows = tokens_of(lengths)
    found = model.load("cpu")(Ragged.from_rows(rows, np.int64))
    tokens, mask = spy.seen[-1]
    assert tokens.shape == mask.shape == (len(lengths), bucket)
    assert mask.dtype == torch.int64
    for row, padded, real in zip(rows, tokens.numpy(), mask.numpy(), strict=True):
        assert padded.tolist() == [*row.tolist(), *[7] * (bucket - len(row))]
        assert real.tolist() == [1] * len(row) + [0] * (bucket - len(row))
    assert found.tolist() == [row.sum() for row in rows]


def test_without_buckets_rows_are_padded_to_the_longest():
    spy = Spy()
    model = TorchModel(spy, input=WORDS, pad=Pad(mask="mask", mask_dtype="bool"))
    assert model.length_buckets == ()
    run = model.load("cpu")
    run(Ragged.from_rows(tokens_of([3, 11])))
    assert spy.seen[-1][0].shape == (2, 11)
    assert spy.seen[-1][1].dtype == torch.bool
    assert run(Ragged.from_rows([[], []], np.int64)).tolist() == [0, 0]
    assert spy.seen[-1][0].shape == (2, 1)


def test_padding_never_shows_in_outputs():
    model = bag()
    assert model.output == {
        "mean": Tensor("float32", (6,)), "each": Tensor("float32", (None, 6)),
    }  # fmt: skip
    rows = tokens_of([3, 0, 8, 5])
    found = model.load("cpu")(Ragged.from_rows(rows))
    assert isinstance(found["each"], Ragged)
    for i, row in enumerate(rows):
        alone = bare(Bag(), row[None], real=np.ones((1, len(row)), np.int64))
        np.testing.assert_array_equal(found["each"][i], alone["each"][0])
        np.testing.assert_allclose(found["mean"][i], alone["mean"][0], atol=1e-6)


def test_a_batch_padded_to_its_own_length_is_bit_for_bit_the_bare_modules():
    rows = np.stack(tokens_of([8] * 5))
    found = bag().load("cpu")(Ragged.from_rows(list(rows)))
    expected = bare(Bag(), rows, real=np.ones_like(rows))
    np.testing.assert_array_equal(found["mean"], expected["mean"])
    np.testing.assert_array_equal(found["each"].values, expected["each"].reshape(40, 6))


def test_a_single_bucket_need_be_the_only_length_that_a_module_takes():
    class Rigid(nn.Module):
        def forward(self, x):
            return x @ torch.ones(4, 2)

    model = TorchModel(Rigid(), input=Tensor("float32", (None,)), pad=Pad(buckets=(4,)))
    assert model.output == Tensor("float32", (2,))
    assert model.load("cpu")(Ragged.from_rows([[1, 2], []], np.float32)).tolist() == [
        [3, 3],
        [0, 0],
    ]


def test_several_ragged_inputs_are_padded_each_with_its_own_value_and_mask():
    seen = []

    class Two(nn.Module):
        def forward(self, a, b, size, b_mask):
            seen.append((a.clone(), b.clone(), b_mask.clone()))
            return a.sum(1) + b.sum(1) + size

    inputs = {"a": WORDS, "b": Tensor("float32", (None, 2)), "size": Tensor("int64")}
    pad = Pad(value={"b": -1.0}, buckets=(2, 4), mask={"b": "b_mask"}, mask_dtype="bool")

    class Summed(Two):
        def forward(self, a, b, size, b_mask):
            return super().forward(a, b.sum(2), size, b_mask)

    model = TorchModel(Summed(), input=inputs, pad=pad)
    assert model.output == Tensor("float32")
    run = model.load("cpu")
    for _ in range(2):
        run(
            a=Ragged.from_rows([[1], [2, 3]], np.int64),
            b=Ragged.from_rows([np.ones((3, 2)), np.ones((1, 2))], np.float32),
            size=np.array([5, 6]),
        )
        a, b, mask = seen[-1]
        assert a.tolist() == [[1, 0], [2, 3]]
        assert b.tolist() == [[2, 2, 2, -2], [2, -2, -2, -2]]
        assert mask.tolist() == [[True] * 3 + [False], [True] + [False] * 3]


def test_an_output_that_could_follow_either_of_two_ragged_inputs_is_refused():
    class Sum(nn.Module):
        def forward(self, a, b):
            return a + b

    run = TorchModel(Sum(), input={"a": WORDS, "b": WORDS}, pad=Pad(buckets=(4, 8))).load("cpu")
    alike = Ragged.from_rows([[1], [2, 3]], np.int64)
    assert [row.tolist() for row in run(a=alike, b=alike)] == [[2], [4, 6]]
    with pytest.raises(ValueError, match=r"cannot tell whether its output follows 'a' or 'b'"):
        run(a=alike, b=Ragged.from_rows([[1, 1], [2]], np.int64))


def test_a_row_longer_than_the_last_bucket_is_refused():
    run = bag().load("cpu")
    with pytest.raises(ValueError, match=r"a row of length 9 for 'input'; its longest bucket is 8"):
        run(Ragged.from_rows(tokens_of([1, 9])))
    assert len(run(Ragged.from_rows(tokens_of([1, 8])))["mean"]) == 2


def test_an_output_whose_shape_depends_on_the_length_otherwise_is_refused():
    class Halve(nn.Module):
        def forward(self, x):
            return x[:, ::2] + 1

    with pytest.raises(ValueError, match=r"shape \(2,\) for inputs padded to 4, and \(4,\) for 8"):
        TorchModel(Halve(), input=WORDS, pad=Pad(buckets=(4, 8)))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Pad(buckets=(8, 4)), r"buckets=\(8, 4\); expected up to 15 lengths that rise"),
        (lambda: Pad(buckets=(0, 4)), "that rise, from 1"),
        (lambda: Pad(buckets=range(1, 17)), "up to 15"),
        (lambda: TorchModel(Bag(), input=WORDS), r"ragged input 'input' and no pad=.*Pad\(buckets"),
        (lambda: TorchModel(Bag(), pad=Pad()), r"does not know what Bag takes: pass input="),
        (
            lambda: TorchModel(nn.Linear(3, 2), pad=Pad()),
            "none of its inputs is ragged: leave pad= out",
        ),
        (
            lambda: TorchModel(Bag(), input=WORDS, pad=Pad(mask={"x": "m"})),
            "speaks of 'x'; its ragged inputs are: input",
        ),
        (lambda: TorchModel(Bag(), input=Tensor("text")), "of text; expected numbers: tokenise"),
        (
            lambda: TorchModel(Bag(), input=WORDS, pad=Pad(buckets=(4,))),
            "cannot answer a row of zeros",
        ),
    ],
)
def test_what_cannot_be_padded_is_refused_with_advice(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_mask_needs_a_name():
    with pytest.raises(TypeError, match="mask=3; expected the name"):
        Pad(mask=3)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Bag, exported with its tokens by position and its mask by keyword."""
    path = tmp_path_factory.mktemp("exported") / "bag.pt2"
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=100)
    tokens = torch.ones(2, 5, dtype=torch.int64)
    shapes = {name: {0: batch, 1: length} for name in ("tokens", "real")}
    program = torch.export.export(Bag(), (tokens,), {"real": tokens + 0}, dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


def test_an_exported_file_states_its_ragged_input_and_the_masks_dtype(exported):
    model = TorchModel(exported, pad=Pad(buckets=(4, 8), mask="real"))
    assert model.input == WORDS
    assert model.output == bag().output
    rows = tokens_of([3, 2, 8])
    found = model.load("cpu")(Ragged.from_rows(rows))
    expected = bag().load("cpu")(Ragged.from_rows(rows))
    np.testing.assert_allclose(found["mean"], expected["mean"], atol=1e-6)
    np.testing.assert_array_equal(found["each"].values, expected["each"].values)
    with pytest.raises(ValueError, match=r"bag.pt2'.*inputs tokens, real; mask='other' is none"):
        TorchModel(exported, pad=Pad(mask="other"))
    with pytest.raises(ValueError, match="takes tokens: give a dict"):
        TorchModel(exported, input=PAIR, pad=Pad(mask="real"))


@pytest.mark.parametrize("by_keyword", [False, True])
def test_an_exported_file_of_several_inputs_is_called_as_it_was_exported(tmp_path, by_keyword):
    path = tmp_path / "pair.pt2"
    batch = torch.export.Dim("batch")
    sample = {"left": torch.zeros(2, 3), "right": torch.zeros(2, 4)}
    given = ((), sample) if by_keyword else (tuple(sample.values()), {})
    shapes = {name: {0: batch} for name in sample}
    torch.export.save(torch.export.export(Bilinear(), *given, dynamic_shapes=shapes), path)
    model = TorchModel(path)
    assert model.input == PAIR
    left, right = rows_of(3, 3), rows_of(3, 4)
    found = model.load("cpu")(left=left, right=right)
    expected = bare(Bilinear(), left=left, right=right)
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-6)


def test_a_padding_model_can_be_sent_to_another_process(exported):
    rows = Ragged.from_rows(tokens_of([3, 2, 8]))
    for model in (bag(), TorchModel(exported, pad=Pad(buckets=(4, 8), mask="real"))):
        copy = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(
            copy.load("cpu")(rows)["mean"], model.load("cpu")(rows)["mean"]
        )


def test_the_engine_serves_ragged_rows_bucket_by_bucket(engine):
    spy = Spy()
    adapter = TorchModel(spy, input=WORDS, pad=Pad(buckets=(4, 8), mask="mask"))
    served = engine.deploy("spy", adapter, slo=5.0)
    rows = tokens_of([n % 9 for n in range(40)])
    futures = [served.submit(row) for row in rows]
    assert [future.result().output for future in futures] == [row.sum() for row in rows]
    assert served.predict_many(rows).output.tolist() == [row.sum() for row in rows]
    assert {tokens.shape[1] for tokens, _ in spy.seen} == {4, 8}
    for tokens, mask in spy.seen:
        assert tokens.shape[1] == 4 or mask.sum(1).min() > 4


def test_a_row_that_is_too_long_fails_without_its_shorter_neighbours(engine):
    served = engine.deploy("bag", bag(), slo=5.0)
    rows = tokens_of([2, 9, 3, 7])
    found = served.predict_many(rows)
    assert found.is_default.tolist() == [False, True, False, False]
    assert found[1].why == clipper.Cause.MODEL_ERROR
    assert "its longest bucket is 8" in served.errors[-1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_pads_and_answers_the_same():
    rows = Ragged.from_rows(tokens_of([3, 0, 8]))
    found, expected = (bag().load(device)(rows) for device in ("cuda:0", "cpu"))
    np.testing.assert_allclose(found["mean"], expected["mean"], atol=1e-5)
    np.testing.assert_array_equal(found["each"].values, expected["each"].values)
