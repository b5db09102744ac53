"""Serves ONNX files with ONNX Runtime."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from clipper import Runner, Tensor

from .specs import check_threads, cuda_index, spec_of_output, zero_row

Providers = Sequence[str | tuple[str, dict[str, Any]]]

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"

_DTYPES = {
    "tensor(bool)": "bool",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{
        f"tensor({kind}{bits})": f"{kind}{bits}"
        for kind in ("int", "uint")
        for bits in (8, 16, 32, 64)
    },
}


class OnnxModel:
    """An ONNX model with one input, whose first axis is a dynamic batch.

    Parameters
    ----------
    model : path or bytes
        The file, read again for each replica, or what it holds.
    input : Tensor, optional
        One row; needed only where axes besides the batch are dynamic.
    output : str, optional
        Which output to serve; needed only where there are several.
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
    input, output : Tensor
        One row of each.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If ONNX Runtime cannot load the model, or the model cannot be served as it is.
    """

    batch_as: Literal["array", "dlpack"] = "array"

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        *,
        input: Tensor | None = None,
        output: str | None = None,
        threads: int | None = None,
        providers: Providers | None = None,
        session_options: onnxruntime.SessionOptions | None = None,
    ) -> None:
        check_threads(threads, "OnnxModel")
        if threads is not None and session_options is not None:
            raise ValueError(
                f"OnnxModel got threads={threads} and session_options; expected one of them: set "
                "session_options.intra_op_num_threads instead of threads"
            )
        self._model = model if isinstance(model, bytes) else Path(model)
        self._threads = threads
        self._providers = providers
        self._session_options = session_options
        # A session just to read the specs, gone when this returns.
        session = self._session([_CPU] if providers is None else providers, self._plain_options())
        self._input_name, spec = self._read_input(session, input)
        self._output_name = self._choose_output(session, output)
        self.input: Tensor | None = spec
        self.output: Tensor | None = self._read_output(session, spec, told=input is not None)

    def load(self, device: str) -> Runner:
        """Start a session on the device and return what runs a batch with it.

        Parameters
        ----------
        device : str
            ``"auto"``, ``"cpu"`` or ``"cuda:<index>"``; ``"auto"`` is the first GPU if ONNX Runtime
            can use one.

        Raises
        ------
        ValueError
            If there is no such device.
        """
        providers = self._providers or self._providers_for(device)
        session = self._session(providers, self._options())
        if device.startswith("cuda") and self._providers is None:
            self._check_on_gpu(session, device)
        name, outputs = self._input_name, [self._output_name]
        # ONNX Runtime reads the batch where it lies and returns the output where it wrote it, so
        # there is no copy for I/O binding to save on the CPU. On a model of one operator and one
        # row: run 18 us, I/O binding 31 us, 40 us with an output of ours. The session beneath
        # takes 12 us: it is spared Python's check of the names, and a fallback for GPUs.
        if list(providers) == [_CPU]:
            session = getattr(session, "_sess", session)

        def run(batch: NDArray[Any]) -> Any:
            return session.run(outputs, {name: batch}, None)[0]

        return run

    def example(self) -> Any:
        """Return a row of zeros."""
        return zero_row(self.input)

    def __repr__(self) -> str:
        threads = "" if self._threads is None else f", threads={self._threads}"
        return f"OnnxModel({self._name}, input={self.input}, output={self.output}{threads})"

    @property
    def _name(self) -> str:
        if isinstance(self._model, bytes):
            return f"<{len(self._model)} bytes>"
        return repr(str(self._model))

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

    def _options(self) -> onnxruntime.SessionOptions:
        if self._session_options is not None:
            return self._session_options
        options = onnxruntime.SessionOptions()
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
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

    def _providers_for(self, device: str) -> Providers:
        usable = _CUDA in onnxruntime.get_available_providers()
        index = cuda_index(
            device,
            # ONNX Runtime does not say how many GPUs there are; it refuses one that is not there.
            available=1024 if usable else 0,
            who="OnnxModel",
            remedy=f"this build of ONNX Runtime {onnxruntime.__version__} has no {_CUDA}, install "
            "onnxruntime-gpu, or use device='cpu' or 'auto'",
        )
        return [_CPU] if index is None else [(_CUDA, {"device_id": index}), _CPU]

    def _read_input(
        self, session: onnxruntime.InferenceSession, given: Tensor | None
    ) -> tuple[str, Tensor]:
        inputs = session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(argument.name for argument in inputs) or "none"
            raise ValueError(
                f"OnnxModel got {self._name} with the inputs {names}; expected exactly one: "
                "several inputs cannot be served yet"
            )
        (argument,) = inputs
        what = f"OnnxModel got {self._name} whose input {argument.name!r}"
        if argument.type not in _DTYPES:
            raise ValueError(f"{what} is a {argument.type}; expected numbers of at most 64 bits")
        if not argument.shape or isinstance(argument.shape[0], int):
            raise ValueError(
                f"{what} has the fixed shape {argument.shape}; expected a dynamic first axis, the "
                "batch: export the model again with one (dynamic_shapes in torch.onnx.export)"
            )
        row = argument.shape[1:]
        dtype = np.dtype(_DTYPES[argument.type])
        if given is None:
            if not all(isinstance(extent, int) for extent in row):
                raise ValueError(
                    f"{what} has the shape {argument.shape} with dynamic axes besides the batch; "
                    "expected one fixed shape of a row: pass "
                    f"input=clipper.Tensor({dtype.name!r}, (...))"
                )
            return argument.name, Tensor(dtype, tuple(row))
        fits = len(row) == len(given.shape) and all(
            not isinstance(mine, int) or mine == extent
            for mine, extent in zip(row, given.shape, strict=True)
        )
        if given.dtype != dtype or not fits:
            raise ValueError(
                f"{what} is a {dtype.name} of shape {argument.shape}; input={given} does not fit: "
                "leave input= out, or give sizes to the dynamic axes only"
            )
        return argument.name, given

    def _choose_output(self, session: onnxruntime.InferenceSession, chosen: str | None) -> str:
        names: list[str] = [argument.name for argument in session.get_outputs()]
        if chosen is None and len(names) > 1:
            raise ValueError(
                f"OnnxModel got {self._name} with the outputs {', '.join(names)}; expected one: "
                f"pass output={names[0]!r} or another, several cannot be served yet"
            )
        if chosen is not None and chosen not in names:
            raise ValueError(
                f"OnnxModel got output={chosen!r}; {self._name} has: {', '.join(names)}"
            )
        return names[0] if chosen is None else chosen

    def _read_output(
        self, session: onnxruntime.InferenceSession, spec: Tensor, *, told: bool
    ) -> Tensor:
        argument = next(a for a in session.get_outputs() if a.name == self._output_name)
        dtype, row = _DTYPES.get(argument.type), argument.shape[1:]
        batch_is_dynamic = argument.shape and not isinstance(argument.shape[0], int)
        is_stated = batch_is_dynamic and all(isinstance(extent, int) for extent in row)
        if dtype is not None and is_stated and not told:
            return Tensor(dtype, tuple(row))
        # What the file does not state, or may contradict, shows in an answer.
        try:
            zeros = np.zeros((1, *spec.item_shape), spec.dtype)
            (answer,) = session.run([self._output_name], {self._input_name: zeros})
        except Exception as error:
            raise ValueError(
                f"OnnxModel's {self._name} cannot answer a row of zeros of {spec} ({error})"
            ) from error
        return spec_of_output(answer, f"OnnxModel's {self._name}")
