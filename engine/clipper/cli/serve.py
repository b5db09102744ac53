"""``clipper serve``: an engine of its own process, as a file declares it."""

import argparse
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipper.admin import AdminClient, AdminServer, Host, NotRunningError
from clipper.config import Applier, Config, ConfigError, check_sources, read_config
from clipper.config.starting import engine_options
from clipper.engine import Engine

from .orders import Order, Orders
from .places import DEFAULT_FILE, SOCKET, data_folder

_log = logging.getLogger("clipper")

_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_CLOSE_SECONDS = 2.0
_GIVEN_UP_SECONDS = 0.2  # where the wait for queries was in vain already


def add_serve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add it to the parser."""
    what = "serve the models and applications that a file declares, until SIGTERM"
    parser = commands.add_parser("serve", help=what, description=what)
    parser.add_argument("file", nargs="?", default=DEFAULT_FILE, help=f"{DEFAULT_FILE} by default")
    parser.add_argument("--check", action="store_true", help="only say whether the file is good")
    parser.add_argument("--detach", action="store_true", help="return once it is ready")
    parser.add_argument("--data", help="data directory, instead of the file's")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to end; 0 if all that was accepted has ended, 1 if it could not start."""
    config = read_config(arguments.file)
    check_sources(config)
    if arguments.check:
        models, applications = len(config.models), len(config.applications)
        print(f"{arguments.file} is good: {models} models, {applications} applications")
        return 0
    data = data_folder(arguments.data, config.server.data)
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    if arguments.detach:
        return _detach(arguments.file, data)
    logging.basicConfig(format=_FORMAT, level=logging.WARNING, stream=sys.stderr)
    return Serving(Path(arguments.file).absolute(), config, data).run()


class ServingHost(Host):
    """An engine that ``clipper serve`` runs."""

    def __init__(self, stop: Callable[[], None]) -> None:
        super().__init__("starting")
        self._stop = stop

    def stop(self) -> None:
        """End it as SIGTERM would."""
        self._stop()


class Serving:
    """One run of ``clipper serve``. The main thread takes orders, another one deploys.

    Parameters
    ----------
    file : Path
        Read again on SIGHUP.
    config : Config
        What it said first.
    data : Path
        The data directory, which exists.
    """

    def __init__(self, file: Path, config: Config, data: Path) -> None:
        self._file = file
        self._config = config
        self._data = data
        self._orders = Orders()
        self._host = ServingHost(lambda: self._orders.put("end"))
        self._applying: threading.Thread | None = None
        self._reload_again = False

    def run(self) -> int:
        """Serve; returns the exit status."""
        _log.setLevel(self._config.server.log.upper())
        server = self._config.server
        with Engine(**engine_options(Engine, server, self._data)) as engine:
            applier = Applier(engine, server)
            admin = AdminServer(engine, self._data / SOCKET, self._host)
            _log.info("process %d starts as %s says", os.getpid(), self._file)
            try:
                self._apply(applier, self._config)
                return self._take_orders(applier, engine)
            finally:
                admin.close()

    def _take_orders(self, applier: Applier, engine: Engine) -> int:
        while True:
            order = self._orders.get()
            if order == "end":
                return self._end(engine)
            if order == "failed" and self._host.state == "starting":
                _log.error("cannot start: see above")
                return 1
            if order == "reload" and self._applying is not None:
                self._reload_again = True
            elif order == "reload":
                self._reload(applier)
            else:
                self._applied(applier, order)

    # ---- configurations -----------------------------------------------------------------------

    def _apply(self, applier: Applier, config: Config) -> None:
        def work() -> None:
            try:
                failed = applier.apply(config).failed
            except ConfigError as error:
                failed = list(error.problems)
                _log.error("%s", error)
            except Exception:
                failed = ["an error of the engine"]
                _log.exception("the configuration could not be applied")
            self._orders.put("failed" if failed else "applied")

        self._applying = threading.Thread(target=work, name="clipper-apply", daemon=True)
        self._applying.start()

    def _reload(self, applier: Applier) -> None:
        try:
            config = read_config(self._file)
            check_sources(config)
        except ConfigError as error:
            _log.error("nothing was changed, as the file is not good:\n%s", error)
            return
        _log.setLevel(config.server.log.upper())
        self._config = config
        self._host.state = "reloading"
        self._apply(applier, config)

    def _applied(self, applier: Applier, order: Order) -> None:
        was = self._host.state
        self._applying = None
        self._host.state = "ready"
        if was == "starting":
            _log.info("ready: %s", self._data / SOCKET)
            _notify("READY=1")
        elif order == "failed":
            _log.error("the configuration was applied in part: see above")
        else:
            _log.info("the configuration is applied")
        if self._reload_again:
            self._reload_again = False
            self._reload(applier)

    # ---- the end ------------------------------------------------------------------------------

    def _end(self, engine: Engine) -> int:
        """Answer what was accepted, for as long as ``drain`` says."""
        _notify("STOPPING=1")
        seconds = self._config.server.drain
        _log.info("ending: no new queries, %g s for those accepted", seconds)
        until = time.monotonic() + seconds
        self._host.refuse_queries()
        # Being told once more ends the wait.
        while (left := self._left(engine)) and time.monotonic() < until and self._orders.empty():
            time.sleep(0.005)
        if left:
            _log.warning("%d accepted queries are given up", left)
        engine.close(timeout=_GIVEN_UP_SECONDS if left else _CLOSE_SECONDS)
        self._host.state = "ended"
        _log.info("ended: %d queries answered", self._host.answered)
        return 0

    def _left(self, engine: Engine) -> int:
        return max(self._host.open_queries, engine._core.open_queries)


def _notify(state: str) -> None:
    """Tell the service manager, if one has said where (sd_notify)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
        try:
            to.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError as error:
            _log.warning("the service manager does not hear: %s", error)


def _detach(file: str, data: Path) -> int:
    """Start it in a session of its own; returns when it is ready or has ended."""
    log = data / "engine.log"
    with log.open("ab") as output:
        process: subprocess.Popen[Any] = subprocess.Popen(
            [sys.executable, "-m", "clipper.cli", "serve", file, "--data", str(data)],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    while process.poll() is None:
        try:
            with AdminClient(data / SOCKET, timeout=5.0) as client:
                found = client.call("hello")
            if found["pid"] == process.pid and found["ready"]:
                print(f"process {process.pid} is ready; it logs to {log}")
                return 0
        except NotRunningError:
            pass
        time.sleep(0.05)
    print(f"it has not started; {log} ends with:", file=sys.stderr)
    print(*log.read_text(errors="replace").splitlines()[-20:], sep="\n", file=sys.stderr)
    return 1
