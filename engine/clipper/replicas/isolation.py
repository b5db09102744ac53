"""What a user asks for with ``where=Isolated(...)``."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolated:
    """Run each replica in a process of its own, which may crash, hang or hold its GIL.

    Parameters
    ----------
    python : path, optional
        The interpreter, of this environment or another; 3.9 or later with NumPy is all it needs.
        This process's own where left out.
    timeout : float or None, default 30
        Seconds that one batch may take; then the worker is ended and its rows are tried again.
        None: for ever.
    paths : sequence of path, optional
        Folders that are added to the worker's ``sys.path``. With the same interpreter it has all of
        this process's anyway.
    env : dict of str, optional
        Environment variables besides those of this process. ``PYTHONPATH`` and ``PYTHONHOME`` are
        not passed on to another interpreter.
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
