"""The thread of an isolated replica: starts its worker, warms it up, drives it, starts it again."""

import contextlib
import functools
import logging
import statistics
import sys
import threading
import time
from collections import deque
from typing import Any

from clipper._core.isolation import IsolatedReplica, set_available_in
from clipper._core.serving import ReplicaRunner
from clipper.errors import Cause, DeployError, WorkerError
from clipper.replica_thread import ReplicaThread, warm_up
from clipper.resources.grant import Grant
from clipper.resources.granting import release
from clipper.row_examples import batch_of, resized
from clipper.tensor import RowType
from clipper_worker import protocol

from .container_process import ContainerProcess
from .isolation import Isolated, shares_packages
from .model_source import ModelSource
from .rows import example_from, example_to, from_rows, to_rows
from .supervisor import Output
from .worker_process import WorkerProcess

_log = logging.getLogger("clipper")

_FIRST_BACK_OFF_SECONDS = 0.05
_LONGEST_BACK_OFF_SECONDS = 5.0
_SPIN_NS = 50_000
_CLOSE_SECONDS = 1.0


class IsolatedReplicaThread(ReplicaThread):
    """Owns one replica's thread and, one after the other, its workers.

    The deployer waits for the same steps as with a thread that runs the model itself.
    """

    def __init__(
        self, source: ModelSource, isolated: Isolated, grant: Grant, name: str, *,
        output_bytes: int, ready_timeout: float,
    ) -> None:  # fmt: skip
        super().__init__(None, grant, name)
        self.input: RowType | None = None  # as the worker says, where deploy was not told
        self.example: Any = None
        self.state: str = "starting"
        self.restarts: int = 0
        self.last_death: str = ""
        self._name = name
        self._source = source
        self._isolated = isolated
        self._output_bytes = output_bytes
        self._ready_timeout = ready_timeout
        self._stopping = threading.Event()
        self._worker: WorkerProcess | None = None
        self._former: WorkerProcess | None = None  # for what it printed
        self._link: IsolatedReplica | None = None
        self._deaths: deque[float] = deque(maxlen=isolated.restarts)
        self._start_seconds = 1.0

    # ---- from other threads -------------------------------------------------------------------

    def wait(self, until: float, step: str) -> None:
        """Wait for the end of a step."""
        try:
            super().wait(until, step)
        except DeployError as error:
            if isinstance(error.__cause__, DeployError):
                raise error.__cause__ from None  # it says all that there is to say
            worker = self._worker
            if error.__cause__ is None and worker is not None:
                raise worker.failure(f"is not ready: {error}") from None
            raise

    def stop(self) -> None:
        """End the thread after the batches that run now. Does not wait."""
        self._stopping.set()
        worker = self._worker
        if worker is not None and self.state != "serving":
            worker.kill()
        super().stop()

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end; a worker that does not return is killed."""
        if super().join(timeout):
            return True
        worker = self._worker
        if worker is not None:
            worker.kill()
        return super().join(2 * _CLOSE_SECONDS)

    def describe(self) -> dict[str, Any]:
        """Return the worker's state, as plain values."""
        worker, link = self._worker, self._link
        return {
            "state": self.state,
            "pid": None if worker is None else worker.pid,
            "runtime": "" if worker is None else worker.runtime,
            "restarts": self.restarts,
            "last_death": self.last_death,
            "output": "" if worker is None else worker.output.tail(),
            **({"container": worker.container} if isinstance(worker, ContainerProcess) else {}),
            **({} if link is None else link.statistics()),
        }

    @property
    def outputs(self) -> list[tuple[int, Output]]:
        """Process id and output of the worker before this one and of this one, if there are."""
        workers = (self._former, self._worker)
        return [(worker.pid, worker.output) for worker in workers if worker is not None]

    # ---- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._run_to_the_end()
        finally:
            self.state = "given up" if self.state == "given up" else "stopped"
            self._end_worker(_CLOSE_SECONDS if self._link is not None else 0.0)
            release([self.grant])
            if self._core is not None and self._stopping.is_set():
                # What a dying worker gave back when its deployment was closed already.
                self._core.deployment.flush(Cause.NO_REPLICA)

    def _run_to_the_end(self) -> None:
        until = time.monotonic() + self._ready_timeout
        try:
            self._adopt(self._load(until))
        except BaseException as error:
            self._steps.put(error)
            return
        self._steps.put(None)
        order = self._orders.get()
        if order is None:
            return
        core, largest = order
        try:
            self._share(core)
            if self.example is not None:
                self._rehearse(core, largest)
            self._check_gpu_memory()
        except BaseException as error:
            self._steps.put(error)
            return
        self.state = "serving"
        self._steps.put(None)
        self._serve(core)

    def _load(self, until: float) -> tuple[protocol.Loaded, bytes | None]:
        """Start a worker and let it load the model."""
        began = time.monotonic()
        worker = self._worker = self._start_worker(until)
        if self._stopping.is_set():
            raise WorkerError("the replica was stopped")
        runtime = worker.greet()
        if self._source.kind == "pickle":
            self._check_same_python(runtime)
        input = to_rows(self._input)
        has_example = input is not None and self._example is not None
        blobs = [self._source.pickled] if self._source.kind == "pickle" else []
        if input is not None and has_example:
            blobs.append(example_to(input, self._example))
        paths = [str(path) for path in self._isolated.paths]
        if shares_packages(self._isolated):
            paths += [path for path in sys.path if path]
        load = protocol.Load(
            self._source.kind, self._source.reference, self.grant.device,
            self._isolated.may_unpickle, has_example, input, to_rows(self._output), paths,
        )  # fmt: skip
        answer = worker.load(load, blobs)
        self._start_seconds = time.monotonic() - began
        return answer

    def _start_worker(self, until: float) -> WorkerProcess:
        if self._isolated.image is None:
            return WorkerProcess(self._isolated, self._name, until, self.grant.limit_worker())
        files = [self._source.reference] if self._source.kind == "file" else []
        return ContainerProcess(
            self._isolated, self._name, until, self.grant.limit_container(), files=files,
            resource_flags=self.grant.container_flags(),
        )  # fmt: skip

    def _check_same_python(self, runtime: str) -> None:
        ours = f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor}."
        if not runtime.lower().startswith(ours):
            raise DeployError(
                f"{self._source.reference} was given as an object, but the worker runs {runtime}, "
                f"and pickles of code are for one version of Python ({ours[:-1]} here): name a "
                "factory, 'package.module:function', or a file"
            )

    def _adopt(self, answer: tuple[protocol.Loaded, bytes | None]) -> None:
        """Learn from the first worker what the model takes and returns."""
        loaded, example = answer
        assert self._worker is not None
        try:
            self.input = self._input or from_rows(loaded.input, "input")
            self.probed: RowType | None = from_rows(loaded.output, "output")
            self.example = self._example
            if example is not None and loaded.input is not None:
                self.example = example_from(loaded.input, example)
        except (protocol.ProtocolError, ValueError, TypeError) as error:
            raise self._worker.failure(f"broke the protocol: {error}") from None

    def _share(self, core: ReplicaRunner) -> None:
        """Make memory for a worker that has loaded, and let it map that."""
        assert self._worker is not None
        isolated, deployment = self._isolated, core.deployment
        self._link = IsolatedReplica(core, ragged_bytes=self._output_bytes)
        input, output = to_rows(deployment.input.tensors), to_rows(deployment.output.tensors)
        assert input is not None
        assert output is not None
        self._worker.map(self._link, input, output)
        self._link.watch(
            self._worker.pidfd,
            timeout_ns=None if isolated.timeout is None else int(isolated.timeout * 1e9),
            most_in_flight=isolated.in_flight, spin_ns=_SPIN_NS,
        )  # fmt: skip

    def _rehearse(self, core: ReplicaRunner, largest: int) -> None:
        """Teach the controllers what batches take, the way to the worker and back included."""
        assert self._link is not None
        deployment = core.deployment
        input: Any = deployment.input.tensors
        for lane, length in enumerate(deployment.length_buckets or (None,)):
            example = self.example if length is None else resized(input, self.example, length)
            batches = functools.partial(batch_of, input, example)
            most = min(largest, deployment.max_batch)
            with self._explaining_deaths():
                times = warm_up(core, self._link.rehearse, batches, most, lane)
            self.single_row_seconds: float | None = statistics.median(times)

    def _check_gpu_memory(self) -> None:
        assert self._worker is not None
        self.grant.note_loaded(self._worker.pid)
        if too_much := self.grant.check_gpu_memory():
            raise self._worker.failure(f"has too much: {too_much}")

    @contextlib.contextmanager
    def _explaining_deaths(self) -> Any:
        try:
            yield
        except WorkerError as error:
            assert self._worker is not None
            raise self._worker.failure(self._death_of(str(error.args[0]))) from None

    # ---- serving and starting again -------------------------------------------------------------

    def _serve(self, core: ReplicaRunner) -> None:
        while True:
            assert self._link is not None
            event = self._link.serve()
            if event == "stopped":
                self._link.close()
                return
            if not self._bury(core, event) or not self._start_again(core):
                return

    def _death_of(self, event: str) -> str:
        """Say what happened, and see to it that the process is gone."""
        worker, link = self._worker, self._link
        assert worker is not None
        assert link is not None
        if event == "died":
            return worker.ended()
        worker.kill()
        worker.ended()
        if event == "timed out":
            return f"did not answer a batch within {self._isolated.timeout:g} s and was ended"
        return f"broke the protocol and was ended: {link.text()}"

    def _bury(self, core: ReplicaRunner, event: str) -> bool:
        """Give a dead worker's rows back. False: it is not started again."""
        worker, link = self._worker, self._link
        assert worker is not None
        assert link is not None
        what = self._death_of(event)
        rows, input = link.blamed
        if rows:
            what += f" while it ran {f'input {input}' if input else f'a batch of {rows} rows'}"
        return self._note_death(core, what, worker, link)

    def _note_death(
        self, core: ReplicaRunner, what: str, worker: WorkerProcess | None,
        link: IsolatedReplica | None,
    ) -> bool:  # fmt: skip
        """Count a death, or a start that failed; no worker: it could not even be started."""
        name = core.deployment.name
        who = "a worker" if worker is None else f"worker {worker.pid}"
        self.last_death = f"{who} of model {name!r} {what}"
        now = time.monotonic()
        self._deaths.append(now)
        recent = sum(now - death < self._isolated.window for death in self._deaths)
        goes_on = recent < self._isolated.restarts and not self._stopping.is_set()
        self._back_off = min(_FIRST_BACK_OFF_SECONDS * 2 ** (recent - 1), _LONGEST_BACK_OFF_SECONDS)
        ready_in = int((self._back_off + self._start_seconds) * 1e9) if goes_on else None
        self.state = "restarting" if goes_on else "given up"
        if link is not None:
            error = WorkerError(self.last_death)
            for input, error_id in link.give_back(ready_in, error):
                self._refuse(core, input, error_id)
        is_alive = set_available_in(core, ready_in)
        tail = "" if worker is None else worker.output.tail(wait=0.2)
        _log.warning(
            "%s%s", self.last_death, f"; the last that it printed:\n{tail}" if tail else ""
        )
        if not goes_on and not self._stopping.is_set():
            self._give_up(core, recent, is_alive)
        return goes_on

    def _refuse(self, core: ReplicaRunner, input: str, error_id: int) -> None:
        text = (
            f"input {input} of model {core.deployment.name!r} is refused: it was in flight when "
            f"workers died, alone at last ({self.last_death}); a new version is asked again"
        )
        core.deployment.note_lasting_error(error_id, text)
        _log.error("%s", text)

    def _give_up(self, core: ReplicaRunner, deaths: int, is_alive: bool) -> None:
        deployment = core.deployment
        _log.error(
            "model %s: a replica's worker died %d times within %g s and is not started again; %s",
            deployment.name, deaths, self._isolated.window,
            "others serve on" if is_alive else "no other is left, so it answers nothing: deploy it "
            "anew",
        )  # fmt: skip
        if not is_alive:
            deployment.close()
            deployment.flush(Cause.CRASH)

    def _start_again(self, core: ReplicaRunner) -> bool:
        """Start workers until one is ready. False: stopped, or given up."""
        while not self._stopping.wait(self._back_off):
            self._end_worker(0.0)
            self.restarts += 1
            try:
                self._load(time.monotonic() + self._ready_timeout)
                self._share(core)
                if self.example is not None:
                    self._try_one_row(core)
            except Exception as error:
                if self._stopping.is_set():
                    return False
                what = f"did not start again: {error}"
                if not self._note_death(core, what, self._worker, None):
                    return False
                continue
            self.grant.note_loaded(self._worker_pid)
            self.state = "serving"
            set_available_in(core, 0)
            _log.info("model %s: worker %d serves again", core.deployment.name, self._worker_pid)
            return True
        return False

    def _try_one_row(self, core: ReplicaRunner) -> None:
        assert self._link is not None
        input: Any = core.deployment.input.tensors
        with self._explaining_deaths():
            self._link.rehearse(batch_of(input, self.example, 1))

    @property
    def _worker_pid(self) -> int:
        return 0 if self._worker is None else self._worker.pid

    def _end_worker(self, grace: float) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            self._former = worker
            worker.close(grace)
