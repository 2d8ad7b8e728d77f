"""The primary's side of the transaction log: publication, replication slot, and the care that they hurt nobody.

Under a publication FOR ALL TABLES a table without a primary key refuses UPDATE and DELETE unless its replica identity
is FULL. Existing tables get it here, before the publication exists; new ones by an event trigger, in the transaction
that creates them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from recovery.connection import Refused, Session
from recovery.transaction_log import ddl

NAME = "citizens_log"
"""Of the publication and of the slot."""
SLOT_SECONDS = 20.0
"""Creating a slot waits for the transactions that run at that moment."""
LOCK_MILLISECONDS = 2000
"""A table in use is tried again a minute later rather than queueing the applications behind us."""
NOT_THERE = ("3F000", "42501", "42883")
"""No such schema, no right to use it, no such function."""
EXISTS = ("23505", "42P06", "42P07", "42710", "42723")

_SLOT = f"""
SELECT coalesce(confirmed_flush_lsn, restart_lsn)::text, wal_status, invalidation_reason
FROM pg_catalog.pg_replication_slots WHERE slot_name = '{NAME}'"""  # noqa: S608 - a constant of this module

_TABLES_WITHOUT_IDENTITY = """
SELECT format('%I.%I', space.nspname, class.relname), pg_catalog.pg_has_role(class.relowner, 'USAGE'),
       pg_catalog.pg_get_userbyid(class.relowner)
FROM pg_catalog.pg_class AS class JOIN pg_catalog.pg_namespace AS space ON space.oid = class.relnamespace
WHERE class.relkind IN ('r', 'p') AND class.relpersistence = 'p'
  AND space.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  AND (class.relreplident = 'n'
       OR class.relreplident = 'd' AND NOT EXISTS
          (SELECT FROM pg_catalog.pg_index WHERE indrelid = class.oid AND indisprimary)
       OR class.relreplident = 'i' AND NOT EXISTS
          (SELECT FROM pg_catalog.pg_index WHERE indrelid = class.oid AND indisreplident))
ORDER BY 1"""

_NEW_TABLES = """
CREATE SCHEMA IF NOT EXISTS recovery;
CREATE OR REPLACE FUNCTION recovery.give_identity() RETURNS event_trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
    made record;
BEGIN
    FOR made IN
        SELECT DISTINCT class.oid::regclass AS name
        FROM pg_event_trigger_ddl_commands() AS command JOIN pg_class AS class ON class.oid = command.objid
        WHERE command.classid = 'pg_class'::regclass AND class.relkind IN ('r', 'p') AND class.relpersistence = 'p'
          AND class.relnamespace <> 'pg_catalog'::regnamespace
          AND (class.relreplident = 'n'
               OR class.relreplident = 'd' AND NOT EXISTS
                  (SELECT FROM pg_index WHERE indrelid = class.oid AND indisprimary)
               OR class.relreplident = 'i' AND NOT EXISTS
                  (SELECT FROM pg_index WHERE indrelid = class.oid AND indisreplident))
    LOOP
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', made.name);
    END LOOP;
END
$body$;
"""

_TRIGGER = """
CREATE EVENT TRIGGER recovery_give_identity ON ddl_command_end
WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'CREATE SCHEMA', 'SELECT INTO', 'ALTER TABLE', 'DROP INDEX')
EXECUTE FUNCTION recovery.give_identity()"""
"""CREATE SCHEMA may hold a CREATE TABLE, which fires nothing of its own."""

_HAS_TRIGGER = """
SELECT 1 FROM pg_catalog.pg_event_trigger
WHERE evtname = 'recovery_give_identity' AND 'CREATE SCHEMA' = ANY (evttags)"""


class LogWouldHurt(Exception):
    """A table cannot be given a replica identity, so the publication would make it refuse UPDATE and DELETE."""


class NotPrepared(Exception):
    """The publication is not there: a slot made before it could never be read."""


class SlotLost(Exception):
    """The slot is there but PostgreSQL has removed WAL it needs: the log has a hole."""


@dataclass(frozen=True)
class Slot:
    """The log's slot: its name and the position from which it still has to be read (text)."""

    name: str
    position: str


def sequences(session: Session, seconds: float) -> dict[str, tuple[int, bool]]:
    """Where every sequence stands: quoted name → (last value, whether it was given out)."""
    try:
        rows = session.run("SELECT name, last_value, is_called FROM recovery.sequence_positions()", seconds)
    except Refused as refused:
        if refused.sqlstate in NOT_THERE:
            raise NotPrepared(
                f"recovery.sequence_positions() is missing at {session.endpoint}; the rotation function puts it in "
                "place every few minutes: look at its log if this goes on."
            ) from refused
        raise
    return {str(name): (int(value), bool(called)) for name, value, called in rows}


def has_publication(session: Session, seconds: float) -> bool:
    """Whether publication and event triggers are there."""
    return bool(
        session.run(_state_of("pg_publication", "pubname"), seconds)
        and session.run("SELECT 1 FROM pg_catalog.pg_event_trigger WHERE evtname = 'recovery_give_identity'", seconds)
        and session.run("SELECT 1 FROM pg_catalog.pg_event_trigger WHERE evtname = 'recovery_ddl_2_keep'", seconds)
    )


def require_publication(session: Session, seconds: float) -> None:
    """NotPrepared unless publication and event triggers are there."""
    if not has_publication(session, seconds):
        raise NotPrepared(
            f"The publication {NAME} or an event trigger is missing at {session.endpoint}; the rotation function puts "
            "them in place every few minutes: look at its log if this goes on."
        )


def ensure_publication(session: Session, seconds: float) -> None:
    """Identities, event triggers and publication, in one transaction. Does nothing when all is there."""
    complete = has_publication(session, seconds) and session.run(_HAS_TRIGGER, seconds)
    if complete and ddl.installed(session, seconds):
        return
    try:
        with session.transaction(seconds):
            session.run(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}", seconds)
            ddl.install(session, seconds)
            if not session.run(_HAS_TRIGGER, seconds):
                session.run("DROP EVENT TRIGGER IF EXISTS recovery_give_identity", seconds)
                session.run(_NEW_TABLES, seconds)
                session.run(_TRIGGER, seconds)
            _give_identities(session, seconds)
            if not session.run(_state_of("pg_publication", "pubname"), seconds):
                session.run(f"CREATE PUBLICATION {NAME} FOR ALL TABLES", seconds)
    except Refused as refused:
        if refused.sqlstate not in EXISTS:  # another run was at it at the same time, and has done it
            raise


def _give_identities(session: Session, seconds: float) -> None:
    for table, ours, owner in session.run(_TABLES_WITHOUT_IDENTITY, seconds):
        if not ours:
            raise LogWouldHurt(
                f"Table {table} has no primary key and belongs to {owner}, so its replica identity cannot be set; "
                f"run ALTER TABLE {table} REPLICA IDENTITY FULL as {owner}, or GRANT {owner} TO the master user."
            )
        session.run(f"ALTER TABLE {table} REPLICA IDENTITY FULL", seconds)


def _state_of(catalog: str, column: str) -> str:
    return f"SELECT 1 FROM pg_catalog.{catalog} WHERE {column} = '{NAME}'"  # noqa: S608 - both are constants of this module


def slot(session: Session, seconds: float) -> Slot | None:
    """The log's slot, or None; SlotLost when PostgreSQL has given it up."""
    rows = session.run(_SLOT, seconds)
    if not rows:
        return None
    ((position, wal_status, reason),) = rows
    if wal_status == "lost" or reason is not None:
        raise SlotLost(
            f"The slot {NAME} is lost ({reason or wal_status}): transactions after {position} are not in the log; "
            "the log goes on behind a gap; take a snapshot, for nothing can be rolled forward across it."
        )
    return Slot(NAME, position)


def drop_slot(session: Session, seconds: float) -> None:
    """Drop the log's slot, if it is there."""
    session.run(
        f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{NAME}'",  # noqa: S608
        seconds,
    )


def ensure_slot(session: Session, seconds: float = SLOT_SECONDS) -> Slot:
    """The log's slot, created if it is not there; `failover` so that a standby may keep a copy of it."""
    deadline = time.monotonic() + seconds
    found = slot(session, seconds)
    if found is None:
        try:
            session.run(
                f"SELECT pg_create_logical_replication_slot('{NAME}', 'pgoutput', false, false, true)",
                deadline - time.monotonic(),
            )
        except Refused as refused:
            if refused.sqlstate not in EXISTS:
                raise
        found = slot(session, deadline - time.monotonic())
    assert found is not None
    return found
