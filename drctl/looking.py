"""What a runbook looks at: alarms, the newest of a function's log, RDS events, dead letters, and what the primary does.

Read-only, all of it: a dead letter stays in its queue, and a statement on the primary is one of `QUESTIONS`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from deployment.problem import Problem
from drctl.place import Place
from recovery import rds, roles, secret
from recovery.clock import iso
from recovery.connection import Database, Refused, Session, Unreachable, verify_full
from recovery.roles import RolesUnknown
from recovery.table import RecoveryTable
from stacks.names import DATABASE, FUNCTIONS

SIGN_IN_SECONDS = 5.0
STATEMENT_SECONDS = 10.0
LETTERS_SHOWN = 10

QUESTIONS: Mapping[str, tuple[str, str]] = {
    "slots": (
        "replication slots: who reads them, and how much WAL they hold back",
        "SELECT slot_name, slot_type, CASE WHEN active THEN 'read' ELSE 'NOT READ' END AS reader, "
        "pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)) AS held_back, "
        "coalesce(wal_status, '-') AS wal FROM pg_replication_slots ORDER BY restart_lsn NULLS LAST",
    ),
    "sessions": (
        "sessions by user and application, the most first",
        "SELECT coalesce(usename, '-') AS who, coalesce(nullif(application_name, ''), '-') AS application, "
        "coalesce(client_addr::text, '-') AS address, coalesce(state, '-') AS state, count(*) AS sessions "
        "FROM pg_stat_activity WHERE backend_type = 'client backend' "
        "GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC, 1, 2 LIMIT 30",
    ),
    "long": (
        "transactions that have been open for longest",
        "SELECT pid, usename AS who, round(extract(epoch FROM clock_timestamp() - xact_start)) || ' s' AS open, state, "
        "left(regexp_replace(query, '\\s+', ' ', 'g'), 60) AS statement FROM pg_stat_activity "
        "WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend' "
        "ORDER BY xact_start LIMIT 20",
    ),
    "sizes": (
        "the largest tables, with their indexes",
        "SELECT schemaname || '.' || relname AS table, pg_size_pretty(pg_total_relation_size(relid)) AS size, "
        "n_live_tup AS rows, n_dead_tup AS dead FROM pg_stat_user_tables "
        "ORDER BY pg_total_relation_size(relid) DESC LIMIT 20",
    ),
    "standby": (
        "what the primary knows of its standby",
        "SELECT coalesce(client_addr::text, '-') AS address, state, sync_state AS sync, "
        "pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)) AS behind, "
        "coalesce(round(extract(epoch FROM replay_lag)::numeric, 1)::text, '0') || ' s' AS replay_lag "
        "FROM pg_stat_replication ORDER BY 1",
    ),
}
"""Name → what it shows, and the statement."""


@dataclass(frozen=True)
class Rows:
    """A table to show: column names, and rows of text."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def as_text(self, nothing: str) -> str:
        """Aligned, with a head line; `nothing` where there is no row."""
        if not self.rows:
            return nothing
        lines = [self.columns, *self.rows]
        widths = [max(len(line[number]) for line in lines) for number in range(len(self.columns))]
        return "\n".join(
            "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines
        )

    def as_json(self) -> list[dict[str, str]]:
        """For programs."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def alarms(place: Place, *, also_quiet: bool) -> Rows:
    """This environment's alarms that are on (or all), each with what it means and what to do."""
    names, client = place.names, place.account.client("cloudwatch")
    only = {} if also_quiet else {"StateValue": "ALARM"}
    found = [
        alarm
        for page in client.get_paginator("describe_alarms").paginate(
            AlarmNamePrefix=f"{names.of('').removesuffix(names.suffix).rstrip('-')}-",
            AlarmTypes=["MetricAlarm", "CompositeAlarm"],
            **only,
        )
        for kind in ("MetricAlarms", "CompositeAlarms")
        for alarm in page.get(kind, [])
        if alarm["AlarmName"].endswith(f"-{names.suffix}")
    ]
    return Rows(
        ("alarm", "state", "what it means and what to do"),
        [
            (each["AlarmName"], each["StateValue"], str(each.get("AlarmDescription", "")))
            for each in sorted(found, key=lambda alarm: str(alarm["AlarmName"]))
        ],
    )


def function_log(place: Place, function: str, minutes: float, words: str) -> Rows:
    """The newest lines of a function's log that hold `words`, oldest first. Raises Problem for an unknown function."""
    if function not in FUNCTIONS:
        raise Problem(f"There is no function {function!r}; expected one of: {', '.join(FUNCTIONS)}.")
    client, group = place.account.client("logs"), place.names.function_log_group(function)
    since = int((time.time() - minutes * 60) * 1000)
    pattern = {"filterPattern": f'"{words}"'} if words else {}
    try:
        pages = client.get_paginator("filter_log_events").paginate(
            logGroupName=group, startTime=since, PaginationConfig={"MaxItems": 1000}, **pattern
        )
        found = [
            (event["timestamp"], event["message"].rstrip())
            for page in pages
            for event in page["events"]
            if not _is_routine(event["message"])
        ]
    except client.exceptions.ResourceNotFoundException:
        raise Problem(f"There is no log {group}: this environment has no such function, or is not deployed.") from None
    return Rows(("at", "said"), [(iso(at / 1000), said) for at, said in sorted(found)])


def _is_routine(message: str) -> bool:
    """Lambda's own lines of a run that began, or ended well."""
    return '"platform.start"' in message or ('"platform.report"' in message and '"success"' in message)


def events(place: Place) -> Rows:
    """What RDS says has happened to the members in the last hour, oldest first."""
    client = place.account.client("rds")
    found = sorted((each for member in place.names.members for each in rds.events(client, member)), key=lambda e: e.at)
    return Rows(("at", "member", "event"), [(iso(each.at), each.member, each.message) for each in found])


def dead_letters(place: Place) -> Rows:
    """Invocations that were given up; they stay in the queue, and can be looked at again in half a minute."""
    client, name = place.account.client("sqs"), place.names.of("dead-letters")
    try:
        queue = client.get_queue_url(QueueName=name)["QueueUrl"]
    except ClientError as error:
        if "NonExistentQueue" not in error.response["Error"]["Code"]:
            raise
        raise Problem(f"There is no queue {name}: deploy {place.suffix} first.") from None
    found = client.receive_message(
        QueueUrl=queue,
        MaxNumberOfMessages=LETTERS_SHOWN,
        VisibilityTimeout=30,
        AttributeNames=["All"],
        MessageAttributeNames=["All"],
    ).get("Messages", [])
    return Rows(("sent", "error", "letter"), [_letter(each) for each in found])


def _letter(message: Mapping[str, Any]) -> tuple[str, str, str]:
    sent = message.get("Attributes", {}).get("SentTimestamp")
    error = message.get("MessageAttributes", {}).get("ErrorMessage", {}).get("StringValue", "-")
    body = " ".join(str(message.get("Body", "")).split())
    return ("-" if sent is None else iso(int(sent) / 1000), error, body)


def on_primary(place: Place, question: str, ca_file: str) -> Rows:
    """The answer of the primary to one of QUESTIONS. Raises Problem when it cannot be asked from here."""
    if question not in QUESTIONS:
        raise Problem(f"There is no look {question!r}; expected one of: {', '.join(QUESTIONS)}.")
    try:
        primary = roles.known(RecoveryTable(place.account.client("dynamodb"), place.names.recovery_table)).primary
    except RolesUnknown as unknown:
        raise Problem(str(unknown)) from unknown
    endpoint, name = place.endpoints.get(primary), place.outputs.get("SecretName")
    if endpoint is None or name is None:
        raise Problem("The outputs of the deploy are needed, which name endpoint and secret: give --outputs.")
    credentials = secret.read(place.account.client("secretsmanager"), name).credentials
    # As text: what a column is does not matter to whoever reads it
    statement = f"SELECT to_json(found)::text FROM ({QUESTIONS[question][1]}) AS found"  # noqa: S608 - ours
    try:
        with Session.open(
            endpoint, Database(DATABASE, verify_full(ca_file)), credentials, SIGN_IN_SECONDS, "citizens-drctl"
        ) as session:
            found = [json.loads(row) for (row,) in session.run(statement, STATEMENT_SECONDS)]
    except (Refused, Unreachable) as error:
        raise Problem(f"{primary} could not be asked from here: {error}") from error
    columns = tuple(found[0]) if found else ()
    return Rows(columns, [tuple(str(row[column]) for column in columns) for row in found])


def rotate(place: Place) -> None:
    """Ask Secrets Manager for a rotation of the password now."""
    name = place.outputs.get("SecretName")
    if name is None:
        raise Problem("The outputs of the deploy are needed, which name the secret: give --outputs.")
    place.account.client("secretsmanager").rotate_secret(SecretId=name)
