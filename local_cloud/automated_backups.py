"""Automated backups of a DB instance, as RDS makes them: base backups, and the WAL that follows, kept for some days.

The WAL is "uploaded" every few minutes: the segment in use is closed and waited for until it is in the archive. A
restore can end anywhere between the end of the oldest base backup and the last upload, which is what RDS calls the
latest restorable time. Backups are apart from the instance's storage: they outlive its loss, and its deletion if asked.
"""

import contextlib
import logging
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from local_cloud.cluster import Cluster, ClusterError
from local_cloud.postgres_host import HostError, PostgresHost, remove

logger = logging.getLogger(__name__)

Status = Literal["creating", "active", "retained"]

NO_ARCHIVE = "exit 0"
"""The archive command of an instance without backups: every segment counts as archived."""
POLL_SECONDS = 0.2
# An archiver that is running takes far less than a second for a segment.
UPLOAD_TIMEOUT_SECONDS = 30.0
RETRY_SECONDS = 2.0
BASE = "base-"
PACKED = ".gz"
SEGMENT_NAME_LENGTH = 24


@dataclass(frozen=True)
class BaseBackup:
    """A copy of a data folder; `first_wal` is the segment its recovery begins in, `at` when it was complete."""

    folder: Path
    first_wal: str
    at: datetime


@dataclass(frozen=True)
class RecoverySource:
    """What a new cluster is made from: a base backup and, to go on from there, archived WAL up to a moment."""

    data: Path
    wal: Path | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class BackupView:
    """What DescribeDBInstanceAutomatedBackups says. `earliest` and `latest` bound the times that can be restored."""

    identifier: str
    resource_id: str
    status: Status
    earliest: datetime | None
    latest: datetime | None
    retention_days: int


@dataclass(frozen=True)
class Pace:
    """How often, in seconds: `upload` of WAL, `base` backups."""

    upload: float
    base: float


class NotRestorableError(Exception):
    """The moment asked for is not among those that can be restored; the message is RDS's."""


class AutomatedBackup:
    """The backups of one instance. `primary()` is the cluster to back up, None while there is none that can be."""

    def __init__(
        self,
        host: PostgresHost,
        identifier: str,
        resource_id: str,
        retention_days: int,
        *,
        primary: Callable[[], Cluster | None],
        pace: Callable[[], Pace],
    ) -> None:
        self.identifier = identifier
        self.resource_id = resource_id
        self.retention_days = retention_days
        self._host = host
        self._primary = primary
        self._pace = pace
        self._folder = host.storage / f"backup-{resource_id}"
        self._wal = self._folder / "wal"
        self._bases: list[BaseBackup] = []
        self._latest: datetime | None = None
        self._number = 0
        # Held while backups are made, used or removed: a restore needs all of what it began with.
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self.is_dropped = False
        self._keeper: threading.Thread | None = None
        host.make_directory(self._folder)
        host.make_directory(self._wal)

    @property
    def archive_command(self) -> str:
        """PostgreSQL's `archive_command`: a packed segment appears under its name as a whole, however often it is
        sent."""
        folder = shlex.quote(str(self._wal)).replace("%", "%%")
        return f'gzip -1 -c "%p" > {folder}/%f.part && mv -f {folder}/%f.part {folder}/%f{PACKED}'

    @property
    def latest_restorable_time(self) -> datetime | None:
        """Until when a restore can go; None before there is a backup."""
        return self._latest

    def view(self) -> BackupView:
        """The backups as they are at this moment; never waits."""
        bases, latest = tuple(self._bases), self._latest
        status: Status = "retained" if self._ended.is_set() else "active" if latest else "creating"
        return BackupView(
            self.identifier,
            self.resource_id,
            status,
            _earliest(bases, self.retention_days) if latest else None,
            latest,
            self.retention_days,
        )

    def begin(self) -> None:
        """Keep backups from now on, in a thread; the first one is made as soon as there is a primary."""
        self._keeper = threading.Thread(target=self._keep, name=f"backup-{self.identifier}", daemon=True)
        self._keeper.start()

    def back_up(self, cluster: Cluster) -> None:
        """Make a base backup of a running primary, and upload the WAL up to its end. Raises ClusterError."""
        with self._lock:
            self._number += 1
            folder = self._folder / f"{BASE}{self._number}"
            try:
                cluster.back_up(folder)
                first_wal = _first_wal(folder)
            except ClusterError:
                remove(folder)
                raise
            # Shown and asked for in milliseconds: never a moment before the backup was complete.
            at = _whole_milliseconds(datetime.now(UTC)) + timedelta(milliseconds=1)
            time.sleep(0.001)
            self._bases.append(BaseBackup(folder, first_wal, at))
            self.upload(cluster)

    def upload(self, cluster: Cluster) -> None:
        """Get all that was committed until now into the archive. Raises ClusterError when that does not succeed.

        A recovery ends *at* a moment only when a later commit follows, so one is made; PostgreSQL calls it a failure
        when the WAL ends before.
        """
        with self._lock:
            now = _whole_milliseconds(datetime.now(UTC))
            segment = cluster.close_segment()
            deadline = time.monotonic() + UPLOAD_TIMEOUT_SECONDS
            while not (self._wal / f"{segment}{PACKED}").exists():
                if time.monotonic() > deadline or not cluster.is_running or self._ended.is_set():
                    raise ClusterError(f"segment {segment} of {self.identifier} did not reach the archive")
                time.sleep(0.01)
            self._latest = now

    def rescue(self, cluster: Cluster) -> None:
        """Archive what a stopped cluster still had to: its successor has another timeline and never will."""
        for segment in cluster.unarchived_segments():
            command = self.archive_command.replace("%%", "\0").replace("%p", str(segment)).replace("%f", segment.name)
            try:
                self._host.run("/bin/sh", "-c", command.replace("\0", "%"))
            except HostError as error:
                logger.warning("%s has a hole in its backup: %s", self.identifier, error)

    @contextlib.contextmanager
    def restoring(self, until: datetime | None) -> Iterator[RecoverySource]:
        """What a restore to a moment (None: the latest one) is made from; it stays while the block runs.

        Raises NotRestorableError.
        """
        with self._lock:
            moment = until or self._latest
            earliest = self.view().earliest
            if moment is None or self._latest is None or earliest is None:
                raise NotRestorableError(f"There is no backup of {self.identifier} yet.")
            if moment > self._latest:
                raise NotRestorableError(
                    f"The specified instance cannot be restored to a time later than {_text(self._latest)}."
                )
            if moment < earliest:
                raise NotRestorableError(
                    f"The specified instance cannot be restored to a time earlier than {_text(earliest)} because its "
                    f"backup retention period is set to {self.retention_days} days."
                )
            base = [base for base in self._bases if base.at <= moment][-1]
            yield RecoverySource(base.folder, self._wal, moment)

    def expire(self, now: datetime) -> None:
        """Remove what no restore within the retention period needs."""
        with self._lock:
            kept = needed(self._bases, now - timedelta(days=self.retention_days))
            for base in self._bases:
                if base not in kept:
                    remove(base.folder)
            self._bases = kept
            if not kept:
                return
            for file in self._wal.iterdir():
                # Names sort by position after the first eight digits, which are the timeline.
                if len(file.name.partition(".")[0]) == SEGMENT_NAME_LENGTH and file.name[8:24] < kept[0].first_wal[8:]:
                    file.unlink(missing_ok=True)

    def stop(self) -> None:
        """Make no more backups; what there is stays. Does not wait."""
        self._ended.set()

    def retain(self) -> None:
        """Make no more backups, as the instance is gone; returns when none is being made."""
        self.stop()
        if self._keeper is not None:
            self._keeper.join()

    def drop(self) -> None:
        """Remove everything. Idempotent."""
        self.retain()
        with self._lock:
            self._bases, self._latest, self.is_dropped = [], None, True
            remove(self._folder)

    def _keep(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            primary = self._primary()
            if primary is None or not primary.is_running:
                continue
            try:
                self._work(primary, datetime.now(UTC))
            except (ClusterError, HostError, OSError) as error:
                # It is being stopped, lost or failed over: what is missing is made up for afterwards.
                logger.info("the backup of %s is tried again: %s", self.identifier, error)
                self._ended.wait(RETRY_SECONDS)

    def _work(self, primary: Cluster, now: datetime) -> None:
        pace = self._pace()
        if not self._bases or (now - self._bases[-1].at).total_seconds() >= pace.base:
            self.back_up(primary)
            self.expire(now)
        elif self._latest is None or (now - self._latest).total_seconds() >= pace.upload:
            self.upload(primary)
            self.expire(now)


def needed(bases: Sequence[BaseBackup], horizon: datetime) -> list[BaseBackup]:
    """Those of `bases` (oldest first) from which every moment since `horizon` can be restored."""
    before = [base for base in bases if base.at <= horizon]
    return [*before[-1:], *(base for base in bases if base.at > horizon)]


def _earliest(bases: Sequence[BaseBackup], retention_days: int) -> datetime | None:
    horizon = _whole_milliseconds(datetime.now(UTC) - timedelta(days=retention_days))
    return max(bases[0].at, horizon) if bases else None


def _first_wal(folder: Path) -> str:
    """From the first line of the backup's label: `START WAL LOCATION: 0/2000028 (file 000000010000000000000002)`."""
    line = (folder / "backup_label").read_text().splitlines()[0]
    return line.rpartition(" ")[2].rstrip(")")


def _whole_milliseconds(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
