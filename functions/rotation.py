"""All that needs the database's main user: the rotation's steps, and what the other functions need inside the database.

Only this function may read the secret. Secrets Manager calls it once per step of a rotation, a schedule every few
minutes, the failover machine twice.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from functions import clients, journal
from functions.environment import Environment, environment, password_policy, transaction_log
from recovery import incident, master, secret
from recovery.connection import Unreachable
from recovery.cutover import CutOver, NotPromoted, point_secret
from recovery.members import Endpoint
from recovery.preparation import prepare
from recovery.roles import RolesChanged, RolesUnknown
from recovery.rotation import Rotation, RotationRefused
from recovery.switchover import stop_writes

SECONDS = 5.0
STOP_SECONDS = 5.0
_EXPECTED = (
    *(RotationRefused, master.NoPasswordWorks, secret.SecretMissing, secret.SecretUnusable, secret.SecretContested),
    *(Unreachable, NotPromoted, RolesChanged, RolesUnknown, BotoCoreError, ClientError),
)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """What to do is `Step`; raising makes the caller try again.

    {"Step": "createSecret" …, "SecretId", "ClientRequestToken"} → {}: a step of a rotation.
    {"Step": "prepareDatabase", "member"?, "time"?} → {"host"}: roles, tables, publication or none (secret's host);
    with the schedule's time (ISO 8601) the password's age at that time goes to the log, for an alarm.
    {"Step": "stopWrites", "member"} → {"sessions" (left), "lsn"}: ends every session of an application there.
    {"Step": "pointSecret", "incident", "epoch" (old), "primary" (new), "standby" (old primary)} → {"host"}.
    """
    settings = environment()
    step = str(event["Step"])
    try:
        match step:
            case "prepareDatabase":
                if "time" in event:
                    _note_password_age(settings, datetime.fromisoformat(event["time"]))
                return _prepare(settings, event.get("member"))
            case "stopWrites":
                return _stop_writes(settings, str(event["member"]))
            case "pointSecret":
                return _point(settings, event)
            case _:
                _rotate(settings, step, event)
                return {}
    except _EXPECTED as error:
        what = "rotation step failed" if "ClientRequestToken" in event else "step failed"
        journal.note(what, {"step": step, "reason": str(error)})
        raise


def _rotate(settings: Environment, step: str, event: dict[str, Any]) -> None:
    Rotation(
        clients.secretsmanager(),
        clients.database(settings),
        clients.table(settings),
        settings.members,
        str(event["SecretId"]),
        str(event["ClientRequestToken"]),
        password_policy(),
    ).step(step, time.time())
    journal.note("rotation step done", {"step": step, "version": event["ClientRequestToken"]})
    if step == "testSecret":
        # A deployment calls it too, before anything that needs the roles is made.
        _prepare(settings, None)


def _note_password_age(settings: Environment, at: datetime) -> None:
    age = secret.password_age(clients.secretsmanager(), settings.secret_id, at)
    journal.note("password age", {"days": round(age / timedelta(days=1), 3)})


def _prepare(settings: Environment, member: str | None) -> dict[str, Any]:
    versions = secret.candidates(clients.secretsmanager(), settings.secret_id)
    endpoint: Endpoint = versions[0].endpoint if member is None else settings.member(member).endpoint
    try:
        with master.open_first(endpoint, clients.database(settings), versions, SECONDS, "citizens-prepare") as session:
            if not prepare(session, transaction_log()):
                journal.note("slot still in use", {"host": endpoint.host})
    except Unreachable:
        lease = incident.read_lease(clients.table(settings)) if member is None else None
        if lease is None or not lease.held(time.time()):
            raise
        return {"host": None}  # the machine is at work, and prepares the member it promotes
    return {"host": endpoint.host}


def _stop_writes(settings: Environment, member: str) -> dict[str, Any]:
    versions = secret.candidates(clients.secretsmanager(), settings.secret_id)
    endpoint = settings.member(member).endpoint
    with master.open_first(endpoint, clients.database(settings), versions, SECONDS, "citizens-switchover") as session:
        stopped = stop_writes(session, STOP_SECONDS)
    journal.note("writes stopped", {"member": member, **asdict(stopped)})
    return asdict(stopped)


def _point(settings: Environment, event: dict[str, Any]) -> dict[str, Any]:
    order = CutOver(
        incident=str(event["incident"]),
        epoch=int(event["epoch"]),
        primary=settings.member(str(event["primary"])),
        standby=str(event["standby"]),
    )
    point_secret(
        order, clients.secretsmanager(), settings.secret_id, clients.database(settings), clients.table(settings)
    )
    journal.note("secret pointed", {"incident": order.incident, "host": order.primary.endpoint.host})
    return {"host": order.primary.endpoint.host}
