"""Workers in other interpreters, and workers that do not keep to the protocol."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import clipper
from clipper import Isolated, Tensor

ROW = Tensor("float64", (2,))

FACTORY = """
import sys
import numpy as np


def versions():
    found = [*(int(part) for part in np.__version__.split(".")[:2]), *sys.version_info[:2]]
    return lambda batch: np.tile(np.array(found, np.int64), (len(batch), 1))


def lengths():
    from clipper_worker import Ragged

    def model(batch):
        assert isinstance(batch, Ragged)
        assert "clipper" not in sys.modules
        padded, mask = batch.padded()
        return (padded * mask).sum(axis=1)

    return model
"""


def make_environment(folder: Path, python: str, *packages: str) -> str:
    made = subprocess.run([python, "-m", "venv", folder], capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"{python} makes no environments here")
    interpreter = str(folder / "bin" / "python")
    if packages:
        pip = [interpreter, "-m", "pip", "install", "-q", "--only-binary", ":all:", *packages]
        installed = subprocess.run(pip, capture_output=True, text=True, check=False)
        if installed.returncode != 0:
            pytest.skip(f"cannot install {packages}: {installed.stderr[-200:]}")
    return interpreter


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "other_models.py").write_text(FACTORY)
    return folder


@pytest.fixture(scope="module")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return an interpreter with an older NumPy and nothing else; Python 3.9 where there is one."""
    python = next(iter(sorted(Path.home().glob(".pyenv/versions/3.9.*/bin/python"))), None)
    return make_environment(
        tmp_path_factory.mktemp("env") / "venv",
        sys.executable if python is None else str(python),
        "numpy<2",
    )


def test_another_interpreter_with_another_numpy_serves(
    engine: clipper.Engine, models: Path, other_python: str
) -> None:
    model = engine.deploy(
        "v", "other_models:versions", input=ROW, output=Tensor("int64", (4,)),
        where=Isolated(python=other_python, paths=(models,)),
    )  # fmt: skip
    numpy_major, _, *python = model.predict([1.0, 2.0]).output.tolist()
    assert numpy_major == 1 != int(np.__version__.split(".")[0])
    version = engine.describe()["models"]["v"]["versions"]["1"]["workers"][0]["runtime"]
    assert f"Python {python[0]}.{python[1]}." in version


def test_ragged_rows_need_nothing_of_this_project_there(
    engine: clipper.Engine, models: Path, other_python: str
) -> None:
    model = engine.deploy(
        "n", "other_models:lengths", input=Tensor("float64", (None,)),
        output=Tensor("float64", ()), where=Isolated(python=other_python, paths=(models,)),
    )  # fmt: skip
    assert model.predict_many([[1.0, 2.0], [], [5.0]]).output.tolist() == [3.0, 0.0, 5.0]


def test_code_is_not_sent_to_another_python(
    engine: clipper.Engine, models: Path, other_python: str
) -> None:
    version = subprocess.run([other_python, "-c", "import sys; print(sys.version_info[1])"],
                             capture_output=True, text=True, check=True).stdout  # fmt: skip
    says = "cloudpickle" if int(version) == sys.version_info.minor else "one version of Python"
    with pytest.raises(clipper.DeployError, match=says):
        engine.deploy("m", lambda batch: batch, input=ROW, output=ROW,
                      where=Isolated(python=other_python))  # fmt: skip


def test_an_environment_without_numpy_says_so(engine: clipper.Engine, tmp_path: Path) -> None:
    bare = make_environment(tmp_path / "bare", sys.executable)
    with pytest.raises(clipper.DeployError, match=r"no NumPy .* pip install numpy"):
        engine.deploy("m", "json:loads", input=ROW, output=ROW, where=Isolated(python=bare))


# ---- workers that break the protocol ----------------------------------------------------------

#: An "interpreter" that is a worker by itself, up to the point where it misbehaves.
ROGUE = """\
#!{python}
import mmap, os, socket, struct, sys, time
sys.path.insert(0, {folder!r})
from clipper_worker import protocol
from clipper_worker.protocol import Loaded, Place, Rows, Tensor, receive, send

connection = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
rows = Rows(False, [Tensor("", "float64", "array", False, (2,))])
words = None


def greet():
    send(connection, protocol.HELLO, protocol.pack_hello("a rogue"))
    receive(connection)


def tell(loaded):
    send(connection, protocol.LOADED, loaded)


def load():
    greet()
    send(connection, protocol.LOADED, protocol.pack_loaded(Loaded(rows, rows, False)))
    message = receive(connection)
    global layout, words, posted, finished, outputs
    layout = protocol.unpack_map(message.payload)
    posted, finished = message.descriptors[:2]
    os.set_blocking(posted, True)
    words = memoryview(mmap.mmap(message.descriptors[2], layout.sizes[0])).cast("Q")
    outputs = mmap.mmap(message.descriptors[5], layout.sizes[3])
    send(connection, protocol.READY)


def answer(sequence=None, status=0, rows=1, finish=None, text=0):
    os.read(posted, 8)
    number = words[protocol.POSTED_AT // 8]
    slot = (protocol.SLOTS_AT + number % 2 * protocol.SLOT_BYTES + protocol.REPLY_AT) // 8
    words[slot] = number if sequence is None else sequence
    words[slot + 1] = status | rows << 32
    words[slot + 2] = text
    words[protocol.FINISHED_AT // 8] = number if finish is None else finish
    os.write(finished, struct.pack("=Q", 1))


{does}
time.sleep(600)
"""

WORKER_FOLDER = str(Path(clipper.__file__).parents[1])


@pytest.fixture
def rogue(tmp_path: Path) -> Callable[[str], str]:
    def make(does: str) -> str:
        path = tmp_path / "rogue"
        body = textwrap.dedent(does)
        path.write_text(ROGUE.format(python=sys.executable, folder=WORKER_FOLDER, does=body))
        path.chmod(0o755)
        return str(path)

    return make


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("connection.send(b'HTTP/1.1 200 OK')", "message .* is not whole"),
        ("connection.send(bytes(64))", "no message of Clipper's worker protocol"),
        ("connection.send(struct.pack('<IHHII', protocol.MAGIC, 9, 1, 0, 0))", "speaks version 9"),
        ("send(connection, protocol.HELLO, b'')", "ends too early"),
        ("send(connection, protocol.READY)", "sent a message of kind 5"),
        ("send(connection, protocol.HELLO, struct.pack('<HHII', 7, 9, 1, 0))", "versions 7 to 9"),
        ("greet(); tell(bytes([0, 255, 255] * 3))", "ends too early|mid-string"),
        ("greet(); tell(protocol.pack_loaded(Loaded(rows, rows, True)))", "sent none"),
        ("greet(); connection.close()", "closed its connection"),
        ("load(); answer(sequence=7)", "numbered 7"),
        ("load(); answer(status=5)", "status 5"),
        ("load(); answer(rows=3)", "with 3"),
        ("load(); answer(finish=1 << 60)", "is finished"),
        ("load(); answer(status=1, text=1 << 40)", "text of"),
        ("load(); answer(); os._exit(5)", "ended with status 5"),
    ],
)  # fmt: skip
def test_a_worker_that_talks_nonsense_fails_the_deploy(
    engine: clipper.Engine, rogue: Callable[[str], str], does: str, says: str
) -> None:
    with pytest.raises(clipper.DeployError, match=says):
        engine.deploy("m", "any:model", input=ROW, output=ROW, warmup=[1.0, 2.0],
                      where=Isolated(python=rogue(does)), ready_timeout=20.0)  # fmt: skip


def test_a_worker_that_writes_garbage_everywhere_is_ended_and_harms_nobody(
    engine: clipper.Engine, rogue: Callable[[str], str]
) -> None:
    does = """
        load()
        os.read(posted, 8)
        words[:] = memoryview(os.urandom(len(words) * 8)).cast("Q")
        outputs[:] = os.urandom(len(outputs))
        os.write(finished, struct.pack("=Q", 1))
    """
    model = engine.deploy("m", "any:model", input=ROW, output=ROW,
                          where=Isolated(python=rogue(does), restarts=2))  # fmt: skip
    other = engine.deploy("other", lambda batch: batch, input=ROW, output=ROW)
    with pytest.raises(clipper.ReplicaCrashedError, match="broke the protocol"):
        model.predict([1.0, 2.0])
    assert other.predict([1.0, 2.0]).output.tolist() == [1.0, 2.0]
    assert engine.describe()["open_queries"] == 0
