"""What a deployment's outputs and losses are like over time, as plain values."""

from libc.math cimport sqrt
from libc.stdint cimport uint64_t

from clipper._core cimport native

import logging

_log = logging.getLogger("clipper")
cdef tuple _KINDS = (None, "labels", "values", "scores")
cdef tuple _DRIFTS = ("labels", "values", "loss")
cdef tuple _WHAT_DRIFTS = (
    "the labels that it gives are other ones, or in other shares",
    "its values are spread differently",
    "its loss has risen",
)


cdef dict describe_statistics(native.ModelStatistics* statistics, native.Nanos now_ns,
                              object output_names):
    """All of it; raises MemoryError at worst."""
    cdef native.StatisticsSnapshot seen = statistics.snapshot()
    cdef list alarms = []
    cdef list windows = []
    cdef size_t i
    for i in range(3):
        alarms.append(alarm_of(&seen.alarms[i], now_ns))
    labels = [label & 0xFFFF_FFFF_FFFF_FFFF if seen.is_unsigned else label
              for label in seen.labels]
    for i in range(seen.windows.size()):
        windows.append(window_of(&seen.windows[i], labels, seen.edges.size(), now_ns))
    return {
        "kind": _KINDS[<int>seen.kind],
        "output": None if output_names is None else output_names[seen.column],
        "alarms": dict(zip(_DRIFTS, alarms, strict=True)),
        "reference": {
            "complete": seen.has_reference,
            "windows": seen.reference_windows,
            "rows": seen.reference.rows,
            "labels": label_counts(&seen.reference, labels),
            "histogram": histogram_of(&seen.reference, seen.edges.size()),
        },
        "edges": list(seen.edges),
        "losses": seen.losses,
        "mean_loss": seen.mean_loss if seen.losses else None,
        "windows": windows,
    }


cdef dict alarm_of(const native.DriftAlarm* alarm, native.Nanos now_ns):
    return {
        "up": alarm.is_up,
        "since": (now_ns - alarm.since_ns) * 1e-9 if alarm.is_up else None,
        "raised": alarm.raised,
        "psi": alarm.last.index,
        "psi_bound": alarm.last.bound,
    }


cdef dict window_of(const native.StatisticsWindow* window, list labels, size_t edges,
                    native.Nanos now_ns):
    cdef uint64_t finite = window.finite
    return {
        "began": (now_ns - window.begun_ns) * 1e-9,
        "seconds": (max(window.ended_ns, window.begun_ns) - window.begun_ns) * 1e-9,
        "rows": window.rows,
        "labels": label_counts(window, labels),
        "histogram": histogram_of(window, edges),
        "mean": window.mean if finite else None,
        "std": sqrt(window.squares / finite) if finite else None,
        "min": window.least if finite else None,
        "max": window.most if finite else None,
        "losses": window.losses,
        "loss": window.loss_sum / window.losses if window.losses else None,
    }


cdef dict label_counts(const native.StatisticsWindow* window, list labels):
    cdef dict counts = {}
    for i, label in enumerate(labels):
        if window.labels[<size_t>i]:
            counts[label] = window.labels[<size_t>i]
    if window.labels[native.kStatisticsLabels]:
        counts["other"] = window.labels[native.kStatisticsLabels]
    return counts


cdef list histogram_of(const native.StatisticsWindow* window, size_t edges):
    """Counts below the first edge, on it, between it and the next, …; the last: not finite."""
    cdef list counts = []
    cdef size_t cell
    if edges != 0:
        for cell in range(2 * edges + 1):
            counts.append(window.values[cell])
        counts.append(window.values[native.kNotFiniteCell])
    return counts


cdef log_drift(native.ModelStatistics* statistics, str name, version):
    """Log the alarms that went up since this was last called."""
    cdef unsigned int raised = statistics.take_raised()
    for kind in range(3):
        if raised & (1 << kind):
            _log.warning("model %s, version %s, drifts: %s; look at describe()['statistics'], and "
                         "call reset_statistics() if this is how it shall be", name, version,
                         _WHAT_DRIFTS[kind])
