"""What the functions need inside the database, put there by the main user: their roles and tables, and the log's
publication.

All of it replicates, so a promoted standby has it. It is put back every few minutes, so a restored database has it too.
With the log turned off, publication, event triggers and slot are taken away instead.
"""

from __future__ import annotations

from pathlib import Path

from recovery.connection import Session
from recovery.transaction_log import ddl, removal, source

ROLES = (
    *("citizens_witness", "citizens_probe", "citizens_log", "citizens_verify", "citizens_roll_forward"),
    "citizens_drill",
)
SECONDS = 10.0
LOCK_MILLISECONDS = 2000
_LOCK = 0x6369_7469_7A65_6E73
"""Key of the advisory lock that keeps two preparations apart: GRANT does not wait for GRANT, it fails."""


def prepare(session: Session, transaction_log: bool = True) -> bool:
    """Put roles, tables and publication in place; a repeat changes nothing that is right. Raises what `run` raises.

    Without `transaction_log` all that serves the log is removed; False when the slot could not be removed yet.
    """
    with session.transaction(SECONDS):
        session.run(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}", SECONDS)
        session.run(ddl.OWN, SECONDS)
        session.run(f"SELECT pg_advisory_xact_lock({_LOCK})", SECONDS)
        for name in ("roll_forward.sql", "roles.sql"):
            session.run((Path(__file__).with_name("sql") / name).read_text(), SECONDS)
    if not transaction_log:
        return removal.remove(session, SECONDS)
    source.ensure_publication(session, SECONDS)
    return True
