"""Walk a transaction log and say whether it is all there and unchanged: OK, WARNING or FAILURE.

Looks at files alone, so it needs no database and works while the archive writes. What cannot be seen here is a log
that lost its newest segments *and* had its record of the newest set back: only the primary's slot knows of these.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recovery.clock import iso
from recovery.heartbeat import lsn_text
from recovery.transaction_log import segment
from recovery.transaction_log.segment import BRANCH, GAP, HEAD, LOCK, OPENED, PENDING, Segment, SegmentCorrupt

OK, WARNING, FAILURE = "OK", "WARNING", "FAILURE"
EXIT_CODES = {OK: 0, WARNING: 1, FAILURE: 2}
_EPOCH = re.compile(r"epoch-([1-9][0-9]*)")
_OURS = re.compile(rf"{re.escape(LOCK)}|{re.escape(HEAD)}|{re.escape(PENDING)}|{re.escape(BRANCH)}|\..*\.partial")


@dataclass(frozen=True)
class Finding:
    """What is not as it should be: `verdict` WARNING or FAILURE, and what was found, where, and what to do."""

    verdict: str
    kind: str
    where: str
    text: str


@dataclass(frozen=True)
class EpochReport:
    """What an epoch's folder holds: positions as text, the last commit's time, packed bytes."""

    epoch: int
    segments: int
    transactions: int
    messages: int
    gaps: int
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
            f"{found.first_lsn} to {found.last_lsn}, last commit {found.committed_at}"
            for found in self.epochs
        ]
        lines += [f"{finding.verdict} {finding.kind} {finding.where}: {finding.text}" for finding in self.findings]
        return "\n".join([*lines, self.verdict])


def verify(root: Path) -> Report:
    """Verify the log below `root`: a folder `epoch-<n>` for each epoch, every segment to its last message."""
    findings: list[Finding] = []
    folders = {}
    for entry in sorted(root.iterdir()) if root.is_dir() else []:
        named = _EPOCH.fullmatch(entry.name)
        if named and entry.is_dir():
            folders[int(named[1])] = entry
        else:
            findings.append(Finding(WARNING, "FOREIGN", str(entry), "this is not a part of the log; move it away."))
    if not folders:
        findings.append(Finding(FAILURE, "MISSING", str(root), "there is no log; look whether this is its folder."))
    for epoch in range(min(folders, default=1), max(folders, default=0)):
        if epoch not in folders:
            findings.append(
                Finding(WARNING, "MISSING", str(root), f"there is no log of epoch {epoch}; look whether it had writes.")
            )
    epochs = tuple(_Epoch(epoch, folders[epoch], findings).report() for epoch in sorted(folders))
    verdicts = {finding.verdict for finding in findings}
    return Report(next((v for v in (FAILURE, WARNING) if v in verdicts), OK), tuple(findings), epochs)


class _Epoch:
    """The walk along one epoch's chain."""

    def __init__(self, epoch: int, folder: Path, findings: list[Finding]) -> None:
        self._epoch = epoch
        self._folder = folder
        self._findings = findings
        self._before: Segment | None = None
        self._after_damage = False

    def _find(self, verdict: str, kind: str, path: Path, text: str) -> None:
        self._findings.append(Finding(verdict, kind, str(path), text))

    def report(self) -> EpochReport:
        recorded = self._recorded()  # read before the folder is listed: the archive may be at work
        paths = segment.segments(self._folder)
        self._look_for_strangers(paths)
        sound = [found for path in paths if (found := self._read(path)) is not None]
        transactions = sum(self._follow(found) for found in sound)
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
            transactions,
            sum(header.messages for header in headers),
            sum(header.kind == GAP for header in headers),
            sum(path.stat().st_size for path in paths),
            lsn_text(headers[0].first) if headers else None,
            lsn_text(headers[-1].last) if headers else None,
            iso(max(commits)) if commits else None,
        )

    def _recorded(self) -> tuple[str, str] | None:
        try:
            recorded = segment.newest_recorded(self._folder)
        except SegmentCorrupt as corrupt:
            self._find(FAILURE, "CORRUPT", self._folder / HEAD, str(corrupt))
            return None
        if recorded is None:
            self._find(FAILURE, "MISSING", self._folder / HEAD, "the record of the newest segment is gone.")
        return recorded

    def _look_for_strangers(self, paths: list[Path]) -> None:
        for entry in sorted(set(self._folder.iterdir()) - set(paths)):
            if not _OURS.fullmatch(entry.name):
                self._find(WARNING, "FOREIGN", entry, "this is not a part of the log; move it away.")
        if (self._folder / PENDING).exists():
            self._find(
                WARNING, "GAP", self._folder / PENDING, "the slot was lost; the archive's next run writes the gap."
            )

    def _read(self, path: Path) -> Segment | None:
        try:
            return segment.read(path)
        except SegmentCorrupt as corrupt:
            self._find(FAILURE, "CORRUPT", path, f"{corrupt} Bring it back from the backup.")
            return None

    def _follow(self, found: Segment) -> int:
        """Compare a segment with the one before it; how many transactions it holds."""
        header, path, before = found.header, found.path, self._before
        self._before = found
        if header.epoch != self._epoch or (before and header.system_identifier != before.header.system_identifier):
            self._find(
                FAILURE, "FOREIGN", path,
                f"it is of epoch {header.epoch} and system {header.system_identifier}; move it to where it belongs.",
            )  # fmt: skip
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
        try:
            return segment.transactions(found)
        except SegmentCorrupt as corrupt:
            self._find(FAILURE, "CORRUPT", path, str(corrupt))
            return 0
