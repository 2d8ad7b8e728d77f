"""The export of a DB instance's `postgresql` log to CloudWatch Logs: `/aws/rds/instance/<identifier>/postgresql`.

One event is one line. The log of the cluster behind the endpoint is exported, not that of its Multi-AZ copy. RDS makes
a log group that is missing; here the log then goes nowhere, for a group made so has neither key nor retention.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ministack.core.responses import request_scope
from ministack.services import cloudwatch_logs, rds

from local_cloud.fleet import Fleet, FleetError

if TYPE_CHECKING:
    from local_cloud.server import LocalCloudOptions

EXPORT_SECONDS = 0.5
CHUNK_BYTES = 1024 * 1024
# A load that connects all the time writes four lines a connection: of so many the older half is dropped.
KEPT_EVENTS = 40_000

_logger = logging.getLogger(__name__)


class DatabaseLogs:
    """Follows the log of every instance that exports it, until it is closed."""

    def __init__(self, fleet: Fleet, options: LocalCloudOptions) -> None:
        self._fleet = fleet
        self._options = options
        self._closed = threading.Event()
        self._read: dict[Path, int] = {}

    def install(self) -> None:
        """Begin to follow."""
        threading.Thread(target=self._watch, name="database-logs", daemon=True).start()

    def close(self) -> None:
        """Follow no longer."""
        self._closed.set()

    def export(self) -> None:
        """Deliver what the servers have written since the last time."""
        for identifier in self._fleet.identifiers():
            record = rds._instances.get(identifier) or {}
            if "postgresql" not in (record.get("EnabledCloudwatchLogsExports") or []):
                continue
            try:
                directories = self._fleet.describe(identifier).directories
            except FleetError:
                continue
            if directories:
                self._deliver(identifier, directories[0] / "postgresql.log")

    def _deliver(self, identifier: str, path: Path) -> None:
        group, stream = f"/aws/rds/instance/{identifier}/postgresql", f"{identifier}.0"
        if group not in cloudwatch_logs._log_groups:
            return
        lines = self._new_lines(path)
        if not lines:
            return
        streams = cloudwatch_logs._log_groups[group]["streams"]
        if stream not in streams:
            cloudwatch_logs._create_log_stream({"logGroupName": group, "logStreamName": stream})
        now = int(time.time() * 1000)
        cloudwatch_logs._put_log_events(
            {
                "logGroupName": group,
                "logStreamName": stream,
                "logEvents": [{"timestamp": now, "message": line} for line in lines],
            }
        )
        _forget_older(streams[stream]["events"])

    def _new_lines(self, path: Path) -> list[str]:
        """The whole lines that are new; what the server is about to write comes with the next ones."""
        begin = self._read.get(path, 0)
        try:
            with path.open("rb") as log:
                log.seek(begin)
                text = log.read(CHUNK_BYTES)
        except OSError:
            return []  # not there yet, or no longer
        whole = text[: text.rfind(b"\n") + 1]
        self._read[path] = begin + len(whole)
        return [line for line in whole.decode(errors="replace").splitlines() if line.strip()]

    def _watch(self) -> None:
        while not self._closed.wait(EXPORT_SECONDS):
            try:
                with request_scope(self._options.account, self._options.region):
                    self.export()
            except Exception:
                _logger.exception("the database logs were not exported")


def _forget_older(events: list[dict[str, str]]) -> None:
    if len(events) > KEPT_EVENTS:
        for event in events[: KEPT_EVENTS // 2]:
            cloudwatch_logs._log_records.pop(event["eventId"], None)
        del events[: KEPT_EVENTS // 2]
