"""Granted against used, role by role: the record `reports/least-privilege.json` and a table to read."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deployment.cdk import ROOT
from privilege.granted import Grant, Role
from privilege.mutation import Verdict
from privilege.used import Usage, policy_name
from recovery.clock import iso
from stacks.unused_permissions import UNUSED, reason

PATH = ROOT / "reports" / "least-privilege.json"
LIMITS = (
    "The local cloud evaluates the roles' own policies, resource policies and trust policies. It does not evaluate the "
    "use of KMS keys by services, the file system's policy and writes to it, VPC endpoints' policies, and what AWS's "
    "own services do with a role (backup, enhanced monitoring, flow logs, traces, network interfaces): those "
    "permissions are listed with a reason and not shown."
)


@dataclass(frozen=True)
class Row:
    """One action of one statement: how often it was used, on how many of the statement's resources, and what showed
    that it is needed (or why nothing can)."""

    role: str
    policy: str
    statement: int
    action: str
    resources: int
    used_resources: int
    used: int
    listed: str | None
    exercise: str | None = None
    sign: str | None = None


@dataclass(frozen=True)
class Report:
    """The whole comparison. `problems` is empty when least privilege is shown."""

    rows: tuple[Row, ...]
    problems: tuple[str, ...]
    seconds: dict[str, float] = field(default_factory=dict)

    def write(self, path: Path = PATH) -> Path:
        """Write the record."""
        path.parent.mkdir(parents=True, exist_ok=True)
        record: dict[str, Any] = {
            "made_at": iso(time.time()),
            "problems": list(self.problems),
            "rows": [asdict(row) for row in self.rows],
            "phases_seconds": {name: round(seconds, 1) for name, seconds in self.seconds.items()},
            "limits": LIMITS,
        }
        path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return path


def compare(roles: Sequence[Role], suffix: str, usage: Usage, verdicts: Iterable[Verdict]) -> Report:
    """Every action of every statement of the roles, against usage and verdicts."""
    # Of several tries without the same action, one that failed for want of it counts.
    by_grant = {verdict.grant: verdict for verdict in sorted(verdicts, key=lambda verdict: verdict.sign is not None)}
    rows = tuple(
        _row(grant, policy_name(grant.policy, suffix), usage, by_grant.get(grant))
        for role in roles
        for grant in role.grants
    )
    return Report(rows, (*_problems(rows), *_denials(usage)))


def _row(grant: Grant, policy: str, usage: Usage, verdict: Verdict | None) -> Row:
    where = (grant.short, policy, grant.statement, grant.action)
    excuse = reason(grant.short, grant.action)
    return Row(
        role=grant.short,
        policy=policy,
        statement=grant.statement,
        action=grant.action,
        resources=len(grant.resources),
        # Those of this environment: a drill's has other names.
        used_resources=len(usage.resources(*where) & set(grant.resources)),
        used=usage.count(*where),
        listed=excuse.reason if excuse else None,
        exercise=verdict.exercise if verdict else None,
        sign=verdict.sign if verdict else None,
    )


def _problems(rows: Sequence[Row]) -> Iterable[str]:
    for row in rows:
        name = f"{row.role} may {row.action} (statement {row.statement})"
        if row.listed is None and not row.used:
            yield f"{name} and never did: take it away, or list it in stacks/unused_permissions.py with the reason."
        elif row.listed is None and row.exercise is None:
            yield f"{name}, but no exercise was tried without it: add one to privilege/exercises.py."
        elif row.listed is None and row.sign is None:
            yield f"{name}, but without it {row.exercise!r} did not fail for want of it: not needed, or not shown."
        if row.listed is not None and row.used:
            yield f"{name} and is listed as unused, but was used {row.used} times: take it off the list."
    for entry in UNUSED:
        for action in entry.actions:
            if not any(entry.covers(row.role, row.action) and row.action == action for row in rows):
                yield f"stacks/unused_permissions.py excuses {action} of {entry.roles}, which nobody may: remove it."


def _denials(usage: Usage) -> Iterable[str]:
    for denial, count in sorted(usage.denied.items(), key=lambda item: (item[0].short, item[0].action)):
        yield f"{denial.short} was refused {denial.action} on {denial.resource} {count} times: it uses what it may not."


def show(report: Report, console: Console) -> None:
    """The table, the problems and what was not evaluated."""
    table = Table(title="Granted against used", title_justify="left")
    for column in ("role", "action", "used", "resources", "needed, because without it"):
        table.add_column(column, overflow="fold")
    for role in dict.fromkeys(row.role for row in report.rows):
        rows = [row for row in report.rows if row.role == role]
        for row in rows:
            if row.listed is None:
                resources = f"{row.used_resources}/{row.resources}"
                needed = f"{row.exercise}: fails" if row.sign else "[red]not shown[/]"
                table.add_row(role if row is rows[0] else "", row.action, str(row.used), resources, needed)
        for why in dict.fromkeys(row.listed for row in rows if row.listed is not None):
            actions = dict.fromkeys(row.action for row in rows if row.listed == why)
            first = role if rows[0].action in actions else ""
            table.add_row(first, ", ".join(actions), "–", "", f"[dim]listed: {why}[/]")
        table.add_section()
    console.print(table)
    shown = sum(row.listed is None and row.sign is not None for row in report.rows)
    listed = sum(row.listed is not None for row in report.rows)
    console.print(
        f"{len(report.rows)} actions granted: {shown} used and shown to be needed, {listed} listed with a reason, "
        f"{len(report.problems)} problems"
    )
    for problem in report.problems:
        console.print(f"[red]{problem}[/]")
    console.print(f"[dim]{LIMITS}[/]")
