"""Builds the reference of the Python API from its docstrings. A warning is an error.

python docs/build.py [FOLDER]     build/reference, if not told where

Needs what the extra `docs` installs, and the frameworks of the adapters.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

import pdoc

import clipper
import clipper_adapters

#: What users import. Their names are in `__all__`; modules beneath are how it is done.
MODULES = [
    clipper.__name__,
    "clipper.admin",
    "clipper.config",
    "clipper.load",
    "clipper.testing",
    clipper_adapters.__name__,
]


def show_what_is_found_late() -> None:
    """Put names where pdoc looks: it reads what a module or class holds itself."""
    for name in clipper_adapters.__all__:
        setattr(clipper_adapters, name, getattr(clipper_adapters, name))
    for name in ("predict", "predict_many", "priority"):  # of the compiled base class
        setattr(clipper.Application, name, getattr(clipper.Application, name))
    for compiled in (clipper.Application, clipper.PredictionFuture, clipper.Predictions):
        for name, member in vars(compiled).items():
            if type(member).__name__ == "cython_function_or_method":
                drop_embedded_signature(name, member)


def drop_embedded_signature(name: str, function: Any) -> None:
    """Take out of the docstring what Cython wrote above it and pdoc shows anyway."""
    first, _, rest = (function.__doc__ or "").partition("\n")
    if first.startswith(f"{name}("):
        function.__doc__ = rest.strip("\n")


def undocumented(module: pdoc.doc.Module | pdoc.doc.Class, depth: int = 0) -> list[str]:
    """Return what has no docstring. Constructors are described by their class."""
    missing: list[str] = []
    for member in module.own_members if depth else module.members.values():
        if member.name.startswith("_") or isinstance(member, pdoc.doc.Module):
            continue
        if isinstance(member, pdoc.doc.Class):
            missing += undocumented(member, depth + 1)
        if not member.docstring and not isinstance(member, pdoc.doc.Variable):
            missing.append(member.fullname)
    return missing


def main(folder: str = "build/reference") -> int:
    """Build it; 1 if something public has no docstring."""
    warnings.simplefilter("error")
    show_what_is_found_late()
    missing = [
        name
        for module in MODULES
        for name in undocumented(pdoc.doc.Module(pdoc.extract.load_module(module)))
    ]
    if missing:
        print("no docstring:", *missing, sep="\n  ")
        return 1
    pdoc.render.configure(docformat="numpy", show_source=False, search=True)
    beneath = [f"!{package}\\." for package in ("clipper", "clipper_adapters")]
    pdoc.pdoc(MODULES[0], beneath[0], *MODULES[1:], beneath[1], output_directory=Path(folder))
    print(f"{folder}/index.html")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
