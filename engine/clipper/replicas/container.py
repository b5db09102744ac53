"""What starts a worker in an OCI container: the options of ``podman run`` and ``docker run``."""

import csv
import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from clipper.errors import DeployError

from .isolation import Isolated

#: Where things are in the container.
INSIDE = "/run/clipper"
SOCKET = f"{INSIDE}/engine/socket"
_WORKER = f"{INSIDE}/clipper_worker"


def find_runtime(isolated: Isolated) -> str:
    """Return the path of the program that starts containers.

    Raises
    ------
    DeployError
        If there is none.
    """
    names = [isolated.runtime] if isolated.runtime is not None else ["podman", "docker"]
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise DeployError(
            f"image={isolated.image!r} needs {' or '.join(names)}, and PATH has none: install "
            "podman, which needs no daemon"
        )
    return found


def run_arguments(
    isolated: Isolated, runtime: str, name: str, *, socket_folder: str, worker_folder: Path,
    files: Sequence[str], resource_flags: Sequence[str],
) -> list[str]:  # fmt: skip
    """Return the command that runs the worker.

    Parameters
    ----------
    isolated : Isolated
    runtime : str
        The program.
    name : str
        Of the container.
    socket_folder : str
        Where the engine listens.
    worker_folder : Path
        ``clipper_worker`` of this installation, so that the image needs nothing of this project.
    files : sequence of str
        Absolute paths that the model needs, of the same name inside.
    resource_flags : sequence of str
        Options that limit it.

    Raises
    ------
    DeployError
        If one of ``paths`` is not there.
    """
    assert isolated.image is not None
    mounts = [
        _mount(socket_folder, f"{INSIDE}/engine"),
        _mount(os.fspath(worker_folder), _WORKER),
    ]
    for given in isolated.paths:
        path = str(Path(given).absolute())
        if not os.path.isdir(path):
            raise DeployError(f"paths names {path}, which is no folder to mount into a container")
        mounts.append(_mount(path, path))
    # One that is not there is not mounted: the worker says so.
    mounts += [_mount(path, path) for path in files if os.path.exists(path)]
    env = {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **isolated.env}
    program, *arguments = isolated.command or (
        os.fspath(isolated.python or "python3"), "-X", "faulthandler", f"{_WORKER}/__main__.py",
    )  # fmt: skip
    return [
        runtime, "run", "--rm", f"--name={name}", "--pull=never", "--network=none",
        # Output comes through this command, and is bounded here: nothing else need keep it.
        "--log-driver=none",
        "--cap-drop=all", "--security-opt=no-new-privileges",
        # SELinux lets no other domain use the descriptors that are passed.
        "--security-opt=label=disable",
        *mounts, *(f"--env={key}={value}" for key, value in env.items()),
        *resource_flags, *isolated.container_args, f"--entrypoint={program}",
        isolated.image, *arguments, f"--connect={SOCKET}",
    ]  # fmt: skip


def _mount(source: str, target: str) -> str:
    """Return the option for a read-only mount; paths may hold whatever they like."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(
        ["type=bind", f"source={source}", f"target={target}", "readonly"]
    )
    return f"--mount={line.getvalue()}"
