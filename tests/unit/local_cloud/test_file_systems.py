from collections.abc import Iterator
from pathlib import Path

import pytest
from ministack.services import efs

from local_cloud.file_systems import efs_folder
from tests.unit.local_cloud.emulated_account import emulated_account


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    with emulated_account(tmp_path):
        efs._access_points.clear()
        efs._file_systems.clear()
        yield tmp_path
        efs._access_points.clear()
        efs._file_systems.clear()


def access_point(path: str) -> tuple[str, str]:
    """Make a file system and an access point in the emulator; returns the file system's id and the point's ARN."""
    efs._create_file_system({"CreationToken": path})
    [file_system] = efs._file_systems
    efs._create_access_point({"FileSystemId": file_system, "RootDirectory": {"Path": path}})
    [point] = efs._access_points.values()
    return file_system, point["AccessPointArn"]


def test_an_access_point_is_a_folder_of_its_file_system(state: Path) -> None:
    file_system, arn = access_point("/log")
    folder = efs_folder(arn)
    assert folder == (state / "efs" / file_system / "log").resolve()
    assert folder.is_dir()


def test_an_access_point_cannot_lead_out_of_its_file_system(state: Path) -> None:
    _, arn = access_point("/../elsewhere")
    with pytest.raises(KeyError):
        efs_folder(arn)


def test_an_unknown_access_point_has_no_folder(state: Path) -> None:
    with pytest.raises(KeyError):
        efs_folder("arn:aws:elasticfilesystem:eu-central-2:210987654321:access-point/fsap-unknown")


def test_a_deleted_file_system_leaves_no_folder(state: Path) -> None:
    file_system, arn = access_point("/log")
    (efs_folder(arn) / "segment").write_text("kept until then")
    efs._access_points.clear()
    efs._delete_file_system(file_system)
    assert not (state / "efs" / file_system).exists()
