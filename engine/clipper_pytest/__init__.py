"""Clipper's pytest plugin: the fixtures ``engine`` and ``serving_benchmark``.

pytest imports this at every start, wherever clipper is installed. So it stands beside ``clipper``
instead of in it, and imports clipper, and with it NumPy, only once a fixture is used. Switch it off
with ``-p no:clipper``. What the fixtures do is in ``clipper.testing``.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from clipper import Engine
    from clipper.testing import ServingBenchmark


class LatencyClock:
    """A timer for pytest-benchmark that shows a measured latency after each tick.

    pytest-benchmark asks its timer before and after what it measures. Asking this one, and calling
    ``rewind`` before and ``tick`` in between, makes each round last what one arrival waited. This
    relies on its documented interface only: the mark's ``timer``, and ``benchmark.pedantic``.
    """

    __name__ = "latency of an arrival"  # as the timer is called in pytest-benchmark's JSON

    def __init__(self) -> None:
        self._now = 0.0
        self._latencies: Iterator[float] = iter(())

    def load(self, latencies: Iterator[float]) -> None:
        """Take the seconds that the next rounds last."""
        self._latencies = latencies

    def rewind(self) -> None:
        """Start a round."""
        self._now = 0.0

    def tick(self) -> None:
        """Let the next latency pass; nothing once there is none."""
        self._now = next(self._latencies, 0.0)

    def __call__(self) -> float:
        """Return the seconds of this round so far."""
        return self._now


_CLOCK = pytest.StashKey[LatencyClock]()


@pytest.fixture
def engine() -> Iterator["Engine"]:
    """Give a fresh ``clipper.Engine``, and close it afterwards.

    Fails the test if it leaves queries open: what nobody waits for in a test is what leaks in a
    service.
    """
    from clipper.testing import engine_of_one_test  # noqa: PLC0415 - only where it is used

    with engine_of_one_test() as made:
        yield made


class _WithBenchmark:
    """Registered where pytest-benchmark is active."""

    @pytest.fixture
    def serving_benchmark(self, request: pytest.FixtureRequest, benchmark: Any) -> Any:
        """Offer open-loop load to an application: a :class:`clipper.testing.ServingBenchmark`."""
        from clipper.testing import ServingBenchmark  # noqa: PLC0415 - only where it is used

        return ServingBenchmark(benchmark, request.node.stash[_CLOCK])

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Give the benchmark of such a test the clock of latencies, beside what its mark says."""
        if "serving_benchmark" in getattr(item, "fixturenames", ()):
            clock = item.stash[_CLOCK] = LatencyClock()
            mark = item.get_closest_marker("benchmark")
            options = dict(mark.kwargs) if mark else {}
            options["timer"] = clock
            item.add_marker(pytest.mark.benchmark(**options), append=False)


class _WithoutBenchmark:
    """Registered where it is not."""

    @pytest.fixture
    def serving_benchmark(self) -> "ServingBenchmark":
        """Say what is missing."""
        pytest.fail(
            "serving_benchmark needs pytest-benchmark, which is not installed or is switched off: "
            "pip install pytest-benchmark, and leave out -p no:benchmark",
            pytrace=False,
        )


def pytest_configure(config: pytest.Config) -> None:
    """Offer the benchmark on top of pytest-benchmark, if that is there."""
    is_there = config.pluginmanager.hasplugin("benchmark")
    config.pluginmanager.register(
        _WithBenchmark() if is_there else _WithoutBenchmark(), "clipper-serving-benchmark"
    )
