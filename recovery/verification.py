"""Verify a recovery as an application would see it: sign in by the secret, write, read back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from recovery import roles, secret
from recovery.access import Access
from recovery.connection import Refused, Session, Unreachable, sign_in
from recovery.heartbeat import EXISTS_ALREADY
from recovery.members import Members, at
from recovery.table import RecoveryTable

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

SECONDS = 10.0

_CREATE = """
CREATE SCHEMA IF NOT EXISTS recovery;
CREATE TABLE IF NOT EXISTS recovery.verification (
    epoch bigint PRIMARY KEY, member text NOT NULL, written_at timestamptz NOT NULL, runs bigint NOT NULL
)"""

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
    """An application would not find a primary that keeps what it writes."""


@dataclass(frozen=True)
class Verified:
    """What was written and read back: where, when (ISO-8601 UTC, the server's clock), and the WAL position."""

    member: str
    written_at: str
    lsn: str


def verify(
    client: SecretsManagerClient, secret_id: str, access: Access, members: Members, table: RecoveryTable
) -> Verified:
    """Write and read back over new connections to the secret's host; VerificationFailed says what is wrong."""
    current = secret.read(client, secret_id)
    endpoint = current.endpoint
    known = roles.known(table)
    member = at(members, endpoint.host, endpoint.port)
    if member is None or member.identifier != known.primary:
        raise VerificationFailed(
            f"The secret points at {endpoint}, but the primary of epoch {known.epoch} is {known.primary} at "
            f"{members[known.primary].endpoint}; repeat the cut-over."
        )
    try:
        with sign_in(endpoint, access.database, [current.credentials], SECONDS, "citizens-verify") as session:
            _create(session)
            ((runs,),) = session.run(_WRITE, SECONDS, epoch=known.epoch, member=member.identifier)
        with sign_in(endpoint, access.database, [current.credentials], SECONDS, "citizens-verify") as session:
            rows = session.run(_READ, SECONDS, epoch=known.epoch)
    except (Refused, Unreachable) as error:
        raise VerificationFailed(
            f"An application cannot write to {member.identifier} at {endpoint}: {error} Look at that instance's log."
        ) from error
    if not rows or (rows[0][0], rows[0][3]) != (member.identifier, False) or rows[0][2] < runs:
        raise VerificationFailed(
            f"{member.identifier} did not give back what run {runs} of epoch {known.epoch} wrote: it holds {rows}."
        )
    return Verified(member.identifier, rows[0][1], rows[0][4])


def _create(session: Session) -> None:
    try:
        session.run(_CREATE, SECONDS)
    except Refused as refused:
        if refused.sqlstate not in EXISTS_ALREADY:
            raise
