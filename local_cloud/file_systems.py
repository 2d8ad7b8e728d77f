"""EFS file systems as folders: `<state>/efs/<file system>/<root directory of the access point>`."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ministack.services import efs

from local_cloud.server import LocalCloudOptions

_folders: list[Path] = []


def install(options: LocalCloudOptions) -> None:
    """Keep the file systems' contents below the state folder and remove a file system's folder when it is deleted."""
    _folders[:] = [options.state / "efs"]
    efs._delete_file_system = _removing_the_folder(efs._delete_file_system)


def efs_folder(access_point_arn: str) -> Path:
    """Return the folder an access point gives access to, created when it is absent.

    The record's PosixUser and CreationInfo are not applied: a function runs as the user who started the local cloud.
    Raises KeyError when there is no such access point.
    """
    access_point = efs._access_points[access_point_arn.rpartition("/")[2]]
    root = str((access_point.get("RootDirectory") or {}).get("Path") or "/").strip("/")
    file_system = _folders[0] / str(access_point["FileSystemId"])
    folder = (file_system / root).resolve()
    if not folder.is_relative_to(file_system.resolve()):
        raise KeyError(access_point_arn)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _removing_the_folder(delete: Callable[[str], Any]) -> Callable[[str], Any]:
    @functools.wraps(delete)
    def delete_file_system(file_system_id: str) -> Any:
        answer = delete(file_system_id)
        if file_system_id not in efs._file_systems:
            shutil.rmtree(_folders[0] / file_system_id, ignore_errors=True)
        return answer

    return delete_file_system
