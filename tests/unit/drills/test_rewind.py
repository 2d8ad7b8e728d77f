"""The verdict on a restored instance: all from before the drop, nothing from after it, and clients undisturbed."""

from __future__ import annotations

from typing import Any

from drills.ledger import Attempt
from drills.measurement import Measurement, Objectives
from drills.rewind import Harm, judge

HARM = Harm(sent=100.0, answered=100.1, content=(1, "digest"))
TRIED = [Attempt(n, 90.0 + n, 90.05 + n, "acknowledged") for n in range(1, 21)]
BEFORE = {attempt.number for attempt in TRIED if attempt.ended < HARM.sent}


def judged(**changes: Any) -> Measurement:
    given: dict[str, Any] = {
        "attempts": TRIED,
        "broken": [],
        "present": BEFORE,
        "register_is_back": True,
        "harm": HARM,
        "ready": 130.1,
        "objectives": Objectives(900, 3600),
    }
    return judge(**(given | changes))


def test_everything_from_before_and_nothing_from_after_is_met() -> None:
    result = judged()
    assert (result.verdict, result.rto_seconds, result.rpo_seconds) == ("met", 30.0, 0.0)
    assert (result.transactions_acknowledged, result.transactions_missing) == (len(BEFORE), 0)


def test_a_transaction_that_was_under_way_may_be_there_or_not() -> None:
    under_way = [*TRIED, Attempt(50, 99.99, 100.05, "acknowledged")]
    for present in (BEFORE, BEFORE | {50}):
        assert judged(attempts=under_way, present=present).verdict == "met"


def test_what_is_missing_from_before_is_counted_and_missed() -> None:
    result = judged(present=BEFORE - {3, 9})
    assert (result.verdict, result.transactions_missing) == ("missed", 2)
    assert result.rpo_seconds is not None
    assert abs(result.rpo_seconds - (100 - 93.05)) < 0.001


def test_what_is_there_from_after_is_missed() -> None:
    result = judged(present=BEFORE | {15})
    assert result.verdict == "missed"
    assert "1 transactions from after the drop" in result.reason


def test_a_table_that_is_not_as_it_was_a_disturbed_client_and_a_slow_restore_are_missed() -> None:
    assert "is not what it was" in judged(register_is_back=False).reason
    failed = [*TRIED, Attempt(60, 105.0, 105.1, "failed", "no table")]
    assert judged(attempts=failed).reason == "Clients noticed: no table."
    earlier = [*TRIED, Attempt(60, 95.0, 95.1, "failed", "not because of the drop")]
    assert judged(attempts=earlier).verdict == "met"
    assert "later than the RTO" in judged(ready=1100.0).reason


def test_without_load_on_both_sides_or_with_a_broken_probe_nothing_was_measured() -> None:
    for attempts in (TRIED[:9], TRIED[11:]):
        assert judged(attempts=attempts).verdict == "not measured"
    assert judged(broken=["writer-1: KeyError"]).verdict == "not measured"
