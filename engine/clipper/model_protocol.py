"""What the engine asks of a model: the only thing that adapters depend on."""

from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

from .tensor import RowType

#: Runs one batch of n rows: called with the rows, returns n outputs, first axis the batch.
Runner = Callable[..., Any]


@runtime_checkable
class ModelAdapter(Protocol):
    """A model that knows its own specs and how to load itself.

    Attributes
    ----------
    input, output : Tensor, dict of Tensor, or None
        One row of each; None where the adapter does not know, and ``deploy`` must be told.
    batch_as : {"array", "dlpack"}
        How the runner wants its batch. ``"array"``: a read-only C-contiguous ndarray of shape
        ``(n, *input.shape)``. ``"dlpack"``: an object with ``__len__``, ``__dlpack__`` and
        ``__dlpack_device__`` over the same memory, valid for as long as something holds on to it.
        Ragged rows come as :class:`Ragged` either way, bytes and text as lists; several inputs come
        as keywords.
    length_buckets : sequence of int, optional
        To what lengths it pads ragged rows; rows of one bucket are then batched together.
    can_use_gpu : bool, optional
        Whether it can use a GPU in this process, so that ``device="auto"`` means one.
    """

    batch_as: Literal["array", "dlpack"]

    @property
    def input(self) -> RowType | None:
        """What one row of its input is."""
        ...

    @property
    def output(self) -> RowType | None:
        """What one row of its output is."""
        ...

    def load(self, device: str) -> Runner:
        """Load the model for one replica, on the thread that will mostly run it.

        Parameters
        ----------
        device : str
            ``"auto"``, ``"cpu"`` or ``"cuda:<index>"``.
        threads : int, optional
            CPU threads of one batch. Adapters that can keep to this take it as a keyword.
        gpu_memory : int, optional
            Bytes of the GPU's memory. Adapters that can keep to this take it as a keyword.
        """
        ...

    def example(self) -> Any:
        """Return one row to warm the model up with, or None."""
        ...
