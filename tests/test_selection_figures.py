"""What Clipper's paper shows of selection, end to end: figures 8, 9 and 10."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from clipper.cli import main, selection

# ---- figure 8: the best model fails for a while ------------------------------------------------


@pytest.fixture(scope="module")
def outcome() -> selection.Outcome:
    """20,000 queries, asked once for all tests here."""
    return selection.measure()


def test_the_best_model_is_the_best_until_it_fails(outcome: selection.Outcome) -> None:
    whole = {name: outcome.error(name, failing=False) for name in outcome.models}
    failing = {name: outcome.error(name, failing=True) for name in outcome.models}
    assert min(whole, key=whole.__getitem__) == selection.BEST
    assert max(failing, key=failing.__getitem__) == selection.BEST
    assert failing[selection.BEST] > 0.5


@pytest.mark.parametrize("policy", ["Exp3", "Exp4"])
def test_a_policy_leaves_a_model_that_fails_within_a_thousand_queries_and_returns(
    outcome: selection.Outcome, policy: str
) -> None:
    best = outcome.models.index(selection.BEST)
    assert outcome.shares[policy][selection.FAILS - 1, best] > selection.LEFT
    left, returned = outcome.left(policy), outcome.returned(policy)
    assert left is not None
    assert 0 < left < 1000
    assert returned is not None
    assert returned > 0
    assert outcome.error(policy, failing=True) < outcome.error(selection.BEST, failing=True) / 3


def test_exp4_is_at_least_as_good_as_the_best_single_model_and_better_than_exp3(
    outcome: selection.Outcome,
) -> None:
    exp4 = outcome.error("Exp4", failing=False)
    assert exp4 <= outcome.error(selection.BEST, failing=False)
    assert exp4 < outcome.error("Exp3", failing=False)
    assert outcome.wrong["Exp4"].sum() < min(outcome.wrong[n].sum() for n in outcome.models)


def test_the_weights_of_exp4_are_what_its_confidence_says(outcome: selection.Outcome) -> None:
    expected = (outcome.agree * outcome.shares["Exp4"]).sum(axis=1)
    # The weights are known to within the floor's effect inside a block.
    np.testing.assert_allclose(outcome.confidence, expected, atol=0.1)
    assert np.abs(outcome.confidence - expected).mean() < 0.01


def test_the_demo_of_selection_tells_and_draws_what_happened(
    outcome: selection.Outcome,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("matplotlib", "rich"):
        pytest.importorskip(name)
    from clipper.cli import selection_report

    monkeypatch.setattr(selection_report, "measure", lambda seed, progress: outcome)
    picture = tmp_path / "selection.png"
    assert main(["demo", "selection", "--output", str(picture)]) == 0
    told = capsys.readouterr().out
    for name in (*outcome.models, "Exp3", "Exp4"):
        assert f"{outcome.wrong[name].sum()}" in told
    assert f"{outcome.returned('Exp4')} " in told
    assert picture.read_bytes().startswith(b"\x89PNG")
