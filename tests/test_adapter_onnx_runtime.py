import gc
import pickle
import threading
import weakref

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from clipper import ModelAdapter, Tensor
from clipper_adapters import OnnxModel, zoo


def graph_bytes(nodes, inputs, outputs):
    """An ONNX model from nodes and from {name: (type, shape)} of inputs and outputs."""
    infos = [
        [
            helper.make_tensor_value_info(name, kind, shape)
            for name, (kind, shape) in tensors.items()
        ]
        for tensors in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "graph", *infos)
    opset = [helper.make_opsetid("", 13)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def unary(operator, shape, kind=TensorProto.FLOAT, out_shape=None, out_kind=None, **attributes):
    return graph_bytes(
        [helper.make_node(operator, ["x"], ["y"], **attributes)],
        {"x": (kind, shape)},
        {"y": (out_kind or kind, shape if out_shape is None else out_shape)},
    )


def random_rows(n, *shape, seed=0):
    rows = np.random.default_rng(seed).standard_normal((n, *shape), dtype=np.float32)
    rows.flags.writeable = False
    return rows


def answer(module, rows):
    with torch.inference_mode():
        return module(torch.from_numpy(rows.copy())).numpy()


@pytest.fixture(scope="module")
def mlp():
    return zoo.mlp_784()


@pytest.fixture(scope="module")
def path(tmp_path_factory, mlp):
    return zoo.export_onnx(mlp, (784,), tmp_path_factory.mktemp("onnx") / "mlp.onnx")


def test_it_is_a_model_adapter(path):
    assert isinstance(OnnxModel(path), ModelAdapter)


def test_specs_come_from_the_file(path):
    model = OnnxModel(path)
    assert model.input == Tensor("float32", (784,))
    assert model.output == Tensor("float32", (10,))


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_outputs_are_those_of_the_bare_session(path, n):
    rows = random_rows(n, 784)
    (expected,) = onnxruntime.InferenceSession(str(path)).run(None, {"input": rows})

    outputs = OnnxModel(path).load("cpu")(rows)

    np.testing.assert_allclose(outputs, expected, atol=1e-6)
    assert outputs.shape == (n, 10)
    assert outputs.flags.c_contiguous


@pytest.mark.parametrize("n", [1, 3, 8])
def test_exported_networks_answer_as_their_torch_modules(tmp_path, n):
    residual = zoo.resnet20()
    generator = torch.Generator().manual_seed(1)
    for module in residual.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    digits = zoo.train_mlp(epochs=1)
    for module, shape in ((residual, (3, 32, 32)), (digits, (64,)), (zoo.mlp_784(), (784,))):
        model = OnnxModel(zoo.export_onnx(module, shape, tmp_path / "net.onnx"))
        rows = random_rows(n, *shape)
        expected = answer(module, rows)
        outputs = model.load("cpu")(rows)
        np.testing.assert_allclose(outputs, expected, atol=1e-4 * np.abs(expected).max())
        assert model.output == Tensor("float32", (10,))


def test_a_layer_that_is_not_of_the_zoo_is_not_exported(tmp_path):
    with pytest.raises(TypeError, match=r"got a GELU; .* use torch.onnx.export"):
        zoo.export_onnx(nn.Sequential(nn.Linear(2, 2), nn.GELU()), (2,), tmp_path / "net.onnx")


def test_the_contents_of_a_file_serve_as_well_as_its_path(path):
    rows = random_rows(4, 784)
    outputs = OnnxModel(path.read_bytes()).load("cpu")(rows)
    np.testing.assert_array_equal(outputs, OnnxModel(str(path)).load("cpu")(rows))


@pytest.mark.parametrize("operator", ["Identity", "Relu", "Flatten"])
def test_outputs_do_not_share_memory_with_the_batch(operator):
    rows = random_rows(5, 3)
    before = rows.copy()
    outputs = OnnxModel(unary(operator, ["n", 3])).load("cpu")(rows)
    assert not np.shares_memory(outputs, rows)
    outputs[:] = 7
    np.testing.assert_array_equal(rows, before)


def test_an_output_stays_as_it_is_when_the_next_batch_runs(path):
    run = OnnxModel(path).load("cpu")
    first = run(random_rows(4, 784, seed=1))
    kept = first.copy()
    run(random_rows(4, 784, seed=2))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (TensorProto.FLOAT, "float32"),
        (TensorProto.DOUBLE, "float64"),
        (TensorProto.FLOAT16, "float16"),
        (TensorProto.INT64, "int64"),
        (TensorProto.UINT8, "uint8"),
        (TensorProto.BOOL, "bool"),
    ],
)
def test_dtypes_are_those_of_numpy(kind, dtype):
    model = OnnxModel(unary("Identity", ["n", 3], kind))
    assert model.input == model.output == Tensor(dtype, (3,))
    rows = np.ones((2, 3), dtype)
    assert model.load("cpu")(rows).dtype == rows.dtype


def test_an_output_whose_shape_the_file_does_not_state_is_read_off_an_answer():
    dynamic = unary("Flatten", ["n", 2, 3], out_shape=["n", "features"])
    assert OnnxModel(dynamic).output == Tensor("float32", (6,))
    scalar = unary(
        "ArgMax", ["n", 5], out_shape=["n"], out_kind=TensorProto.INT64, axis=1, keepdims=0
    )
    assert OnnxModel(scalar).output == Tensor("int64", ())


def test_the_example_is_a_row_of_zeros_that_the_model_takes(path):
    model = OnnxModel(path)
    example = model.example()
    assert (example.shape, example.dtype, example.any()) == ((784,), np.float32, False)
    assert model.load("auto")(example[np.newaxis]).shape == (1, 10)


def test_it_says_what_it_is(path):
    specs = "input=Tensor('float32', (784,)), output=Tensor('float32', (10,))"
    assert repr(OnnxModel(path)) == f"OnnxModel({str(path)!r}, {specs})"
    data = path.read_bytes()
    assert repr(OnnxModel(data, threads=1)) == f"OnnxModel(<{len(data)} bytes>, {specs}, threads=1)"


def test_it_can_be_sent_to_another_process(path):
    rows = random_rows(3, 784)
    copy = pickle.loads(pickle.dumps(OnnxModel(path, threads=1)))
    np.testing.assert_array_equal(copy.load("cpu")(rows), OnnxModel(path).load("cpu")(rows))


@pytest.fixture
def sessions(monkeypatch):
    """Weak references to the sessions made, and the thread count of each."""
    made = []

    class Session(onnxruntime.InferenceSession):
        def __init__(self, source, options, **rest):
            super().__init__(source, options, **rest)
            made.append((weakref.ref(self), options.intra_op_num_threads))

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    return made


def test_reading_the_specs_leaves_no_session_behind(path, sessions):
    model = OnnxModel(path)
    gc.collect()
    assert [reference() for reference, _ in sessions] == [None]
    assert model.load("cpu") is not model.load("cpu")
    assert len(sessions) == 3


def test_the_number_of_threads_is_the_sessions(path, sessions):
    OnnxModel(path, threads=2).load("cpu")
    assert sessions[-1][1] == 2
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 3
    OnnxModel(path, session_options=options).load("cpu")
    assert sessions[-1][1] == 3


def test_runners_may_be_called_from_several_threads_at_once(path):
    run = OnnxModel(path, threads=1).load("cpu")
    batches = [random_rows(n, 784, seed=n) for n in range(1, 9)]
    expected = [run(rows) for rows in batches]
    results = {}

    def work(k):
        results[k] = [run(batches[k]) for _ in range(10)]

    workers = [threading.Thread(target=work, args=(k,)) for k in range(len(batches))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for k, outputs in results.items():
        for output in outputs:
            np.testing.assert_array_equal(output, expected[k])


def test_threads_and_session_options_exclude_each_other(path):
    with pytest.raises(ValueError, match="intra_op_num_threads instead of threads"):
        OnnxModel(path, threads=1, session_options=onnxruntime.SessionOptions())
    with pytest.raises(ValueError, match="threads=0"):
        OnnxModel(path, threads=0)


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"no/such.onnx"):
        OnnxModel("no/such.onnx")


def test_a_broken_file_is_named_with_the_reason(tmp_path, path):
    broken = tmp_path / "broken.onnx"
    for contents in (b"nonsense", b"", path.read_bytes()[:1000]):
        broken.write_bytes(contents)
        with pytest.raises(ValueError, match=r"cannot load '.*broken.onnx' \(.*ONNXRuntimeError"):
            OnnxModel(broken)
    with pytest.raises(ValueError, match=r"cannot load <8 bytes> \("):
        OnnxModel(b"nonsense")


def test_a_file_that_breaks_after_deployment_is_named(tmp_path, path):
    moved = tmp_path / "net.onnx"
    moved.write_bytes(path.read_bytes())
    model = OnnxModel(moved)
    moved.unlink()
    with pytest.raises(FileNotFoundError, match=r"net.onnx"):
        model.load("cpu")


def test_a_fixed_batch_is_refused():
    for shape in ([1, 3], [], None):
        with pytest.raises(ValueError, match=r"fixed shape .*expected a dynamic first axis"):
            OnnxModel(unary("Relu", shape))


def test_dynamic_axes_besides_the_batch_need_to_be_told():
    model = unary("Relu", ["n", 3, "width"])
    with pytest.raises(
        ValueError, match=r"dynamic axes.*input=clipper.Tensor\('float32', \(...\)\)"
    ):
        OnnxModel(model)
    told = OnnxModel(model, input=Tensor("float32", (3, 5)))
    assert told.input == told.output == Tensor("float32", (3, 5))


@pytest.mark.parametrize(
    "given",
    [Tensor("float64", (3, 5)), Tensor("float32", (4, 5)), Tensor("float32", (3,))],
)
def test_an_input_that_contradicts_the_file_is_refused(given):
    with pytest.raises(ValueError, match="does not fit"):
        OnnxModel(unary("Relu", ["n", 3, "width"]), input=given)


def test_an_input_of_text_is_refused():
    with pytest.raises(ValueError, match=r"is a tensor\(string\); expected numbers"):
        OnnxModel(unary("Identity", ["n", 3], TensorProto.STRING))


def test_an_output_of_text_is_refused():
    model = unary("Cast", ["n", 3], out_kind=TensorProto.STRING, to=TensorProto.STRING)
    with pytest.raises(TypeError, match="cannot be served"):
        OnnxModel(model)


def test_an_input_that_the_model_cannot_answer_is_refused():
    model = graph_bytes(
        [
            helper.make_node("Constant", [], ["wide"], value_floats=[1.0, 2.0]),
            helper.make_node("Add", ["x", "wide"], ["y"]),
        ],
        {"x": (TensorProto.FLOAT, ["n", "width"])},
        {"y": (TensorProto.FLOAT, ["n", "width"])},
    )
    assert OnnxModel(model, input=Tensor("float32", (2,))).output == Tensor("float32", (2,))
    with pytest.raises(ValueError, match="cannot answer a row of zeros of"):
        OnnxModel(model, input=Tensor("float32", (3,)))


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="there is a GPU build"
)
def test_a_gpu_that_is_not_there_is_refused(path):
    with pytest.raises(ValueError, match=r"device='cuda:0', but no GPU can be used: .*'cpu'"):
        OnnxModel(path).load("cuda:0")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_gpu_that_does_not_start_is_not_replaced_by_the_cpu_in_silence(path, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(ValueError, match="could not start CUDAExecutionProvider"):
        OnnxModel(path).load("cuda:0")


def test_a_device_of_another_name_is_refused(path):
    with pytest.raises(ValueError, match="device='gpu'; expected 'auto'"):
        OnnxModel(path).load("gpu")


def test_providers_that_are_given_are_used(path):
    model = OnnxModel(path, providers=["CPUExecutionProvider"])
    assert model.load("cuda:3")(random_rows(2, 784)).shape == (2, 10)


def test_what_onnx_runtime_refuses_raises(path):
    run = OnnxModel(path).load("cpu")
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        run(random_rows(2, 783))
    assert run(random_rows(2, 784)).shape == (2, 10)


def test_exported_files_are_valid_onnx(path):
    model = onnx.load(path)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_two_builds_of_onnx_runtime_over_one_another_are_noticed(tmp_path, monkeypatch):
    OnnxModel(unary("Relu", ["n", 3]))  # one build: no warning
    name = "onnxruntime_gpu-1.99.0.dist-info"
    (tmp_path / name).mkdir()
    text = "Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.99.0\n"
    (tmp_path / name / "METADATA").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(RuntimeWarning, match=r"onnxruntime \d.* and onnxruntime-gpu 1\.99\.0"):
        OnnxModel(unary("Relu", ["n", 3]))
