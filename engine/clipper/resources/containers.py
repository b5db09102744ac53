"""A replica's resources as options of container engines."""

from collections.abc import Sequence

from .threads import thread_environment


def container_flags(
    *,
    cpus: Sequence[int] | None = None,
    cpu_count: int | None = None,
    threads: int | None = None,
    memory: int | None = None,
    gpu: str | None = None,
    gpu_memory: int | None = None,
) -> list[str]:
    """Return options of ``podman run``, which ``docker run`` takes as well but for the GPU's.

    Parameters
    ----------
    cpus : sequence of int, optional
        The CPUs it may run on.
    cpu_count : int, optional
        How many CPUs' time it may use, where ``cpus`` does not name them.
    threads : int, optional
    memory : int, optional
        Bytes; no swap besides.
    gpu : str, optional
        A UUID; the container engine finds it through the Container Device Interface.
    gpu_memory : int, optional
        Bytes, which the adapter in the container keeps to.

    Notes
    -----
    Container engines have no option for niceness: start the program inside by ``nice -n``.
    """
    flags: list[str] = []
    if cpus is not None:
        flags.append("--cpuset-cpus=" + ",".join(map(str, cpus)))
    elif cpu_count is not None:
        flags.append(f"--cpus={cpu_count}")
    if memory is not None:
        flags += [f"--memory={memory}", f"--memory-swap={memory}"]
    if gpu is not None:
        flags.append(f"--device=nvidia.com/gpu={gpu}")
    for name, value in thread_environment(threads, gpu_memory).items():
        flags.append(f"--env={name}={value}")
    return flags
