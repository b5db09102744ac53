"""``clipper image``: a recipe of the image that a worker in a container runs in."""

import argparse
import sys
from pathlib import Path
from typing import Any

_RECIPE = """\
# The worker's own code is mounted when it starts: only the model's needs are in here.
#   podman build --tag my-model --file Containerfile {folder}
#   engine.deploy(..., where=clipper.Isolated(image="localhost/my-model"))
FROM {base}
COPY {name} requirements.txt
RUN python3 -m pip install --no-cache-dir numpy -r requirements.txt
USER 65534:65534
"""


def add_to(commands: Any) -> None:
    """Add the command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "image", help="print a Containerfile for where=Isolated(image=...)"
    )
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    parser.add_argument("requirements", help="what the model needs, as pip reads it")
    parser.add_argument("--base", default=f"docker.io/library/python:{version}-slim",
                        help="the image to begin with (if not given, %(default)s)")  # fmt: skip
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    return run(arguments.requirements, arguments.base)


def run(requirements: str, base: str) -> int:
    """Print the recipe; returns the exit status."""
    path = Path(requirements)
    if not path.is_file():
        print(f"there is no file {requirements}: give one of pip's requirements", file=sys.stderr)
        return 2
    print(_RECIPE.format(folder=path.absolute().parent, base=base, name=path.name), end="")
    return 0
