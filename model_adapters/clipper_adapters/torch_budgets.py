"""Keeps torch's memory on a GPU to what its replicas in this process may use together."""

import threading
import weakref
from typing import Any

import torch

from clipper import Runner


class Share:
    """One replica's part of a GPU; ends with the runner that holds it."""

    def __init__(self, gpu_memory: int | None) -> None:
        self.gpu_memory = gpu_memory

    def held_by(self, run: Runner) -> Runner:
        """Return the runner, which keeps the share alive."""

        def run_with_share(*batch: Any, _share: Share = self, **batches: Any) -> Any:
            return run(*batch, **batches)

        return run_with_share


_lock = threading.Lock()
_shares: dict[int, "weakref.WeakSet[Share]"] = {}


def share_of_gpu(index: int, gpu_memory: int | None) -> Share:
    """Take a share of a GPU, and set torch's bound to the sum of them.

    Parameters
    ----------
    index : int
        torch's.
    gpu_memory : int or None
        Bytes; None: not bounded.

    Raises
    ------
    ValueError
        If it is more than the GPU has, or some shares are bounded and others are not.
    """
    with _lock:
        others = list(_shares.get(index, ()))
        if any((other.gpu_memory is None) != (gpu_memory is None) for other in others):
            raise ValueError(
                f"torch has one bound for its memory on cuda:{index} in this process, but only "
                "some of the replicas there have gpu_memory: give it to all of them, or deploy "
                "with where=clipper.Isolated()"
            )
        share = Share(gpu_memory)
        if gpu_memory is not None:
            together = gpu_memory + sum(other.gpu_memory or 0 for other in others)
            total = int(torch.cuda.get_device_properties(index).total_memory)
            if together > total:
                raise ValueError(
                    f"the replicas on cuda:{index} may use {together} bytes together, but it has "
                    f"{total}: give them less, or another GPU"
                )
            torch.cuda.set_per_process_memory_fraction(together / total, index)
        _shares.setdefault(index, weakref.WeakSet()).add(share)
        return share
