"""`python -m assessment`: what it writes, what it leaves alone, and what it says when it cannot."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import app
from assessment import __main__ as command
from assessment.assessed import Assessment
from assessment.implementations import IMPLEMENTATIONS
from deployment.cdk import Cdk
from deployment.problem import Problem
from stacks.templates import System
from tests.unit.stacks.conftest import settings
from tests.unit.stacks.test_assessment import assessed


@pytest.fixture(scope="module")
def assessment(protected: System) -> Assessment:
    return assessed(protected, settings(protect=True, logRetentionDays=731))


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything is written below a folder of the test's own."""
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(command, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(command, "DEFINITION", tmp_path / "reports" / "oscal" / "component-definition.json")
    monkeypatch.setattr(command, "COMPLIANCE", tmp_path / "reports" / "compliance.html")
    return tmp_path / "reports"


def test_from_the_command_to_a_valid_document(
    reports: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROTECT", "true")
    assert command.main(["oscal", "--suffix", "assessed"], os.environ) == 0
    document = json.loads((reports / "oscal" / "component-definition.json").read_text())
    told = {each["name"]: each["value"] for each in document["component-definition"]["metadata"]["props"]}
    assert told["environment"] == "assessed"
    assert len(told["template-sha256"]) == 64
    said = capsys.readouterr().out
    assert f"323 controls: {len(IMPLEMENTATIONS)} implemented here" in said
    assert "0 with a Config rule that is not met" in said
    assert "valid by compliance-trestle (OSCAL 1.2.1)" in said
    assert [each.name for each in (reports / "oscal").iterdir()] == ["component-definition.json"]


def test_run_again_without_a_change_the_file_is_as_it_was_to_the_byte(reports: Path, assessment: Assessment) -> None:
    command.write_oscal(assessment)
    file = reports / "oscal" / "component-definition.json"
    # As if it had been written long ago
    old = file.read_text().replace(
        json.loads(file.read_text())["component-definition"]["metadata"]["last-modified"], "2026-01-01T00:00:00Z"
    )
    file.write_text(old)
    command.write_oscal(assessment)
    assert file.read_text() == old
    command.write_oscal(dataclasses.replace(assessment, commit="d" * 40))
    assert "2026-01-01T00:00:00Z" not in file.read_text()


def test_a_file_that_is_no_document_is_replaced(reports: Path, assessment: Assessment) -> None:
    file = reports / "oscal" / "component-definition.json"
    file.parent.mkdir(parents=True)
    for content in (b"", b"[1]", b"\xff\xfe", b"{"):
        file.write_bytes(content)
        command.write_oscal(assessment)
        assert "component-definition" in json.loads(file.read_text())


def test_a_document_that_is_refused_does_not_take_the_place_of_the_one_before(
    reports: Path, assessment: Assessment
) -> None:
    command.write_oscal(assessment)
    file = reports / "oscal" / "component-definition.json"
    before = file.read_bytes()
    with pytest.raises(Problem, match=r"compliance-trestle refuses reports/oscal/component-definition\.new\.json: "):
        command.write_oscal(dataclasses.replace(assessment, commit=""))
    assert file.read_bytes() == before


def test_a_write_that_fails_leaves_the_page_before(reports: Path, assessment: Assessment) -> None:
    command.write_page(assessment)
    before = (reports / "compliance.html").read_bytes()
    (reports / ".compliance.html.part").mkdir()
    with pytest.raises(OSError, match=r"directory|permitted"):
        command.write_page(dataclasses.replace(assessment, commit="d" * 40))
    assert (reports / "compliance.html").read_bytes() == before


def test_what_cannot_be_written_is_one_sentence(
    reports: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reports.write_text("a file where a folder should be")
    monkeypatch.setattr(Cdk, "synth", lambda _: command._write(command.COMPLIANCE, ""))
    assert command.main(["compliance", "--suffix", "assessed"], {}) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"{reports}")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["oscal", "--suffix", "Bad_"], "The environment suffix 'Bad_' is malformed"),
        (["compliance"], "The environment suffix is missing"),
    ],
)
def test_a_wrong_setting_is_one_sentence_before_anything_starts(arguments: list[str], sentence: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ENV_SUFFIX"}
    done = subprocess.run(
        [sys.executable, "-m", "assessment", *arguments],
        cwd=app.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1
