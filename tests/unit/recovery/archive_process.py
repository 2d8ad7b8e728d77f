"""The archive in a process of its own, to be killed. Imported by a fork server, so that it starts at once."""

from __future__ import annotations

import contextlib
import resource
import time
from pathlib import Path

from recovery.connection import Credentials, Database, Refused, Session, Unreachable, verify_full
from recovery.members import Endpoint
from recovery.transaction_log import segment
from recovery.transaction_log.archive import Archive


def _open(endpoint: Endpoint, bundle: str, user: str, password: str) -> Session:
    return Session.open(endpoint, Database("citizens", verify_full(bundle)), Credentials(user, password), 5.0, "killed")


def keep_for_ever(endpoint: Endpoint, bundle: str, user: str, password: str, folder: Path, batch: int) -> None:
    """Archive until killed; starts over when another run has the log or the slot."""
    while True:
        with (
            contextlib.suppress(segment.LogInUse, Refused, Unreachable),
            segment.alone(folder),
            _open(endpoint, bundle, user, password) as session,
        ):
            archive = Archive(session, folder, 1, batch)
            archive.prepare()
            while True:
                archive.step()
        time.sleep(0.01)


def keep_once(
    endpoint: Endpoint, bundle: str, user: str, password: str, folder: Path, most_file_bytes: int | None, told: Path
) -> None:
    """One batch, with files no larger than given; writes the process's growth in bytes, or the error, to `told`."""
    if most_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_file_bytes, most_file_bytes))
    with segment.alone(folder), _open(endpoint, bundle, user, password) as session:
        archive = Archive(session, folder, 1, patience=300)
        archive.prepare()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            archive.step()
        except OSError as error:
            told.write_text(type(error).__name__)
            return
        told.write_text(str((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024))
