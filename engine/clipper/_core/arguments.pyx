"""What callers say with a query, as the core takes it."""

from clipper._core cimport native

import operator


cdef native.Nanos nanoseconds(object seconds, str what) except? -1:
    """Seconds as given by a user."""
    cdef double value
    try:
        value = seconds
    except TypeError:
        raise TypeError(f"{what} is {seconds!r}: give seconds as a number, such as 0.02") from None
    if not 0.0 < value < 1e9:
        raise ValueError(f"{what} is {seconds!r}: give seconds above 0, such as 0.02 for 20 ms")
    return <native.Nanos>(value * 1e9)


cdef native.Priority priority_of(object priority) except? -1:
    """A priority as given by a user."""
    if isinstance(priority, bool) or not hasattr(priority, "__index__"):
        raise TypeError(f"priority is {priority!r}: give an integer from {native.kLeastPriority} "
                        f"to {native.kMostPriority}, larger is more urgent")
    value = operator.index(priority)
    if not native.kLeastPriority <= value <= native.kMostPriority:
        raise ValueError(f"priority is {priority!r}: give an integer from "
                         f"{native.kLeastPriority} to {native.kMostPriority}, larger is more "
                         "urgent")
    return value


def check_priority(priority):
    """Return a priority as the core takes it, or raise with what to give instead."""
    return priority_of(priority)
