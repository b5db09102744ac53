"""The fixture ``engine`` is that of the plugin which comes with clipper; here: a container's image.

Of this interpreter and its NumPy, made without any registry.
"""

import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import numpy as np
import pytest

IMAGE = "localhost/clipper-worker-test"
LEFT_OUT = {"test", "tests", "idlelib", "ensurepip", "tkinter", "lib2to3", "site-packages",
            "__pycache__", "turtledemo", "pydoc_data"}  # fmt: skip


@pytest.fixture(scope="session")
def container() -> tuple[str, tuple[str, ...]]:
    """Make the image; returns its name, and what ``podman run`` needs on this machine."""
    if shutil.which("podman") is None:
        _install()
    found = subprocess.run(["podman", "info"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        pytest.skip(f"podman does not work here: {found.stderr[-300:]}")
    _import_image()
    said = ""
    limits = ("--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000")
    for arguments in ((), ("--runtime=runc", *limits)):
        run = ["podman", "run", "--rm", "--network=none", "--log-driver=none", *arguments,
               "--entrypoint=python3", IMAGE, "-c", "import numpy"]  # fmt: skip
        tried = subprocess.run(run, capture_output=True, text=True, timeout=60, check=False)
        if tried.returncode == 0:
            return IMAGE, arguments
        said = tried.stderr
    pytest.skip(f"podman runs no container here: {said[-300:]}")


def _install() -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("podman is not installed, and only root of a Debian can do so")
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "podman", "runc"]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for before in ((), ("apt-get", "update", "-qq")):
        if before:
            subprocess.run(before, capture_output=True, env=env, timeout=120, check=False)
        done = subprocess.run(command, capture_output=True, env=env, timeout=240, check=False)
        if done.returncode == 0:
            return
    pytest.skip("podman cannot be installed from Debian's packages here")


def _import_image() -> None:
    with subprocess.Popen(
        ["podman", "import", "--quiet", "-", IMAGE],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as podman:  # fmt: skip
        assert podman.stdin is not None
        with podman.stdin, tarfile.open(fileobj=podman.stdin, mode="w|") as tar:
            _fill(tar)
        assert podman.stderr is not None
        said = podman.stderr.read()
    assert podman.returncode == 0, said


def _fill(tar: tarfile.TarFile) -> None:
    base = Path(os.path.realpath(sys.executable))
    stdlib = Path(sysconfig.get_path("stdlib"))
    numpy = Path(np.__file__).parent
    for name in ("tmp", "run", "proc", "sys", "dev", "etc"):
        folder = tarfile.TarInfo(name)
        folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
        tar.addfile(folder)
    tar.add(base)
    programs = [base, *stdlib.glob("lib-dynload/*.so"), *numpy.rglob("*.so")]
    ldd = ["ldd", *map(str, programs)]
    linked = subprocess.run(ldd, capture_output=True, text=True, check=False)
    for library in sorted(set(re.findall(r"(/\S+) \(0x", linked.stdout))):
        if "numpy" not in library:
            tar.add(os.path.realpath(library), library)
    tar.add(stdlib, filter=_needed)
    for folder in (numpy, numpy.with_name("numpy.libs")):
        if folder.exists():
            tar.add(folder, stdlib / "site-packages" / folder.name, filter=_needed)
    if str(base) != "/usr/bin/python3":
        link = tarfile.TarInfo("usr/bin/python3")
        link.type, link.linkname = tarfile.SYMTYPE, str(base)
        tar.addfile(link, io.BytesIO())


def _needed(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = os.path.basename(member.name)
    return None if name in LEFT_OUT or name.startswith("config-") else member
