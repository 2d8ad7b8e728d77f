"""Cut over: the secret's host, then the role record, pass to the new primary.

The secret comes first. Cut short in between, the roles still name the old primary, so the witnesses go on suspecting it
and a new incident repeats the cut-over; the other order would leave a secret that points at a dead host, unnoticed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recovery import heartbeat, master, roles, secret
from recovery.connection import Database
from recovery.members import Member
from recovery.roles import Roles
from recovery.table import RecoveryTable

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

SECONDS = 5.0


class NotPromoted(Exception):
    """The member that is to be primary does not take writes."""


@dataclass(frozen=True)
class CutOver:
    """The order to cut over: from `epoch` (the old one) to `primary`; `standby` is the old primary's identifier."""

    incident: str
    epoch: int
    primary: Member
    standby: str


def point_secret(
    order: CutOver, client: SecretsManagerClient, secret_id: str, database: Database, table: RecoveryTable
) -> None:
    """The secret's host becomes the new primary, its password the one that works there. May be repeated."""
    _expect_epoch(order, table)
    versions = secret.candidates(client, secret_id)
    with master.open_first(order.primary.endpoint, database, versions, SECONDS, "citizens-cutover") as session:
        if heartbeat.state(session, SECONDS).in_recovery:
            raise NotPromoted(
                f"{order.primary.identifier} is still in recovery; promote it, wait until it takes writes, then repeat."
            )
        # In mid-rotation that may be AWSPENDING's; AWSPREVIOUS's when a rotation's end had not replicated.
        password = session.credentials.password
    current = versions[0]
    wanted = current.pointing_at(order.primary.endpoint).with_password(password)
    if wanted.fields == current.fields:
        return
    token = hashlib.sha256(f"cut-over {order.incident} {current.version}".encode()).hexdigest()
    secret.replace_current(client, secret_id, current, wanted, token)


def pass_roles(order: CutOver, table: RecoveryTable, now: float) -> Roles:
    """The roles after the cut-over. A repeat returns the same."""
    _expect_epoch(order, table)
    return roles.advance(table, order.epoch, order.primary.identifier, order.standby, now)


def _expect_epoch(order: CutOver, table: RecoveryTable) -> None:
    before = roles.known(table)
    if before.epoch not in (order.epoch, order.epoch + 1):
        raise roles.RolesChanged(
            f"The cut-over of epoch {order.epoch} finds the roles in epoch {before.epoch}; nothing was changed."
        )
