"""The chain of this machine's drills: whatever is changed of a report is found, and a killed writer breaks nothing."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from deployment.problem import Problem
from drills import __main__ as command
from drills.chain import Chain
from recovery import evidence


def render(record: Any) -> str:
    return f"<p>{record['id']} {record['seal']['number']}</p>"


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    """Three drills."""
    for number in range(1, 4):
        Chain(tmp_path).add({"id": f"drill-{number}", "verdict": "met"}, render, 1_800_000_000.0)
    return tmp_path


def found(reports: Path) -> tuple[str, set[str]]:
    verification = Chain(reports).verify()
    return verification.verdict, {finding.kind for finding in verification.findings}


def test_every_drill_follows_the_one_before_it(reports: Path) -> None:
    assert found(reports) == ("OK", set())
    second, third = (json.loads((reports / f"drill-{n}" / "report.json").read_text())["seal"] for n in (2, 3))
    head, _, entry, *_ = (reports / "evidence.jsonl").read_text().splitlines()
    assert third["previous"] == evidence.parse(entry).sha256 != second["previous"]
    assert json.loads(head)["number"] == 3


@pytest.mark.parametrize("name", ["report.json", "report.html"])
def test_a_changed_or_removed_report_is_found(reports: Path, name: str) -> None:
    path = reports / "drill-2" / name
    path.write_text(path.read_text().replace("drill-2", "drill-x"))
    assert found(reports) == ("FAILURE", {"ALTERED"})
    path.unlink()
    assert found(reports) == ("FAILURE", {"REMOVED"})


def test_a_changed_removed_reordered_or_cut_off_line_is_found(reports: Path) -> None:
    file = reports / "evidence.jsonl"
    whole = file.read_text()
    head, first, second, third = whole.splitlines()
    for lines, kind in (
        ((head, first.replace("met", "mis"), second, third), "ALTERED"),
        ((head, first, third), "REORDERED"),
        ((head, second, first, third), "REORDERED"),
        ((head, first, second), "TRUNCATED"),
        ((first, second, third), "ALTERED"),
        ((head, first, second, third[:-9]), "ALTERED"),
        ((), "ALTERED"),
    ):
        file.write_text("".join(f"{line}\n" for line in lines))
        verdict, kinds = found(reports)
        assert (verdict, kind in kinds) == ("FAILURE", True), (kind, kinds)
        with pytest.raises(Problem, match="not whole"):
            Chain(reports).add({"id": "drill-4"}, render, 0)
    file.write_text(whole)
    assert found(reports) == ("OK", set())


def test_a_writer_killed_before_the_chain_is_renamed_leaves_the_old_one(
    reports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            Chain(reports).add({"id": "drill-4"}, render, 0)
    assert found(reports) == ("WARNING", {"UNSEALED"})
    Chain(reports).add({"id": "drill-4"}, render, 0)
    assert found(reports) == ("OK", set())


def test_drills_that_end_together_make_one_chain(tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=Chain(tmp_path).add, args=({"id": f"drill-{number}"}, render, 0)) for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    verification = Chain(tmp_path).verify()
    assert (verification.verdict, verification.entries) == ("OK", 8)


def test_the_command_tells_what_it_found_by_its_exit_code(
    reports: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "REPORTS", reports)
    assert command.main(["--verify"], {}) == 0
    assert "OK: 3 drills" in capsys.readouterr().out
    (reports / "stray").mkdir()
    (reports / "stray" / "report.json").write_text("{}")
    assert command.main(["--verify"], {}) == 1
    (reports / "drill-1" / "report.html").unlink()
    assert command.main(["--verify"], {}) == 2
    assert "REMOVED" in capsys.readouterr().out
    monkeypatch.setattr(command, "REPORTS", tmp_path / "nowhere")
    assert command.main(["--verify"], {}) == 2
    assert "run a drill first" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["", "|owner", "what|owner|due|more"])
def test_a_corrective_action_that_says_nothing_is_refused(wrong: str) -> None:
    with pytest.raises(Problem, match="is no corrective action"):
        command.actions([wrong])
    assert [(each.what, each.owner, each.due) for each in command.actions(["a | b", "c|d|e", "f"])] == [
        ("a", "b", ""),
        ("c", "d", "e"),
        ("f", "", ""),
    ]
