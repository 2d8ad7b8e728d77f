"""The archive against a model of its surroundings that may end it before or after anything it does.

The server is a model (what was committed, where the slot stands, when it is gone); the files are real. Killing at every
single step many thousand times is what the real server and real kills of the tests beside this cannot do.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from recovery.connection import Refused, Session, Unreachable
from recovery.heartbeat import lsn_number, lsn_text
from recovery.transaction_log import segment, source
from recovery.transaction_log.archive import Archive
from recovery.transaction_log.pgoutput import Begin, decode
from recovery.transaction_log.segment import GAP
from recovery.transaction_log.verification import OK, WARNING, verify
from tests.examples import up_to
from tests.unit.recovery.test_segment import stream


class Killed(Exception):
    """The process ended here."""


@dataclass
class Fuse:
    """Burns by one at each step that can fail; what fails is before the step took effect, or after.

    A disk that is full (OSError) fails what is written, half-way, and stays full until somebody makes room.
    """

    left: int | None = None
    failure: type[Exception] = Killed
    full: bool = False

    def step(self, what: Callable[[], Any]) -> Any:
        self._burn()
        done = what()
        self._burn()
        return done

    def _burn(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                if self.failure is OSError:
                    self.full = True
                    return
                raise self.failure("the fuse has burnt down")

    def write(self, file: IO[Any], data: Any) -> int:
        self._burn()
        if self.full:
            file.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = file.write(data)
        self._burn()
        return written


@dataclass
class Server:
    """PostgreSQL, as far as the archive knows it: committed transactions, the end of its WAL, a slot."""

    fuse: Fuse
    wal: int = 1000
    committed: list[int] = field(default_factory=list)
    slot: int | None = None
    lost: bool = False
    endpoint: str = "model"

    def commit(self) -> None:
        self.committed.append(self.wal + 50)
        self.wal += 100

    def _behind_the_slot(self) -> list[int]:
        return [commit for commit in self.committed if self.slot is None or commit >= self.slot]

    def lose(self, *, drop: bool) -> None:
        """The slot goes: what was not kept by then is the hole."""
        if self.slot is not None:
            self.lost = not drop
            self.slot = None if drop else self.slot

    def run(self, sql: str, seconds: float, **parameters: Any) -> list[list[Any]]:
        answer = self.fuse.step(lambda: self._answer(sql, parameters))
        return cast(list[list[Any]], answer)

    def _answer(self, sql: str, parameters: dict[str, Any]) -> list[list[Any]]:
        if "pg_is_in_recovery" in sql:
            return [[False, "42"]]
        if sql == source._SLOT:
            return [] if self.slot is None else [[lsn_text(self.slot), "lost" if self.lost else "reserved", None]]
        if "pg_create_logical_replication_slot" in sql:
            if self.slot is not None:
                raise Refused("42710", "the slot exists")
            self.slot, self.lost = self.wal, False
        if "pg_drop_replication_slot" in sql:
            self.slot, self.lost = None, False
        if "pg_replication_slot_advance" in sql:
            assert self.slot is not None
            self.slot = max(self.slot, lsn_number(parameters["position"]))
        if "sequence_positions" in sql:
            return [["public.numbers", self.wal, True]]
        if "pg_current_wal_lsn" in sql:
            return [[lsn_text(self.wal)]]
        return [[1]]

    def copy_out(self, query: str, seconds: float, take: Callable[[bytes], None]) -> int:
        assert self.slot is not None
        most = int(query.split("NULL, ")[1].split(",")[0])
        messages: list[bytes] = []
        for commit in self._behind_the_slot():
            if len(messages) >= most:
                break
            messages.append(b"B" + commit.to_bytes(8, "big") + bytes(8) + (commit % 2**32).to_bytes(4, "big"))
            messages.append(b"I" + bytes(4) + b"N\x00\x01n")
            messages.append(b"C\x00" + commit.to_bytes(8, "big") + (commit + 50).to_bytes(8, "big") + bytes(8))
        content = stream(messages)
        half = len(content) // 2
        self.fuse.step(lambda: take(content[:half]) if half else None)
        if content:
            take(content[half:])
        return len(messages)


@dataclass(frozen=True)
class Round:
    """Transactions are committed, the slot may be lost or dropped, and the archive runs until its fuse has burnt."""

    commits: int
    slot: str
    fuse: int | None
    failure: type[Exception]


ROUNDS = st.lists(
    st.builds(
        Round,
        commits=st.integers(0, 4),
        slot=st.sampled_from(["kept", "kept", "lost", "dropped"]),
        fuse=st.one_of(st.none(), st.integers(0, 60), st.integers(0, 60)),
        failure=st.sampled_from([Killed, Unreachable, OSError]),
    ),
    max_size=8,
)


class Written:
    """A file that is written through a fuse."""

    def __init__(self, file: IO[Any], fuse: Fuse) -> None:
        self._file, self._fuse = file, fuse

    def __enter__(self) -> Written:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: Any) -> int:
        return self._fuse.write(self._file, data)


@contextlib.contextmanager
def files_that_fail(fuse: Fuse) -> Iterator[None]:
    """The operations on files that matter, each of which may be the last; syncing itself is spared."""
    rename, unlink, opened = Path.rename, Path.unlink, Path.open

    def synced(descriptor: int) -> None:
        fuse.step(lambda: None)

    def renamed(path: Path, target: Path) -> Path:
        return cast(Path, fuse.step(lambda: rename(path, target)))

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        if fuse.left is None:
            unlink(path, missing_ok)
        else:
            fuse.step(lambda: unlink(path, missing_ok))

    def opens(path: Path, mode: str = "r", **options: Any) -> Any:
        file = opened(path, mode, **options)
        return Written(file, fuse) if "w" in mode else file

    with (
        mock.patch.object(os, "fsync", synced),
        mock.patch.object(Path, "open", opens),
        mock.patch.object(Path, "rename", renamed),
        mock.patch.object(Path, "unlink", unlinked),
    ):
        yield


def run(server: Server, folder: Path) -> None:
    archive = Archive(cast(Session, server), folder, 1, batch=4)
    archive.prepare()
    while archive.step() is not None:
        pass


@settings(max_examples=up_to(100))
@given(ROUNDS)
def test_whatever_fails_every_transaction_is_kept_once_or_lies_in_a_gap(rounds: list[Round]) -> None:
    root = Path(tempfile.mkdtemp())
    folder = root / "epoch-1"
    fuse = Fuse()
    server = Server(fuse)
    try:
        with files_that_fail(fuse), mock.patch.object(source, "ensure_publication"):
            run(server, folder)
            for this in rounds:
                for _ in range(this.commits):
                    server.commit()
                if this.slot != "kept":
                    server.lose(drop=this.slot == "dropped")
                fuse.left, fuse.failure = this.fuse, this.failure
                with contextlib.suppress(Killed, Unreachable, OSError):
                    run(server, folder)
                fuse.left, fuse.full = None, False
            server.commit()
            run(server, folder)
        kept: list[int] = []
        gaps: list[tuple[int, int]] = []
        for path in segment.segments(folder):
            found = segment.read(path)
            if found.header.kind == GAP:
                gaps.append((found.header.first, found.header.last))
            kept += [begin.commit for message in segment.messages(found) if isinstance(begin := decode(message), Begin)]
        assert kept == sorted(set(kept))
        missing = set(server.committed) - set(kept)
        assert all(any(first <= commit < last for first, last in gaps) for commit in missing)
        lost_something = any(this.slot != "kept" for this in rounds)
        assert lost_something or not gaps
        assert verify(root).verdict in ((OK, WARNING) if lost_something else (OK,))
    finally:
        shutil.rmtree(root)


def test_a_disk_that_is_full_at_any_write_stops_the_archive_and_loses_nothing_once_there_is_room(
    tmp_path: Path,
) -> None:
    """Every write of a run in turn, the slot lost in between, so a gap is written too; what was kept stays sound."""
    stopped = 0
    for left in itertools.count():
        root = tmp_path / str(left)
        fuse = Fuse()
        server = Server(fuse)
        with files_that_fail(fuse):
            run(server, root / "epoch-1")
            server.commit()
            run(server, root / "epoch-1")
            before = verify(root)
            server.commit()
            server.lose(drop=False)
            server.commit()
            fuse.left, fuse.failure = left, OSError
            try:
                run(server, root / "epoch-1")
            except OSError:
                stopped += 1
            burnt_down = fuse.left is None
            fuse.left = None
            if fuse.full:  # still: every further run fails as well, and harms nothing
                with contextlib.suppress(OSError):
                    run(server, root / "epoch-1")
                assert verify(root).verdict in (OK, WARNING)
            fuse.full = False
            run(server, root / "epoch-1")
            server.commit()
            run(server, root / "epoch-1")
        report = verify(root)
        assert (before.verdict, report.verdict) == (OK, WARNING), report.as_text()
        assert report.epochs[0].gaps == 1
        assert report.epochs[0].transactions == 2, "all but those in the gap"
        if not burnt_down:
            break
    assert stopped > 10
