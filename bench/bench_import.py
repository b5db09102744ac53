"""What `import clipper` takes, beside `import numpy`, most of it, and a bare interpreter."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.benchmark(group="a process that imports")
@pytest.mark.parametrize("line", ["pass", "import numpy", "import clipper"])
def bench_import(benchmark: Callable[..., Any], line: str) -> None:
    command = [sys.executable, "-c", line]
    assert benchmark.pedantic(subprocess.call, (command,), rounds=15, warmup_rounds=2) == 0  # type: ignore[attr-defined]
