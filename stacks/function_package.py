"""Builds the one folder that every function is deployed from: our code and a PostgreSQL driver in pure Python.

No pip, no container: the driver's files are copied from the environment this program runs in, whose versions are
pinned. The folder's name is its content's hash, so the same sources give the same asset on every machine, a second
build costs one reading, and two builds at the same time do not meet.
"""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

OWN_PACKAGES = ("functions", "recovery")
DRIVER_DISTRIBUTIONS = ("pg8000", "scramp", "asn1crypto", "python-dateutil", "six")


@dataclass(frozen=True)
class FunctionPackage:
    """`folder` holds the files; `digest` is the SHA-256 (hex) of names and contents."""

    folder: Path
    digest: str


def build(root: Path, output: Path) -> FunctionPackage:
    """Build from the repository at `root` into `output`/<digest>.

    Raises FileNotFoundError when a file of the driver is gone.
    """
    sources = dict(sorted((*_own_files(root), *_driver_files())))
    contents = {name: source.read_bytes() for name, source in sources.items()}
    digest = _digest(contents)
    folder = output / digest[:32]
    if not folder.is_dir():
        _write(contents, folder)
    return FunctionPackage(folder, digest)


def _own_files(root: Path) -> list[tuple[str, Path]]:
    return [
        (path.relative_to(root).as_posix(), path)
        for package in OWN_PACKAGES
        for path in (root / package).rglob("*")
        if path.is_file() and _wanted(path)
    ]


def _driver_files() -> list[tuple[str, Path]]:
    found = []
    for name in DRIVER_DISTRIBUTIONS:
        for file in distribution(name).files or ():
            # RECORD and INSTALLER tell about the installation, not the package; METADATA is read for the version
            installed_only = file.parts[0].endswith(".dist-info") and file.name not in ("METADATA", "LICENSE")
            if not installed_only and ".." not in file.parts and _wanted(Path(*file.parts)):
                found.append((file.as_posix(), Path(str(file.locate()))))
    return found


def _wanted(path: Path) -> bool:
    return "__pycache__" not in path.parts and path.suffix != ".pyc"


def _digest(contents: dict[str, bytes]) -> str:
    total = hashlib.sha256()
    for name, content in contents.items():
        total.update(f"{name}\0{len(content)}\0".encode())
        total.update(content)
    return total.hexdigest()


def _write(contents: dict[str, bytes], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    building.chmod(0o755)
    try:
        for name, content in contents.items():
            target = building / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        os.rename(building, folder)  # noqa: PTH104 - atomic, and fails when another build was faster
    except OSError:
        shutil.rmtree(building, ignore_errors=True)
        if not folder.is_dir():
            raise
