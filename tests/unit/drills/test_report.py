"""A report holds what an assessor asks for, and the latest one is always whole."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from deployment.work_tree import Plan, commit_of, plan_of
from drills import report as report_module
from drills.chain import Chain
from drills.ledger import Attempt
from drills.measurement import Measurement, Objectives
from drills.observed import Change, LagSample, Observed, Watched
from drills.report import Action, Report, Setting, course, summarise, write
from drills.timeline import Entry, Timeline
from tests.contingency_test_report import missing, section

MET = Measurement("met", "Outage 9.0 s of 900 s.", 9.0, 0.4, 0.0, 120, 0)
LOST = Measurement("not measured", "The probe itself failed: x.", None, None, None, 0, None)


def made(measurement: Measurement = MET, started_at: str = "2026-01-02T03:04:05Z") -> Report:
    return Report(
        suffix="drill-1",
        scenario="primary-lost",
        started_at=started_at,
        measurement=measurement,
        objectives=Objectives(900, 3600),
        timeline=(Entry(0.25, "drill", "killed"),),
        phases={"deploy": 9.04},
        delays={"promotion_seconds": 1.0},
        left_behind=(),
        commit="c" * 40,
        template_sha256="f" * 64,
        description="The primary is lost.",
        setting=Setting("someone", Plan("plan.md", "p" * 64), (Action("lower the period", "duty", "2027-02-01"),)),
        preflight=({"check": "region", "verdict": "ok", "found": "enabled"},),
        alarms=("primary-lost",),
    )


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(report_module, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(report_module, "ROOT", tmp_path)
    return tmp_path / "reports"


def test_the_record_holds_every_promised_field(reports: Path) -> None:
    path = made().write()
    record = json.loads(path.read_text(encoding="utf-8"))
    promised = {
        "suffix",
        "scenario",
        "rto_seconds",
        "rto_resolution_seconds",
        "rpo_seconds",
        "transactions_acknowledged",
        "transactions_missing",
        "timeline",
        "verdict",
        "reason",
        "commit",
        "template_sha256",
        *("id", "plan", "scope", "participants", "preflight", "before", "alarms", "deviations", "loss_account"),
        *("corrective_actions", "restoration", "controls", "seal", "rto_basis", "rpo_basis", "rows_basis", "series"),
    }
    assert promised <= record.keys()
    assert record["timeline"] == [{"at": "1970-01-01T00:00:00.250+00:00", "source": "drill", "event": "killed"}]


def test_every_item_of_a_contingency_plan_test_report_is_in_the_record_and_on_the_page(reports: Path) -> None:
    watched = Watched(
        lag=(LagSample(98.0, "a", 0.5, 7, "0/2", "0/1"),),
        changes=(Change("primary-lost", 101.0),),
        needs={"primary-lost": 2.0},
        records=({"id": "i", "account": {"transactions": 3}, "timeline": []},),
    )
    seen = Observed((Attempt(1, 99.0, 99.2, "acknowledged"),), frozenset({1}), 100.0, 400.0, watched)
    path = replace(made(), observed=seen).write()
    record = json.loads(path.read_text(encoding="utf-8"))
    assert list(missing(record, path.with_name("report.html").read_text(encoding="utf-8"))) == []
    assert "primary-lost" in section(path.with_name("report.html").read_text(encoding="utf-8"), "Alarms")


def test_a_report_that_lacks_an_item_is_noticed(reports: Path) -> None:
    record = json.loads(made().write().read_text(encoding="utf-8"))
    found = {sentence.partition(":")[0] for sentence in missing(record)}
    assert found == {"lag before", "LSN before", "alarms that fired or failed to", "loss account"}
    for name, key in (("commit", "commit"), ("restoration", "restoration"), ("plan and its hash", "plan")):
        assert name in {sentence.partition(":")[0] for sentence in missing({**record, key: None})}


def test_a_newer_report_becomes_the_latest_and_the_older_one_is_kept(reports: Path) -> None:
    made().write()
    latest = made(LOST, "2026-01-02T04:00:00Z").write()
    assert json.loads(latest.read_text(encoding="utf-8"))["verdict"] == "not measured"
    assert len([p for p in reports.iterdir() if p.is_dir() and p.name != "latest"]) == 2


@pytest.mark.parametrize(("measurement", "expected"), [(MET, "9.0 s ± 0.4 s"), (LOST, "unknown of them missing")])
def test_the_summary_says_what_was_measured(reports: Path, measurement: Measurement, expected: str) -> None:
    console = Console(file=io.StringIO(), width=160)
    made(measurement).write()
    summarise(made(measurement), console, reports / "latest" / "report.json")
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert expected in text
    assert measurement.verdict in text


def test_a_folder_outside_of_git_has_no_commit(tmp_path: Path) -> None:
    assert commit_of(tmp_path) == "unknown"


def test_a_timeline_is_in_order_of_time_whoever_reported_first() -> None:
    shown: list[str] = []
    timeline = Timeline(lambda entry: shown.append(entry.event))
    timeline.add("client", "second", at=2.0)
    timeline.add("rds event", "first", at=1.0)
    assert [entry.event for entry in timeline.entries] == ["first", "second"]
    assert shown == ["second", "first"]


def test_the_page_is_written_beside_the_record_and_both_are_sealed(reports: Path) -> None:
    path = made().write()
    page = path.with_name("report.html").read_text(encoding="utf-8")
    for said in ("Drill primary-lost on drill-1", "p" * 64, "lower the period", "someone", "region"):
        assert said in page
    assert Chain(reports).verify().verdict == "OK"
    own = reports / made().identity
    assert {each.name for each in own.iterdir()} == {"report.json", "report.html"}
    assert (own / "report.html").read_text(encoding="utf-8") == page


@pytest.mark.parametrize(("lost", "outage", "verdict"), [(0, 5.0, "met"), (1, 5.0, "missed"), (0, 901.0, "missed")])
def test_a_course_of_many_rounds_has_a_report_too(reports: Path, lost: int, outage: float, verdict: str) -> None:
    rounds = [
        {"kind": "failover", "epoch": 2, "outage": outage, "unprotected": 9.0, "tail": 1, "lost": lost},
        {"kind": "switchover", "epoch": 3, "outage": 1.0, "unprotected": 8.0, "tail": 0, "lost": 0},
    ]
    entries = [Entry(1_800_000_000.0, "cycles", "deployed")]
    record = course("cycles", rounds, "2 rounds", entries, Objectives(900, 3600), Setting("someone"))
    assert (record["verdict"], record["rto_seconds"]) == (verdict, outage)
    page = write(record, reports).with_name("report.html").read_text(encoding="utf-8")
    assert "<h2>Rounds</h2>" in page
    assert "switchover" in page
    assert Chain(reports).verify().verdict == "OK"


def test_a_plan_is_named_and_hashed(tmp_path: Path) -> None:
    plan = tmp_path / "plan.md"
    plan.write_text("step 1", encoding="utf-8")
    assert plan_of(plan) == Plan("plan.md", hashlib.sha256(b"step 1").hexdigest())
    with pytest.raises(OSError, match="gone"):
        plan_of(tmp_path / "gone.md")
