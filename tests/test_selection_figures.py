"""What Clipper's paper shows of selection, end to end: figures 8, 9 and 10."""

from pathlib import Path

import numpy as np
import pytest

import stragglers

pytest.importorskip("sklearn")

import clipper
from clipper.cli import main, selection
from clipper_adapters import zoo

#: Groups of users in figure 10.
GROUPS = 4
DIGITS = zoo.digits()

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


# ---- figure 10: groups whose labels differ ------------------------------------------------------


def errors_of_groups(engine: clipper.Engine, name: str, policy: object, *, by_context: bool) -> int:
    """Ask for digits of four groups that each name them differently; count wrong answers."""
    data = DIGITS
    models = [f"group-{g}" for g in range(GROUPS)]
    application = engine.create_application(
        name, models=models, slo=None, policy=policy, loss="zero_one"
    )
    random = np.random.default_rng(0)
    chosen = random.integers(0, len(data.x_test), 3000)
    wrong = 0
    for i, group in zip(chosen, random.integers(0, GROUPS, len(chosen)), strict=True):
        context = f"group-{group}" if by_context else None
        prediction = application.predict(data.x_test[i], context=context)
        label = (data.y_test[i] + group) % 10
        application.feedback(prediction, label=label)
        wrong += int(prediction.output != label)
    return wrong


def test_a_state_for_each_context_beats_a_shared_one_and_any_static_choice() -> None:
    linear = zoo.train_svm(DIGITS, kernel="linear")
    weights, bias = linear.coef_.T.astype(np.float32), linear.intercept_.astype(np.float32)
    row, label = clipper.Tensor("float32", (64,)), clipper.Tensor("int64", ())
    with clipper.Engine() as engine:
        for group in range(GROUPS):
            engine.deploy(
                f"group-{group}",
                lambda x, group=group: ((x @ weights + bias).argmax(axis=1) + group) % 10,
                input=row,
                output=label,
            )
        own = errors_of_groups(engine, "own", clipper.Exp3(), by_context=True)
        shared = errors_of_groups(engine, "shared", clipper.Exp3(), by_context=False)
        static = min(
            errors_of_groups(
                engine,
                f"static-{g}",
                clipper.WeightedEnsemble({f"group-{i}": float(i == g) for i in range(GROUPS)}),
                by_context=False,
            )
            for g in range(GROUPS)
        )
        contexts = engine.application("own").describe()["contexts"]
    assert own < shared / 2
    assert own < static / 2
    assert contexts["in_memory"] == GROUPS


# ---- figure 9: ensembles with a straggler -------------------------------------------------------


@pytest.mark.parametrize("size", stragglers.SIZES)
def test_the_objective_holds_an_ensemble_whose_straggler_blocks_those_that_wait(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stragglers, "WRONG", 0.0)  # so that all who answer agree
    held, waits = stragglers.ask(size, queries=2 * stragglers.EVERY)
    late = [place != stragglers.NOBODY for place in held.straggler]
    for query in np.flatnonzero(late):
        straggler = f"model-{held.straggler[query]}"
        assert held.missing[query] == {straggler: clipper.Cause.DEADLINE}
        assert held.confidence[query] == pytest.approx((size - 1) / size)
        assert held.right[query] == (size > 1)
        assert waits.missing[query] == {}
        assert waits.confidence[query] == 1.0
        assert waits.latency[query] >= stragglers.SLOW
    # A busy machine may delay any one of them, hence the least and the median.
    assert min(np.array(held.latency)[late]) < stragglers.SLO * 1.5
    punctual = np.array(held.latency)[~np.array(late)]
    assert np.median(punctual) < stragglers.SLO * 0.75  # it leaves when all are in
