"""Serves modules of PyTorch."""

import copy
import os
import threading
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from clipper import Runner, Tensor

from .padding import Pad, Padder, mask_names, padder_for
from .specs import ONLY, RowType, by_name, check_numeric, check_threads, cuda_index, probe, zero_row
from .torch_budgets import share_of_gpu
from .torch_calls import Call, Outputs, as_tensor, bind, examined, guarded, read_outputs
from .torch_programs import ProgramInputs, inputs_of_program, numpy_dtype, read_program

#: ``torch.inference_mode()`` without its Python shell: 2.4 us around an empty block, not 6.5 us.
_InferenceMode = getattr(torch._C, "_InferenceMode", torch.inference_mode)


class TorchModel:
    """A module of PyTorch, of one or several inputs and outputs.

    Parameters
    ----------
    module : torch.nn.Module or path
        Put into evaluation mode. On the device where it is, all replicas share it; for another
        device each replica makes a copy. Or a file written by `torch.export.save` with a dynamic
        first axis, name ending in ``.pt2``.
    input : Tensor or dict of Tensor, optional
        One row. A module gets a single tensor as its first argument, several as keywords of their
        names. Known without being told for exported files and where the module is, or is a
        Sequential that begins with, a Linear layer.
    output : Tensor or dict of Tensor, optional
        One row. If the input is known, read off the answer to a row of zeros.
    outputs : str or sequence of str or None, optional
        Which outputs to serve, where the module returns several. Of a dict or named tuple: one key,
        served as the only output, or several. Of a tuple: a name for each part, None for those not
        to serve. A dict or named tuple is served whole where this is left out.
    pad : Pad, optional
        How ragged inputs become tensors; needed where there are any.
    threads : int, optional
        CPU threads of one batch; torch's own setting where left out.

    Attributes
    ----------
    input, output : Tensor, dict of Tensor, or None
        One row of each; None where it is not known.
    length_buckets : tuple of int
        Rows of which lengths are padded alike.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TypeError, ValueError
        If the module cannot be served as it is, with what to do about it.

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
        input: RowType | None = None,
        output: RowType | None = None,
        outputs: Outputs = None,
        pad: Pad | None = None,
        threads: int | None = None,
    ) -> None:
        check_threads(threads, "TorchModel")
        self._threads = threads
        self._outputs = outputs
        self._pad = pad
        # A file is loaded per replica: what it holds can neither be pickled nor copied well.
        self._source: nn.Module | Path
        self._program: ProgramInputs | None = None
        if isinstance(module, str | os.PathLike):
            self._source = Path(module)
            program = read_program(self._source)
            masks = mask_names(pad, [ONLY]).values()
            self._program = inputs_of_program(program, self._source, masks, pads=pad is not None)
            self.input = _input_of_program(self._program) if input is None else input
            sample: nn.Module = program.module()
        elif isinstance(module, nn.Module):
            self._source = sample = module.eval()
            self.input = _input_of_module(module) if input is None else input
        else:
            raise TypeError(
                f"TorchModel got a {type(module).__name__}; expected a torch.nn.Module or the path "
                "of a file written by torch.export.save: deploy other callables as they are"
            )
        self._padder = self._make_padder()
        self.output = output
        if output is None and self.input is not None:
            self.output = self._probe(sample)

    @property
    def length_buckets(self) -> tuple[int, ...]:
        """The lengths that batches are padded to; empty where no input is ragged."""
        return () if self._pad is None else tuple(self._pad.buckets)

    @property
    def can_use_gpu(self) -> bool:
        """Whether torch can use a GPU in this process."""
        return torch.cuda.is_available()

    def load(
        self, device: str, *, threads: int | None = None, gpu_memory: int | None = None
    ) -> Runner:
        """Return what runs a batch on the device.

        Parameters
        ----------
        device : str
            ``"auto"``, ``"cpu"`` or ``"cuda:<index>"``; ``"auto"`` is the first GPU if torch can
            use one.
        threads : int, optional
            CPU threads of one batch, instead of those that the adapter was made with.
        gpu_memory : int, optional
            Bytes of the GPU's memory that torch may take for this replica. torch knows one bound
            for a GPU and a process: that of all its replicas together.

        Raises
        ------
        ValueError
            If there is no such device, the budget is larger than it, or only some of the replicas
            in this process that use it have one.
        """
        index = cuda_index(
            device,
            available=torch.cuda.device_count() if torch.cuda.is_available() else 0,
            who="TorchModel",
            remedy=f"torch {torch.__version__} sees none, install a torch built for CUDA, "
            "check the driver, or use device='cpu' or 'auto'",
        )
        target = torch.device("cpu") if index is None else torch.device("cuda", index)
        share = None if index is None else share_of_gpu(index, gpu_memory)
        run = self._runner(self._module_on(target), target)
        if share is not None:
            run = share.held_by(run)
        threads = self._threads if threads is None else threads
        return run if threads is None else _with_threads(run, threads)

    def example(self) -> Any:
        """Return a row of zeros; None if the input is not known."""
        return zero_row(self.input)

    def __repr__(self) -> str:
        options = "" if self._pad is None else f", pad={self._pad}"
        options += "" if self._threads is None else f", threads={self._threads}"
        return f"TorchModel({self._name}, input={self.input}, output={self.output}{options})"

    @property
    def _name(self) -> str:
        source = self._source
        return repr(str(source)) if isinstance(source, Path) else type(source).__name__

    @property
    def _who(self) -> str:
        return f"TorchModel's {self._name}"

    @property
    def _only(self) -> str:
        """What a single input is called."""
        return ONLY if self._program is None else next(iter(self._program.rows))

    @property
    def _positional(self) -> tuple[str, ...]:
        if self._program is not None:
            return self._program.positional
        return () if self.input is not None and not isinstance(self.input, Tensor) else (ONLY,)

    def _inputs(self) -> dict[str, Tensor]:
        assert self.input is not None
        inputs = by_name(self.input)
        return {self._only: self.input} if isinstance(self.input, Tensor) else inputs

    def _make_padder(self) -> Padder | None:
        if self.input is None:
            if self._pad is not None:
                raise ValueError(
                    f"TorchModel got {self._pad} and does not know what {self._name} takes: pass "
                    "input=clipper.Tensor(dtype, (None, ...)), or a dict of those"
                )
            return None
        check_numeric(self.input, "TorchModel")
        inputs = self._inputs()
        if self._program is not None and set(inputs) != set(self._program.rows):
            raise ValueError(
                f"TorchModel got input={self.input}, but {self._name} takes "
                f"{', '.join(self._program.rows)}: give a dict with a Tensor for each"
            )
        stated = {} if self._program is None else self._program.mask_dtypes
        return padder_for(self._pad, inputs, who=self._who, mask_dtypes=stated)

    def _probe(self, module: nn.Module) -> RowType:
        device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
        call = bind(module, self._positional)

        def answer(arrays: dict[str, Any]) -> Any:
            with torch.inference_mode():
                try:
                    given = {name: torch.from_numpy(a).to(device) for name, a in arrays.items()}
                    returned = call(given)
                except Exception as error:
                    raise ValueError(
                        f"{self._who} cannot answer a row of zeros of {self.input} ({error}): pass "
                        "the input=clipper.Tensor(...) that it takes, or also its "
                        "output=clipper.Tensor(...)"
                    ) from error
                return read_outputs(returned, self._outputs, self._who)

        return probe(answer, self._inputs(), self._padder, self._who)

    def _module_on(self, target: torch.device) -> nn.Module:
        if isinstance(self._source, Path):
            program = read_program(self._source)
            if target.type != "cpu":
                from torch.export.passes import move_to_device_pass  # noqa: PLC0415, torch >= 2.6

                program = move_to_device_pass(program, target)
            return program.module()
        tensors = [*self._source.parameters(), *self._source.buffers()]
        if all(tensor.device == target for tensor in tensors):
            return self._source
        # Module.to moves the module itself, from under the other replicas.
        return copy.deepcopy(self._source).to(target)

    def _runner(self, module: nn.Module, target: torch.device) -> Runner:
        call = bind(module, self._positional)
        if self._padder is not None:
            return self._padded_runner(self._padder, call, target)
        on_gpu = target.type != "cpu"
        run_tensors = call if on_gpu else guarded(call)
        only, outputs, who = self._only, self._outputs, self._who

        def run(batch: Any = None, /, **batches: Any) -> Any:
            with _InferenceMode(True):
                given = {only: batch} if batch is not None else batches
                tensors = {name: as_tensor(rows) for name, rows in given.items()}
                if on_gpu:
                    tensors = {name: tensor.to(target) for name, tensor in tensors.items()}
                return read_outputs(run_tensors(tensors), outputs, who)

        is_single = isinstance(self.input, Tensor) or (self.input is None and not self._program)
        if on_gpu or not is_single or self._positional != (only,):
            return run
        return _direct_runner(module, outputs, who)

    def _padded_runner(self, padder: Padder, call: Call, target: torch.device) -> Runner:
        only, outputs, who = self._only, self._outputs, self._who
        # Padded tensors are this batch's own; the other rows are the engine's.
        is_all_ours = set(padder.ragged) == set(self._inputs())
        run_tensors = call if is_all_ours or target.type != "cpu" else guarded(call)
        ragged = [name for name, spec in by_name(self.output or {}).items() if spec.is_ragged]

        def run(batch: Any = None, /, **batches: Any) -> Any:
            arrays, rows = padder({only: batch} if batch is not None else batches)
            with _InferenceMode(True):
                tensors = {name: as_tensor(array).to(target) for name, array in arrays.items()}
                found = read_outputs(run_tensors(tensors), outputs, who)
            return rows.cut_all(found, ragged) if ragged else found

        return run


def _direct_runner(module: nn.Module, outputs: Outputs, who: str) -> Runner:
    """Return the runner of one tensor in the CPU's memory: next to nothing around it."""
    forward: Any

    def first(rows: torch.Tensor) -> Any:
        nonlocal forward
        output, needs_copy = examined(lambda tensors: module(tensors[ONLY]), {ONLY: rows})
        forward = (lambda rows: module(rows.clone())) if needs_copy else module
        return output

    forward = first

    def run(batch: Any) -> Any:
        with _InferenceMode(True):
            output = forward(as_tensor(batch))
            if outputs is None and isinstance(output, torch.Tensor):
                return output.contiguous().numpy()
            return read_outputs(output, outputs, who)

    return run


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

    def run_with_threads(*batch: Any, **batches: Any) -> Any:
        current = get()
        if current == threads:
            return run(*batch, **batches)
        put(threads)
        try:
            return run(*batch, **batches)
        finally:
            put(current)

    return run_with_threads


def _input_of_module(module: nn.Module) -> Tensor | None:
    first = module
    while isinstance(first, nn.Sequential) and len(first):
        first = first[0]
    if not isinstance(first, nn.Linear):
        return None
    dtype = numpy_dtype(first.weight.dtype)
    return None if dtype is None else Tensor(dtype, (first.in_features,))


def _input_of_program(inputs: ProgramInputs) -> RowType | None:
    rows = {name: row for name, row in inputs.rows.items() if row is not None}
    if len(rows) < len(inputs.rows):
        return None
    return next(iter(rows.values())) if len(rows) == 1 else rows
