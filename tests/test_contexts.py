"""Contexts: what may be one, and what stands for it."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import clipper
from clipper._core.contexts import hash_context


def test_a_context_has_the_same_hash_in_every_process() -> None:
    code = (
        "from clipper._core.contexts import hash_context\n"
        "print(*[hash_context(c) for c in ('user-17', b'\\xff', 17, ('shop', 17), 1 << 100)])"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    contexts: list[Any] = ["user-17", b"\xff", 17, ("shop", 17), 1 << 100]
    expected = " ".join(str(hash_context(context)) for context in contexts)
    assert [line.strip() for line in printed] == [expected, expected]


def test_hashes_never_change() -> None:
    # States are stored under them: a new release must find those of the old one. The first is
    # XXH64 of the text with seed 1.
    assert hash_context("user-17") == 0x4005685A42240C9E
    assert hash_context(b"user-17") == 0x38F12A1CCDC2A4A5
    assert hash_context(17) == 0x9CE5EBA8EDFE0E6F
    assert hash_context(-1) == 0x84CD946D24755F42
    assert hash_context(1 << 64) == 0x5015E1504E07DF7D
    assert hash_context(("shop", 17)) == 0x0CB167160F1A2712
    assert hash_context(()) == 0x4BE1D406981CFD3B


def test_contexts_that_differ_have_different_hashes() -> None:
    contexts: list[Any] = [
        "", b"", (), "a", b"a", ("a",), (b"a",), ("a", "b"), ("b", "a"), ("ab",), 0, 1, -1, "1",
        (1,), (0, 1), 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, "ä", "\u0000", b"\x00",
        *(f"user-{number}" for number in range(10_000)), *range(2, 10_000),
    ]  # fmt: skip
    assert len({hash_context(context) for context in contexts}) == len(contexts)


def test_integers_of_numpy_are_integers() -> None:
    assert hash_context(np.int64(17)) == hash_context(17)
    assert hash_context((np.uint8(3), np.str_("a"))) == hash_context((3, "a"))


@pytest.mark.parametrize(
    "context", [1.5, ["a"], {"a": 1}, object(), ("a", 1.5), ("a", ("b",)), bytearray(b"a")]
)
def test_what_is_no_context_is_refused_by_name(context: Any, engine: clipper.Engine) -> None:
    model = engine.deploy("m", lambda batch: batch, warmup=[1.0])
    with pytest.raises(TypeError, match="give a str, bytes, an int, or a tuple of those"):
        model.predict([1.0], context=context)
    assert model.predict([1.0], context="a").output == [1.0]
    assert engine.describe()["open_queries"] == 0


def test_a_context_always_goes_the_same_way_and_all_ways_are_gone(engine: clipper.Engine) -> None:
    for number in range(2):
        engine.deploy(str(number), lambda batch, n=number: np.full(len(batch), n), warmup=[1.0])
    split = engine.create_application(
        "split", models=["0", "1"], slo=None, policy=clipper.WeightedSplit({"0": 1, "1": 1})
    )
    ways = {
        user: {int(split.predict([1.0], context=("user", user)).output) for _ in range(3)}
        for user in range(200)
    }
    assert all(len(way) == 1 for way in ways.values())
    assert 60 < sum(way == {0} for way in ways.values()) < 140


@pytest.mark.parametrize("memory", ["10MB", 0, -1, "1KiB", 65535, None])
def test_a_context_memory_of_no_use_is_refused(memory: Any, engine: clipper.Engine) -> None:
    engine.deploy("m", lambda batch: batch, warmup=[1.0])
    with pytest.raises(ValueError, match="MiB"):
        engine.create_application("a", models=["m"], slo=None, context_memory=memory)


def test_a_policy_that_learns_nothing_keeps_nothing_of_contexts(engine: clipper.Engine) -> None:
    engine.deploy("m", lambda batch: batch, warmup=[1.0])
    vote = engine.create_application(
        "vote", models=["m"], slo=None, policy=clipper.MajorityVote(), context_memory="64KiB"
    )
    vote.predict([1.0], context="a")
    assert vote.describe()["contexts"] is None
