"""OnnxModel with several inputs, several outputs and ragged inputs, alone and in the engine."""

import pickle

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import clipper
from clipper import Ragged, Tensor
from clipper_adapters import OnnxModel, Pad

FLOAT, INT64, INT32, BOOL = (
    TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL,
)  # fmt: skip
WORDS = Tensor("int64", (None,))


def graph_bytes(nodes, inputs, outputs, weights=()):
    """An ONNX model from nodes, weights, and {name: (type, shape)} of inputs and outputs."""
    infos = [
        [
            helper.make_tensor_value_info(name, kind, shape)
            for name, (kind, shape) in tensors.items()
        ]
        for tensors in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "graph", *infos, list(weights))
    opset = [helper.make_opsetid("", 13)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def bag_bytes(mask_kind=INT64, length="length"):
    """The mean of the embeddings of real tokens; and each token's own."""
    table = np.random.default_rng(0).standard_normal((50, 6), dtype=np.float32)
    weights = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(np.array([1]), "second"),
        numpy_helper.from_array(np.array([2]), "third"),
        numpy_helper.from_array(np.array(1, np.float32), "one"),
    ]
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["each"]),
        helper.make_node("Cast", ["real"], ["weight"], to=FLOAT),
        helper.make_node("Unsqueeze", ["weight", "third"], ["column"]),
        helper.make_node("Mul", ["each", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "second"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["weight", "second"], ["count"]),
        helper.make_node("Max", ["count", "one"], ["divisor"]),
        helper.make_node("Div", ["total", "divisor"], ["mean"]),
    ]
    return graph_bytes(
        nodes,
        {"tokens": (INT64, ["n", length]), "real": (mask_kind, ["n", length])},
        {"mean": (FLOAT, ["n", 6]), "each": (FLOAT, ["n", length, 6])},
        weights,
    )


TWO_INPUTS = graph_bytes(
    [helper.make_node("Add", ["left", "right"], ["y"])],
    {name: (FLOAT, ["n", 3]) for name in ("left", "right")},
    {"y": (FLOAT, ["n", 3])},
)
TWO_OUTPUTS = graph_bytes(
    [helper.make_node("Relu", ["x"], ["plus"]), helper.make_node("Neg", ["x"], ["minus"])],
    {"x": (FLOAT, ["n", 3])},
    {name: (FLOAT, ["n", 3]) for name in ("plus", "minus")},
)


def rows_of(*shape, seed=0):
    rows = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    rows.flags.writeable = False
    return rows


def tokens_of(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, 50, n) for n in lengths]


def bare(contents, **arrays):
    session = onnxruntime.InferenceSession(contents, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, arrays), strict=True))


def bag(**options):
    pad = Pad(mask="real", **{"buckets": (4, 8), **options})
    return OnnxModel(bag_bytes(), pad=pad, threads=1)


def test_several_inputs_and_outputs_are_read_from_the_file():
    model = OnnxModel(TWO_INPUTS)
    assert model.input == {"left": Tensor("float32", (3,)), "right": Tensor("float32", (3,))}
    assert model.output == Tensor("float32", (3,))
    left, right = rows_of(4, 3), rows_of(4, 3, seed=1)
    np.testing.assert_array_equal(model.load("cpu")(left=left, right=right), left + right)
    example = model.example()
    assert {name: row.shape for name, row in example.items()} == {"left": (3,), "right": (3,)}

    both = OnnxModel(TWO_OUTPUTS)
    assert both.input == Tensor("float32", (3,))
    assert both.output == {"plus": Tensor("float32", (3,)), "minus": Tensor("float32", (3,))}
    found = both.load("cpu")(left)
    for name, expected in bare(TWO_OUTPUTS, x=left).items():
        np.testing.assert_array_equal(found[name], expected)


def test_outputs_chooses_one_or_several():
    rows = rows_of(4, 3)
    one = OnnxModel(TWO_OUTPUTS, outputs="minus")
    assert one.output == Tensor("float32", (3,))
    np.testing.assert_array_equal(one.load("cpu")(rows), -rows)
    some = OnnxModel(TWO_OUTPUTS, outputs=["minus"])
    assert list(some.load("cpu")(rows)) == ["minus"]
    assert some.output == {"minus": Tensor("float32", (3,))}
    with pytest.raises(ValueError, match=r"outputs='times'; .* has: plus, minus"):
        OnnxModel(TWO_OUTPUTS, outputs="times")


def test_names_that_python_lacks_are_served_with_underscores():
    odd = graph_bytes(
        [helper.make_node("Add", ["in-put.0", "1"], ["y:0"])],
        {"in-put.0": (FLOAT, ["n", 3]), "1": (FLOAT, ["n", 3])},
        {"y:0": (FLOAT, ["n", 3])},
    )
    model = OnnxModel(odd, outputs=["y:0"])
    assert list(model.input) == ["in_put_0", "_1"]
    left, right = rows_of(2, 3), rows_of(2, 3, seed=1)
    found = model.load("cpu")(in_put_0=left, _1=right)
    np.testing.assert_array_equal(found["y_0"], left + right)
    alike = graph_bytes(
        [helper.make_node("Add", ["a.b", "a-b"], ["y"])],
        {"a.b": (FLOAT, ["n", 3]), "a-b": (FLOAT, ["n", 3])},
        {"y": (FLOAT, ["n", 3])},
    )
    with pytest.raises(ValueError, match=r"names a\.b, a-b, which are not all different"):
        OnnxModel(alike)


def test_only_inputs_that_need_it_have_to_be_told():
    model = graph_bytes(
        [
            helper.make_node("Flatten", ["image"], ["flat"]),
            helper.make_node("Concat", ["flat", "more"], ["y"], axis=1),
        ],
        {"image": (FLOAT, ["n", 2, "width"]), "more": (FLOAT, ["n", 3])},
        {"y": (FLOAT, ["n", "all"])},
    )
    with pytest.raises(ValueError, match=r"input 'image' has the shape .*dynamic axes besides"):
        OnnxModel(model)
    told = OnnxModel(model, input={"image": Tensor("float32", (2, 5))})
    assert told.input == {"image": Tensor("float32", (2, 5)), "more": Tensor("float32", (3,))}
    assert told.output == Tensor("float32", (13,))
    with pytest.raises(ValueError, match=r"inputs image, more; input=.* is a single one"):
        OnnxModel(model, input=Tensor("float32", (2, 5)))
    with pytest.raises(ValueError, match=r"no input 'picture'; it has: image, more"):
        OnnxModel(model, input={"picture": Tensor("float32", (2, 5))})


def test_a_dynamic_second_axis_is_ragged_where_it_is_padded():
    model = bag()
    assert model.input == WORDS
    assert model.length_buckets == (4, 8)
    assert model.output == {"mean": Tensor("float32", (6,)), "each": Tensor("float32", (None, 6))}
    with pytest.raises(ValueError, match=r"input 'tokens'.*or pad= if rows differ in length"):
        OnnxModel(bag_bytes())


def test_padding_never_shows_in_outputs():
    rows = tokens_of([3, 0, 8, 5])
    found = bag().load("cpu")(Ragged.from_rows(rows))
    for i, row in enumerate(rows):
        if len(row):
            alone = bare(bag_bytes(), tokens=row[None], real=np.ones((1, len(row)), np.int64))
            np.testing.assert_array_equal(found["each"][i], alone["each"][0])
            np.testing.assert_allclose(found["mean"][i], alone["mean"][0], atol=1e-6)
        else:
            assert found["each"][i].shape == (0, 6)
            assert not found["mean"][i].any()


def test_a_batch_padded_to_its_own_length_is_bit_for_bit_the_bare_sessions():
    rows = np.stack(tokens_of([8] * 5))
    found = bag().load("cpu")(Ragged.from_rows(list(rows)))
    expected = bare(bag_bytes(), tokens=rows, real=np.ones_like(rows))
    np.testing.assert_array_equal(found["mean"], expected["mean"])
    np.testing.assert_array_equal(found["each"].values, expected["each"].reshape(40, 6))


@pytest.mark.parametrize("kind", [INT64, INT32, FLOAT, BOOL])
def test_the_mask_has_the_dtype_that_the_file_states(kind):
    model = OnnxModel(bag_bytes(kind), pad=Pad(buckets=(4, 8), mask="real"), outputs="mean")
    rows = Ragged.from_rows(tokens_of([3, 1, 6]))
    np.testing.assert_array_equal(
        model.load("cpu")(rows), bag().load("cpu")(rows)["mean"]
    )  # fmt: skip


def test_buckets_decide_what_the_session_is_given():
    widths = graph_bytes(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)],
        {"x": (FLOAT, ["n", "length"])},
        {"y": (FLOAT, ["n"])},
        [numpy_helper.from_array(np.array([1]), "axes")],
    )
    for lengths, buckets, width in [
        ([0, 0], (4, 8), 4), ([4, 1], (4, 8), 4), ([5], (4, 8), 8), ([5, 7], (), 7), ([0], (), 1),
    ]:  # fmt: skip
        run = OnnxModel(widths, pad=Pad(value=100.0, buckets=buckets)).load("cpu")
        rows = [np.ones(n, np.float32) for n in lengths]
        # The padding is summed up, too, and so shows how much of it there was.
        found = run(Ragged.from_rows(rows))
        assert found.tolist() == [n + 100 * (width - n) for n in lengths]


def test_a_row_longer_than_the_last_bucket_is_refused():
    run = bag().load("cpu")
    with pytest.raises(ValueError, match=r"a row of length 9 for 'tokens'; its longest bucket is"):
        run(Ragged.from_rows(tokens_of([1, 9])))
    assert len(run(Ragged.from_rows(tokens_of([1, 8])))["mean"]) == 2


def test_masks_and_padding_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"no input 'other'; it has: tokens, real"):
        OnnxModel(bag_bytes(), pad=Pad(mask="other"))
    with pytest.raises(ValueError, match=r"none of its inputs is ragged: leave pad= out"):
        OnnxModel(TWO_INPUTS, pad=Pad())
    with pytest.raises(ValueError, match="ragged input 'tokens' and no pad="):
        OnnxModel(bag_bytes(), input={"tokens": WORDS, "real": Tensor("int64", (4,))})


def test_without_a_mask_every_ragged_input_comes_from_the_caller(engine):
    model = OnnxModel(bag_bytes(), pad=Pad(buckets=(4, 8)), outputs="mean", threads=1)
    assert model.input == {"tokens": WORDS, "real": WORDS}
    served = engine.deploy("bag", model, slo=5.0)
    rows = tokens_of([3, 8, 1])
    found = served.predict_many({"tokens": rows, "real": [np.ones_like(row) for row in rows]})
    expected = bag().load("cpu")(Ragged.from_rows(rows))["mean"]
    np.testing.assert_allclose(found.output, expected, atol=1e-6)


def test_the_engine_serves_ragged_rows_and_fails_only_those_too_long(engine):
    served = engine.deploy("bag", bag(), slo=5.0)
    rows = tokens_of([n % 10 for n in range(40)])
    found = served.predict_many(rows)
    assert found.is_default.tolist() == [len(row) == 9 for row in rows]
    assert found[9].why == clipper.Cause.MODEL_ERROR
    assert "its longest bucket is 8" in served.errors[-1]
    table = bare(
        bag_bytes(), tokens=np.arange(50)[None], real=np.ones((1, 50), np.int64)
    )["each"][0]  # fmt: skip
    for i, row in enumerate(rows):
        if len(row) < 9:
            np.testing.assert_array_equal(found.output["each"][i], table[row])


def test_a_padding_model_can_be_sent_to_another_process():
    rows = Ragged.from_rows(tokens_of([3, 2, 8]))
    copy = pickle.loads(pickle.dumps(bag()))
    assert copy.length_buckets == (4, 8)
    found, expected = (model.load("cpu")(rows) for model in (copy, bag()))
    np.testing.assert_array_equal(found["mean"], expected["mean"])
