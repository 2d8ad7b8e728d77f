import subprocess
import sys
from pathlib import Path

import pytest

import app
from stacks import function_package
from stacks.function_package import FunctionPackage


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> FunctionPackage:
    return function_package.build(app.ROOT, tmp_path_factory.mktemp("package"))


def test_the_driver_and_our_code_work_without_anything_else(package: FunctionPackage) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-I", "-S", "-c"),
            f"import sys; sys.path.insert(0, {str(package.folder)!r}); "
            "sys.dont_write_bytecode = True; import pg8000.dbapi, recovery, functions, dateutil.parser",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_certificate_bundle_is_in_it_and_no_compiled_file(package: FunctionPackage) -> None:
    files = [path for path in package.folder.rglob("*") if path.is_file()]
    assert package.folder / "functions" / "rds-ca-eu-central-2.pem" in files
    assert not [path for path in files if path.suffix in (".pyc", ".so") or "__pycache__" in path.parts]


def test_it_is_small_enough_for_a_fast_start(package: FunctionPackage) -> None:
    assert sum(path.stat().st_size for path in package.folder.rglob("*") if path.is_file()) < 5 * 1024**2


def test_the_same_sources_give_the_same_package(package: FunctionPackage, tmp_path: Path) -> None:
    again = function_package.build(app.ROOT, tmp_path)
    assert again.digest == package.digest
    assert again.folder.name == package.folder.name


def test_a_changed_source_gives_another_package(tmp_path: Path) -> None:
    for folder in function_package.OWN_PACKAGES:
        (tmp_path / folder).mkdir()
    source = tmp_path / "recovery" / "one.py"
    source.write_text("ONE = 1\n")
    before = function_package.build(tmp_path, tmp_path / "out")
    source.write_text("ONE = 2\n")
    assert function_package.build(tmp_path, tmp_path / "out").digest != before.digest


def test_a_build_that_another_was_faster_than_uses_the_other(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    function_package._write({"a.py": b"1"}, folder)
    function_package._write({"a.py": b"1"}, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_build_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="File exists"):
        function_package._write({"a": b"1", "a/b": b"2"}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
