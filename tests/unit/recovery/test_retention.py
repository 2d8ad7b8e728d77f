"""Old segments go by age and by need, never under a hold, and what is left still proves itself."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.clock import iso
from recovery.transaction_log import __main__ as program
from recovery.transaction_log import retention, segment
from recovery.transaction_log.continuity import CAME_ALONG
from recovery.transaction_log.retention import (
    ANCHOR,
    DAY_SECONDS,
    HOLDS,
    MARGIN_SECONDS,
    Policy,
    RetentionRefused,
    expire,
    expiring,
)
from recovery.transaction_log.segment import GAP, LogInUse, SegmentCorrupt
from recovery.transaction_log.verification import FAILURE, OK, WARNING, verify
from tests.unit.recovery.test_segment import some_messages, stream
from tests.unit.recovery.test_verification_of_the_log import Log, kinds

NOW = 1_780_000_000.0
COMMITS = (100, 110, 120, 130)


def committed(log: Log, commit: int, at: float) -> None:
    previous = log.newest.sha256 if log.newest else None
    header = replace(
        log.header, previous=previous, kind="changes", first=commit, last=commit + 8, messages=4, committed_at=at
    )
    log.link(header, stream(some_messages(commit)))


def grown(root: Path, epoch: int = 1) -> Log:
    """An opening, then one transaction a day: 4, 3, 2 and 1 days ago."""
    made = Log(root, epoch)
    made.link(replace(made.header, reason=CAME_ALONG))
    for number, commit in enumerate(COMMITS):
        committed(made, commit, NOW - (4 - number) * DAY_SECONDS)
    return made


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return grown(tmp_path)


def days(number: float, needed_since: float | None = NOW) -> Policy:
    return Policy(number * DAY_SECONDS, needed_since)


def names(log: Log) -> list[str]:
    return [path.name for path in segment.segments(log.folder)]


# -- the rule ---------------------------------------------------------------------------------------------------------

times = st.one_of(st.none(), st.floats(0, 1e6))


@given(
    at=st.lists(times, max_size=12), keep=st.floats(0, 1e6), needed=st.one_of(st.none(), st.floats(0, 1e6))
)  # fmt: skip
def test_what_goes_is_old_enough_and_not_needed_whatever_the_clocks_say(
    at: list[float | None], keep: float, needed: float | None
) -> None:
    now = 1e6
    going = expiring(at, Policy(keep, needed), now)
    assert 0 <= going <= len(at)
    if needed is None:
        assert going == 0
        return
    gone = [one for one in at[:going] if one is not None]
    assert all(one < now - keep and one < needed - MARGIN_SECONDS for one in gone)
    # What goes is the beginning, as long as it can be: what stays begins with something to keep.
    left = [one for one in at[going:] if one is not None]
    assert not left or left[0] >= min(now - keep, needed - MARGIN_SECONDS)
    # A segment without transactions goes only with one behind it.
    assert going == 0 or at[going - 1] is not None


@given(at=st.lists(times, max_size=12), keep=st.floats(0, 1e6), needed=st.floats(0, 1e6), later=st.floats(0, 1e5))
def test_nothing_that_goes_is_ever_wanted_back(
    at: list[float | None], keep: float, needed: float, later: float
) -> None:
    policy = Policy(keep, needed)
    assert expiring(at, policy, 1e6) <= expiring(at, policy, 1e6 + later)
    assert expiring(at, policy, 1e6) <= expiring(at, Policy(keep, needed + later), 1e6)


# -- the files --------------------------------------------------------------------------------------------------------


def test_what_is_older_than_the_age_goes_and_the_rest_still_proves_itself(log: Log, tmp_path: Path) -> None:
    before = names(log)
    gone = expire(tmp_path, days(2.5), NOW)
    assert gone.segments == {"epoch-1": 3}
    assert names(log) == before[3:]
    report = verify(tmp_path)
    assert (report.verdict, report.findings) == (OK, ())
    assert report.epochs[0].expired == 3
    assert "3 segments expired before" in report.as_text()
    committed(log, 140, NOW)
    assert verify(tmp_path).verdict == OK
    assert expire(tmp_path, days(0.5), NOW).segments == {"epoch-1": 2}
    assert verify(tmp_path).epochs[0].expired == 5


def test_the_newest_of_an_epoch_always_stays(log: Log, tmp_path: Path) -> None:
    second = grown(tmp_path, epoch=2)
    assert expire(tmp_path, days(0, NOW + 99 * DAY_SECONDS), NOW + 100 * DAY_SECONDS).segments == {
        "epoch-1": 4,
        "epoch-2": 4,
    }
    assert len(names(log)) == len(names(second)) == 1
    assert verify(tmp_path).verdict == OK


def test_what_the_newest_recovery_point_needs_stays_however_old(log: Log, tmp_path: Path) -> None:
    point = NOW - 3 * DAY_SECONDS
    gone = expire(tmp_path, days(0, point), NOW)
    assert gone.segments == {"epoch-1": 2}
    assert "needed by the newest recovery point" in gone.reason
    assert expire(tmp_path, days(0, None), NOW).segments == {}


def test_a_dry_run_says_it_and_does_nothing(log: Log, tmp_path: Path) -> None:
    before = names(log)
    told = expire(tmp_path, days(2.5), NOW, dry_run=True)
    assert told.segments == {"epoch-1": 3}
    assert "would go" in told.as_text()
    assert names(log) == before
    assert not (log.folder / ANCHOR).exists()
    assert expire(tmp_path, days(2.5), NOW).bytes == told.bytes > 0


def test_a_hold_keeps_everything_until_the_last_one_is_released(log: Log, tmp_path: Path) -> None:
    retention.hold(tmp_path, "court", "case 17", NOW)
    assert retention.hold(tmp_path, "court", "case 17", NOW + 5).since == iso(NOW)
    retention.hold(tmp_path, "audit", "yearly", NOW)
    for name in ("court", "audit"):
        told = expire(tmp_path, days(0), NOW)
        assert told.segments == {}
        assert name in told.held
        assert verify(tmp_path).verdict == OK
        retention.release(tmp_path, name)
    assert expire(tmp_path, days(0), NOW).segments == {"epoch-1": 4}


def test_holds_that_cannot_be_read_or_are_malformed_change_nothing(log: Log, tmp_path: Path) -> None:
    with pytest.raises(RetentionRefused, match="no hold court"):
        retention.release(tmp_path, "court")
    for name, reason in (("", "why"), ("../x", "why"), ("court", " ")):
        with pytest.raises(RetentionRefused, match="a name"):
            retention.hold(tmp_path, name, reason, NOW)
    retention.hold(tmp_path, "court", "case 17", NOW)
    with pytest.raises(RetentionRefused, match="case 17"):
        retention.hold(tmp_path, "court", "case 18", NOW)
    (tmp_path / HOLDS).write_text("[{")
    with pytest.raises(RetentionRefused, match="nothing expires"):
        expire(tmp_path, days(0), NOW)


class Killed(Exception):
    """The run was killed here."""


@pytest.mark.parametrize("kept_before_death", range(6))
def test_killed_anywhere_the_log_is_sound_and_the_next_run_ends_it(
    log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_before_death: int
) -> None:
    """Dies at the n-th step that touches the disk: the anchor's rename, each removal, the folder's sync."""
    steps = iter(range(100))
    real_unlink, real_rename, real_sync = Path.unlink, Path.rename, segment.sync_folder

    def counted() -> None:
        if next(steps) == kept_before_death:
            raise Killed

    def unlink(self: Path, missing_ok: bool = False) -> None:
        counted()
        real_unlink(self, missing_ok)

    def rename(self: Path, target: Path) -> Path:
        counted()
        return real_rename(self, target)

    def sync(folder: Path) -> None:
        counted()
        real_sync(folder)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        patch.setattr(Path, "rename", rename)
        patch.setattr(segment, "sync_folder", sync)
        with pytest.raises(Killed):
            expire(tmp_path, days(2.5), NOW)
    assert verify(tmp_path).verdict == OK
    expire(tmp_path, days(2.5), NOW)
    assert len(names(log)) == 2
    report = verify(tmp_path)
    assert (report.verdict, report.epochs[0].expired) == (OK, 3)


def test_two_runs_at_once_do_not_get_in_each_others_way(log: Log, tmp_path: Path) -> None:
    with segment.alone(tmp_path), pytest.raises(LogInUse):
        expire(tmp_path, days(2.5), NOW)


def test_damage_does_not_expire(log: Log, tmp_path: Path) -> None:
    third = segment.segments(log.folder)[2]
    content = bytearray(third.read_bytes())
    content[20] ^= 1
    third.write_bytes(content)
    with pytest.raises(SegmentCorrupt):
        expire(tmp_path, days(2.5), NOW)
    assert len(names(log)) == 5


@contextlib.contextmanager
def _expired(tmp_path: Path) -> Iterator[None]:
    assert expire(tmp_path, days(2.5), NOW).segments
    yield


def test_a_segment_that_goes_missing_behind_the_anchor_is_found(log: Log, tmp_path: Path) -> None:
    with _expired(tmp_path):
        segment.segments(log.folder)[0].unlink()
    report = verify(tmp_path)
    assert (report.verdict, kinds(report)) == (FAILURE, {"MISSING"})


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda path: path.write_text("{}"), "CORRUPT"),
        (lambda path: path.unlink(), "MISSING"),
        (lambda path: path.write_text(path.read_text().replace('"sha256": "', '"sha256": "0')), "MISSING"),
    ],
)
def test_an_anchor_that_was_changed_or_taken_away_is_found(log: Log, tmp_path: Path, change, kind: str) -> None:  # type: ignore[no-untyped-def]
    with _expired(tmp_path):
        change(log.folder / ANCHOR)
    report = verify(tmp_path)
    assert report.verdict == FAILURE
    assert kind in kinds(report)


def test_a_gap_goes_with_what_follows_it(tmp_path: Path) -> None:
    made = Log(tmp_path)
    made.link(made.header)
    committed(made, 100, NOW - 4 * DAY_SECONDS)
    made.gap(108, 200)
    committed(made, 200, NOW - 3 * DAY_SECONDS)
    committed(made, 300, NOW)
    assert verify(tmp_path).verdict == WARNING
    expire(tmp_path, days(2), NOW)
    assert [segment.read_header(path).kind for path in segment.segments(made.folder)] == ["changes"]
    assert GAP not in {segment.read_header(path).kind for path in segment.segments(made.folder)}
    assert verify(tmp_path).verdict == OK


def test_reading_stops_when_time_is_up_and_says_what_was_not_read(log: Log, tmp_path: Path) -> None:
    report = verify(tmp_path, seconds=0)
    assert (report.verdict, kinds(report)) == (WARNING, {"UNREAD"})
    assert report.epochs[0].transactions == 0
    segment.segments(log.folder)[2].unlink()
    assert kinds(verify(tmp_path, seconds=0)) == {"MISSING"}  # the chain is followed all the same


def test_several_processes_find_the_same(log: Log, tmp_path: Path) -> None:
    assert verify(tmp_path, processes=2) == verify(tmp_path)
    flipped = segment.segments(log.folder)[3]
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"\x00")
    assert verify(tmp_path, processes=2) == verify(tmp_path)
    assert verify(tmp_path).verdict == FAILURE


# -- the commands -----------------------------------------------------------------------------------------------------


def test_the_commands_hold_release_and_expire(log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path)
    ages = ["--days", "0", "--needed-since", iso(NOW), "--json"]
    assert program.main(["hold", folder, "--name", "court", "--reason", "case 17"], {}) == 0
    capsys.readouterr()
    assert program.main(["expire", folder, *ages], {}) == 0
    assert json.loads(capsys.readouterr().out)["held"] == ["court"]
    assert program.main(["release", folder, "--name", "court", "--json"], {}) == 0
    assert json.loads(capsys.readouterr().out) == {"holds": []}
    assert program.main(["expire", folder, *ages, "--dry-run"], {}) == 0
    assert json.loads(capsys.readouterr().out)["segments"] == {"epoch-1": 4}
    assert len(names(log)) == 5
    assert program.main(["expire", folder, "--days", "0", "--needed-since", iso(NOW)], {}) == 0
    assert "4 segments, " in capsys.readouterr().out
    assert len(names(log)) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["release", "{}", "--name", "court"], "There is no hold court"),
        (["hold", "{}", "--name", "court", "--reason", ""], "a reason"),
        (["expire", "{}/nowhere", "--days", "1", "--needed-since", "2026-01-01T00:00:00Z"], "There is no log"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    log: Log, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert program.main([argument.format(tmp_path) for argument in arguments], {}) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert "Traceback" not in told.err


@pytest.mark.parametrize("arguments", [["--days", "-1"], ["--days", "soon"], ["--needed-since", "yesterday"]])
def test_ages_and_times_that_are_none_are_refused(tmp_path: Path, arguments: list[str]) -> None:
    usual = {"--days": "1", "--needed-since": "2026-01-01T00:00:00Z", **dict([arguments])}
    with pytest.raises(SystemExit) as refused:
        program.main(["expire", str(tmp_path), *(part for pair in usual.items() for part in pair)], {})
    assert refused.value.code == 2
