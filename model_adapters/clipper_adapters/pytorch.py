"""Serves modules of PyTorch."""

import copy
import os
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.dlpack import from_dlpack

from clipper import Runner, Tensor

from .specs import check_threads, cuda_index, spec_of_output, zero_row

Forward = Callable[[torch.Tensor], torch.Tensor]

#: ``torch.inference_mode()`` without its Python shell: 2.4 us around an empty block, not 6.5 us.
_InferenceMode = getattr(torch._C, "_InferenceMode", torch.inference_mode)


class TorchModel:
    """A module of PyTorch that takes one tensor and returns one tensor.

    Parameters
    ----------
    module : torch.nn.Module or path
        Put into evaluation mode. On the device where it is, all replicas share it; for another
        device each replica makes a copy. Or a file written by `torch.export.save` with a dynamic
        first axis, name ending in ``.pt2``.
    input : Tensor, optional
        One row. Known without being told for exported files and where the module is, or is a
        Sequential that begins with, a Linear layer.
    output : Tensor, optional
        One row. If the input is known, read off the answer to a row of zeros.
    threads : int, optional
        CPU threads of one batch; torch's own setting where left out.

    Attributes
    ----------
    input, output : Tensor or None
        One row of each; None where it is not known.

    Notes
    -----
    torch keeps the number of threads per calling thread. `load` sets it for the calling thread,
    for good; a batch on any other thread runs with it and puts that thread's own number back. As
    torch takes the number set last as the default of threads that use it for the first time, a
    thread that begins during such a batch begins with ``threads``.
    """

    batch_as: Literal["array", "dlpack"] = "dlpack"

    def __init__(
        self,
        module: nn.Module | str | os.PathLike[str],
        *,
        input: Tensor | None = None,
        output: Tensor | None = None,
        threads: int | None = None,
    ) -> None:
        check_threads(threads, "TorchModel")
        self._threads = threads
        # A file is loaded per replica: what it holds can neither be pickled nor copied well.
        self._source: nn.Module | Path
        self.input = input
        if isinstance(module, str | os.PathLike):
            self._source = Path(module)
            program = _read_program(self._source)
            self.input = _input_of_program(program, self._source) if input is None else input
            sample: nn.Module = program.module()
        elif isinstance(module, nn.Module):
            self._source = sample = module.eval()
            self.input = _input_of_module(module) if input is None else input
        else:
            raise TypeError(
                f"TorchModel got a {type(module).__name__}; expected a torch.nn.Module or the path "
                "of a file written by torch.export.save: deploy other callables as they are"
            )
        self.output = output
        if output is None and self.input is not None:
            self.output = _output_of(sample, self.input, self._name)

    def load(self, device: str) -> Runner:
        """Return what runs a batch on the device.

        Parameters
        ----------
        device : str
            ``"auto"``, ``"cpu"`` or ``"cuda:<index>"``; ``"auto"`` is the first GPU if torch can
            use one.

        Raises
        ------
        ValueError
            If there is no such device.
        """
        index = cuda_index(
            device,
            available=torch.cuda.device_count() if torch.cuda.is_available() else 0,
            who="TorchModel",
            remedy=f"torch {torch.__version__} sees none, install a torch built for CUDA, "
            "check the driver, or use device='cpu' or 'auto'",
        )
        target = torch.device("cpu") if index is None else torch.device("cuda", index)
        module = self._module_on(target)
        run = _cpu_runner(module) if index is None else _cuda_runner(module, target)
        return run if self._threads is None else _with_threads(run, self._threads)

    def example(self) -> NDArray[Any] | None:
        """Return a row of zeros; None if the input is not known."""
        return zero_row(self.input)

    def __repr__(self) -> str:
        threads = "" if self._threads is None else f", threads={self._threads}"
        return f"TorchModel({self._name}, input={self.input}, output={self.output}{threads})"

    @property
    def _name(self) -> str:
        source = self._source
        return repr(str(source)) if isinstance(source, Path) else type(source).__name__

    def _module_on(self, target: torch.device) -> nn.Module:
        if isinstance(self._source, Path):
            program = _read_program(self._source)
            if target.type != "cpu":
                from torch.export.passes import move_to_device_pass  # noqa: PLC0415, torch >= 2.6

                program = move_to_device_pass(program, target)
            return program.module()
        tensors = [*self._source.parameters(), *self._source.buffers()]
        if all(tensor.device == target for tensor in tensors):
            return self._source
        # Module.to moves the module itself, from under the other replicas.
        return copy.deepcopy(self._source).to(target)


def _cpu_runner(module: nn.Module) -> Runner:
    # Bound to the module once the first batch has shown what it does to its input.
    forward: Forward

    def first(rows: torch.Tensor) -> torch.Tensor:
        nonlocal forward
        # Inference tensors do not count how often they are written to; these do.
        with torch.inference_mode(False), torch.no_grad():
            own = rows.clone()
            version = own._version
            output = module(own)
        written = own._version != version
        shared = output.untyped_storage().data_ptr() == own.untyped_storage().data_ptr()
        # The rows belong to the engine, and torch has no read-only tensors.
        forward = (lambda rows: module(rows.clone())) if written or shared else module
        return output  # type: ignore[no-any-return]

    forward = first

    def run(batch: Any) -> NDArray[Any]:
        with _InferenceMode(True):
            return forward(_as_tensor(batch)).contiguous().numpy()

    return run


def _cuda_runner(module: nn.Module, target: torch.device) -> Runner:
    def run(batch: Any) -> NDArray[Any]:
        with _InferenceMode(True):
            output: torch.Tensor = module(_as_tensor(batch).to(target))
            return output.cpu().contiguous().numpy()

    return run


def _as_tensor(batch: Any) -> torch.Tensor:
    # The capsule by itself is the cheapest way in: 2.1 us, against 4.3 us for torch.from_dlpack,
    # which asks for device, stream and version first. torch.from_numpy takes 1.9 us, but warns of
    # each array that is not writable; NumPy hands such an array out only in a versioned capsule.
    if isinstance(batch, np.ndarray):
        return from_dlpack(batch.__dlpack__(max_version=(1, 0)))
    return from_dlpack(batch.__dlpack__())


def _with_threads(run: Runner, threads: int) -> Runner:
    get, put = torch.get_num_threads, torch.set_num_threads
    before = get()
    if before != threads:
        put(threads)
        # torch now also takes the number as the default of threads to come. Only a thread of its
        # own can put that back without changing this one's.
        restore = threading.Thread(target=put, args=(before,), name="clipper-torch-threads")
        restore.start()
        restore.join()

    def run_with_threads(batch: Any) -> Any:
        current = get()
        if current == threads:
            return run(batch)
        put(threads)
        try:
            return run(batch)
        finally:
            put(current)

    return run_with_threads


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[Any] | None:
    try:
        return torch.empty(0, dtype=dtype).numpy().dtype
    except TypeError:  # bfloat16 and its like
        return None


def _input_of_module(module: nn.Module) -> Tensor | None:
    first = module
    while isinstance(first, nn.Sequential) and len(first):
        first = first[0]
    if not isinstance(first, nn.Linear):
        return None
    dtype = _numpy_dtype(first.weight.dtype)
    return None if dtype is None else Tensor(dtype, (first.in_features,))


def _read_program(path: Path) -> torch.export.ExportedProgram:
    if not path.exists():
        raise FileNotFoundError(f"TorchModel got {str(path)!r}: no such file")
    advice = (
        "expected a file written by torch.export.save whose name ends in .pt2; load anything else "
        "(TorchScript, a state_dict) yourself and pass the module"
    )
    # torch logs its whole traceback before it raises.
    if path.suffix != ".pt2" or not zipfile.is_zipfile(path):
        raise ValueError(f"TorchModel cannot read {str(path)!r}: {advice}")
    try:
        return torch.export.load(path)
    except Exception as error:
        raise ValueError(f"TorchModel cannot read {str(path)!r} ({error}): {advice}") from error


def _input_of_program(program: torch.export.ExportedProgram, path: Path) -> Tensor | None:
    names = program.graph_signature.user_inputs
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    inputs = [values.get(name) for name in names if isinstance(name, str)]
    if len(inputs) != 1 or not isinstance(inputs[0], torch.Tensor):
        raise ValueError(
            f"TorchModel got {str(path)!r}, exported with the inputs {', '.join(map(str, names))}; "
            "expected a single tensor: several inputs cannot be served yet"
        )
    batch: Any
    row: list[Any]  # ints, or torch.SymInt where dynamic
    batch, *row = inputs[0].shape
    if isinstance(batch, int):
        raise ValueError(
            f"TorchModel got {str(path)!r}, exported for batches of exactly {batch}; expected a "
            "dynamic first axis: torch.export.export(..., dynamic_shapes=({0: Dim('batch')},))"
        )
    dtype = _numpy_dtype(inputs[0].dtype)
    if dtype is None or not all(isinstance(extent, int) for extent in row):
        return None
    return Tensor(dtype, tuple(row))


def _output_of(module: nn.Module, spec: Tensor, name: str) -> Tensor:
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    who = f"TorchModel's {name}"
    try:
        with torch.inference_mode():
            zeros = torch.from_numpy(np.zeros((1, *spec.item_shape), spec.dtype))
            output = module(zeros.to(device))
            if isinstance(output, torch.Tensor):
                output = output.cpu().numpy()
    except Exception as error:
        raise ValueError(
            f"{who} cannot answer a row of zeros of {spec} ({error}): pass the "
            "input=clipper.Tensor(...) that it takes, or also its output=clipper.Tensor(...)"
        ) from error
    return spec_of_output(output, who)
