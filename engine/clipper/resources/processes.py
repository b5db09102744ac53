"""Reads what processes and threads use, from ``/proc``."""

import os
from pathlib import Path
from typing import NamedTuple

_TICK_SECONDS = 1.0 / os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """What a process has used, its children included."""

    cpu_seconds: float
    resident: int  # bytes, without what is shared with the engine


def usage_of_process(pid: int) -> Usage | None:
    """Return what a process and its descendants use; None if it has ended."""
    seconds, resident, found = 0.0, 0, False
    for process in _tree(pid):
        try:
            seconds += _cpu_seconds(Path(f"/proc/{process}/stat"), with_children=True)
            resident += _resident(process)
        except (OSError, IndexError, ValueError):
            continue  # it has ended meanwhile
        found = True
    return Usage(seconds, resident) if found else None


def cpu_seconds_of_thread(tid: int) -> float | None:
    """Return the CPU time of a thread of this process; None if it has ended."""
    try:
        return _cpu_seconds(Path(f"/proc/self/task/{tid}/stat"), with_children=False)
    except (OSError, IndexError, ValueError):
        return None


def _tree(pid: int) -> list[int]:
    found = [pid]
    for process in found:  # which grows meanwhile
        try:
            for task in os.listdir(f"/proc/{process}/task"):
                children = Path(f"/proc/{process}/task/{task}/children").read_text()
                found += map(int, children.split())
        except OSError:
            continue  # it has ended, or this kernel does not list children
    return found


def _cpu_seconds(stat: Path, *, with_children: bool) -> float:
    # The name, in brackets, may hold anything.
    fields = stat.read_text().rpartition(")")[2].split()
    ticks = fields[11 : 15 if with_children else 13]
    return sum(map(int, ticks)) * _TICK_SECONDS


def _resident(pid: int) -> int:
    """Return bytes in RAM, without shared memory: the engine's rows are no worker's."""
    values = {"VmRSS": 0, "RssShmem": 0}
    with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
        for line in file:
            key, _, rest = line.partition(":")
            if key in values:
                values[key] = int(rest.split()[0]) << 10
    return max(values["VmRSS"] - values["RssShmem"], 0)
