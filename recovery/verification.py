"""Verify a recovery: sign in to the new primary, write, sign in anew, read back.

That the secret's password works there was tried when the secret was pointed at it (`recovery.cutover`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from recovery import roles
from recovery.access import Access
from recovery.connection import Refused, Unreachable
from recovery.members import Members
from recovery.table import RecoveryTable

SECONDS = 5.0
"""For all of it: the machine's budget for Verify is 6 s."""

_WRITE = """
INSERT INTO recovery.verification AS old (epoch, member, written_at, runs)
VALUES (:epoch, :member, clock_timestamp(), 1)
ON CONFLICT (epoch) DO UPDATE
SET member = excluded.member, written_at = excluded.written_at, runs = old.runs + 1
RETURNING runs"""

_READ = """
SELECT member, to_char(written_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), runs,
       pg_is_in_recovery(), pg_current_wal_lsn()::text
FROM recovery.verification WHERE epoch = :epoch"""


class VerificationFailed(Exception):
    """The new primary does not keep what is written."""


@dataclass(frozen=True)
class Verified:
    """What was written and read back: where, when (ISO-8601 UTC, the server's clock), and the WAL position."""

    member: str
    written_at: str
    lsn: str


def verify(access: Access, members: Members, table: RecoveryTable) -> Verified:
    """Write and read back over new connections to the primary of the roles; VerificationFailed says what is wrong."""
    deadline = time.monotonic() + SECONDS

    def left() -> float:
        return deadline - time.monotonic()

    known = roles.known(table)
    member = members[known.primary]
    try:
        with access.open(member.endpoint, left(), "citizens-verify") as session:
            ((runs,),) = session.run(_WRITE, left(), epoch=known.epoch, member=member.identifier)
        with access.open(member.endpoint, left(), "citizens-verify") as session:
            rows = session.run(_READ, left(), epoch=known.epoch)
    except (Refused, Unreachable) as error:
        raise VerificationFailed(
            f"{member.identifier} at {member.endpoint} keeps no write: {error} Look at that instance's log."
        ) from error
    if not rows or (rows[0][0], rows[0][3]) != (member.identifier, False) or rows[0][2] < runs:
        raise VerificationFailed(
            f"{member.identifier} did not give back what run {runs} of epoch {known.epoch} wrote: it holds {rows}."
        )
    return Verified(member.identifier, rows[0][1], rows[0][4])
