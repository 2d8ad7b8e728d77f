"""Which backup a restore takes, and the whole second it goes to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployment.restoration import Backup, best, moment_before
from drctl.__main__ import main

TIMES = st.integers(0, 10_000).map(lambda milliseconds: milliseconds / 10)


@given(committed_at=st.integers(1, 2**52))
def test_a_restore_goes_to_the_last_whole_second_before_the_transaction(committed_at: int) -> None:
    """The time is in microseconds; one in a whole second's first moment is not in that second."""
    moment = moment_before(committed_at / 1e6)
    assert moment * 1_000_000 < committed_at <= (moment + 1) * 1_000_000


@given(st.lists(st.tuples(TIMES, TIMES)), st.integers(0, 1000))
def test_the_backup_that_gets_closest_without_passing_it_is_taken(windows: list[tuple[float, float]], at: int) -> None:
    backups = [Backup(str(n), "", min(window), max(window)) for n, window in enumerate(windows)]
    found = best(backups, at)
    reachable = {moment for moment in range(at + 1) if any(each.earliest <= moment <= each.latest for each in backups)}
    if found is None:
        assert not reachable
    else:
        backup, moment = found
        assert moment == max(reachable)
        assert backup.earliest <= moment <= backup.latest


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Say where to stop: --before-transaction EPOCH:X/Y, as `log list` shows it, or --to-time."),
        (["--before-transaction", "1:0/1", "--to-time", "2026-11-22T10:00:00"], "Say where to stop"),
        (["--to-time", "yesterday"], "'yesterday' is not a time; write it in UTC, as 2026-11-22T10:20:30."),
    ],
)
def test_bad_input_is_one_sentence_before_anything_is_asked(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["restore", "--suffix", "x", *arguments], {}) == 1
    said = capsys.readouterr()
    assert said.err.startswith(sentence)
    assert (said.out, len(said.err.splitlines())) == ("", 1)
    assert main(["log", "list", "--suffix", "x", "--since", "soon"], {}) == 1
    assert capsys.readouterr().err == "'soon' is not a time; write it in UTC, as 2026-11-22T10:20:30.\n"
