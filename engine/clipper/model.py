"""A deployed model: its versions and replicas. Itself an application of one model."""

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._core.application import ModelCore
from ._core.serving import DeploymentCore
from .application import Application
from .batching import Strategy, check_max_queue, largest_batch, to_strategy
from .errors import Cause, ClipperError
from .replica_thread import ReplicaThread
from .replicas.isolated import IsolatedReplicaThread

if TYPE_CHECKING:
    from .engine import Engine

_GRACE_SECONDS = 0.2
_POLL_SECONDS = 0.001


@dataclass(slots=True)
class Deployment:
    """One deploy of one version, with its threads."""

    core: DeploymentCore
    threads: list[ReplicaThread]
    batching: Strategy
    device: str
    deployed_at: float  # wall clock, to show
    deployed_max_batch: int  # rows

    @property
    def single_row_seconds(self) -> float | None:
        """Median seconds of a batch of one, as warmed up; None without a warm-up."""
        known = [t.single_row_seconds for t in self.threads if t.single_row_seconds is not None]
        return max(known, default=None)

    def retire(self, timeout: float) -> bool:
        """Answer what was accepted, then end the threads and free the memory.

        Returns False if the model had not returned after ``timeout`` seconds: what it holds stays.
        """
        until = time.monotonic() + timeout
        self.core.close()
        while self.core.outstanding and time.monotonic() < until:
            if self.core.engine.is_closed and not self.core.has_available_replica:
                break  # every query has ended, and nobody is there to put their rows away
            time.sleep(_POLL_SECONDS)
        self.core.flush(Cause.NO_REPLICA)
        for thread in self.threads:
            thread.stop()
        # A thread needs a moment to end even where its model has returned.
        until = max(until, time.monotonic() + _GRACE_SECONDS)
        ended = [thread.join(until - time.monotonic()) for thread in self.threads]
        if all(ended) and self.core.outstanding == 0:
            self.core.free()
            return True
        return False

    def _workers(self) -> list[dict[str, Any]]:
        isolated = (t for t in self.threads if isinstance(t, IsolatedReplicaThread))
        return [thread.describe() for thread in isolated]

    def describe(self) -> dict[str, Any]:
        """Return the deployment's state and counters, as plain values."""
        return {
            "version": self.core.version,
            "input": repr(self.core.input.tensors),
            "output": repr(self.core.output.tensors),
            "batching": repr(self.batching),
            "device": self.device,
            "deployed_at": self.deployed_at,
            **self.core.statistics(),
            "resources": [thread.grant.describe() for thread in self.threads],
            **({"workers": workers} if (workers := self._workers()) else {}),
        }


class Model(Application):
    """A model by name. Made by :meth:`Engine.deploy`.

    ``predict`` and its kin ask the current version.
    """

    def _adopt(self, engine: "Engine", core: ModelCore) -> None:
        self._engine = engine
        self._model_core = core
        self._versions: list[Deployment] = []  # oldest first; the current one is not always last
        self._current: Deployment | None = None
        self._lock = threading.RLock()

    @property
    def version(self) -> int | str | None:
        """The version that answers now; None after undeploy."""
        return None if self._current is None else self._current.core.version

    @property
    def versions(self) -> list[int | str]:
        """The versions that are loaded, oldest first."""
        return [deployment.core.version for deployment in self._versions]

    @property
    def errors(self) -> list[str]:
        """Tracebacks of the current version's recent errors, oldest first."""
        return [] if self._current is None else [text for _, _, text in self._current.core.errors]

    def batch_bound(self, rows: int) -> float:
        """Return what a batch of ``rows`` takes at most, as learned so far.

        Parameters
        ----------
        rows : int
            At least 1.

        Returns
        -------
        float
            Seconds, the slowest replica's; 0 if it is not known yet.
        """
        if rows < 1:
            raise ValueError(f"rows is {rows}: give 1 or more")
        runners = [] if self._current is None else self._current.core.runners
        return max((runner.bound(rows) for runner in runners), default=0.0)

    def set_batching(self, batching: Strategy | str) -> None:
        """Form batches by another strategy, or the same with other limits, from the next one on.

        For the version that answers now, on all its replicas, while it serves: batches that run end
        as they are, no query is lost, and what batches take stays known. A former strategy takes up
        to 9 KB per replica until the version is undeployed.

        Parameters
        ----------
        batching : Fixed, Aimd, Quantile, Deadline or str
            As for :meth:`Engine.deploy`.

        Raises
        ------
        ValueError
            If the strategy is unknown, or asks for larger batches than there is memory for.
        ClipperError
            If no version is deployed.
        """
        strategy = to_strategy(batching)
        largest = largest_batch(strategy)
        with self._lock:
            deployment = self._serving()
            core = deployment.core
            most = max(core.most_batch_rows, deployment.deployed_max_batch)
            if largest > most:
                raise ValueError(
                    f"{strategy!r} forms batches of up to {largest} rows, but model {self.name!r} "
                    f"was deployed with memory for {most}: give a smaller limit, or deploy it "
                    "again with this strategy"
                )
            if strategy == deployment.batching:
                return
            core.max_batch = largest
            core.set_batching(strategy)
            deployment.batching = strategy

    def set_max_queue(self, max_queue: int) -> None:
        """Change how many requests may wait; one more is refused at once.

        For the version that answers now. Requests that wait already stay, even above the new bound.

        Parameters
        ----------
        max_queue : int
            From 1 to 16,777,216.

        Raises
        ------
        ValueError
            If it is something else.
        ClipperError
            If no version is deployed.
        """
        requests = check_max_queue(max_queue)
        with self._lock:
            self._serving().core.max_queue = requests

    def clear_cache(self) -> None:
        """Forget all answers that are kept, as when something changed that the model looks at.

        Inputs that are being evaluated are answered, but their answers are not kept. Without a
        cache it does nothing.

        Raises
        ------
        ModelNotFoundError
            If no version is deployed.
        """
        with self._lock:
            self._serving().core.clear_cache()

    def reset_statistics(self) -> None:
        """Take what the current version answers from now on for what is usual.

        Forgets the statistics of its outputs and losses, and lowers the alarms of drift.

        Raises
        ------
        ModelNotFoundError
            If no version is deployed.
        """
        with self._lock:
            self._serving().core.reset_outputs()

    def _serving(self) -> Deployment:
        self.core.check_usable()
        if self._current is None:
            raise ClipperError(f"model {self.name!r} is not deployed any more: deploy it first")
        return self._current

    def rollback(self) -> int | str:
        """Let the version before the current one answer again; no query is lost.

        Returns
        -------
        int or str
            The version that answers now.

        Raises
        ------
        ClipperError
            If no earlier version is loaded.
        """
        with self._lock:
            self.core.check_usable()
            place = self._versions.index(self._current) if self._current is not None else 0
            if place == 0:
                raise ClipperError(
                    f"model {self.name!r} has no version before {self.version!r} loaded: deploy "
                    "the one you want"
                )
            self._switch(self._versions[place - 1])
            return self._versions[place - 1].core.version

    def _install(self, deployment: Deployment, keep_versions: int) -> list[Deployment]:
        """Make a warm deployment current; returns those that are now one too many."""
        with self._lock:
            self._versions.append(deployment)
            self._switch(deployment)
            surplus = self._versions[:-keep_versions]
            self._versions = self._versions[-keep_versions:]
            return surplus

    def _remove_all(self) -> list[Deployment]:
        with self._lock:
            self._model_core.switch(None)
            self._current = None
            removed, self._versions = self._versions, []
            return removed

    def _switch(self, deployment: Deployment) -> None:
        self._model_core.switch(deployment.core)
        self._current = deployment

    def describe(self) -> dict[str, Any]:
        """Return the model's versions, replicas, counters and statistics, as plain values.

        ``["statistics"]`` says what the current version's outputs and losses have been like, in
        windows of time, and whether they drift; None if no version is deployed.
        """
        current = self._current
        return {
            **super().describe(),
            "version": self.version,
            "cache": None if current is None else current.core.cache_statistics,
            "statistics": None if current is None else current.core.describe_outputs(),
            "versions": {str(d.core.version): d.describe() for d in self._versions},
        }
