"""What a user asks for with ``where=Isolated(...)``."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolated:
    """Run each replica in a process of its own, which may crash, hang or hold its GIL.

    Parameters
    ----------
    python : path, optional
        The interpreter, of this environment or another; 3.9 or later with NumPy is all it needs.
        This process's own where left out; in a container, its ``python3``.
    image : str, optional
        Run the worker in a container of this OCI image, through podman or docker, without network:
        see ``docs/containers.md``. It is not pulled. The worker's own code, ``paths`` and a model's
        file are mounted into it, read-only.
    runtime : {"podman", "docker"}, optional
        Which of them starts it; the first that there is where left out.
    container_args : sequence of str, optional
        Options of ``podman run`` or ``docker run`` besides, such as ``("--userns", "auto")``.
    command : sequence of str, optional
        A worker of your own and its first arguments, in any language, instead of a Python: see
        ``docs/worker-protocol.md``. With ``image``, a program of the image.
    timeout : float or None, default 30
        Seconds that one batch may take; then the worker is ended and its rows are tried again.
        None: for ever.
    paths : sequence of path, optional
        Folders that are added to the worker's ``sys.path``. With the same interpreter it has all of
        this process's anyway.
    env : dict of str, optional
        Environment variables besides those of this process. ``PYTHONPATH`` and ``PYTHONHOME`` are
        not passed on to another interpreter, and none at all to a container.
    may_unpickle : bool, default False
        Whether a model may be a ``.joblib`` or ``.pkl`` file: loading one runs whatever it holds.
    output_bytes : int or str, default "256MiB"
        Room for the ragged outputs of one batch: address space, and memory only once it is used.
    in_flight : int, default 2
        Batches that a worker may have at a time: with 2 the next one waits in it while one runs.
    restarts : int, default 5
        Deaths within ``window`` after which a replica is not started again.
    window : float, default 60
        Seconds.

    Examples
    --------
    >>> Isolated(timeout=1.0).timeout
    1.0
    """

    python: str | os.PathLike[str] | None = None
    image: str | None = None
    runtime: Literal["podman", "docker"] | None = None
    container_args: Sequence[str] = ()
    command: Sequence[str] | None = None
    timeout: float | None = 30.0
    paths: tuple[str | os.PathLike[str], ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    may_unpickle: bool = False
    output_bytes: int | str = "256MiB"
    in_flight: int = 2
    restarts: int = 5
    window: float = 60.0

    def __post_init__(self) -> None:
        if self.timeout is not None and not 0.0 < self.timeout < 1e9:
            raise ValueError(f"timeout is {self.timeout!r}: give seconds above 0, or None for ever")
        if self.in_flight not in (1, 2):
            raise ValueError(f"in_flight is {self.in_flight!r}: give 1 or 2")
        if self.restarts < 1 or not self.window > 0.0:
            raise ValueError(
                f"restarts is {self.restarts!r} within {self.window!r} s: give 1 or more deaths "
                "within some seconds"
            )
        if isinstance(self.paths, (str, os.PathLike)):
            raise TypeError(f"paths is {self.paths!r}: give a sequence of folders")
        self._check_program()

    def _check_program(self) -> None:
        for name in ("container_args", "command"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name} is {getattr(self, name)!r}: give a sequence of strings")
        if self.command is not None and not self.command:
            raise ValueError("command is empty: give the path of a program, and its arguments")
        if self.command is not None and self.python is not None:
            raise ValueError(
                f"command={self.command!r} and python={str(self.python)!r} both name the worker's "
                "program: give one"
            )
        if self.runtime not in (None, "podman", "docker"):
            raise ValueError(f"runtime is {self.runtime!r}: give 'podman' or 'docker'")
        if self.image is None and (self.runtime is not None or self.container_args):
            raise ValueError("runtime and container_args are of containers: give an image, too")
        if self.image is not None and (not self.image or self.image.startswith("-")):
            raise ValueError(f"image is {self.image!r}: give the name of an OCI image")


def shares_packages(isolated: Isolated) -> bool:
    """Whether the worker is this process's interpreter, which finds what this process finds."""
    return isolated.python is None and isolated.image is None and isolated.command is None


def program_of(isolated: Isolated) -> str:
    """Name what runs, for error messages."""
    if isolated.image is not None:
        return f"image {isolated.image}"
    if isolated.command is not None:
        return isolated.command[0]
    return os.fspath(isolated.python or sys.executable)


def to_isolated(where: object) -> Isolated | None:
    """Read ``where=``: None stands for threads of this process.

    Raises
    ------
    ValueError
        If it is something else.
    """
    if where == "thread":
        return None
    if where == "isolated":
        return Isolated()
    if isinstance(where, Isolated):
        return where
    raise ValueError(
        f"where={where!r} is not available: give 'thread', 'isolated' or clipper.Isolated(...)"
    )
