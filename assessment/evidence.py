"""The newest evidence of each kind in `reports/`: what other commands measured, with date, verdict and hash.

The date is the one that a report tells itself: that of its file is the copy's. One that tells none is no evidence.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Evidence:
    """One report: what kind it is, when it was made (UTC, ISO 8601), what it says, where it is, and its SHA-256."""

    kind: str
    title: str
    made_at: str
    says: str
    path: str
    sha256: str


COMMANDS: Mapping[str, str] = {
    "drill": "make drill",
    "least-privilege": "make least-privilege",
    "benchmarks": "make bench",
    "incidents": "make rehearse-time",
}
"""What makes evidence of a kind; that of `drill NAME` is `make drill SCENARIO=NAME`."""


def command(kind: str) -> str:
    """The command that makes evidence of a kind."""
    name, _, scenario = kind.partition(" ")
    return f"{COMMANDS[name]} SCENARIO={scenario}" if scenario else COMMANDS[name]


def newest(reports: Path) -> dict[str, Evidence]:
    """The newest evidence by kind; a file that cannot be read or is no report is left out. `reports` may be absent."""
    found: dict[str, Evidence] = {}
    for each in _all(reports):
        for kind in (each.kind, each.kind.partition(" ")[0]):
            if kind not in found or each.made_at > found[kind].made_at:
                found[kind] = each
    return found


def _all(reports: Path) -> Iterator[Evidence]:
    for path in sorted(reports.glob("*/report.json")):
        if path.parent.name != "latest" and (each := _read(path, reports, _drill)):
            yield each
    for name, reader in (
        ("least-privilege.json", _least_privilege),
        ("bench.json", _benchmarks),
        ("incidents.json", _incidents),
    ):
        if (reports / name).is_file() and (each := _read(reports / name, reports, reader)):
            yield each


Reader = Callable[[Mapping[str, Any]], tuple[str, str, str, str]]
"""From a record: kind, title, what it says, and when it was made."""


def _read(path: Path, reports: Path, reader: Reader) -> Evidence | None:
    try:
        content = path.read_bytes()
        kind, title, says, made_at = reader(json.loads(content))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    where = f"{reports.name}/{path.relative_to(reports).as_posix()}"
    return Evidence(kind, title, made_at, says, where, hashlib.sha256(content).hexdigest())


def _drill(record: Mapping[str, Any]) -> tuple[str, str, str, str]:
    says = f"{record['verdict']}: {record['reason']} Commit {record['commit']}."
    return f"drill {record['scenario']}", f"Drill {record['scenario']}", says, str(record["started_at"])


def _least_privilege(record: Mapping[str, Any]) -> tuple[str, str, str, str]:
    rows = record["rows"]
    shown = sum(row["listed"] is None and row["sign"] is not None for row in rows)
    says = (
        f"{len(rows)} actions granted: {shown} used and shown to be needed, "
        f"{sum(row['listed'] is not None for row in rows)} excused with a reason, {len(record['problems'])} problems."
    )
    return "least-privilege", "Least privilege", says, str(record["made_at"])


def _benchmarks(record: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Each figure has its own date: not all are measured each time."""
    figures = {
        f"{name} {figure['median']:g} {figure['unit']} ({str(figure['measured_at'])[:10]})": str(figure["measured_at"])
        for name, figure in record.items()
        if isinstance(figure, Mapping) and isinstance(figure.get("median"), int | float) and "measured_at" in figure
    }
    return "benchmarks", "Benchmarks", f"Medians: {', '.join(figures)}.", max(figures.values())


def _incidents(record: Mapping[str, Any]) -> tuple[str, str, str, str]:
    says = (
        f"{record['incidents']} seeded incidents with AWS's delays: without service at most "
        f"{record['rto_seconds']['max']:g} s, {len(record['violations'])} rules broken."
    )
    return "incidents", "Incidents in virtual time", says, str(record["made_at"])
