"""Serves ONNX files with ONNX Runtime."""

import os
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import onnxruntime

from clipper import Runner, Tensor

from .onnx_signature import Outputs, choose_outputs, python_name, read_inputs, stated_output
from .padding import Pad, mask_names, padder_for
from .specs import ONLY, RowType, by_name, check_threads, cuda_index, probe, zero_row

Providers = Sequence[str | tuple[str, dict[str, Any]]]

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"

#: Distributions that install the folder ``onnxruntime``, each over the one before.
_BUILDS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-qnn")


class OnnxModel:
    """An ONNX model, of one or several inputs and outputs whose first axis is a dynamic batch.

    Parameters
    ----------
    model : path or bytes
        The file, read again for each replica, or what it holds.
    input : Tensor or dict of Tensor, optional
        One row, of those inputs where axes besides the batch are dynamic; the file knows the rest.
        Names that are no Python names have underscores instead: ``input_ids_0`` for
        ``input-ids.0``.
    outputs : str or sequence of str, optional
        Which outputs to serve: one alone, or several by name. All where left out.
    pad : Pad, optional
        How ragged inputs become arrays. With it, an input whose second axis is dynamic is ragged.
    threads : int, optional
        CPU threads of one batch; ONNX Runtime's own choice, all cores, where left out. With 1 a
        batch runs on the thread that calls.
    providers : sequence, optional
        Execution providers as `onnxruntime.InferenceSession` takes them, used whatever the device.
    session_options : onnxruntime.SessionOptions, optional
        Used as they are, instead of ``threads``. They cannot be pickled, so a model that has them
        cannot be sent to another process.

    Attributes
    ----------
    input, output : Tensor or dict of Tensor
        One row of each; dicts where there are several.
    length_buckets : tuple of int
        Rows of which lengths are padded alike.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If ONNX Runtime cannot load the model, or the model cannot be served as it is.

    Warns
    -----
    RuntimeWarning
        If several builds of ONNX Runtime are installed over one another.
    """

    batch_as: Literal["array", "dlpack"] = "array"

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        *,
        input: RowType | None = None,
        outputs: Outputs = None,
        pad: Pad | None = None,
        threads: int | None = None,
        providers: Providers | None = None,
        session_options: onnxruntime.SessionOptions | None = None,
    ) -> None:
        _warn_of_several_builds()
        check_threads(threads, "OnnxModel")
        if threads is not None and session_options is not None:
            raise ValueError(
                f"OnnxModel got threads={threads} and session_options; expected one of them: set "
                "session_options.intra_op_num_threads instead of threads"
            )
        self._model = model if isinstance(model, bytes) else Path(model)
        self._threads = threads
        self._pad = pad
        self._providers = providers
        self._session_options = session_options
        # A session just to read the specs, gone when this returns.
        session = self._session([_CPU] if providers is None else providers, self._plain_options())
        self._read_inputs(session, input)
        self._output_names = choose_outputs(session, outputs, self._who)
        self._is_single_output = isinstance(outputs, str) or (
            outputs is None and len(self._output_names) == 1
        )
        self.output: RowType | None = self._stated_outputs(session, told=input is not None)
        if self.output is None:
            self.output = self._probe(session)

    @property
    def length_buckets(self) -> tuple[int, ...]:
        """The lengths that batches are padded to; empty where no input is ragged."""
        return () if self._pad is None else tuple(self._pad.buckets)

    @property
    def can_use_gpu(self) -> bool:
        """Whether this build of ONNX Runtime can use a GPU."""
        return self._providers is None and _CUDA in onnxruntime.get_available_providers()

    def load(
        self, device: str, *, threads: int | None = None, gpu_memory: int | None = None
    ) -> Runner:
        """Start a session on the device and return what runs a batch with it.

        Parameters
        ----------
        device : str
            ``"auto"``, ``"cpu"`` or ``"cuda:<index>"``; ``"auto"`` is the first GPU if ONNX Runtime
            can use one.
        threads : int, optional
            CPU threads of one batch, instead of those that the adapter was made with.
        gpu_memory : int, optional
            Bytes of the GPU's memory that the session may take.

        Raises
        ------
        ValueError
            If there is no such device, or a limit contradicts the adapter's own options.
        """
        if threads is not None and self._session_options is not None:
            raise ValueError(
                f"OnnxModel got threads={threads} for a replica and has session_options; expected "
                "one of them: set session_options.intra_op_num_threads, and leave threads and cpus "
                "out of resources"
            )
        if gpu_memory is not None and self._providers is not None:
            raise ValueError(
                f"OnnxModel got gpu_memory={gpu_memory} for a replica and has providers; expected "
                "one of them: give gpu_mem_limit among the provider's options instead"
            )
        providers = self._providers or self._providers_for(device, gpu_memory)
        session = self._session(providers, self._options(threads))
        if device.startswith("cuda") and self._providers is None:
            self._check_on_gpu(session, device)
        # ONNX Runtime reads the batch where it lies and returns the output where it wrote it, so
        # there is no copy for I/O binding to save on the CPU. On a model of one operator and one
        # row: run 18 us, I/O binding 31 us, 40 us with an output of ours. The session beneath
        # takes 12 us: it is spared Python's check of the names, and a fallback for GPUs.
        if list(providers) == [_CPU]:
            session = getattr(session, "_sess", session)
        return self._runner(session)

    def example(self) -> Any:
        """Return a row of zeros."""
        return zero_row(self.input)

    def __repr__(self) -> str:
        options = "" if self._pad is None else f", pad={self._pad}"
        options += "" if self._threads is None else f", threads={self._threads}"
        return f"OnnxModel({self._name}, input={self.input}, output={self.output}{options})"

    @property
    def _name(self) -> str:
        if isinstance(self._model, bytes):
            return f"<{len(self._model)} bytes>"
        return repr(str(self._model))

    @property
    def _who(self) -> str:
        return f"OnnxModel's {self._name}"

    def _runner(self, session: Any) -> Runner:
        run_arrays, padder = self._run_of(session), self._padder
        only = next(iter(self._inputs.rows))
        if padder is not None:
            ragged = [name for name, spec in by_name(self.output or {}).items() if spec.is_ragged]

            def run_padded(batch: Any = None, /, **batches: Any) -> Any:
                arrays, rows = padder({only: batch} if batch is not None else batches)
                found = run_arrays(arrays)
                return rows.cut_all(found, ragged) if ragged else found

            return run_padded
        if not (isinstance(self.input, Tensor) and self._is_single_output):
            return lambda batch=None, /, **batches: run_arrays(
                {only: batch} if batch is not None else batches
            )
        name, outputs = self._inputs.in_file.get(only, only), list(self._output_names.values())
        return lambda batch: session.run(outputs, {name: batch}, None)[0]

    def _session(
        self, providers: Providers, options: onnxruntime.SessionOptions
    ) -> onnxruntime.InferenceSession:
        if isinstance(self._model, Path) and not self._model.is_file():
            raise FileNotFoundError(f"OnnxModel got {self._name}: no such file")
        source = self._model if isinstance(self._model, bytes) else str(self._model)
        try:
            return onnxruntime.InferenceSession(source, options, providers=list(providers))
        except Exception as error:
            raise ValueError(
                f"OnnxModel cannot load {self._name} ({error}): expected an ONNX model that ONNX "
                f"Runtime {onnxruntime.__version__} supports; check the file with "
                "onnx.checker.check_model"
            ) from error

    def _options(self, threads: int | None) -> onnxruntime.SessionOptions:
        if self._session_options is not None:
            return self._session_options
        options = onnxruntime.SessionOptions()
        threads = self._threads if threads is None else threads
        if threads is not None:
            options.intra_op_num_threads = threads
        return options

    def _plain_options(self) -> onnxruntime.SessionOptions:
        if self._session_options is not None:
            return self._session_options
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        return options

    def _check_on_gpu(self, session: onnxruntime.InferenceSession, device: str) -> None:
        # ONNX Runtime goes on with the CPU where its CUDA libraries or the GPU cannot be used.
        if _CUDA not in session.get_providers():
            raise ValueError(
                f"OnnxModel got device={device!r}, but ONNX Runtime could not start {_CUDA} on it: "
                "its log says why; check the driver, CUDA and cuDNN, or use device='cpu'"
            )

    def _providers_for(self, device: str, gpu_memory: int | None = None) -> Providers:
        usable = _CUDA in onnxruntime.get_available_providers()
        index = cuda_index(
            device,
            # ONNX Runtime does not say how many GPUs there are; it refuses one that is not there.
            available=1024 if usable else 0,
            who="OnnxModel",
            remedy=f"this build of ONNX Runtime {onnxruntime.__version__} has no {_CUDA}, install "
            "onnxruntime-gpu, or use device='cpu' or 'auto'",
        )
        if index is None:
            return [_CPU]
        options: dict[str, Any] = {"device_id": index}
        if gpu_memory is not None:
            # By default the arena grows by doubling, which would waste half of a budget.
            options |= {
                "gpu_mem_limit": gpu_memory,
                "arena_extend_strategy": "kSameAsRequested",
            }
        return [(_CUDA, options), _CPU]

    def _read_inputs(self, session: onnxruntime.InferenceSession, given: RowType | None) -> None:
        pad, who = self._pad, f"OnnxModel got {self._name}"
        masks = list(mask_names(pad, [ONLY]).values())
        if isinstance(given, Tensor):
            names = [a.name for a in session.get_inputs() if a.name not in masks]
            if len(names) != 1:
                raise ValueError(
                    f"{who} with the inputs {', '.join(names)}; input={given} is a single one: "
                    "give a dict of those that need it"
                )
            given = {python_name(names[0]): given}
        self._inputs = read_inputs(session, given or {}, masks, who=who, pads=pad is not None)
        rows = self._inputs.rows
        if not rows:
            raise ValueError(f"{who}, which takes no inputs; expected one or more")
        self.input: RowType | None = next(iter(rows.values())) if len(rows) == 1 else rows
        self._padder = padder_for(pad, rows, who=self._who, mask_dtypes=self._inputs.mask_dtypes)

    def _stated_outputs(
        self, session: onnxruntime.InferenceSession, *, told: bool
    ) -> RowType | None:
        """Return the outputs' rows as the file states them, if it does so for all."""
        if told or self._padder is not None:
            return None
        found = {n: stated_output(session, in_file) for n, in_file in self._output_names.items()}
        rows = {name: row for name, row in found.items() if row is not None}
        if len(rows) < len(found):
            return None
        return next(iter(rows.values())) if self._is_single_output else rows

    def _probe(self, session: onnxruntime.InferenceSession) -> RowType:
        # What the file does not state, or may contradict, shows in an answer.
        run = self._run_of(session)

        def answer(arrays: dict[str, Any]) -> Any:
            try:
                return run(arrays)
            except Exception as error:
                raise ValueError(
                    f"{self._who} cannot answer a row of zeros of {self.input} ({error})"
                ) from error

        return probe(answer, self._inputs.rows, self._padder, self._who)

    def _run_of(self, session: Any) -> Callable[[dict[str, Any]], Any]:
        """Return a function of arrays by name that runs a session."""
        outputs, in_file = list(self._output_names.values()), self._inputs.in_file
        names = list(self._output_names)
        is_single = self._is_single_output

        def run(arrays: dict[str, Any]) -> Any:
            if in_file:
                arrays = {in_file.get(name, name): array for name, array in arrays.items()}
            found = session.run(outputs, arrays, None)
            return found[0] if is_single else dict(zip(names, found, strict=True))

        return run


def _warn_of_several_builds() -> None:
    """Which of them serves depends on the order in which they came."""
    installed = []
    for build in _BUILDS:
        try:
            installed.append(f"{build} {metadata.version(build)}")
        except metadata.PackageNotFoundError:
            continue
    if len(installed) > 1:
        warnings.warn(
            f"{' and '.join(installed)} are installed over one another: the one that came last is "
            f"used; uninstall all of them, "
            "then install the one you want",
            RuntimeWarning,
            stacklevel=3,
        )
