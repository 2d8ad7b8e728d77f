"""The record of a drill: `reports/<id>/report.json` and `report.html`, sealed in the chain of evidence, also as
`reports/latest`, and a summary for the terminal."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deployment.cdk import ROOT
from deployment.work_tree import Plan, commit_of
from drills import observed
from drills.chain import PAGE, REPORT, Chain
from drills.measurement import Measurement, Objectives
from drills.observed import Observed
from drills.timeline import Entry
from recovery import report_page

REPORTS = ROOT / "reports"
SHOWN_LOST = 1000

RTO_BASIS = (
    "at the clients, through the writer URI: from the fault to the first acknowledged transaction that was begun after "
    "the outage was seen; service came back at most the resolution before, after the last refusal"
)
RPO_BASIS = "from the first acknowledged transaction that is missing to the fault; 0 when none is missing"
ROWS_BASIS = "every number that a client was told is committed is looked for in the database after recovery"


@dataclass(frozen=True)
class Action:
    """A corrective action: what, whose, until when."""

    what: str
    owner: str = ""
    due: str = ""


@dataclass(frozen=True)
class Setting:
    """What a drill is run with: the director (who started it), the plan, and actions that follow from earlier ones."""

    director: str = "unknown"
    plan: Plan | None = None
    actions: tuple[Action, ...] = ()


@dataclass(frozen=True)
class Report:
    """All that a drill found out."""

    suffix: str
    scenario: str
    started_at: str
    measurement: Measurement
    objectives: Objectives
    timeline: tuple[Entry, ...]
    phases: Mapping[str, float]
    delays: Mapping[str, float]
    left_behind: tuple[str, ...]
    commit: str
    template_sha256: str
    description: str = ""
    setting: Setting = field(default_factory=Setting)
    preflight: tuple[Mapping[str, str], ...] = ()
    observed: Observed | None = None
    alarms: tuple[str, ...] = ()
    possible_alarms: tuple[str, ...] = ()
    complaints: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """`<UTC yyyymmddThhmmssZ>-<scenario>-<suffix>`, the report's folder."""
        return f"{self.started_at.replace(':', '').replace('-', '')}-{self.scenario}-{self.suffix}"

    def as_record(self) -> dict[str, Any]:
        """The content of `report.json` but for the seal; durations in seconds."""
        seen, measured = self.observed, self.measurement
        lasted = measured.rto_seconds if measured.rto_seconds else None
        alarms = observed.alarms(seen, self.alarms, lasted, self.possible_alarms) if seen else []
        records = seen.watched.records if seen else ()
        return {
            "id": self.identity,
            "kind": "drill",
            "title": f"Drill {self.scenario} on {self.suffix}",
            "suffix": self.suffix,
            "scenario": self.scenario,
            "scope": f"{self.description} Run in a local cloud: the templates, functions and state machines of the "
            "commit below, against real PostgreSQL servers.".strip(),
            "started_at": self.started_at,
            **asdict(measured),
            "objectives": asdict(self.objectives),
            "rto_basis": RTO_BASIS,
            "rpo_basis": RPO_BASIS,
            "rows_basis": ROWS_BASIS,
            "participants": [
                {"role": "test director", "who": self.setting.director},
                {"role": "detection and decision", "who": "witnesses a and c, arbiter (no person)"},
                {"role": "recovery", "who": "failover state machine (no person)"},
            ],
            "preflight": [dict(each) for each in self.preflight],
            "before": observed.before(seen) if seen else {},
            "timeline": [entry.as_record() for entry in self.timeline],
            "series": observed.series(seen, measured.rto_seconds or None) if seen else {},
            "alarms": [{**each, "at": _iso(each["at"])} for each in alarms] if seen else None,
            "deviations": observed.deviations(
                measured, alarms, self.left_behind, records, self.preflight, self.complaints
            ),
            "loss_account": _account(records),
            "lost": list(seen.lost[:SHOWN_LOST]) if seen else [],
            "corrective_actions": [asdict(action) for action in self.setting.actions],
            "restoration": self._restoration(),
            "controls": list(report_page.CONTROLS),
            "phases_seconds": {name: round(seconds, 1) for name, seconds in self.phases.items()},
            "local_cloud_delays_seconds": dict(self.delays),
            "facts": {
                **{f"phase {name}, seconds": round(seconds, 1) for name, seconds in self.phases.items()},
                **{f"local cloud, {name}": value for name, value in self.delays.items()},
            },
            "left_behind": list(self.left_behind),
            "plan": asdict(self.setting.plan) if self.setting.plan else None,
            "commit": self.commit,
            "template_sha256": self.template_sha256,
        }

    def _restoration(self) -> list[str]:
        left = ", ".join(self.left_behind) or "nothing"
        return [
            f"The environment was destroyed after the drill in {self.phases.get('destroy', 0.0):.1f} s; left: {left}.",
            "The standby was not made again: a drill ends with the service, and its environment with it.",
        ]

    def write(self) -> Path:
        """Write the report under its own name, sealed, and as the latest; returns the path of the latest's JSON."""
        return write(self.as_record(), REPORTS)


def course(
    kind: str,
    rounds: Sequence[Mapping[str, Any]],
    summary: str,
    timeline: Sequence[Entry],
    objectives: Objectives,
    setting: Setting,
) -> dict[str, Any]:
    """The record of many changes of roles in one environment, one of `rounds` each (`drills.cycles.Step`)."""
    longest = max((float(each["outage"]) for each in rounds), default=None)
    lost = sum(int(each["lost"]) for each in rounds)
    met = lost == 0 and longest is not None and longest <= objectives.rto_seconds
    started_at = timeline[0].as_record()["at"][:19] + "Z" if timeline else "1970-01-01T00:00:00Z"
    return {
        "id": f"{started_at.replace(':', '').replace('-', '')}-{kind}",
        "kind": "drill",
        "title": f"Drill {kind}: {len(rounds)} changes of roles in a row",
        "suffix": kind,
        "scenario": kind,
        "scope": f"{len(rounds)} changes of roles in one environment in a local cloud, under load without a pause; at "
        "the end a diff is empty and a destroy leaves nothing, or the drill fails.",
        "started_at": started_at,
        "verdict": "met" if met else "missed",
        "reason": summary.replace("\n", ". "),
        "objectives": asdict(objectives),
        "rto_seconds": longest,
        "rto_basis": "the longest stretch at the clients without an acknowledged transaction, over all rounds",
        "rpo_seconds": None,
        "rpo_basis": "rows are counted: `tail` had not replicated at the loss, `lost` must not be missing",
        "rows_basis": "every number that a client was told is committed is looked for after each round",
        "rounds": [dict(each) for each in rounds],
        "timeline": [entry.as_record() for entry in timeline],
        "participants": [{"role": "test director", "who": setting.director}],
        "deviations": [f"{lost} rows are missing that must not be."] if lost else [],
        "corrective_actions": [asdict(action) for action in setting.actions],
        "restoration": ["Every round ends with a pair; the environment was destroyed after the last, left: nothing."],
        "controls": list(report_page.CONTROLS),
        "plan": asdict(setting.plan) if setting.plan else None,
        "commit": commit_of(ROOT),
    }


def write(record: Mapping[str, Any], reports: Path) -> Path:
    """Write, seal and show a drill's record as the latest. Raises Problem when the chain of evidence is not whole."""
    Chain(reports).add(record, report_page.page, time.time())
    own, latest, fresh = reports / str(record["id"]), reports / "latest", reports / f".latest-{record['suffix']}"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(own, fresh)
    shutil.rmtree(latest, ignore_errors=True)
    fresh.rename(latest)
    return latest / REPORT


def summarise(report: Report, console: Console, path: Path) -> None:
    """Print what was measured."""
    measured = report.measurement
    colour = {"met": "green", "missed": "red", "not measured": "yellow"}[measured.verdict]
    table = Table(title=f"Drill {report.scenario} on {report.suffix}", title_justify="left", show_header=False)
    table.add_row("verdict", f"[bold {colour}]{measured.verdict}[/]")
    table.add_row("reason", measured.reason)
    table.add_row("RTO", _seconds(measured.rto_seconds, report.objectives.rto_seconds, measured.rto_resolution_seconds))
    table.add_row("RPO", _seconds(measured.rpo_seconds, report.objectives.rpo_seconds, None))
    missing = "unknown" if measured.transactions_missing is None else str(measured.transactions_missing)
    table.add_row("transactions", f"{measured.transactions_acknowledged} acknowledged, {missing} of them missing")
    table.add_row("left behind", ", ".join(report.left_behind) or "nothing")
    table.add_row("took", ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report.phases.items()))
    table.add_row("report", f"{path.with_name(PAGE).relative_to(ROOT)} (and .json)")
    console.print(table)


def _seconds(value: float | None, objective: float, resolution: float | None) -> str:
    if value is None:
        return f"not measured (objective {objective:.0f} s)"
    spread = f" ± {resolution:.1f} s" if resolution is not None else ""
    return f"{value:.1f} s{spread} (objective {objective:.0f} s)"


def _iso(at: float | None) -> str | None:
    return None if at is None else Entry(at, "", "").as_record()["at"]


def _account(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The machine's own accounts of what the log added and what is known to be missing."""
    accounts = [report_page.of_record(f"incident#{record['id']}", record)["loss_account"] for record in records]
    return dict(accounts[-1]) if accounts else {}
