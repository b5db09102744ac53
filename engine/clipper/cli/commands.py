"""The commands for an engine that runs."""

import argparse
import json
import os
import sys
import time
import tomllib
from collections.abc import Callable
from typing import Any

from clipper.admin import AdminClient, NotRunningError
from clipper.config import ModelConfig, keys_of

from .places import socket_path
from .tables import milliseconds, table, tree

_POLL_SECONDS = 0.1
_MODEL_HEADING = (
    "MODEL", "VERSION", "WHERE", "REPLICAS", "WAITING", "ROWS", "BATCHES", "ERRORS", "RESTARTS",
)  # fmt: skip


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add them to the parser; each sets ``run``."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--data", help="the engine's data directory: as clipper.toml here says, else as "
        "$CLIPPER_DATA does, else ./clipper-data",
    )  # fmt: skip
    common.add_argument("--json", action="store_true", help="write JSON instead of text")

    def add(name: str, run: Callable[[argparse.Namespace], int], what: str) -> Any:
        parser = commands.add_parser(name, parents=[common], help=what, description=what)
        parser.set_defaults(run=run)
        return parser

    add("ps", _ps, "list models and applications")
    describe = add("describe", _describe, "show everything about one of them, or the engine")
    describe.add_argument("name", nargs="?", help="a model or application")
    _add_deploy(add("deploy", _deploy, "deploy a model, or a new version of one"))
    add("undeploy", _undeploy, "take a model out of service").add_argument("model")
    link = add("link", _link, "link a model to an application")
    link.add_argument("application")
    link.add_argument("model")
    scale = add("scale", _scale, "change how many replicas a model has")
    scale.add_argument("model")
    scale.add_argument("replicas", type=int)
    add("rollback", _rollback, "let a model's former version answer").add_argument("model")
    logs = add("logs", _logs, "show what a model's workers print")
    logs.add_argument("model")
    logs.add_argument("--lines", type=int, default=20, help="of each worker; 20 if not given")
    logs.add_argument("--follow", "-f", action="store_true", help="go on until interrupted")
    logs.add_argument("--errors", action="store_true", help="tracebacks of the model's last errors")
    predict = add("predict", _predict, "ask for one prediction")
    predict.add_argument("application", help="or a model")
    predict.add_argument("input", help="one row as JSON; - reads it from standard input")
    predict.add_argument("--context", help="the user or session that it is for")
    predict.add_argument("--deadline", type=float, help="seconds")
    ready = add("ready", _ready, "say whether the engine answers queries")
    ready.add_argument("--wait", type=float, default=0.0, help="seconds until it must")
    stop = add("stop", _stop, "end the engine after it has answered what it accepted")
    stop.add_argument("--wait", type=float, default=60.0, help="seconds for that; 60 if not given")


def _add_deploy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="of the model")
    parser.add_argument("source", help=keys_of(ModelConfig)["source"].metadata["means"])
    for name, key in keys_of(ModelConfig).items():
        if name != "source":
            option = f"--{name.replace('_', '-')}"
            means = key.metadata["means"].replace("%", "%%")
            parser.add_argument(option, dest=f"key_{name}", metavar="VALUE", help=means)


def toml_value(text: str) -> Any:
    """Read an option's value as TOML would, or else as text.

    >>> toml_value("4"), toml_value("20ms"), toml_value('{ kind = "fixed", rows = 8 }')
    (4, '20ms', {'kind': 'fixed', 'rows': 8})
    """
    try:
        read = tomllib.loads(f"value = {text}")
    except ValueError:
        return text
    return read["value"] if len(read) == 1 else text


# ---- each of them ------------------------------------------------------------------------------


def _ask(arguments: argparse.Namespace, command: str, **given: Any) -> Any:
    with AdminClient(socket_path(arguments.data)) as client:
        return client.call(command, **given)


def _say(arguments: argparse.Namespace, value: Any, text: str) -> int:
    print(json.dumps(value, indent=2) if arguments.json else text)
    return 0


def _ps(arguments: argparse.Namespace) -> int:
    found = _ask(arguments, "ps")
    models = table(
        _MODEL_HEADING,
        [
            (m["name"], m["version"], m["where"], f"{m['serving']}/{m['replicas']}", m["waiting"],
             m["rows"], m["batches"], m["errors"], m["restarts"])
            for m in found["models"]
        ],
    )  # fmt: skip
    applications = table(
        ("APPLICATION", "MODELS", "OBJECTIVE", "ROWS", "ANSWERED", "IN TIME", "P99"),
        [
            (a["name"], ", ".join(a["models"]), milliseconds(a["slo"]), a["rows"], a["answered"],
             a["in_time"], milliseconds(a["p99"]))
            for a in found["applications"]
        ],
    )  # fmt: skip
    heading = f"{found['state']}, process {found['pid']}"
    return _say(arguments, found, "\n\n".join((heading, models, applications)))


def _describe(arguments: argparse.Namespace) -> int:
    found = _ask(arguments, "describe", name=arguments.name)
    return _say(arguments, found, tree(found))


def _deploy(arguments: argparse.Namespace) -> int:
    given = {name.removeprefix("key_"): toml_value(text)
             for name, text in vars(arguments).items()
             if name.startswith("key_") and text is not None}  # fmt: skip
    made = _ask(
        arguments, "deploy", name=arguments.name, folder=os.getcwd(),
        model={"source": arguments.source, **given},
    )  # fmt: skip
    return _say(arguments, made, f"model {made['model']} version {made['version']} serves")


def _undeploy(arguments: argparse.Namespace) -> int:
    done = _ask(arguments, "undeploy", name=arguments.model)
    linked = ", ".join(done["linked_by"])
    more = f"; {linked} go on without it" if linked else ""
    return _say(arguments, done, f"model {done['model']} is out of service{more}")


def _link(arguments: argparse.Namespace) -> int:
    done = _ask(arguments, "link", application=arguments.application, model=arguments.model)
    models = ", ".join(done["models"])
    return _say(arguments, done, f"application {done['application']} links {models}")


def _scale(arguments: argparse.Namespace) -> int:
    done = _ask(arguments, "scale", model=arguments.model, replicas=arguments.replicas)
    return _say(arguments, done, f"model {done['model']} has {done['replicas']} replicas")


def _rollback(arguments: argparse.Namespace) -> int:
    done = _ask(arguments, "rollback", model=arguments.model)
    return _say(arguments, done, f"model {done['model']} is at version {done['version']} again")


def _logs(arguments: argparse.Namespace) -> int:
    with AdminClient(socket_path(arguments.data)) as client:
        if arguments.errors:
            errors = client.call("errors", model=arguments.model)
            return _say(arguments, errors, "\n".join(errors) or "no errors")
        parts = client.follow(
            "logs", model=arguments.model, lines=arguments.lines, following=arguments.follow
        )
        for part in parts:
            of = f"{arguments.model} {part['version']} #{part['replica']} ({part['pid']})"
            print(json.dumps(part) if arguments.json else f"{of}: {part['line']}", flush=True)
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    text = sys.stdin.read() if arguments.input == "-" else arguments.input
    try:
        row = json.loads(text)
    except ValueError:
        row = text  # a model of text takes it as it is; others refuse it
    made = _ask(
        arguments, "predict", application=arguments.application, input=row,
        context=arguments.context, deadline=arguments.deadline,
    )  # fmt: skip
    shown = {key: value for key, value in made.items() if value not in (None, {})}
    return _say(arguments, made, tree({**shown, "latency": milliseconds(made["latency"])}))


def _ready(arguments: argparse.Namespace) -> int:
    until = time.monotonic() + arguments.wait
    while True:
        try:
            found = _ask(arguments, "hello")
        except NotRunningError:
            if time.monotonic() >= until:
                raise
            found = {"ready": False, "state": "not ready"}
        if found["ready"] or time.monotonic() >= until:
            _say(arguments, found, str(found["state"]))
            return 0 if found["ready"] else 1
        time.sleep(_POLL_SECONDS)


def _stop(arguments: argparse.Namespace) -> int:
    path = socket_path(arguments.data)
    until = time.monotonic() + arguments.wait
    done = _ask(arguments, "stop")
    while time.monotonic() < until:
        try:
            AdminClient(path).close()
        except NotRunningError:  # the socket goes last
            return _say(arguments, done, f"the engine of process {done['pid']} has ended")
        time.sleep(_POLL_SECONDS)
    print(f"process {done['pid']} has not ended within {arguments.wait:g} s", file=sys.stderr)
    return 1
