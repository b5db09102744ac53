"""The ``clipper`` command."""

import argparse
import functools
import importlib.util
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from clipper.errors import ClipperError

from . import image
from .commands import add_commands
from .serve import add_serve

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
        Exit status: 0 all is well; 1 the command was refused or failed, no engine runs, a
        file is not good, or the demo found what should not be; 2 something is not installed.
    """
    parser = argparse.ArgumentParser(prog="clipper", description="Prediction serving engine.")
    commands = parser.add_subparsers(dest="command", required=True)
    add_serve(commands)
    add_commands(commands)
    _add_demo(commands)
    image.add_to(commands)
    arguments = parser.parse_args(argv)
    try:
        status: int = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except (ClipperError, OSError) as error:
        if isinstance(error, BrokenPipeError):  # of a reader such as head, which has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"clipper {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
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
    demo.set_defaults(run=functools.partial(_demo, demo))


def _demo(demo: argparse.ArgumentParser, arguments: argparse.Namespace) -> int:
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
