import pickle
import threading
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from clipper import ModelAdapter, Tensor
from clipper_adapters import TorchModel, zoo


class Rows:
    """What the engine hands to adapters that ask for "dlpack"."""

    def __init__(self, rows):
        self._rows = rows

    def __len__(self):
        return len(self._rows)

    def __dlpack__(self, **_):
        return self._rows.__dlpack__(max_version=(1, 0))

    def __dlpack_device__(self):
        return self._rows.__dlpack_device__()


def random_rows(n, *shape, seed=0):
    rows = np.random.default_rng(seed).standard_normal((n, *shape), dtype=np.float32)
    rows.flags.writeable = False
    return rows


def answer(module, rows):
    with torch.inference_mode():
        return module(torch.from_numpy(rows.copy())).numpy()


def on_a_new_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def mlp():
    return zoo.mlp_784()


@pytest.fixture(scope="module")
def exported(tmp_path_factory, mlp):
    path = tmp_path_factory.mktemp("exported") / "mlp.pt2"
    batch = torch.export.Dim("batch")
    example = (torch.zeros(2, 784),)
    torch.export.save(torch.export.export(mlp, example, dynamic_shapes=({0: batch},)), path)
    return path


def test_it_is_a_model_adapter(mlp):
    assert isinstance(TorchModel(mlp), ModelAdapter)


def test_the_mlp_of_the_zoo_reads_digits_and_is_the_same_every_time():
    data = zoo.digits()
    module = zoo.train_mlp(data)
    assert (answer(module, data.x_test).argmax(1) == data.y_test).mean() > 0.95
    once, again = (zoo.train_mlp(data, epochs=1)[0].weight for _ in range(2))
    assert torch.equal(once, again)


@pytest.mark.parametrize("n", [1, 2, 7, 64])
@pytest.mark.parametrize("wrap", [Rows, np.asarray])
def test_outputs_are_the_modules_own(mlp, n, wrap):
    model = TorchModel(mlp)
    run = model.load("cpu")
    rows = random_rows(n, 784)

    for _ in range(2):
        outputs = run(wrap(rows))

        np.testing.assert_array_equal(outputs, answer(mlp, rows))
        assert outputs.dtype == model.output.dtype
        assert outputs.shape == (n, *model.output.shape)
        assert outputs.flags.c_contiguous


def test_batches_are_read_where_they_lie():
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(x.data_ptr())
            return x + 1

    run = TorchModel(Spy(), input=Tensor("float32", (3,)), output=Tensor("float32", (3,))).load(
        "cpu"
    )
    rows = random_rows(4, 3)
    run(Rows(rows))
    run(Rows(rows))
    assert seen[1] == rows.ctypes.data


@pytest.mark.parametrize(
    "module",
    [nn.ReLU(True), nn.Sequential(nn.ReLU(True), nn.Linear(3, 3)), nn.Identity(), nn.Flatten()],
)
def test_a_module_can_neither_write_to_its_batch_nor_return_it(module):
    rows = random_rows(5, 3)
    before = rows.copy()
    run = TorchModel(module, input=Tensor("float32", (3,))).load("cpu")
    for _ in range(3):
        outputs = run(Rows(rows))
        np.testing.assert_array_equal(outputs, answer(module, before))
        np.testing.assert_array_equal(rows, before)
        assert not np.shares_memory(outputs, rows)


def test_a_transposed_output_comes_back_contiguous():
    class Transpose(nn.Module):
        def forward(self, x):
            return (2 * x).transpose(1, 2)

    rows = random_rows(4, 2, 3)
    outputs = TorchModel(Transpose(), input=Tensor("float32", (2, 3))).load("cpu")(Rows(rows))
    assert outputs.flags.c_contiguous
    np.testing.assert_array_equal(outputs, 2 * rows.transpose(0, 2, 1))


def test_it_serves_in_evaluation_mode_and_without_gradients():
    modes = []

    class Spy(nn.Module):
        def forward(self, x):
            modes.append((self.training, torch.is_grad_enabled()))
            return x * 2

    run = TorchModel(Spy(), input=Tensor("float32", (3,))).load("cpu")
    run(random_rows(2, 3))
    run(random_rows(2, 3))
    assert set(modes) == {(False, False)}
    assert torch.is_grad_enabled()


def test_the_input_is_guessed_only_where_it_is_certain(mlp):
    assert TorchModel(mlp).input == Tensor("float32", (784,))
    assert TorchModel(nn.Linear(4, 2).double()).input == Tensor("float64", (4,))
    assert TorchModel(nn.Sequential(nn.Sequential(nn.Linear(4, 2)))).input == Tensor(
        "float32", (4,)
    )
    for uncertain in (
        nn.Sequential(nn.Flatten(), nn.Linear(4, 2)),
        nn.Sequential(),
        zoo.resnet20(),
        nn.Linear(4, 2).bfloat16(),
    ):
        model = TorchModel(uncertain)
        assert (model.input, model.output, model.example()) == (None, None, None)


def test_the_output_is_read_off_a_row_of_zeros():
    image = Tensor("float32", (3, 32, 32))
    assert TorchModel(zoo.resnet20(), input=image).output == Tensor("float32", (10,))
    words = TorchModel(nn.Embedding(10, 4), input=Tensor("int64", (6,)))
    assert words.output == Tensor("float32", (6, 4))
    told = TorchModel(nn.Identity(), input=image, output=Tensor("float32", (1,)))
    assert told.output == Tensor("float32", (1,))


def test_the_example_is_a_row_of_zeros_that_the_model_takes(mlp):
    model = TorchModel(mlp)
    example = model.example()
    assert (example.shape, example.dtype, example.any()) == ((784,), np.float32, False)
    assert model.load("auto")(example[np.newaxis]).shape == (1, 10)


def test_it_says_what_it_is(mlp, exported):
    specs = "input=Tensor('float32', (784,)), output=Tensor('float32', (10,))"
    assert repr(TorchModel(mlp, threads=2)) == f"TorchModel(Sequential, {specs}, threads=2)"
    assert repr(TorchModel(exported)) == f"TorchModel({str(exported)!r}, {specs})"


def test_the_number_of_threads_holds_for_the_thread_that_loaded_and_for_no_other(mlp):
    before = torch.get_num_threads()
    threads = before + 1

    def load_on_own_thread():
        TorchModel(mlp, threads=threads).load("cpu")
        return torch.get_num_threads()

    assert on_a_new_thread(load_on_own_thread) == threads
    assert torch.get_num_threads() == before
    assert on_a_new_thread(torch.get_num_threads) == before


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_is_effective_from_whichever_thread_calls(threads):
    seen = []

    class Spy(nn.Module):
        def forward(self, x):
            seen.append(torch.get_num_threads())
            return x + 1

    torch.set_num_threads(2)
    model = TorchModel(Spy(), threads=threads, output=Tensor("float32", (3,)))
    run = on_a_new_thread(lambda: model.load("cpu"))

    def call():
        run(Rows(random_rows(2, 3)))
        return torch.get_num_threads()

    assert call() == 2
    assert on_a_new_thread(call) == 2
    assert seen == [threads, threads]


def test_a_caller_gets_its_own_number_of_threads_back_when_the_module_fails():
    class Broken(nn.Module):
        def forward(self, _):
            raise RuntimeError("no")

    torch.set_num_threads(2)
    model = TorchModel(Broken(), threads=1)
    run = on_a_new_thread(lambda: model.load("cpu"))
    with pytest.raises(RuntimeError, match="no"):
        run(random_rows(1, 3))
    assert torch.get_num_threads() == 2


def test_runners_may_be_called_from_several_threads_at_once(mlp):
    run = TorchModel(mlp, threads=1).load("cpu")
    batches = [random_rows(n, 784, seed=n) for n in range(1, 9)]
    results = {}

    def work(k):
        results[k] = [run(Rows(batches[k])) for _ in range(10)]

    workers = [threading.Thread(target=work, args=(k,)) for k in range(len(batches))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for k, rows in enumerate(batches):
        for outputs in results[k]:
            np.testing.assert_allclose(outputs, answer(mlp, rows), atol=1e-6)


def test_no_threads_are_refused(mlp):
    with pytest.raises(ValueError, match="threads=0; expected 1 or more"):
        TorchModel(mlp, threads=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(mlp):
    with pytest.raises(ValueError, match=r"device='cuda:0', but no GPU can be used: torch .*'cpu'"):
        TorchModel(mlp).load("cuda:0")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_gives_the_same_answers_and_leaves_the_module_where_it_is(mlp):
    rows = random_rows(16, 784)
    outputs = TorchModel(mlp).load("cuda:0")(Rows(rows))
    np.testing.assert_allclose(outputs, answer(mlp, rows), atol=1e-3)
    assert mlp[0].weight.device.type == "cpu"


@pytest.mark.parametrize("device", ["gpu", "cuda", "cuda:-1", "mps"])
def test_a_device_of_another_name_is_refused(mlp, device):
    with pytest.raises(ValueError, match=rf"device='{device}'; expected 'auto', 'cpu' or 'cuda:<"):
        TorchModel(mlp).load(device)


def test_it_can_be_sent_to_another_process(mlp, exported):
    rows = random_rows(3, 784)
    for model in (TorchModel(mlp, threads=1), TorchModel(exported)):
        copy = pickle.loads(pickle.dumps(model))
        np.testing.assert_allclose(copy.load("cpu")(Rows(rows)), answer(mlp, rows), atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_an_exported_file_is_served_with_the_specs_that_it_states(mlp, exported, n):
    model = TorchModel(str(exported))
    assert model.input == Tensor("float32", (784,))
    assert model.output == Tensor("float32", (10,))
    rows = random_rows(n, 784)
    np.testing.assert_allclose(model.load("cpu")(Rows(rows)), answer(mlp, rows), atol=1e-6)


def test_an_exported_file_with_a_fixed_batch_is_refused(tmp_path, mlp):
    path = tmp_path / "fixed.pt2"
    torch.export.save(torch.export.export(mlp, (torch.zeros(2, 784),)), path)
    with pytest.raises(ValueError, match=r"fixed.pt2.*batches of exactly 2.*dynamic_shapes"):
        TorchModel(path)


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"no/such.pt2"):
        TorchModel("no/such.pt2")


def write_nonsense(path):
    path.write_bytes(b"nonsense")


def write_foreign_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("something", "else")


@pytest.mark.parametrize("write", [write_nonsense, write_foreign_archive])
def test_a_broken_file_is_named(tmp_path, write):
    path = tmp_path / "broken.pt2"
    write(path)
    with pytest.raises(ValueError, match=r"cannot read '.*broken.pt2'.*torch.export.save"):
        TorchModel(path)


def test_a_file_of_weights_is_refused_with_advice(tmp_path, mlp):
    path = tmp_path / "weights.pt"
    torch.save(mlp.state_dict(), path)
    with pytest.raises(ValueError, match=r"weights.pt'.*state_dict.*yourself and pass the module"):
        TorchModel(path)


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"got a function; expected a torch.nn.Module"):
        TorchModel(answer)


def test_an_input_that_the_module_does_not_take_is_refused(mlp):
    with pytest.raises(ValueError, match=r"Sequential cannot answer a row of zeros of Tensor\("):
        TorchModel(mlp, input=Tensor("float32", (783,)))


def test_a_module_that_drops_the_batch_axis_is_refused():
    with pytest.raises(TypeError, match=r"returned an array of shape \(3,\).*first axis"):
        TorchModel(nn.Flatten(0), input=Tensor("float32", (3,)))


def test_a_dtype_that_numpy_lacks_is_refused():
    with pytest.raises(ValueError, match=r"BFloat16"):
        TorchModel(nn.Linear(3, 2).bfloat16(), input=Tensor("float32", (3,)))


def test_what_torch_refuses_raises(mlp):
    run = TorchModel(mlp).load("cpu")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(random_rows(2, 783))
    assert run(random_rows(2, 784)).shape == (2, 10)
