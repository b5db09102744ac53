"""How a worker is told its threads and its budget: before it starts, by its environment."""

#: Each is read once, when its library is loaded.
_OF_LIBRARIES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS", "RAYON_NUM_THREADS", "TF_NUM_INTRAOP_THREADS",
)  # fmt: skip


def thread_environment(threads: int | None, gpu_memory: int | None) -> dict[str, str]:
    """Return the variables that tell libraries, and the worker for its adapter, what to keep to.

    Parameters
    ----------
    threads : int, optional
    gpu_memory : int, optional
        Bytes.
    """
    environment: dict[str, str] = {}
    if threads is not None:
        environment = dict.fromkeys((*_OF_LIBRARIES, "CLIPPER_THREADS"), str(threads))
    if gpu_memory is not None:
        environment["CLIPPER_GPU_MEMORY"] = str(gpu_memory)
    return environment
