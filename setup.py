"""Forwards the old commands to pip, which builds this project as pyproject.toml says.

pip itself never runs this file. It does not call setuptools.setup(): that would install the package
without its compiled core.
"""

import subprocess
import sys

PIP_ARGUMENTS = {
    "bdist_wheel": ["wheel", "--no-deps", "--wheel-dir", "dist", "."],
    "develop": ["install", "--editable", "."],
    "install": ["install", "."],
}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in PIP_ARGUMENTS:
        print(f"usage: python setup.py {{{','.join(PIP_ARGUMENTS)}}}", file=sys.stderr)
        return 2
    return subprocess.call([sys.executable, "-m", "pip", *PIP_ARGUMENTS[arguments[0]]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
