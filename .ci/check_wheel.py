"""Checks what is in a wheel: everything that is needed, and nothing of where it was built.

python check_wheel.py WHEEL [FOLDER...]     no file may name one of the folders
"""

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NEEDED = [
    r"clipper/py\.typed",
    r"clipper_adapters/py\.typed",
    r"clipper_worker/__main__\.py",
    r"clipper/_core/libclipper_core\.so",
    r"clipper-[^/]+\.dist-info/licenses/LICENSE",
    r"clipper-[^/]+\.dist-info/entry_points\.txt",
]
UNWANTED = r".*\.(pyx|pxd|cc|cxx|h|o|a)|(tests|bench|csrc|docs)/.*|.*(/|^)CMakeLists\.txt"


def faults_of_names(names: list[str]) -> list[str]:
    """Say which files are missing, and which are too many."""
    faults = [f"has no {file}" for file in NEEDED if not any(re.fullmatch(file, n) for n in names)]
    faults += [f"has {name}" for name in names if re.fullmatch(UNWANTED, name)]
    compiled = re.compile(r"(clipper/_core/\w+)\.cpython.*\.so")
    modules = {match[1] for match in map(compiled.fullmatch, names) if match}
    faults += [f"has no {m}.pyi" for m in sorted(modules) if f"{m}.pyi" not in names]
    return faults + ([] if modules else ["has no extension module"])


def faults_of_library(library: Path, folders: list[str]) -> list[str]:
    """Say whether a library would look for others, or names folders, where it was built."""
    content = library.read_bytes()
    faults = [f"{library.name} names {folder}" for folder in folders if folder.encode() in content]
    dynamic = subprocess.run(
        ["readelf", "--dynamic", "--wide", str(library)], check=True, capture_output=True, text=True
    ).stdout
    paths = re.findall(r"\(R(?:UN)?PATH\).*\[(.*)\]", dynamic)
    needs_core = "libclipper_core.so" in re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    if paths != ["$ORIGIN"] and (paths or needs_core):
        faults.append(f"{library.name} looks for libraries in {paths}, not in $ORIGIN")
    return faults


def main(wheel: str, *folders: str) -> int:
    """Print the faults; 1 if there are any."""
    with tempfile.TemporaryDirectory() as unpacked, zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
        faults = faults_of_names(archive.namelist())
        for library in sorted(Path(unpacked).rglob("*.so")):
            faults += faults_of_library(library, list(folders))
        size = Path(wheel).stat().st_size / 1e6
        print(f"{Path(wheel).name}: {len(archive.namelist())} files, {size:.1f} MB")
    for fault in faults:
        print(f"{Path(wheel).name} {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
