"""Workers in containers, in C++, in other environments and with adapters, side by side."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipper
from clipper import Isolated, Tensor
from clipper.cli import main

ROW = Tensor("float32", (2,))
OUT = Tensor("float32", (1,))
SOURCE = Path(__file__).parents[1] / "examples" / "cpp_worker" / "worker.cc"
MODELS = """
import os, time
import numpy as np

def total():
    def model(batch):
        if (batch == 666).any():
            os._exit(9)
        return batch.sum(axis=1, keepdims=True)
    return model

def raising():
    raise LookupError("the weights are gone")
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "side_models.py").write_text(MODELS)
    (folder / "weights.txt").write_text("2 1\n1\n1\n")
    (folder / "nonsense.txt").write_text("not a model")
    return folder


@pytest.fixture(scope="module")
def cpp_worker(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no g++")
    worker = str(tmp_path_factory.mktemp("cpp") / "worker")
    subprocess.run([compiler, "-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", str(SOURCE),
                    "-o", worker], check=True)  # fmt: skip
    return worker


@pytest.fixture
def contained(models: Path, container: tuple[str, tuple[str, ...]]) -> Callable[..., Isolated]:
    image, arguments = container
    return lambda **options: Isolated(
        image=image, container_args=arguments, paths=(models,), **options
    )


@pytest.fixture(scope="module")
def other_numpy(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("env") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    command = [python, "-m", "pip", "install", "-q", "--only-binary", ":all:", "numpy<2"]
    if subprocess.run(command, check=False).returncode != 0:
        pytest.skip("cannot install another NumPy")
    return python


def torch_model() -> Any:
    torch = pytest.importorskip("torch")
    from clipper_adapters import TorchModel

    net = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(1.0)
    return TorchModel(net)


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.02)


def worker_of(engine: clipper.Engine, name: str) -> dict[str, Any]:
    state: dict[str, Any] = engine.describe()["models"][name]["versions"]["1"]["workers"][0]
    return state


def containers_of(pid: int) -> list[str]:
    command = ["podman", "ps", "--all", "--format={{.Names}}", f"--filter=name=clipper-{pid}-"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_workers_of_every_kind_serve_side_by_side(
    engine: clipper.Engine, models: Path, cpp_worker: str, other_numpy: str,
    contained: Callable[..., Isolated],
) -> None:  # fmt: skip
    where: dict[str, tuple[Any, Isolated]] = {
        "c++": (str(models / "weights.txt"), Isolated(command=(cpp_worker,))),
        "container": ("side_models:total", contained()),
        "other NumPy": ("side_models:total", Isolated(python=other_numpy, paths=(models,))),
        "adapter": (torch_model(), Isolated()),
    }
    served = [
        engine.deploy(name, model, input=ROW, output=OUT, where=isolated, ready_timeout=60.0)
        for name, (model, isolated) in where.items()
    ]
    rows = np.arange(40, dtype=np.float32).reshape(20, 2)
    for model in served:
        np.testing.assert_array_equal(
            model.predict_many(rows).output, rows.sum(axis=1, keepdims=True)
        )
    assert worker_of(engine, "c++")["runtime"] == "C++"
    assert "NumPy 1." in worker_of(engine, "other NumPy")["runtime"]
    assert worker_of(engine, "container")["copied_batches"] == 0
    assert worker_of(engine, "container")["container"] in containers_of(os.getpid())


def test_a_container_that_dies_is_started_again_and_leaves_nothing(
    engine: clipper.Engine, contained: Callable[..., Isolated]
) -> None:
    model = engine.deploy("m", "side_models:total", input=ROW, output=OUT, where=contained(),
                          ready_timeout=60.0)  # fmt: skip
    os.kill(worker_of(engine, "m")["pid"], signal.SIGKILL)
    wait_until(lambda: worker_of(engine, "m")["restarts"] == 1)
    wait_until(lambda: worker_of(engine, "m")["state"] == "serving")
    assert "SIGKILL" in worker_of(engine, "m")["last_death"]
    assert model.predict([1.0, 2.0]).output.tolist() == [3.0]
    engine.undeploy("m")
    assert containers_of(os.getpid()) == []


def test_no_container_outlives_an_engine_that_is_killed(
    models: Path, contained: Callable[..., Isolated]
) -> None:
    where = contained()
    code = textwrap.dedent(f"""
        import time, clipper
        engine = clipper.Engine()
        engine.deploy("m", "side_models:total", input=clipper.Tensor("float32", (2,)),
                      output=clipper.Tensor("float32", (1,)), ready_timeout=60.0,
                      where=clipper.Isolated(image={where.image!r}, paths=({str(models)!r},),
                                             container_args={where.container_args!r}))
        print("ready", flush=True)
        time.sleep(600)
    """)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        assert len(containers_of(parent.pid)) == 1
        parent.kill()
        parent.wait()
    wait_until(lambda: containers_of(parent.pid) == [])


def test_what_fails_in_a_container_fails_the_deploy_with_the_last_words(
    engine: clipper.Engine, contained: Callable[..., Isolated]
) -> None:
    with pytest.raises(clipper.DeployError, match=r"printed:(.|\n)*the weights are gone"):
        engine.deploy("m", "side_models:raising", input=ROW, output=OUT, where=contained(),
                      ready_timeout=60.0)  # fmt: skip
    with pytest.raises(clipper.DeployError, match=r"ended with status 125(.|\n)*nowhere"):
        engine.deploy("m", "side_models:total", input=ROW, output=OUT,
                      where=Isolated(image="localhost/nowhere", runtime="podman"))  # fmt: skip
    silent = contained(command=("python3", "-c", "import time; time.sleep(600)"))
    with pytest.raises(clipper.DeployError, match=r"not (connected|ready) in time"):
        engine.deploy("m", "any:model", input=ROW, output=OUT, where=silent, ready_timeout=3.0)
    wait_until(lambda: containers_of(os.getpid()) == [])


def test_a_worker_in_cpp_says_what_it_cannot_serve(
    engine: clipper.Engine, models: Path, cpp_worker: str
) -> None:
    where = Isolated(command=(cpp_worker,))
    for model, row, says in (
        (str(models / "nonsense.txt"), ROW, "is no model"),
        ("side_models:total", ROW, "loads files of weights"),
        (str(models / "weights.txt"), Tensor("float32", (3,)), r"float32', \(2,\)"),
    ):
        with pytest.raises(clipper.DeployError, match=says):
            engine.deploy("m", model, input=row, output=OUT, where=where)
    with pytest.raises(clipper.DeployError, match="cannot start the worker '/nowhere/worker'"):
        engine.deploy("m", "x:y", input=ROW, output=OUT,
                      where=Isolated(command=("/nowhere/worker",)))  # fmt: skip


def test_a_worker_whose_program_is_gone_is_given_up_with_a_clear_reason(
    engine: clipper.Engine, models: Path, cpp_worker: str, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    program = tmp_path / "worker"
    shutil.copy(cpp_worker, program)
    model = engine.deploy("m", str(models / "weights.txt"), input=ROW, output=OUT,
                          where=Isolated(command=(str(program),), restarts=3))  # fmt: skip
    program.unlink()
    with caplog.at_level(logging.WARNING, "clipper"):
        os.kill(worker_of(engine, "m")["pid"], signal.SIGKILL)
        wait_until(lambda: worker_of(engine, "m")["state"] == "given up")
    assert "did not start again: cannot start the worker" in worker_of(engine, "m")["last_death"]
    assert "died 3 times" in caplog.text
    with pytest.raises(clipper.ClipperError):
        model.predict([1.0, 2.0])
    assert engine.describe()["open_queries"] == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"command": ()}, "command is empty"),
        ({"command": ("a",), "python": "b"}, "give one"),
        ({"runtime": "podman"}, "give an image"),
        ({"image": "--privileged"}, "name of an OCI image"),
        ({"image": "x", "runtime": "lxc"}, "'podman' or 'docker'"),
    ],
)
def test_requests_that_cannot_be_meant_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Isolated(**options)


def test_a_recipe_of_an_image_is_written_from_requirements(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "needs.txt").write_text("scikit-learn\n")
    assert main(["image", str(tmp_path / "needs.txt"), "--base", "localhost/python"]) == 0
    recipe = capsys.readouterr().out
    assert "\nFROM localhost/python\nCOPY needs.txt " in recipe
    assert main(["image", str(tmp_path / "absent.txt")]) == 2
    assert "there is no file" in capsys.readouterr().err
