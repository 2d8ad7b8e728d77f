"""Open the log of a new epoch: its slot exists before any application writes, so the log has no hole."""

from __future__ import annotations

from dataclasses import dataclass

from recovery.clock import iso
from recovery.connection import Session
from recovery.table import RecoveryTable
from recovery.transaction_log import source

SECONDS = 4.0
"""Of a sign-in and of a statement: the machine's budget for OpenLog is 5 s, and a second try finds what this left."""


@dataclass(frozen=True)
class Opened:
    """The epoch's log: its slot, and the WAL position (text) its first segment begins at."""

    slot: str
    begin_lsn: str


def open_log(session: Session, table: RecoveryTable, epoch: int, member: str, now: float) -> Opened:
    """Slot and the record `epoch#<n>`; a repeat returns what the first run recorded."""
    source.require_publication(session, SECONDS)
    slot = source.ensure_slot(session)
    ((system,),) = session.run("SELECT system_identifier::text FROM pg_control_system()", SECONDS)
    record = {
        "begin_lsn": slot.position,
        "slot": slot.name,
        "member": member,
        "system_identifier": system,
        "opened_at": iso(now),
    }
    if table.put_if(f"epoch#{epoch}", record, "attribute_not_exists(id)"):
        return Opened(slot.name, slot.position)
    found = table.get(f"epoch#{epoch}") or record
    return Opened(str(found["slot"]), str(found["begin_lsn"]))
