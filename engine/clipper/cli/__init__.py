"""The ``clipper`` command."""

import argparse
import importlib.util
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from . import image

_DEMO_NEEDS = ("sklearn", "matplotlib", "rich")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process if not given.

    Returns
    -------
    int
        Exit status: 0 all is well, 1 a served answer was wrong or
        none could be compared, or a policy did not leave a model
        that fails, 2 something is not installed.
    """
    parser = argparse.ArgumentParser(prog="clipper", description="Prediction serving engine.")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="serve models of handwritten digits under load")
    demo.add_argument(
        "what",
        nargs="?",
        choices=("load", "selection"),
        default="load",
        help="models under load (if not given), or policies that learn which model to trust while "
        "the best one fails; that takes no --seconds and --rate",
    )
    demo.add_argument(
        "--seconds", type=float, default=5.0, help="length of each application's load"
    )
    demo.add_argument("--rate", type=float, default=400.0, help="rows per second, Poisson")
    demo.add_argument("--output", default="clipper-demo.png", help="where the picture goes")
    demo.add_argument("--seed", type=int, default=0)
    image.add_to(commands)
    arguments = parser.parse_args(argv)
    if arguments.command == "image":
        return image.run(arguments.requirements, arguments.base)
    if not (0 < arguments.seconds < math.inf and 0 < arguments.rate < math.inf):
        demo.error("give a --seconds and a --rate above 0")
    if not Path(arguments.output).absolute().parent.is_dir():
        demo.error(f"there is no folder for --output {arguments.output}")
    missing = [name for name in _DEMO_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"clipper demo needs {', '.join(missing)}: pip install 'clipper[demo]'", file=sys.stderr
        )
        return 2
    if arguments.what == "selection":
        from . import selection_report  # noqa: PLC0415 - needs the demo's extra

        return selection_report.run(arguments.output, arguments.seed)
    from .demo import run  # noqa: PLC0415 - needs the demo's extra

    return run(arguments.seconds, arguments.rate, arguments.output, arguments.seed)
