"""The way through the log: from a position over segments and epochs, in the order in which transactions committed.

Epoch n+1 was branched off epoch n where the promoted member stood:
what epoch n holds beyond that is not part of epoch n+1, unless it was rolled forward onto it - and then it is in the
log of epoch n+1 as well. `branch.json` in the folder of epoch n+1 says where that is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recovery.heartbeat import lsn_number, lsn_text
from recovery.transaction_log import segment
from recovery.transaction_log.position import Position, Transaction, begin
from recovery.transaction_log.segment import BRANCH, CHANGES, GAP, OPENED, Segment

_EPOCH = re.compile(r"epoch-([1-9][0-9]*)")
_NAME = re.compile(r"([0-9A-F]{16})-([0-9A-F]{16})")


class LogUnfit(Exception):
    """The log cannot be followed: it is not there, its chain is broken, or its epochs do not hang together."""


class GapOnTheWay(Exception):
    """The log has a gap between where it is to be read from and where to."""


@dataclass(frozen=True)
class Branch:
    """Where an epoch was branched off: transactions of the epoch before that commit beyond `at` are not in it."""

    at: Position


def write_branch(folder: Path, at: Position) -> None:
    """Write down where the epoch of `folder` was branched off; LogUnfit when something else is written there."""
    folder.mkdir(parents=True, exist_ok=True)
    written = branch(folder)
    if written is not None and written.at != at:
        raise LogUnfit(f"{folder / BRANCH} says {written.at}, not {at}; find out which is right.")
    if written is None:
        segment.write_synced(folder / BRANCH, json.dumps({"epoch": at.epoch, "lsn": lsn_text(at.lsn)}))


def branch(folder: Path) -> Branch | None:
    """Where the epoch of `folder` was branched off, if it is written down."""
    try:
        found = json.loads((folder / BRANCH).read_text(encoding="utf-8"))
        return Branch(Position(int(found["epoch"]), lsn_number(str(found["lsn"]))))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise LogUnfit(f"{folder / BRANCH} cannot be read: {error!r}; bring it back from the backup.") from error


@dataclass(frozen=True)
class Stretch:
    """A part of one epoch's log: its segments beyond `after` and up to `until` (commit positions; None: to its end)."""

    epoch: int
    after: int
    until: int | None
    segments: tuple[Path, ...]


class Log:
    """The log below `root`: a folder `epoch-<n>` for each epoch."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._folders = {
            int(named[1]): entry
            for entry in (root.iterdir() if root.is_dir() else ())
            if (named := _EPOCH.fullmatch(entry.name)) and entry.is_dir()
        }
        if not any(segment.segments(folder) for folder in self._folders.values()):
            raise LogUnfit(f"There is no log in {root}; name the folder that holds epoch-1, epoch-2 and so on.")

    @property
    def epochs(self) -> list[int]:
        """All that have a log, oldest first."""
        return sorted(number for number, folder in self._folders.items() if segment.segments(folder))

    def folder(self, epoch: int) -> Path:
        """Of an epoch."""
        return self.root / f"epoch-{epoch}"

    def segments(self, epoch: int) -> list[Path]:
        """The segments of an epoch, oldest first."""
        return segment.segments(self.folder(epoch))

    def end(self) -> Position:
        """Where the newest epoch's log ends."""
        epoch = self.epochs[-1]
        return Position(epoch, bounds(self.segments(epoch)[-1])[1])

    def first(self, epoch: int) -> Transaction | None:
        """The first transaction that is kept of an epoch."""
        for found in self.segments(epoch):
            if segment.read_header(found).kind == CHANGES:
                return begin(next(segment.messages(segment.read(found))), epoch)
        return None

    def branch(self, epoch: int) -> Branch | None:
        """Where an epoch was branched off."""
        return branch(self.folder(epoch))

    def way(self, start: Position, last_epoch: int) -> list[Stretch]:
        """The stretches from `start` into `last_epoch`, to its end; LogUnfit when they do not hang together."""
        if start.epoch not in self.epochs:
            raise LogUnfit(f"There is no log of epoch {start.epoch} in {self.root}, in which the database stands.")
        stretches = []
        for epoch in range(start.epoch, last_epoch + 1):
            paths = self.segments(epoch)
            if not paths:
                raise LogUnfit(f"There is no log of epoch {epoch} in {self.root}.")
            after = start.lsn if epoch == start.epoch else self._shared(epoch, start, paths[0])
            until = self._branched(epoch + 1, start).lsn if epoch < last_epoch else None
            if epoch == start.epoch and until is not None and after > until:
                raise LogUnfit(
                    f"The database has transactions of epoch {epoch} up to {start}, but epoch {epoch + 1} was branched "
                    f"off at {Position(epoch, until)}: it is of another history; restore one from before that."
                )
            stretches.append(Stretch(epoch, after, until, tuple(_overlapping(paths, after, until))))
        return stretches

    def _shared(self, epoch: int, start: Position, first: Path) -> int:
        """What both epochs hold: a slot that came along with the promotion begins before the branch. -1: nothing."""
        at = self._branched(epoch, start).lsn
        return at if bounds(first)[0] <= at else -1

    def _branched(self, epoch: int, start: Position) -> Position:
        found = self.branch(epoch)
        if found is None:
            raise LogUnfit(
                f"Nobody wrote down where epoch {epoch} was branched off ({self.folder(epoch) / BRANCH}), so the log "
                f"cannot be followed from {start} into it; roll forward to a position of epoch {epoch - 1}."
            )
        if found.at.epoch != epoch - 1:
            raise LogUnfit(f"Epoch {epoch} was branched off {found.at}, not off epoch {epoch - 1}.")
        return found.at


def read(stretch: Stretch, system: str) -> Iterator[Segment]:
    """The stretch's segments, each checked by itself and against the one before it; GapOnTheWay at a gap."""
    before: Segment | None = None
    for path in stretch.segments:
        found = segment.read(path)
        header = found.header
        if header.system_identifier != system or header.epoch != stretch.epoch:
            raise LogUnfit(
                f"{path} is of system {header.system_identifier}, epoch {header.epoch}, but the database is of system "
                f"{system}: it has another history."
            )
        if before is None:
            _require_beginning(stretch, found)
        elif header.previous != before.sha256:
            raise LogUnfit(f"{path} does not follow {before.path.name}: the chain is broken; verify the log.")
        before = found
        if header.last <= stretch.after:
            continue
        if header.kind == GAP:
            raise GapOnTheWay(
                f"Nothing is kept from {Position(stretch.epoch, header.first)} to {lsn_text(header.last)}: "
                f"{header.reason}; --stop-at-gap rolls forward to there."
            )
        if header.kind == CHANGES:
            yield found


def _require_beginning(stretch: Stretch, first: Segment) -> None:
    """The log reaches back to where it is to be read from."""
    header = first.header
    if header.kind == OPENED:
        reaches = stretch.after < 0 or header.first <= stretch.after
    else:
        reaches = header.first <= stretch.after
    if not reaches:
        wanted = "its beginning" if stretch.after < 0 else lsn_text(stretch.after)
        raise LogUnfit(
            f"The log of epoch {stretch.epoch} does not reach back to {wanted}: it begins at {lsn_text(header.first)} "
            f"({first.path.name}); restore to a later moment, or bring older segments back."
        )


def bounds(path: Path) -> tuple[int, int]:
    """The positions a segment begins and ends at, from its name."""
    found = _NAME.match(path.name)
    assert found is not None, path
    return int(found[1], 16), int(found[2], 16)


def _overlapping(paths: list[Path], after: int, until: int | None) -> Iterator[Path]:
    """Segments that may hold a commit beyond `after` and up to `until`, and the one before them, which they follow."""
    behind: Path | None = None
    for path in paths:
        first, last = bounds(path)
        if last <= after:
            behind = path
        elif until is None or first <= until:
            if behind is not None:
                yield behind
                behind = None
            yield path
