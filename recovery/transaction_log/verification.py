"""Walk a transaction log and say whether it is all there and unchanged: OK, WARNING or FAILURE.

Looks at files alone, so it needs no database and works while the archive writes and old segments expire. What cannot
be seen here is a log that lost its newest segments *and* had its record of the newest set back, or its oldest and had
its anchor moved on: only the primary's slot and the backups know of these.

Reading is all the work, and each segment is read by itself, newest first: by several processes, and for as long as
there is time.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recovery.clock import iso
from recovery.heartbeat import lsn_text
from recovery.transaction_log import continuity, retention, segment
from recovery.transaction_log.retention import ANCHOR, HOLDS, Anchor
from recovery.transaction_log.segment import BRANCH, GAP, HEAD, LOCK, OPENED, PENDING, Segment, SegmentCorrupt

OK, WARNING, FAILURE = "OK", "WARNING", "FAILURE"
EXIT_CODES = {OK: 0, WARNING: 1, FAILURE: 2}
_EPOCH = re.compile(r"epoch-([1-9][0-9]*)")
_NAMES = "|".join(re.escape(name) for name in (LOCK, HEAD, PENDING, BRANCH, ANCHOR))
_OURS = re.compile(rf"{_NAMES}|\..*\.partial")
_OURS_ABOVE = re.compile(rf"{re.escape(LOCK)}|{re.escape(HOLDS)}|\..*\.partial")
_TOGETHER = 64
"""So many segments are read between two looks at the clock."""


@dataclass(frozen=True)
class Finding:
    """What is not as it should be: `verdict` WARNING or FAILURE, and what was found, where, and what to do."""

    verdict: str
    kind: str
    where: str
    text: str


@dataclass(frozen=True)
class EpochReport:
    """What an epoch's folder holds: positions as text, the last commit's time, packed bytes; `expired` are the segments
    that were before the first. Transactions are counted in what was read.
    """

    epoch: int
    segments: int
    transactions: int
    messages: int
    gaps: int
    expired: int
    bytes: int
    first_lsn: str | None
    last_lsn: str | None
    committed_at: str | None


@dataclass(frozen=True)
class Report:
    """The verdict on a log, what speaks against it, and what it holds."""

    verdict: str
    findings: tuple[Finding, ...]
    epochs: tuple[EpochReport, ...]

    @property
    def exit_code(self) -> int:
        """0 OK, 1 WARNING, 2 FAILURE."""
        return EXIT_CODES[self.verdict]

    def as_json(self) -> dict[str, Any]:
        """For monitoring."""
        return asdict(self)

    def as_text(self) -> str:
        """For people: a line for each epoch, one for each finding, the verdict."""
        lines = [
            f"epoch {found.epoch}: {found.segments} segments, {found.transactions} transactions, {found.gaps} gaps, "
            + (f"{found.expired} segments expired before, " if found.expired else "")
            + f"{found.first_lsn} to {found.last_lsn}, last commit {found.committed_at}"
            for found in self.epochs
        ]
        lines += [f"{finding.verdict} {finding.kind} {finding.where}: {finding.text}" for finding in self.findings]
        return "\n".join([*lines, self.verdict])


@dataclass(frozen=True)
class Examined:
    """A segment by itself: what it is, how many transactions it holds (None: not read), and what is wrong with it."""

    path: Path
    found: Segment | None
    transactions: int | None
    damage: str | None = None


def verify(root: Path, processes: int = 1, seconds: float | None = None) -> Report:
    """Verify the log below `root`: a folder `epoch-<n>` for each epoch, every segment to its last message.

    `processes` read at once. After `seconds` no more is read: what is left, the oldest, is a WARNING.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    findings: list[Finding] = []
    folders = {}
    for entry in sorted(root.iterdir()) if root.is_dir() else []:
        named = _EPOCH.fullmatch(entry.name)
        if named and entry.is_dir():
            folders[int(named[1])] = entry
        elif not _OURS_ABOVE.fullmatch(entry.name):
            findings.append(Finding(WARNING, "FOREIGN", str(entry), "this is not a part of the log; move it away."))
    if not folders:
        findings.append(Finding(FAILURE, "MISSING", str(root), "there is no log; look whether this is its folder."))
    for epoch in range(min(folders, default=1), max(folders, default=0)):
        if epoch not in folders:
            findings.append(
                Finding(WARNING, "MISSING", str(root), f"there is no log of epoch {epoch}; look whether it had writes.")
            )
    walks = [_Epoch(epoch, folders[epoch], findings) for epoch in sorted(folders)]
    newest_first = [path for walk in reversed(walks) for path in reversed(walk.paths)]
    examined = {each.path: each for each in _examine_all(newest_first, processes, deadline)}
    epochs = tuple(walk.report(examined) for walk in walks)
    for before, after in itertools.pairwise(walks):
        after.join(before)
    verdicts = {finding.verdict for finding in findings}
    return Report(next((v for v in (FAILURE, WARNING) if v in verdicts), OK), tuple(findings), epochs)


def _examine_all(paths: Sequence[Path], processes: int, deadline: float | None) -> Iterator[Examined]:
    with ProcessPoolExecutor(processes) if processes > 1 and len(paths) > 1 else nullcontext() as pool:
        for start in range(0, len(paths), _TOGETHER):
            batch = paths[start : start + _TOGETHER]
            read = deadline is None or time.monotonic() < deadline
            each: Iterable[Examined | None]
            if not read:
                each = map(_unread, batch)
            elif pool is None:
                each = map(examine, batch)
            else:
                each = pool.map(examine, batch, chunksize=max(1, len(batch) // (4 * processes)))
            yield from (one for one in each if one is not None)


def examine(path: Path) -> Examined | None:
    """Read a segment to its last message; None when it is no longer there."""
    try:
        found = segment.read(path)
    except SegmentCorrupt as corrupt:
        return Examined(path, None, 0, f"{corrupt} Bring it back from the backup.")
    except FileNotFoundError:
        return None
    try:
        return Examined(path, found, segment.transactions(found))
    except SegmentCorrupt as corrupt:
        return Examined(path, found, 0, str(corrupt))
    except FileNotFoundError:
        return None


def _unread(path: Path) -> Examined | None:
    """Only what a segment says of itself; None when it is no longer there."""
    try:
        return Examined(path, segment.claimed(path), None)
    except SegmentCorrupt as corrupt:
        return Examined(path, None, None, f"{corrupt} Bring it back from the backup.")
    except FileNotFoundError:
        return None


class _Epoch:
    """The walk along one epoch's chain."""

    def __init__(self, epoch: int, folder: Path, findings: list[Finding]) -> None:
        self._epoch = epoch
        self._folder = folder
        self._findings = findings
        self._first: Segment | None = None
        self._before: Segment | None = None
        self._anchor: Anchor | None = None
        self._head = self._recorded()  # read before the folder is listed: the archive may be at work
        self.paths = segment.segments(folder)

    def _find(self, verdict: str, kind: str, path: Path, text: str) -> None:
        self._findings.append(Finding(verdict, kind, str(path), text))

    def report(self, examined: Mapping[Path, Examined]) -> EpochReport:
        """Follow the chain through what was examined."""
        self._anchor = self._anchored()  # read after the segments: what it has passed may be gone, or half gone
        paths = [path for path in self.paths if self._anchor is None or path.name > self._anchor.name]
        self._look_for_strangers()
        each = [examined[path] for path in paths if path in examined]
        for one in each:
            if one.found is not None:
                self._follow(one.found)
            if one.damage is not None:
                self._find(FAILURE, "CORRUPT", one.path, one.damage)
        unread = [one.path for one in each if one.transactions is None]
        if unread:
            self._find(
                WARNING, "UNREAD", unread[-1], f"it and {len(unread) - 1} before it were not read: there was no time."
            )
        sound = [one.found for one in each if one.found is not None]
        recorded = self._head
        if not paths or (recorded and recorded[0] not in {path.name for path in paths}):
            gone = self._folder / (recorded[0] if recorded else HEAD)
            self._find(FAILURE, "MISSING", gone, "it was written last and is gone; bring it back from the backup.")
        elif recorded and (recorded not in {(found.path.name, found.sha256) for found in sound}):
            self._find(
                FAILURE, "CORRUPT", self._folder / recorded[0], "it is not what was recorded when it was written."
            )
        headers = [found.header for found in sound]
        commits = [header.committed_at for header in headers if header.committed_at is not None]
        return EpochReport(
            self._epoch,
            len(paths),
            sum(one.transactions or 0 for one in each),
            sum(header.messages for header in headers),
            sum(header.kind == GAP for header in headers),
            self._anchor.expired if self._anchor else 0,
            sum(path.stat().st_size for path in paths if path in examined),
            lsn_text(headers[0].first) if headers else None,
            lsn_text(headers[-1].last) if headers else None,
            iso(max(commits)) if commits else None,
        )

    def join(self, before: _Epoch) -> None:
        """Compare the chain's beginning with the end of the epoch before it."""
        if self._first is None or before._before is None or before._epoch != self._epoch - 1:
            return  # what is missing was said
        hole = continuity.hole(before._before.header, self._first.header)
        if hole is not None:
            self._find(
                WARNING, "JOIN", self._first.path, f"epoch {self._epoch} may not join the one before it: {hole}."
            )

    def _anchored(self) -> Anchor | None:
        try:
            return retention.anchor(self._folder)
        except SegmentCorrupt as corrupt:
            self._find(FAILURE, "CORRUPT", self._folder / ANCHOR, str(corrupt))
            return None

    def _recorded(self) -> tuple[str, str] | None:
        try:
            recorded = segment.newest_recorded(self._folder)
        except SegmentCorrupt as corrupt:
            self._find(FAILURE, "CORRUPT", self._folder / HEAD, str(corrupt))
            return None
        if recorded is None:
            self._find(FAILURE, "MISSING", self._folder / HEAD, "the record of the newest segment is gone.")
        return recorded

    def _look_for_strangers(self) -> None:
        for entry in sorted(set(self._folder.iterdir()) - set(segment.segments(self._folder))):
            if not _OURS.fullmatch(entry.name):
                self._find(WARNING, "FOREIGN", entry, "this is not a part of the log; move it away.")
        if (self._folder / PENDING).exists():
            self._find(
                WARNING, "GAP", self._folder / PENDING, "the slot was lost; the archive's next run writes the gap."
            )

    def _follow(self, found: Segment) -> None:
        """Compare a segment with the one before it, or with the anchor."""
        header, path, before, anchor = found.header, found.path, self._before, self._anchor
        self._before = found
        self._first = self._first or found
        if header.epoch != self._epoch or (before and header.system_identifier != before.header.system_identifier):
            self._find(
                FAILURE, "FOREIGN", path,
                f"it is of epoch {header.epoch} and system {header.system_identifier}; move it to where it belongs.",
            )  # fmt: skip
        elif before is None and anchor is not None:
            if header.previous != anchor.sha256 or header.first < anchor.last:
                self._find(FAILURE, "MISSING", path, f"it does not follow {anchor.name}, which expired last.")
        elif before is None and (header.previous is not None or header.kind != OPENED):
            self._find(FAILURE, "MISSING", path, "the log does not begin here; what is before it is gone.")
        elif before is not None and header.previous is None:
            self._find(FAILURE, "RESTARTED", path, f"the chain begins anew behind {before.path.name} without a gap.")
        elif before is not None and header.previous != before.sha256:
            self._find(FAILURE, "MISSING", path, f"it does not follow {before.path.name}; what is between is gone.")
        elif before is not None and header.first < before.header.last:
            self._find(FAILURE, "OVERLAP", path, f"it begins before {before.path.name} ends.")
        if header.kind == GAP:
            self._find(
                WARNING, "GAP", path,
                f"nothing is kept from {lsn_text(header.first)} to {lsn_text(header.last)}: {header.reason}",
            )  # fmt: skip
