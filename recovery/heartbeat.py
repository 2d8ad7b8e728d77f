"""The heartbeat: a row per witness, written on the primary and read on the standby. It is the true measure of lag."""

import time
from dataclasses import dataclass

from pg8000.native import literal

from recovery.connection import Refused, Session

NOT_PREPARED = ("42P01", "3F000", "42501")
"""No table, no schema, or no right to them (yet): `recovery.preparation` puts them in place."""

# Values stand in the statements: for parameters the driver needs a second round trip, and a slow network is no loss.
# The WAL position is read in the same statement, before its own commit record: what is replayed up to it was there.
_WRITE = """
INSERT INTO recovery.heartbeat AS mine (witness, epoch, sequence, at, lsn)
VALUES ({witness}, {epoch:d}, 1, to_timestamp({at:f}), pg_current_wal_lsn())
ON CONFLICT (witness) DO UPDATE
SET epoch = excluded.epoch, sequence = mine.sequence + 1, at = excluded.at, lsn = excluded.lsn
RETURNING sequence, lsn::text"""

_READ = """
SELECT pg_is_in_recovery(),
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text,
       mine.sequence, extract(epoch FROM mine.at)::float8,
       extract(epoch FROM pg_last_xact_replay_timestamp())::float8
FROM (SELECT 1) AS once LEFT JOIN recovery.heartbeat AS mine ON mine.witness = {witness}"""

_NEWEST = """
SELECT pg_is_in_recovery(),
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text,
       extract(epoch FROM max(at))::float8
FROM recovery.heartbeat"""

_STATE = """
SELECT pg_is_in_recovery(),
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text"""


@dataclass(frozen=True)
class Written:
    """An acknowledged heartbeat: its sequence number and the primary's WAL position."""

    sequence: int
    lsn: str


@dataclass(frozen=True)
class State:
    """Whether a server replays or takes writes, and its WAL position (replayed, or current)."""

    in_recovery: bool
    lsn: str | None


@dataclass(frozen=True)
class Replayed:
    """The standby's side: its state, this witness's newest row there (sequence, epoch seconds), if any, and when the
    newest transaction that was replayed had been committed (epoch seconds of the primary's clock)."""

    state: State
    sequence: int | None
    at: float | None
    committed_at: float | None = None


def write(session: Session, witness: str, epoch: int, at: float, seconds: float) -> Written:
    """Write this witness's row on the primary."""
    ((sequence, lsn),) = session.run(_WRITE.format(witness=literal(witness), epoch=epoch, at=at), seconds)
    return Written(int(sequence), str(lsn))


def read(session: Session, witness: str, seconds: float) -> Replayed:
    """What the standby has of this witness's row; no row (or no table yet) is a Replayed without sequence."""
    deadline = time.monotonic() + seconds
    try:
        ((in_recovery, lsn, sequence, at, committed_at),) = session.run(_READ.format(witness=literal(witness)), seconds)
    except Refused as refused:
        if refused.sqlstate not in NOT_PREPARED:
            raise
        return Replayed(state(session, deadline - time.monotonic()), None, None)
    return Replayed(State(in_recovery, lsn), sequence, at, committed_at)


def newest(session: Session, seconds: float) -> tuple[State, float | None]:
    """The server's state and the newest heartbeat of any witness that it has (epoch seconds); None without one."""
    ((in_recovery, lsn, at),) = session.run(_NEWEST, seconds)
    return State(in_recovery, lsn), at


def state(session: Session, seconds: float) -> State:
    """Whether the server is in recovery, and its WAL position."""
    ((in_recovery, lsn),) = session.run(_STATE, seconds)
    return State(in_recovery, lsn)


def lsn_number(lsn: str) -> int:
    """A WAL position `16/B374D848` as a number of bytes, so that two of one epoch can be subtracted."""
    high, low = lsn.split("/")
    return (int(high, 16) << 32) | int(low, 16)


def lsn_text(number: int) -> str:
    """A WAL position as PostgreSQL writes it."""
    return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"
