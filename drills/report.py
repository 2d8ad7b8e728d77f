"""The record of a drill: `reports/<drill>/report.json`, also as `reports/latest`, and a summary for the terminal."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deployment.cdk import ROOT
from drills.measurement import Measurement, Objectives
from drills.timeline import Entry

REPORTS = ROOT / "reports"


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

    def as_record(self) -> dict[str, Any]:
        """The content of `report.json`; durations in seconds."""
        return {
            "suffix": self.suffix,
            "scenario": self.scenario,
            "started_at": self.started_at,
            **asdict(self.measurement),
            "objectives": asdict(self.objectives),
            "timeline": [entry.as_record() for entry in self.timeline],
            "phases_seconds": {name: round(seconds, 1) for name, seconds in self.phases.items()},
            "local_cloud_delays_seconds": dict(self.delays),
            "left_behind": list(self.left_behind),
            "commit": self.commit,
            "template_sha256": self.template_sha256,
        }

    def write(self) -> Path:
        """Write the report under its own name and as the latest; returns the path of the latest."""
        own = REPORTS / f"{self.started_at.replace(':', '').replace('-', '')}-{self.scenario}"
        own.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.as_record(), indent=2, ensure_ascii=False) + "\n"
        (own / "report.json").write_text(text, encoding="utf-8")
        latest = REPORTS / "latest"
        fresh = REPORTS / f".latest-{self.suffix}"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(own, fresh)
        shutil.rmtree(latest, ignore_errors=True)
        fresh.rename(latest)
        return latest / "report.json"


def commit_of(root: Path) -> str:
    """The commit of a work tree, with `-dirty` when it holds more than that; `unknown` outside of git."""
    described = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--dirty", "--match", "no-tag"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


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
    table.add_row("report", str(path.relative_to(ROOT)))
    console.print(table)


def _seconds(value: float | None, objective: float, resolution: float | None) -> str:
    if value is None:
        return f"not measured (objective {objective:.0f} s)"
    spread = f" ± {resolution:.1f} s" if resolution is not None else ""
    return f"{value:.1f} s{spread} (objective {objective:.0f} s)"
