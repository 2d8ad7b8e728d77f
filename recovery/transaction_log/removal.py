"""Take the log off a database: nothing of it costs the primary anything any more.

Everything is found by what it is, not by a list: event triggers whose functions are in the schema `recovery`, those
functions, the publication, the slot. What is kept is what would have to be guessed to be undone: replica identities
(a table without a primary key stays at FULL, which only makes its UPDATE and DELETE write more WAL).
"""

from __future__ import annotations

from recovery.connection import Refused, Session
from recovery.transaction_log import source

LOCK_MILLISECONDS = 2000
IN_USE = "55006"

_TRIGGERS = """
SELECT format('%I', evtname)
FROM pg_catalog.pg_event_trigger JOIN pg_catalog.pg_proc AS body ON body.oid = evtfoid
WHERE body.pronamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'recovery') ORDER BY 1"""

_FUNCTIONS = """
SELECT format('recovery.%I', proname) FROM pg_catalog.pg_proc
WHERE pronamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'recovery')
  AND prorettype = 'pg_catalog.event_trigger'::pg_catalog.regtype ORDER BY 1"""

_PUBLICATION = f"SELECT 1 FROM pg_catalog.pg_publication WHERE pubname = '{source.NAME}'"  # noqa: S608 - a constant


def remove(session: Session, seconds: float) -> bool:
    """Event triggers, their functions, publication and slot are gone. False when the slot is still being read: the
    archive's last run is not over, and a later call removes it. A repeat does nothing.
    """
    with session.transaction(seconds):
        session.run(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}", seconds)
        for (name,) in session.run(_TRIGGERS, seconds):
            session.run(f"DROP EVENT TRIGGER IF EXISTS {name}", seconds)
        for (name,) in session.run(_FUNCTIONS, seconds):
            session.run(f"DROP FUNCTION IF EXISTS {name}()", seconds)
        if session.run(_PUBLICATION, seconds):
            session.run(f"DROP PUBLICATION IF EXISTS {source.NAME}", seconds)
    try:
        source.drop_slot(session, seconds)
    except Refused as refused:
        if refused.sqlstate != IN_USE:
            raise
        return False
    return True
