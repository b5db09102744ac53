"""Exp3 and Exp4 do step by step what their formulas say, reckoned with sixty digits."""

import decimal
import random
from collections.abc import Iterator
from decimal import Decimal

import numpy as np
import pytest

import clipper

NAMES = ["a", "b", "c", "d"]
STEPS = 4_000
X = np.zeros(1, np.float32)

#: What each of NAMES answers, always.
ANSWERS = [0.0, 0.25, 0.5, 1.0]


@pytest.fixture(autouse=True)
def sixty_digits() -> Iterator[None]:
    with decimal.localcontext(decimal.Context(prec=60)):
        yield


@pytest.fixture
def models(engine: clipper.Engine) -> clipper.Engine:
    for name, answer in zip(NAMES, ANSWERS, strict=True):

        def model(batch: np.ndarray, answer: float = answer) -> np.ndarray:
            return np.full(len(batch), answer, np.float32)

        engine.deploy(
            name,
            model,
            input=clipper.Tensor("float32", (1,)),
            output=clipper.Tensor("float32", ()),
        )
    return engine


class Weights:
    """s ← s·exp(-step), but no lower than a share of the largest other one."""

    def __init__(self, floor: float) -> None:
        self.floor = Decimal(floor)
        self.now = [Decimal(1)] * len(NAMES)

    def lower(self, place: int, step: Decimal) -> None:
        least = self.floor * max(self.now[:place] + self.now[place + 1 :])
        if self.now[place] > least:
            self.now[place] = max(self.now[place] * (-step).exp(), least)

    def shares(self) -> list[Decimal]:
        total = sum(self.now)
        return [weight / total for weight in self.now]


def is_near(seen: float, exact: Decimal, relative: str) -> bool:
    return abs(Decimal(seen) - exact) <= Decimal(relative) * exact


class Bits:
    """The random bits of each query, as the engine mixes them: SplitMix64 over a counter."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def next_unit(self) -> Decimal:
        bits = self.state
        self.state = (self.state + 0x9E3779B97F4A7C15) % 2**64
        bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EB % 2**64
        bits ^= bits >> 31
        return Decimal(bits >> 11) / 2**53


@pytest.mark.parametrize(
    ("eta", "gamma", "floor"), [(0.05, 0.05, 0.01), (0.02, 0.0, 1e-6), (0.5, 0.2, 0.3)]
)
def test_exp3_follows_its_formula(
    models: clipper.Engine, eta: float, gamma: float, floor: float
) -> None:
    app = models.create_application(
        "app", models=NAMES, slo=None, policy=clipper.Exp3(eta=eta, gamma=gamma, floor=floor)
    )
    weights, losses, bits = Weights(floor), random.Random(4), Bits(11)
    models._core.seed_random(11)
    asked = [0] * len(NAMES)
    for step in range(STEPS):
        shares = weights.shares()
        asked_with = [(1 - Decimal(gamma)) * s + Decimal(gamma) / len(NAMES) for s in shares]
        state = app.policy_state()
        for name, share, weight in zip(NAMES, asked_with, shares, strict=True):
            assert is_near(state[name].share, share, "1e-6"), step
            assert is_near(state[name].weight, weight, "1e-6"), step
        point, place = bits.next_unit(), 0
        while point >= asked_with[place]:
            point -= asked_with[place]
            place += 1
        prediction = app.predict(X)
        assert [*prediction.models] == [NAMES[place]], step
        asked[place] += 1
        # The first is the best, later the last is.
        loss = losses.random() * (1 + (place if step < STEPS // 2 else 3 - place)) / 4
        loss = float(np.float32(loss))
        assert app.feedback(prediction, loss=loss) == clipper.FeedbackStatus.APPLIED
        # A choice's propensity is kept in single precision, which is all of it that is not exact.
        propensity = Decimal(float(np.float32(asked_with[place])))
        weights.lower(place, Decimal(eta) * Decimal(loss) / propensity)
    assert min(asked) > 0


@pytest.mark.parametrize(("eta", "floor"), [(0.1, 0.01), (0.003, 1e-300), (1.0, 0.5)])
def test_exp4_follows_its_formula(models: clipper.Engine, eta: float, floor: float) -> None:
    app = models.create_application(
        "app",
        models=NAMES,
        slo=None,
        policy=clipper.Exp4(eta=eta, floor=floor),
        loss="absolute",
        min_confidence=0.0,
    )
    weights, labels = Weights(floor), random.Random(5)
    for step in range(STEPS):
        shares = weights.shares()
        state = app.policy_state()
        for name, share in zip(NAMES, shares, strict=True):
            assert state[name].share == 1.0
            assert is_near(state[name].weight, share, "1e-9"), step
        prediction = app.predict(X)
        best = shares.index(max(shares))
        assert is_near(prediction.confidence, max(shares), "1e-6"), step
        # All answer otherwise, so the heaviest wins; of two as good as equal, either.
        if sorted(shares)[-2] < max(shares) * Decimal("0.999999"):
            assert prediction.output == ANSWERS[best], step
        label = labels.random() ** 2 if step < STEPS // 2 else 1 - labels.random() ** 2
        label = float(np.float32(label))
        assert app.feedback(prediction, label=label) == clipper.FeedbackStatus.APPLIED
        for place, answer in enumerate(ANSWERS):
            loss = abs(np.float32(answer) - np.float32(label))
            weights.lower(place, Decimal(eta) * Decimal(float(loss)))
