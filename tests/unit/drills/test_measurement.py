"""A drill measures what its clients saw, and says so when they saw nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drills.ledger import Attempt, Outcome
from drills.measurement import PROBE_LOST_SECONDS, Measurement, Objectives, measure

OBJECTIVES = Objectives(rto_seconds=900, rpo_seconds=3600)
FAILED_AT = 100.0


def attempts(*spans: tuple[float, float, Outcome]) -> list[Attempt]:
    return [Attempt(n, start, end, outcome) for n, (start, end, outcome) in enumerate(spans, start=1)]


def outage(length: float, every: float = 1.0, before: int = 5) -> list[Attempt]:
    """Service until the failure, then failed attempts for `length` seconds, then service again."""
    ok = [(FAILED_AT - before + n, FAILED_AT - before + n + 0.01, "acknowledged") for n in range(before)]
    failed = [(FAILED_AT + n * every, FAILED_AT + n * every + 0.01, "failed") for n in range(int(length / every))]
    back = [(FAILED_AT + length + n, FAILED_AT + length + n + 0.01, "acknowledged") for n in range(3)]
    return attempts(*ok, *failed, *back)  # type: ignore[arg-type]


def judged(tried: list[Attempt], lost: frozenset[int] = frozenset(), **changes: object) -> Measurement:
    present = {a.number for a in tried if a.outcome == "acknowledged"} - lost
    ended_at = max(a.ended for a in tried)
    objectives = changes.get("objectives", OBJECTIVES)
    assert isinstance(objectives, Objectives)
    return measure(tried, present, FAILED_AT, ended_at, objectives)


def test_an_outage_inside_the_objectives_is_met() -> None:
    result = judged(outage(10))
    assert result.verdict == "met"
    assert result.rto_seconds is not None
    assert 10 <= result.rto_seconds <= 10.1
    assert result.rto_resolution_seconds is not None
    assert result.rto_resolution_seconds <= 1.1
    assert result.rpo_seconds == 0
    assert result.transactions_missing == 0
    assert result.transactions_acknowledged == 8


def test_an_outage_longer_than_the_rto_is_missed() -> None:
    result = judged(outage(10), objectives=Objectives(rto_seconds=5, rpo_seconds=60))
    assert result.verdict == "missed"
    assert "RTO" in result.reason


def test_missing_transactions_within_the_rpo_are_counted_and_met() -> None:
    result = judged(outage(10), frozenset({4, 5}))
    assert result.verdict == "met"
    assert result.transactions_missing == 2
    assert result.rpo_seconds is not None
    assert abs(result.rpo_seconds - 1.99) < 0.001


def test_missing_transactions_beyond_the_rpo_are_missed() -> None:
    result = judged(outage(10), frozenset({1}), objectives=Objectives(rto_seconds=900, rpo_seconds=3))
    assert result.verdict == "missed"
    assert "RPO" in result.reason


def test_service_that_never_comes_back_is_missed_without_a_figure() -> None:
    result = judged([a for a in outage(10) if a.started < FAILED_AT + 9.5])
    assert result.verdict == "missed"
    assert result.rto_seconds is None


def test_no_outage_seen_is_not_measured() -> None:
    result = judged([a for a in outage(3) if a.outcome == "acknowledged"])
    assert result.verdict == "not measured"
    assert "no outage was seen" in result.reason


def test_a_failure_that_clients_need_not_notice_is_met_when_they_do_not() -> None:
    seen = [a for a in outage(3) if a.outcome == "acknowledged"]
    present = {a.number for a in seen}
    result = measure(seen, present, FAILED_AT, FAILED_AT + 6, OBJECTIVES, expects_outage=False)
    assert (result.verdict, result.rto_seconds, result.transactions_missing) == ("met", 0.0, 0)
    noticed = measure(outage(10), present, FAILED_AT, FAILED_AT + 13, OBJECTIVES, expects_outage=False)
    assert noticed.rto_seconds is not None
    assert noticed.rto_seconds >= 10


def test_a_failure_before_anything_was_acknowledged_is_not_measured() -> None:
    result = judged([a for a in outage(3) if a.ended > FAILED_AT])
    assert result.verdict == "not measured"


def test_a_probe_that_looked_away_is_not_measured() -> None:
    seen = [a for a in outage(40) if not FAILED_AT + 5 < a.started < FAILED_AT + 6 + PROBE_LOST_SECONDS]
    result = judged(seen)
    assert result.verdict == "not measured"
    assert "no attempt" in result.reason


def test_a_probe_that_broke_is_not_measured() -> None:
    result = measure(outage(3), set(), FAILED_AT, FAILED_AT + 6, OBJECTIVES, broken=["writer-1: MemoryError: "])
    assert result.verdict == "not measured"


def test_rows_that_cannot_be_read_are_not_measured_but_the_outage_is_reported() -> None:
    result = measure(outage(3), None, FAILED_AT, FAILED_AT + 6, OBJECTIVES)
    assert result.verdict == "not measured"
    assert result.rto_seconds is not None
    assert result.transactions_missing is None


def test_service_that_comes_back_and_goes_again_counts_until_it_stays() -> None:
    flapping = [*outage(5), *(Attempt(a.number + 100, a.started + 8, a.ended + 8, a.outcome) for a in outage(5))]
    tried = [a for a in flapping if not (a.number > 100 and a.started < FAILED_AT + 8)]
    result = judged(tried)
    assert result.rto_seconds is not None
    assert result.rto_seconds >= 13


def test_a_row_without_an_acknowledgement_is_neither_acknowledged_nor_missing() -> None:
    tried = outage(5)
    in_doubt = next(a.number for a in tried if a.outcome == "failed")
    present = {a.number for a in tried if a.outcome == "acknowledged"} | {in_doubt}
    result = measure(tried, present, FAILED_AT, max(a.ended for a in tried), OBJECTIVES)
    assert (result.verdict, result.transactions_missing) == ("met", 0)


spans = st.tuples(st.floats(90, 140), st.floats(0.001, 5), st.sampled_from(["acknowledged", "failed"]))


@given(st.lists(spans, max_size=60), st.sets(st.integers(1, 60)), st.floats(0, 60))
def test_whatever_the_clients_saw_the_result_is_consistent(
    seen: list[tuple[float, float, Outcome]], present: set[int], waited: float
) -> None:
    tried = attempts(*((start, start + length, outcome) for start, length, outcome in seen))
    result = measure(tried, present, FAILED_AT, FAILED_AT + waited, OBJECTIVES)
    confirmed = {a.number for a in tried if a.outcome == "acknowledged"}
    assert result.transactions_acknowledged == len(confirmed)
    assert result.reason
    if result.verdict == "met":
        assert result.rto_seconds is not None
        assert 0 <= result.rto_seconds <= OBJECTIVES.rto_seconds
        assert result.rpo_seconds is not None
        assert result.transactions_missing == len(confirmed - present)
    if result.rto_seconds is not None:
        assert result.rto_resolution_seconds is not None
        assert result.rto_resolution_seconds >= 0
