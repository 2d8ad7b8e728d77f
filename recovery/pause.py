"""A pause: for a while nothing is done automatically. It stops action, never observation, and it ends by itself."""

from __future__ import annotations

from dataclasses import dataclass

from recovery.clock import iso
from recovery.table import RecoveryTable

RECORD = "pause"
LONGEST_SECONDS = 24 * 3600.0
"""A maintenance that takes longer is paused again: a pause that was forgotten must not cost a recovery."""


class PauseRefused(Exception):
    """A pause that nobody could mean."""


@dataclass(frozen=True)
class Pause:
    """Why, until when (epoch seconds) and by whom automatic action is stopped."""

    reason: str
    until: float
    by: str

    def __str__(self) -> str:
        return f"paused until {iso(self.until)} by {self.by}: {self.reason}"


def active(table: RecoveryTable, now: float) -> Pause | None:
    """The pause that holds at `now`, if one does."""
    record = table.get(RECORD)
    if record is None or float(record["until"]) <= now:
        return None
    return Pause(str(record["reason"]), float(record["until"]), str(record["by"]))


def begin(table: RecoveryTable, reason: str, seconds: float, by: str, now: float) -> Pause:
    """Pause for `seconds` from now on, in place of any other pause; PauseRefused without reason or end."""
    if not reason.strip():
        raise PauseRefused("A pause needs a reason: who finds the system paused must know why.")
    if not 0 < seconds <= LONGEST_SECONDS:
        raise PauseRefused(
            f"A pause of {seconds:g} s is refused: give more than 0 and at most {LONGEST_SECONDS:.0f} s, and pause "
            "again when it takes longer."
        )
    pause = Pause(reason.strip(), now + seconds, by)
    table.put(RECORD, pause.__dict__)
    return pause


def end(table: RecoveryTable, now: float) -> bool:
    """Resume; whether there was anything to resume from."""
    if active(table, now) is None:
        return False
    table.put(RECORD, Pause("resumed", now, "resume").__dict__)
    return True
