"""What happened when, and who says so: each stamp of a drill's timeline names its source."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Entry:
    """One event: `at` in seconds since the epoch, `source` the system that reported it."""

    at: float
    source: str
    event: str

    def as_record(self) -> dict[str, str]:
        """The form in `report.json`: `at` is ISO 8601 in UTC with milliseconds."""
        return {
            "at": datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds"),
            "source": self.source,
            "event": self.event,
        }


class Timeline:
    """Collects entries from several threads and hands each one on as it comes."""

    def __init__(self, show: Callable[[Entry], None]) -> None:
        self._show = show
        self._entries: list[Entry] = []
        self._lock = threading.Lock()

    def add(self, source: str, event: str, at: float | None = None) -> Entry:
        """Note an event, now unless `at` says when."""
        entry = Entry(time.time() if at is None else at, source, event)
        with self._lock:
            self._entries.append(entry)
        self._show(entry)
        return entry

    @property
    def entries(self) -> list[Entry]:
        """All entries in order of time."""
        with self._lock:
            return sorted(self._entries, key=lambda entry: entry.at)
