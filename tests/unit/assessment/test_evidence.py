"""The newest evidence: found by its own date, never a reason to fail."""

import hashlib
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from assessment import evidence
from assessment.implementations import IMPLEMENTATIONS
from benchmarks.__main__ import write as write_benchmarks
from benchmarks.result import median_of
from drills.scenarios import SCENARIOS
from drills.virtual.__main__ import write as write_incidents
from privilege.report import Report as PrivilegeReport


def drill(reports: Path, started_at: str, scenario: str = "primary-lost", **changed: Any) -> Path:
    record = {
        "scenario": scenario,
        "started_at": started_at,
        "verdict": "met",
        "reason": "Outage 10.6 s of 900 s, 0 of 1283 acknowledged transactions missing.",
        "commit": "c" * 40,
        **changed,
    }
    path = reports / f"{started_at.replace(':', '').replace('-', '')}-{scenario}" / "report.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record))
    return path


def test_the_newest_drill_counts_whatever_its_verdict_and_its_file_is_known_by_its_hash(tmp_path: Path) -> None:
    reports = tmp_path / "reports"
    drill(reports, "2026-11-24T03:00:00Z")
    path = drill(reports, "2026-11-25T03:00:00Z", verdict="missed", reason="Outage 901.0 s of 900 s.")
    found = evidence.newest(reports)["drill"]
    assert (found.made_at, found.path) == ("2026-11-25T03:00:00Z", f"reports/{path.relative_to(reports)}")
    assert found.says.startswith("missed: Outage 901.0 s")
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_each_scenario_has_its_own_newest_and_the_copy_called_latest_is_no_other_drill(tmp_path: Path) -> None:
    reports = tmp_path / "reports"
    drill(reports, "2026-11-24T03:00:00Z", "table-dropped")
    path = drill(reports, "2026-11-25T03:00:00Z")
    (reports / "latest").mkdir()
    (reports / "latest" / "report.json").write_bytes(path.read_bytes())
    found = evidence.newest(reports)
    assert found["drill"].title == "Drill primary-lost"
    assert found["drill table-dropped"].made_at == "2026-11-24T03:00:00Z"
    assert not any("latest" in each.path for each in found.values())


def test_a_report_has_the_date_that_it_tells_whatever_that_of_its_file_is(tmp_path: Path) -> None:
    """As when it was copied, or fetched from where it was made."""
    PrivilegeReport(rows=(), problems=("One problem.",)).write(tmp_path / "least-privilege.json")
    write_benchmarks({"synthesis": median_of([1.5, 2.5, 3.5], 10)}, tmp_path / "bench.json")
    write_incidents(tmp_path / "incidents.json", [], [], 1)
    today = datetime.now(UTC).date().isoformat()
    for path in tmp_path.iterdir():
        os.utime(path, (1_764_000_000, 1_764_000_000))
    found = evidence.newest(tmp_path)
    assert {each.made_at[:10] for each in found.values()} == {today}
    assert found.keys() == {"least-privilege", "benchmarks", "incidents"}
    assert "1 problems" in found["least-privilege"].says
    assert f"synthesis 2.5 s ({today})" in found["benchmarks"].says


def test_a_figure_keeps_its_own_date_when_others_are_measured_again_and_one_without_is_not_cited(
    tmp_path: Path,
) -> None:
    old = {"rotation": {"median": 0.5, "unit": "s", "measured_at": "2026-01-02T03:04:05.000Z"}}
    (tmp_path / "bench.json").write_text(json.dumps({**old, "drill": {"median": 40, "unit": "s"}}))
    assert evidence.newest(tmp_path)["benchmarks"].made_at == "2026-01-02T03:04:05.000Z"
    write_benchmarks({"synthesis": median_of([2.5], 10)}, tmp_path / "bench.json")
    found = evidence.newest(tmp_path)["benchmarks"]
    assert found.made_at > "2026-01-02T03:04:05.000Z"
    assert "rotation 0.5 s (2026-01-02)" in found.says
    assert "drill" not in found.says


@pytest.mark.parametrize("name", ["least-privilege.json", "incidents.json", "bench.json"])
def test_a_report_that_tells_no_date_is_no_evidence(tmp_path: Path, name: str) -> None:
    PrivilegeReport(rows=(), problems=()).write(tmp_path / "least-privilege.json")
    write_benchmarks({"synthesis": median_of([2.5], 10)}, tmp_path / "bench.json")
    write_incidents(tmp_path / "incidents.json", [], [], 1)
    undated = re.sub(r'"(made|measured)_at"', '"unknown"', (tmp_path / name).read_text())
    (tmp_path / name).write_text(undated)
    assert len(evidence.newest(tmp_path)) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"scenario": 1}', '"text"'])
def test_what_is_no_report_is_left_out(tmp_path: Path, content: str) -> None:
    for name in ("some/report.json", "least-privilege.json", "bench.json", "incidents.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert {kind: each.says for kind, each in evidence.newest(tmp_path).items()} == {}


def test_without_reports_there_is_no_evidence(tmp_path: Path) -> None:
    assert evidence.newest(tmp_path / "absent") == {}


def test_every_kind_that_a_control_asks_for_can_be_made() -> None:
    asked = {kind for each in IMPLEMENTATIONS for kind in each.evidence}
    assert len(asked) > 5
    for kind in asked:
        name, _, scenario = kind.partition(" ")
        assert evidence.command(kind).startswith("make ")
        assert name in evidence.COMMANDS
        assert not scenario or scenario in SCENARIOS
