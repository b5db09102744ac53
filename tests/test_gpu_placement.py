"""Replicas go where there is room for them, as NVML tells: here a fake one, of eight GPUs."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fake_nvml import (
    GIB,
    FakeNvml,
    NVMLError_DriverNotLoaded,
    NVMLError_LibraryNotFound,
    gpu,
)
from hypothesis import given
from hypothesis import strategies as st

import clipper
from clipper import Isolated, Resources, Tensor
from clipper.resources.inventory import Gpu, Inventory, in_cuda_order
from clipper.resources.nvml import read_inventory
from clipper.resources.placement import DoesNotFit, Promise, free_for_replicas, place_gpus

ROW, OUT = Tensor("float64", ()), Tensor("int64", ())


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return fake


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeNvml], None]:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return lambda fake: monkeypatch.setitem(sys.modules, "pynvml", fake)


def granted(model: clipper.Model, index: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = model.describe()["versions"]["1"]["resources"][index]
    return found


def visible_gpu(batch: Any) -> Any:
    """A model that says what its process was given, by its length and last letter."""
    import os

    uuid = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
    budget = int(os.environ.get("CLIPPER_GPU_MEMORY", "0"))
    return np.tile([hash_of(uuid), budget], (len(batch), 1))


def hash_of(text: str) -> int:
    import zlib

    return zlib.crc32(text.encode())


PAIR = Tensor("int64", (2,))


# ---- the inventory ----------------------------------------------------------------------------


def test_the_inventory_says_what_each_gpu_is_and_how_it_fares(nvml: FakeNvml) -> None:
    inventory = read_inventory()
    by_uuid = {seen.uuid: seen for seen in inventory.gpus}

    assert inventory.driver == "575.57.08"
    # The GPU in MIG mode is no device; its two instances are.
    assert [seen.index for seen in inventory.gpus] == [0, 1, 2, 3, 3, 4, 5, 6, 7]
    assert by_uuid["MIG-3b"].parent == "GPU-3333dddd"
    assert by_uuid["MIG-3b"].total == 10 * GIB
    assert by_uuid["GPU-0000aaaa"].processes == {4242: 60 * GIB}
    assert by_uuid["GPU-0000aaaa"].utilisation == 0.07
    assert by_uuid["GPU-2222cccc"].sickness == "12 uncorrected ECC errors"
    assert by_uuid["GPU-66660000"].throttled == ("too hot (hardware slowdown)",)
    assert inventory.gpus[-1].unusable == "does not answer: GPU is lost"
    assert not by_uuid["GPU-4444eeee"].sickness


def test_a_gpu_without_ecc_or_with_rows_to_remap_is_told_apart(
    use: Callable[[FakeNvml], None],
) -> None:
    use(FakeNvml([gpu("GPU-a", ecc=None), gpu("GPU-b", rows=(0, 1, 1, 0)),
                  gpu("GPU-c", rows=(0, 1, 0, 1)), gpu("GPU-d", mig=[])]))  # fmt: skip
    well, waits, failed, empty = read_inventory().gpus
    assert (well.ecc_errors, well.sickness) == (None, "")
    assert waits.sickness == "a remapped memory row waits for a reset"
    assert failed.sickness == "a memory row could not be remapped"
    assert empty.unusable == "MIG is on, and it has no instance"


def test_only_gpus_that_cuda_may_use_are_there(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-0000,MIG-3b,99,1")
    assert [seen.uuid for seen in read_inventory().gpus] == [
        "GPU-4444eeee", "GPU-0000aaaa", "MIG-3b"
    ]  # fmt: skip
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert read_inventory().gpus == []


def test_the_driver_is_started_once_for_many_readings(nvml: FakeNvml) -> None:
    for _ in range(3):
        read_inventory()
    assert nvml.starts == 1


def test_gpus_are_counted_as_cuda_showed_them() -> None:
    inventory = Inventory(
        [Gpu(uuid="GPU-a", name="", index=0), Gpu(uuid="GPU-b", name="", index=1)]
    )
    assert [seen.uuid for seen in in_cuda_order(inventory, ["b", "a"]).gpus] == ["GPU-b", "GPU-a"]
    assert in_cuda_order(inventory, []) == inventory
    assert in_cuda_order(inventory, ["unheard-of"]) == inventory


def test_describe_shows_all_gpus(engine: clipper.Engine, nvml: FakeNvml) -> None:
    gpus = engine.describe()["gpus"]
    assert [device["uuid"] for device in gpus["devices"]][:2] == ["GPU-0000aaaa", "GPU-1111bbbb"]
    assert gpus["devices"][2]["sickness"] == "12 uncorrected ECC errors"


# ---- placement --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (9, "MIG-3b"),  # 10 GiB: the smallest hole that is large enough
        (11, "GPU-0000aaaa"),  # 12 GiB free of 80
        (13, "MIG-3a"),  # 20 GiB
        (21, "GPU-4444eeee"),  # 40 GiB free of 80
        (None, "GPU-4444eeee"),  # the most
    ],
)
def test_the_best_fit_is_chosen(nvml: FakeNvml, memory: int | None, expected: str) -> None:
    budget = None if memory is None else memory * GIB
    (placed,) = place_gpus(read_inventory(), "auto", budget, 1)
    assert placed.uuid == expected


def test_replicas_are_packed_and_none_is_placed_if_one_does_not_fit(nvml: FakeNvml) -> None:
    inventory = read_inventory()
    placed = place_gpus(inventory, "auto", 10 * GIB, 7)
    assert [chosen.uuid for chosen in placed] == [
        "MIG-3b", "GPU-0000aaaa", *["MIG-3a"] * 2, *["GPU-4444eeee"] * 3
    ]  # fmt: skip
    with pytest.raises(DoesNotFit, match=r"10\.0 GiB for each of 9 replicas .*\(8 would fit\)"):
        place_gpus(inventory, "auto", 10 * GIB, 9)


def test_replicas_without_a_budget_are_spread(use: Callable[[FakeNvml], None]) -> None:
    use(FakeNvml([gpu("GPU-a", free=30), gpu("GPU-b", free=50), gpu("GPU-c", free=40)]))
    placed = place_gpus(read_inventory(), "auto", None, 4)
    assert [chosen.uuid for chosen in placed] == ["GPU-b", "GPU-c", "GPU-a", "GPU-b"]


def test_what_is_promised_but_not_yet_taken_is_not_free() -> None:
    seen = Gpu(uuid="G", name="", index=0, total=80, free=50, processes={7: 20})
    assert free_for_replicas(seen, []) == 50
    assert free_for_replicas(seen, [Promise("G", 10)]) == 40  # still loading
    assert free_for_replicas(seen, [Promise("G", 25, pid=7)]) == 45  # 5 of it are to come
    assert free_for_replicas(seen, [Promise("G", 25, pid=8)]) == 50  # not told: it has all
    assert free_for_replicas(seen, [Promise("G", 70, pid=7)]) == 0
    assert free_for_replicas(seen, [Promise("other", 25), Promise("G", None)]) == 50


@given(
    frees=st.lists(st.integers(0, 100), min_size=1, max_size=8),
    budget=st.integers(1, 60),
    count=st.integers(1, 12),
)
def test_no_gpu_is_promised_more_than_it_has(frees: list[int], budget: int, count: int) -> None:
    gpus = [Gpu(uuid=str(i), name="", index=i, total=100, free=free)
            for i, free in enumerate(frees)]  # fmt: skip
    room = sum(free // budget for free in frees)
    try:
        placed = place_gpus(Inventory(gpus), "auto", budget, count)
    except DoesNotFit:
        assert room < count
        return
    assert len(placed) == count <= room
    for seen in gpus:
        assert placed.count(seen) * budget <= seen.free


# ---- deploying --------------------------------------------------------------------------------


def test_each_worker_sees_its_own_gpu_alone(engine: clipper.Engine, nvml: FakeNvml) -> None:
    model = engine.deploy("m", visible_gpu, input=ROW, output=PAIR, where="isolated",
                          resources=Resources(gpu="auto", gpu_memory="9GiB"))  # fmt: skip
    assert model.predict(0.0).output.tolist() == [hash_of("MIG-3b"), 9 * GIB]
    assert granted(model)["gpu"] == "MIG-3b"
    assert granted(model)["device"] == "cuda:0"
    # The 1 GiB that is left of it is not enough for the next one.
    other = engine.deploy("n", visible_gpu, input=ROW, output=PAIR, where="isolated",
                          resources=Resources(gpu_memory="9GiB"))  # fmt: skip
    assert granted(other)["gpu"] == "GPU-0000aaaa"
    engine.undeploy("m")
    third = engine.deploy("o", visible_gpu, input=ROW, output=PAIR, where="isolated",
                          device="MIG-3b")  # fmt: skip
    assert granted(third)["gpu"] == "MIG-3b"


def test_a_worker_for_the_cpu_sees_no_gpu_and_a_plain_function_is_left_alone(
    engine: clipper.Engine, nvml: FakeNvml
) -> None:
    on_cpu = engine.deploy("c", visible_gpu, input=ROW, output=PAIR, where="isolated", device="cpu")
    assert on_cpu.predict(0.0).output.tolist() == [hash_of(""), 0]
    plain = engine.deploy("p", visible_gpu, input=ROW, output=PAIR, where="isolated")
    assert plain.predict(0.0).output.tolist() == [hash_of("unset"), 0]


class OnGpu:
    """An adapter that only remembers what it was told."""

    batch_as = "array"
    input = ROW
    output = OUT
    can_use_gpu = True

    def __init__(self) -> None:
        self.told: list[Any] = []

    def load(self, device: str, *, threads: Any = None, gpu_memory: Any = None) -> Any:
        self.told.append((device, threads, gpu_memory))
        return lambda batch: batch.astype("int64")

    def example(self) -> Any:
        return np.zeros(())


def test_auto_is_a_gpu_for_an_adapter_that_can_use_one(
    engine: clipper.Engine, use: Callable[[FakeNvml], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(FakeNvml([gpu("GPU-a", free=30), gpu("GPU-b", free=50), gpu("GPU-c", ecc=1)]))
    adapter: Any = OnGpu()
    model = engine.deploy("a", adapter, replicas=2)
    assert sorted(told[0] for told in adapter.told) == ["cuda:0", "cuda:1"]
    assert {granted(model, i)["gpu"] for i in (0, 1)} == {"GPU-a", "GPU-b"}

    budgeted: Any = OnGpu()
    engine.deploy("b", budgeted, device="GPU-b", resources=Resources(gpu_memory="4GiB", threads=2))
    assert budgeted.told == [("cuda:1", 2, 4 * GIB)]


def test_auto_is_the_cpu_where_every_gpu_is_sick(
    engine: clipper.Engine, use: Callable[[FakeNvml], None], caplog: pytest.LogCaptureFixture
) -> None:
    use(FakeNvml([gpu("GPU-a", ecc=3)]))
    adapter: Any = OnGpu()
    engine.deploy("a", adapter)
    assert adapter.told == [("cpu", None, None)]
    assert "GPU-a" in caplog.text
    assert "3 uncorrected ECC errors" in caplog.text
    asked: Any = OnGpu()
    engine.deploy("b", asked, device="cuda:0")  # by name: it is up to whoever asks
    assert asked.told[0][0] == "cuda:0"


def test_a_worker_over_its_budget_of_gpu_memory_is_not_deployed(
    engine: clipper.Engine, use: Callable[[FakeNvml], None]
) -> None:
    class Everybody(dict[int, int]):
        """Whatever process there is, it uses 6 GiB."""

        def items(self) -> Any:
            from clipper.resources.granting import book

            return [(grant.pid, 6 * GIB) for grant in book().grants if grant.pid]

    use(FakeNvml([gpu("GPU-a", processes=Everybody())]))
    with pytest.raises(clipper.DeployError, match=r"6\.0 GiB.*(4\.0 GiB|GPU memory allowed)"):
        engine.deploy("m", visible_gpu, input=ROW, output=PAIR, where=Isolated(restarts=1),
                      warmup=0.0, resources=Resources(gpu_memory="4GiB"))  # fmt: skip


# ---- what cannot be had -----------------------------------------------------------------------


def refused(engine: clipper.Engine, **options: Any) -> str:
    with pytest.raises(clipper.DeployError) as raised:
        engine.deploy("m", visible_gpu, input=ROW, output=PAIR, where="isolated", **options)
    return str(raised.value)


def test_what_fits_nowhere_is_refused_with_what_was_free(
    engine: clipper.Engine, nvml: FakeNvml
) -> None:
    text = refused(engine, resources=Resources(gpu_memory="41GiB"))
    assert "41.0 GiB for each of 1 replicas are not free on any GPU that is well" in text
    assert "cuda:5  GPU-4444eeee  NVIDIA H100: 40.0 GiB of 80.0 GiB free" in text
    assert "left out: 12 uncorrected ECC errors" in text
    assert "does not answer: GPU is lost" in text

    text = refused(engine, resources=Resources(gpu_memory="81GiB"))
    assert "gpu_memory is 81.0 GiB, more than the largest GPU has" in text


def test_an_unknown_or_ambiguous_gpu_is_refused_with_those_that_there_are(
    engine: clipper.Engine, nvml: FakeNvml
) -> None:
    assert "no GPU has the UUID 'GPU-abcdef'" in refused(engine, device="GPU-abcdef")
    assert "more than one GPU has the UUID 'MIG-3'" in refused(engine, device="MIG-3")
    text = refused(engine, device="cuda:9")
    assert "no GPU has the index 9" in text
    assert "GPU-4444eeee" in text
    assert "cannot be used: does not answer" in refused(engine, resources=Resources(gpu=8))


@pytest.mark.parametrize(
    ("fake", "expected"),
    [
        (FakeNvml(failure=NVMLError_LibraryNotFound("NVML Shared Library Not Found")),
         r"NVML sees no GPU: no NVIDIA driver \(NVML Shared Library Not Found\)"),
        (FakeNvml(failure=NVMLError_DriverNotLoaded("Driver Not Loaded")),
         r"no NVIDIA driver \(Driver Not Loaded\)"),
        (FakeNvml([]), r"NVML \(driver 575\.57\.08\) sees no GPU that this process may use"),
        (None, "pynvml is not installed: python -m pip install nvidia-ml-py"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "options", [{"resources": Resources(gpu="auto")}, {"device": "GPU-12345678"},
                {"resources": Resources(gpu_memory="1GiB")}]
)  # fmt: skip
def test_a_machine_without_gpus_says_what_nvml_saw(
    engine: clipper.Engine, use: Any, fake: Any, expected: str, options: dict[str, Any]
) -> None:
    use(fake)  # None in sys.modules: the import fails
    with pytest.raises(clipper.DeployError, match=expected):
        engine.deploy("m", visible_gpu, input=ROW, output=PAIR, where="isolated", **options)


def test_a_torch_without_cuda_says_what_nvml_saw_too(
    engine: clipper.Engine, nvml: FakeNvml
) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this torch has CUDA")
    from clipper_adapters import TorchModel

    with pytest.raises(clipper.DeployError) as raised:
        engine.deploy("t", TorchModel(torch.nn.Linear(2, 1)), device="cuda:0")
    assert "no GPU can be used: torch" in str(raised.value)
    assert "cuda:0  GPU-0000aaaa  NVIDIA H100: 12.0 GiB of 80.0 GiB free" in str(raised.value)
    assert engine.deploy("auto", TorchModel(torch.nn.Linear(2, 1))).predict([0.0, 0.0])


def test_a_mig_instance_needs_a_process_of_its_own(engine: clipper.Engine, nvml: FakeNvml) -> None:
    adapter: Any = OnGpu()
    with pytest.raises(clipper.DeployError, match=r"MIG-3b is a MIG instance.*Isolated"):
        engine.deploy("a", adapter, device="MIG-3b")


@pytest.mark.parametrize(
    ("device", "resources", "expected"),
    [
        ("cpu", Resources(gpu_memory="1GiB"), "device is 'cpu', but resources asks for a GPU"),
        ("cpu", Resources(gpu="auto"), "device is 'cpu', but resources asks for a GPU"),
        ("cuda:1", Resources(gpu=2), "device is 'cuda:1', but resources asks for gpu=2"),
        ("tpu:1", Resources(gpu=2), "device is 'tpu:1': give 'auto'"),
    ],
)
def test_requests_that_contradict_themselves_are_refused(
    engine: clipper.Engine, device: str, resources: Resources, expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        engine.deploy("m", visible_gpu, input=ROW, output=PAIR, where="isolated", device=device,
                      resources=resources)  # fmt: skip
    assert engine.describe()["models"] == {}


# ---- budgets in the adapters ------------------------------------------------------------------


def test_torch_keeps_to_the_sum_of_the_budgets_of_its_replicas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = pytest.importorskip("torch")
    from types import SimpleNamespace

    from clipper_adapters.torch_budgets import share_of_gpu

    fractions: list[tuple[float, int]] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties",
                        lambda index: SimpleNamespace(total_memory=1000))  # fmt: skip
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction",
                        lambda fraction, index: fractions.append((fraction, index)))  # fmt: skip
    first = share_of_gpu(0, 300)
    run = share_of_gpu(0, 200).held_by(lambda batch: batch + 1)
    assert run(1) == 2
    share_of_gpu(1, 100)
    assert fractions == [(0.3, 0), (0.5, 0), (0.1, 1)]
    with pytest.raises(ValueError, match="give it to all of them"):
        share_of_gpu(0, None)
    with pytest.raises(ValueError, match="1100 bytes together, but it has 1000"):
        share_of_gpu(0, 600)
    del first, run
    share_of_gpu(0, 600)
    assert fractions[-1] == (0.6, 0)


def test_onnx_runtime_is_told_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    from clipper_adapters import OnnxModel

    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    x, y = (helper.make_tensor_value_info(name, kind, ["n", 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = OnnxModel(made.SerializeToString())
    monkeypatch.setattr(onnxruntime, "get_available_providers",
                        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])  # fmt: skip
    assert model.can_use_gpu
    cuda, cpu = model._providers_for("cuda:1", 4 * GIB)
    assert cuda == (
        "CUDAExecutionProvider",
        {"device_id": 1, "gpu_mem_limit": 4 * GIB, "arena_extend_strategy": "kSameAsRequested"},
    )
    assert cpu == "CPUExecutionProvider"
