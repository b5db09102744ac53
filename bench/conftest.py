"""Fixtures that most suites share."""

from collections.abc import Iterator

import pytest

import clipper


@pytest.fixture
def engine() -> Iterator[clipper.Engine]:
    with clipper.Engine() as made:
        yield made
