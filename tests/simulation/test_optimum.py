"""The optimum that the schedulers are measured against is itself checked."""

import numpy as np
import pytest

from .arrivals import gamma, markov, poisson, slo_capacity
from .optimum import optimum, optimum_by_brute_force


def _line(alpha: float, beta: float):
    return lambda rows: beta + alpha * rows


@pytest.mark.parametrize("seed", range(40))
def test_agrees_with_brute_force_on_tiny_instances(seed: int) -> None:
    random = np.random.default_rng(seed)
    arrivals = np.sort(random.uniform(0, 8, int(random.integers(1, 7))))
    slo = random.uniform(1, 5)
    latency = _line(random.uniform(0, 1), random.uniform(0, 2.5))
    assert optimum(arrivals, slo, latency) == optimum_by_brute_force(arrivals, slo, latency)


def test_agrees_with_brute_force_when_arrivals_coincide() -> None:
    arrivals = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    latency = _line(0.5, 1)
    assert optimum(arrivals, 3.0, latency) == optimum_by_brute_force(arrivals, 3.0, latency)


def test_serves_everything_at_low_load_and_nothing_without_time() -> None:
    arrivals = np.arange(50) * 10.0
    assert optimum(arrivals, 5.0, _line(0.1, 1)) == 50
    assert optimum(arrivals, 0.5, _line(0.1, 1)) == 0
    assert optimum(np.empty(0), 5.0, _line(0.1, 1)) == 0


def test_a_known_schedule_changes_nothing() -> None:
    arrivals = poisson(200, 10.0, 1)
    full = optimum(arrivals, 10.0, _line(0.1, 0.9))
    assert optimum(arrivals, 10.0, _line(0.1, 0.9), reached=full) == full
    assert optimum(arrivals, 10.0, _line(0.1, 0.9), reached=full - 20) == full


@pytest.mark.parametrize("draw", [poisson, gamma, lambda n, r, s: markov(n, r, s, slo_ms=10.0)])
def test_arrivals_ascend_at_the_rate_asked_for(draw) -> None:
    times = draw(50_000, 4.0, 3)
    assert len(times) == 50_000
    assert np.all(np.diff(times) >= 0)
    assert 50_000 / times[-1] == pytest.approx(4.0, rel=0.1)
    assert np.array_equal(times, draw(50_000, 4.0, 3))


def test_slo_capacity_is_the_best_rate_within_half_the_objective() -> None:
    assert slo_capacity(_line(0.1, 4), 10.0) == pytest.approx(2.0)
    assert slo_capacity(_line(0.1, 9), 10.0) == pytest.approx(1 / 9.1)
