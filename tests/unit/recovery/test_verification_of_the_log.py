"""Every way to damage a log is found, and named."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from recovery.transaction_log import __main__ as program
from recovery.transaction_log import segment
from recovery.transaction_log.segment import CHANGES, GAP, HEAD, OPENED, PENDING, Header, Segment
from recovery.transaction_log.verification import FAILURE, OK, WARNING, Report, verify
from tests.unit.recovery.test_segment import some_messages, stream


class Log:
    """The log of an epoch, link by link."""

    def __init__(self, root: Path, epoch: int = 1, system: str = "42", salt: int = 0) -> None:
        self.folder = root / f"epoch-{epoch}"
        self.folder.mkdir(parents=True)
        self.header = Header(epoch, system, None, OPENED, 50 + salt, 50 + salt)
        self.newest: Segment | None = None

    def link(self, header: Header, content: bytes = b"") -> Segment:
        with contextlib.closing(segment.Writer(self.folder)) as writer:
            writer.take(content)
            self.newest = writer.finish(header, self.newest.path if self.newest else None)
        segment.record_newest(self.newest)
        return self.newest

    def changes(self, commit: int) -> Segment:
        previous = self.newest.sha256 if self.newest else None
        header = replace(
            self.header, previous=previous, kind=CHANGES, first=commit, last=commit + 8, messages=4, committed_at=1.8e9
        )
        return self.link(header, stream(some_messages(commit)))

    def gap(self, first: int, last: int) -> Segment:
        assert self.newest
        return self.link(
            replace(self.header, previous=self.newest.sha256, kind=GAP, first=first, last=last, reason="slot dropped")
        )


@pytest.fixture
def log(tmp_path: Path) -> Log:
    made = Log(tmp_path)
    made.link(made.header)
    for commit in (100, 110, 120, 130):
        made.changes(commit)
    return made


def kinds(report: Report) -> set[str]:
    return {finding.kind for finding in report.findings if finding.verdict == report.verdict}


def test_a_sound_log_is_ok_and_counted(log: Log, tmp_path: Path) -> None:
    report = verify(tmp_path)
    assert (report.verdict, report.findings, report.exit_code) == (OK, (), 0)
    (epoch,) = report.epochs
    assert (epoch.segments, epoch.transactions, epoch.messages, epoch.gaps) == (5, 4, 16, 0)
    assert (epoch.first_lsn, epoch.last_lsn, epoch.committed_at) == ("0/32", "0/8A", "2027-01-15T08:00:00.000Z")


def flip(paths: list[Path]) -> None:
    content = bytearray(paths[2].read_bytes())
    content[60] ^= 4
    paths[2].write_bytes(content)


def swap(paths: list[Path]) -> None:
    one, other = paths[2].read_bytes(), paths[3].read_bytes()
    paths[2].write_bytes(other)
    paths[3].write_bytes(one)


def double(paths: list[Path]) -> None:
    shutil.copy(paths[2], paths[2].with_name("0000000000000079-000000000000007B.segment"))


def foreign(paths: list[Path]) -> None:
    other = Log(paths[0].parents[1] / "elsewhere", system="43")
    other.link(other.header)
    for commit in (100, 110, 120, 130, 140):
        other.changes(commit)
    shutil.copy(segment.segments(other.folder)[-1], paths[0].parent)
    shutil.rmtree(other.folder.parent)


def of_another_epoch(paths: list[Path]) -> None:
    other = Log(paths[0].parents[1] / "elsewhere", epoch=2)
    other.link(other.header)
    for commit in (100, 110, 120, 130, 140):
        other.changes(commit)
    shutil.copy(segment.segments(other.folder)[-1], paths[0].parent)
    shutil.rmtree(other.folder.parent)


def rewritten(paths: list[Path]) -> None:
    """A segment made anew, with a right SHA-256 and other content."""
    found = segment.read(paths[2])
    paths[2].unlink()
    holding = paths[2].parent / "aside"
    holding.mkdir()
    with contextlib.closing(segment.Writer(holding)) as writer:
        writer.take(stream(some_messages(110)).replace(b"t\x00\x00\x00\x011", b"t\x00\x00\x00\x012"))
        writer.finish(found.header, None).path.rename(paths[2])
    shutil.rmtree(holding)


def newest_rewritten(paths: list[Path]) -> None:
    rewritten([*paths[:2], paths[-1]])


def restarted(paths: list[Path]) -> None:
    other = Log(paths[0].parents[1] / "elsewhere", salt=150)
    other.link(other.header)
    shutil.copy(segment.segments(other.folder)[0], paths[0].parent)
    shutil.rmtree(other.folder.parent)


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (flip, "CORRUPT"),
        (lambda paths: paths[2].write_bytes(paths[2].read_bytes()[:-40]), "CORRUPT"),
        (lambda paths: paths[2].write_bytes(b""), "CORRUPT"),
        (swap, "CORRUPT"),
        (double, "CORRUPT"),
        (rewritten, "MISSING"),
        (lambda paths: paths[0].unlink(), "MISSING"),
        (lambda paths: paths[2].unlink(), "MISSING"),
        (lambda paths: paths[-1].unlink(), "MISSING"),
        (lambda paths: [path.unlink() for path in paths[-2:]], "MISSING"),
        (lambda paths: [path.unlink() for path in paths], "MISSING"),
        (lambda paths: (paths[0].parent / HEAD).unlink(), "MISSING"),
        (lambda paths: (paths[0].parent / HEAD).write_text("{}"), "CORRUPT"),
        (foreign, "FOREIGN"),
        (of_another_epoch, "FOREIGN"),
        (restarted, "RESTARTED"),
    ],
)
def test_damage_is_a_failure_with_its_name(
    log: Log, tmp_path: Path, damage: Callable[[list[Path]], object], kind: str
) -> None:
    damage(segment.segments(log.folder))
    report = verify(tmp_path)
    assert (report.verdict, report.exit_code) == (FAILURE, 2)
    assert kind in kinds(report)
    assert str(tmp_path) in report.as_text()


def test_segments_that_overlap_are_a_failure(log: Log, tmp_path: Path) -> None:
    assert log.newest
    log.changes(134)
    assert kinds(verify(tmp_path)) == {"OVERLAP"}


def test_a_gap_that_is_written_down_is_a_warning_with_its_reason(log: Log, tmp_path: Path) -> None:
    log.gap(138, 200)
    log.changes(200)
    report = verify(tmp_path)
    assert (report.verdict, report.exit_code, kinds(report)) == (WARNING, 1, {"GAP"})
    assert "nothing is kept from 0/8A to 0/C8: slot dropped" in report.as_text()
    assert report.epochs[0].gaps == 1


def test_a_gap_still_to_be_written_a_stranger_and_a_skipped_epoch_are_warnings(log: Log, tmp_path: Path) -> None:
    (log.folder / PENDING).write_text("{}")
    assert kinds(verify(tmp_path)) == {"GAP"}
    (log.folder / PENDING).unlink()
    (log.folder / "notes.txt").write_text("")
    (tmp_path / "lost+found").mkdir()
    assert kinds(verify(tmp_path)) == {"FOREIGN"}
    (log.folder / "notes.txt").unlink()
    (tmp_path / "lost+found").rmdir()
    later = Log(tmp_path, epoch=3)
    later.link(later.header)
    assert kinds(verify(tmp_path)) == {"MISSING"}


def test_what_a_killed_run_leaves_is_no_fault(log: Log, tmp_path: Path) -> None:
    assert log.newest
    (log.folder / segment.SCRATCH).write_bytes(b"half")
    before = (log.folder / HEAD).read_text()
    log.changes(140)
    (log.folder / HEAD).write_text(before)  # killed between naming the segment and recording it
    with segment.alone(log.folder):
        assert verify(tmp_path).verdict == OK


def test_a_rewritten_newest_segment_is_found(log: Log, tmp_path: Path) -> None:
    newest_rewritten(segment.segments(log.folder))
    assert kinds(verify(tmp_path)) >= {"CORRUPT"}


def test_no_log_at_all_is_a_failure(tmp_path: Path) -> None:
    assert kinds(verify(tmp_path / "nowhere")) == {"MISSING"}


def test_the_command_speaks_to_people_and_to_programs(
    log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(["verify", str(tmp_path)], {}) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "OK"
    segment.segments(log.folder)[1].unlink()
    assert program.main(["verify", str(tmp_path), "--json"], {}) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "FAILURE"
    assert told["findings"][0]["kind"] == "MISSING"
