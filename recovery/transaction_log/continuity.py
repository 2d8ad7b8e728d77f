"""Does the log of an epoch go on where that of the epoch before it ends, whatever clients did in between?

The primary's slot is kept in step on the standby (PostgreSQL's `sync_replication_slots`), so a promoted standby has it
from its first moment on: what a client writes before anybody has opened the new epoch's log is decoded like all else.
Such a slot stands at or before the promotion, where both epochs still have the same history and the same positions. So
the logs join without a hole when the new one begins no later than the old one ends. What both hold is the same.
"""

from __future__ import annotations

from recovery.connection import Session
from recovery.heartbeat import lsn_text
from recovery.transaction_log import source
from recovery.transaction_log.segment import OPENED, Header

CAME_ALONG = "the slot came along with the promotion"
"""What the first segment of an epoch says whose slot was the old primary's, kept in step."""

_SYNCED = f"SELECT synced FROM pg_catalog.pg_replication_slots WHERE slot_name = '{source.NAME}'"  # noqa: S608 - a constant


def evidence(session: Session, seconds: float) -> str:
    """CAME_ALONG, or nothing: the slot was made on this member, so what was written before that may be missing."""
    return CAME_ALONG if session.run(_SYNCED, seconds) == [[True]] else ""


def hole(last: Header, first: Header) -> str | None:
    """Why the epoch that begins with `first` may not hold all that followed `last`, the newest of the epoch before it;
    None when the two join.
    """
    if first.kind != OPENED:
        return None  # its beginning has expired: this was looked at while it was there
    if first.reason != CAME_ALONG:
        return (
            f"its slot was made at {lsn_text(first.first)}, after the promotion; what was written between the two "
            "is not in the log"
        )
    if first.first > last.last:
        return f"it begins at {lsn_text(first.first)}, but epoch {last.epoch} ends at {lsn_text(last.last)}"
    return None
