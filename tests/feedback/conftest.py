"""An application of several models, of which some are wrong and one fails."""

from collections.abc import Iterator

import pytest

import clipper

from .scene import fail_from_now_on, judged


@pytest.fixture
def engine() -> Iterator[clipper.Engine]:
    with clipper.Engine() as made:
        yield made


@pytest.fixture
def votes(engine: clipper.Engine) -> clipper.Application:
    """Two models say 1, one says 2, and one fails."""
    app = judged(engine, clipper.Tensor("int64"), "zero_one", a=1, b=1, c=2, d=0)
    fail_from_now_on(engine, "d")
    return app
