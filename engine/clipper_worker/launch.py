"""Starts a worker within its limits: they hold before its interpreter runs.

``python -I -S launch.py [--cpus 0,1] [--nice N] [--cgroup FILE] -- COMMAND...`` becomes COMMAND, in
the same process. It needs nothing installed, and imports next to nothing: it costs a few
milliseconds per start.
"""

import os
import sys


def main(arguments: list) -> None:  # type: ignore[type-arg] # Python 3.9, and no typing
    """Set the limits, then become the command."""
    at = arguments.index("--")
    options, command = arguments[:at], arguments[at + 1 :]
    for name, value in zip(options[::2], options[1::2]):
        try:
            if name == "--cgroup":
                with open(value, "w") as file:
                    file.write(str(os.getpid()))
            elif name == "--cpus":
                os.sched_setaffinity(0, [int(cpu) for cpu in value.split(",")])
            elif name == "--nice":
                os.setpriority(os.PRIO_PROCESS, 0, int(value))
        except OSError as error:
            sys.exit(f"clipper: the limit {name[2:]} {value} cannot be set: {error}")
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"clipper: cannot start {command[0]}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
