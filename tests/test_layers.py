"""Dependencies point one way: no layer looks up, and nobody reaches behind a public face."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]

# A folder of csrc/ may include itself and what stands on a line above its own.
CSRC_LAYERS = [
    {"base"},
    {"queue"},
    {"batching", "cache", "selection", "statistics"},
    {"serving"},
    {"isolation", "load", "simulation"},
    {"net"},
]
RANK = {folder: rank for rank, folders in enumerate(CSRC_LAYERS) for folder in folders}

#: What a worker imports for the model that it was given, if that is of such a kind.
MODELS_OWN = {
    "clipper_worker/columns.py": {"ml_dtypes"},
    "clipper_worker/models.py": {"clipper_adapters", "joblib", "torch"},
}

PYTHON_HEADER = re.compile(r"Python\.h|numpy/|pybind11|nanobind")


def includes_that_look_up(path: PurePosixPath, text: str) -> Iterator[str]:
    """Complain about the includes of one file; `path` is relative to csrc/."""
    folder = path.parts[0]
    for opening, target in re.findall(r'^\s*#\s*include\s*(["<])([^">]+)[">]', text, re.MULTILINE):
        of = target.split("/")[0]
        if PYTHON_HEADER.match(target):
            yield f"{path}: <{target}>: the core knows no Python"
        elif opening == "<":
            continue
        elif "/" not in target or of not in RANK:
            yield f'{path}: "{target}" is not written from the root of csrc/'
        elif of != folder and RANK[of] >= RANK[folder]:
            yield f'{path}: "{target}": {folder} may not include {of}'


def imports_of(path: PurePosixPath, text: str) -> Iterator[tuple[str, bool]]:
    """Yield (absolute dotted name, whether at the top level) of all that a module imports."""
    package = path.parts[:-1]
    tree = ast.parse(text, str(path))
    top_level = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from ((name, id(node) in top_level) for name in names)


def imports_that_look_up(path: PurePosixPath, text: str) -> Iterator[str]:
    """Complain about the imports of one module; `path` starts with its package's name."""
    package = path.parts[0]
    for name, top_level in imports_of(path, text):
        of, *rest = name.split(".")
        if of == package:
            continue
        may_import = {"numpy", *sys.stdlib_module_names}
        if not top_level:
            may_import |= MODELS_OWN.get(str(path), set())
        if package == "clipper_worker" and of not in may_import:
            yield f"{path}: {name}: a worker runs with NumPy and the standard library only"
        if package == "clipper_adapters" and of == "clipper":
            if any(part.startswith("_") for part in rest):
                yield f"{path}: {name}: adapters use clipper's public names only"
            elif len(rest) > 1:
                yield f"{path}: {name}: adapters import from clipper itself, not from its modules"
        # The command line is a user of both: `import clipper` never imports it.
        is_command = str(path).startswith("clipper/cli/")
        if package == "clipper" and of == "clipper_adapters" and top_level and not is_command:
            yield f"{path}: {name}: clipper must import without any adapter"


def complaints(root: Path) -> list[str]:
    """Everything that is wrong in a source tree."""
    csrc = root / "csrc"
    found = [
        complaint
        for path in sorted(csrc.rglob("*"))
        if path.suffix in {".h", ".cc"}
        for complaint in includes_that_look_up(
            PurePosixPath(path.relative_to(csrc).as_posix()), path.read_text()
        )
    ]
    for source_root in (root / "engine", root / "model_adapters"):
        for path in sorted(source_root.rglob("*.py")):
            relative = PurePosixPath(path.relative_to(source_root).as_posix())
            found += imports_that_look_up(relative, path.read_text())
    return found


def test_no_layer_looks_up() -> None:
    assert complaints(ROOT) == []


def test_every_folder_of_the_core_has_its_place() -> None:
    folders = {path.name for path in (ROOT / "csrc").iterdir() if any(path.rglob("*.*"))}
    assert folders >= {"base"}
    assert folders <= set(RANK)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("queue/ring.h", '#include "serving/engine.h"'),
        ("selection/policy.h", '#include "batching/controller.h"'),
        ("simulation/cell.cc", '#include "load/arrivals.h"'),
        ("base/clock.h", "  #  include <Python.h>"),
        ("serving/engine.cc", '#include "engine.h"'),
        ("serving/engine.cc", '#include "../queue/ring.h"'),
        ("serving/engine.cc", '#include "tests/check.h"'),
    ],
)
def test_a_wrong_include_is_found(path: str, line: str) -> None:
    text = f"#pragma once\n#include <atomic>\n{line}\n"
    assert len(list(includes_that_look_up(PurePosixPath(path), text))) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("queue/ring.h", '#include "queue/slot.h"'),
        ("serving/engine.cc", '#include "selection/policy.h"'),
        ("net/frontend.cc", '#include "serving/engine.h"'),
        ("base/parker.cc", "#include <linux/futex.h>"),
    ],
)
def test_a_right_include_is_not_complained_of(path: str, line: str) -> None:
    assert list(includes_that_look_up(PurePosixPath(path), line)) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("clipper_worker/main.py", "import clipper"),
        ("clipper_worker/main.py", "def run():\n    from torch import nn"),
        ("clipper_worker/models.py", "import torch"),
        ("clipper_worker/models.py", "def load():\n    from clipper import Tensor"),
        ("clipper_adapters/onnx.py", "from clipper._core import tensors"),
        ("clipper_adapters/onnx.py", "from clipper import _core"),
        ("clipper_adapters/onnx.py", "import clipper._core.tensors as t"),
        ("clipper_adapters/onnx.py", "from clipper.tensor import Tensor"),
        ("clipper/engine.py", "from clipper_adapters import OnnxModel"),
    ],
)
def test_a_wrong_import_is_found(path: str, line: str) -> None:
    assert len(list(imports_that_look_up(PurePosixPath(path), line))) == 1


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("clipper_worker/main.py", "import os.path, numpy as np\nfrom . import protocol"),
        ("clipper_worker/models.py", "def load():\n    import torch"),
        ("clipper_adapters/onnx.py", "import clipper\nfrom clipper import Tensor"),
        ("clipper_adapters/sub/onnx.py", "from .. import zoo\nfrom ._private import x"),
        ("clipper/config.py", "def load():\n    from clipper_adapters import OnnxModel"),
        ("clipper/engine.py", "from ._core import tensors"),
    ],
)
def test_a_right_import_is_not_complained_of(path: str, line: str) -> None:
    assert list(imports_that_look_up(PurePosixPath(path), line)) == []


def test_a_wrong_tree_is_found(tmp_path: Path) -> None:
    for name, text in {
        "csrc/base/clock.h": '#include "net/frontend.h"\n',
        "engine/clipper/engine.py": "import clipper_adapters\n",
        "model_adapters/clipper_adapters/torch.py": "import clipper._core\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert len(complaints(tmp_path)) == 3
