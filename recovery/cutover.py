"""Cut over: the secret's host and the role record pass to the new primary.

The secret comes first. Cut short in between, the roles still name the old primary, so the witnesses go on suspecting it
and a new incident repeats the cut-over; the other order would leave a secret that points at a dead host, unnoticed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from recovery import heartbeat, roles, secret
from recovery.access import Access
from recovery.members import Member
from recovery.roles import Roles
from recovery.table import RecoveryTable

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

SIGN_IN_SECONDS = 5.0


class NotPromoted(Exception):
    """The member that is to be primary does not take writes."""


class SecretContested(Exception):
    """Somebody else changed the secret while it was being cut over."""


@dataclass(frozen=True)
class CutOver:
    """The order to cut over: from `epoch` (the old one) to `primary`; `standby` is the old primary's identifier."""

    incident: str
    epoch: int
    primary: Member
    standby: str


def cut_over(
    order: CutOver,
    client: SecretsManagerClient,
    secret_id: str,
    access: Access,
    table: RecoveryTable,
    now: float,
) -> Roles:
    """The roles after the cut-over. A repeat at any point completes it and returns the same."""
    before = roles.known(table)
    if before.epoch not in (order.epoch, order.epoch + 1):
        raise roles.RolesChanged(
            f"The cut-over of epoch {order.epoch} finds the roles in epoch {before.epoch}; nothing was changed."
        )
    with access.open(order.primary.endpoint, SIGN_IN_SECONDS, "citizens-cutover") as session:
        if heartbeat.state(session, SIGN_IN_SECONDS).in_recovery:
            raise NotPromoted(
                f"{order.primary.identifier} is still in recovery; promote it, wait until it takes writes, then repeat."
            )
        # The password that has just worked: in mid-rotation that may be AWSPENDING's.
        password = session.credentials.password
    _point_secret(order, client, secret_id, password)
    return roles.advance(table, order.epoch, order.primary.identifier, order.standby, now)


def _point_secret(order: CutOver, client: SecretsManagerClient, secret_id: str, password: str) -> None:
    current = secret.read(client, secret_id)
    wanted = current.pointing_at(order.primary.endpoint).with_password(password)
    if wanted.fields == current.fields:
        return
    token = hashlib.sha256(f"cut-over {order.incident} {current.version}".encode()).hexdigest()
    try:
        client.put_secret_value(
            SecretId=secret_id, SecretString=wanted.text(), ClientRequestToken=token, VersionStages=[secret.CURRENT]
        )
    except ClientError as error:
        if error.response["Error"]["Code"] != "ResourceExistsException":
            raise
        raise SecretContested(
            f"The secret {secret_id} was changed by somebody else during the cut-over of {order.incident}; repeat it."
        ) from error
