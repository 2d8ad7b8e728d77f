"""What a report shows beyond the verdict: series, lag before the fault, alarms, deviations."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from drills import observed
from drills.ledger import Attempt
from drills.measurement import Measurement
from drills.observed import BUCKETS, Change, LagSample, Observed, Step, Watched
from drills.scenarios import INCIDENT_ALARMS, PRIMARY_ALARMS, SCENARIOS, STANDBY_ALARMS

MET = Measurement("met", "All is well.", 9.0, 0.4, 0.0, 120, 0)
ATTEMPTS = st.lists(
    st.builds(
        lambda number, at, took, well: Attempt(number, at - took, at, "acknowledged" if well else "failed"),
        st.integers(1, 10**6),
        st.floats(0, 2000),
        st.floats(0, 5),
        st.booleans(),
    ),
    min_size=1,
)


def seen(watched: Watched | None = None, attempts: tuple[Attempt, ...] = (), ended_at: float = 400.0) -> Observed:
    return Observed(attempts, frozenset(), 100.0, ended_at, watched or Watched())


@given(ATTEMPTS)
def test_every_attempt_is_in_one_bucket_and_a_plot_has_room_for_them(attempts: list[Attempt]) -> None:
    made = observed.series(seen(attempts=tuple(attempts)), 9.0)
    clients = made["clients"]
    assert sum(each["acknowledged"] + each["failed"] for each in clients) == len(attempts)
    assert sum(each["acknowledged"] for each in clients) == sum(a.outcome == "acknowledged" for a in attempts)
    assert len(clients) <= BUCKETS + 2
    assert all((each["median_ms"] is None) == (each["acknowledged"] == 0) for each in clients)
    gaps = {round(b["at"] - a["at"], 6) for a, b in itertools.pairwise(clients)}
    assert gaps <= {made["bucket_seconds"]}, "an outage without attempts is a stretch of empty buckets"


def test_times_are_seconds_since_the_fault() -> None:
    watched = Watched(lag=(LagSample(98.0, "a", 0.5, 7, "0/2", "0/1"),), steps=(Step("Promote", 101.0, 103.5),))
    made = observed.series(seen(watched, (Attempt(1, 99.0, 99.2, "acknowledged"),)), None)
    assert made["lag"] == [{"at": -2.0, "seconds": 0.5}]
    assert made["steps"] == [{"name": "Promote", "from": 1.0, "to": 3.5}]
    assert made["clients"][0]["longest_ms"] == 200.0
    assert observed.series(seen(), None) == {}


def test_lag_and_positions_are_those_of_the_last_look_before_the_fault() -> None:
    samples = tuple(
        LagSample(at, witness, at, 1, f"0/{at:.0f}", "0/1") for at, witness in ((97, "a"), (99, "c"), (101, "a"))
    )
    made = observed.before(seen(Watched(lag=samples)))
    assert (made["observed by"], made["LSN of the primary"], made["seconds before the fault"]) == (
        "witness c",
        "0/99",
        1,
    )
    assert observed.before(seen(Watched(lag=samples[2:]))) == {}


def states(
    watched: Watched, expected: tuple[str, ...], lasted: float | None, ended_at: float = 400.0
) -> dict[str, str]:
    return {each["name"]: each["state"] for each in observed.alarms(seen(watched, ended_at=ended_at), expected, lasted)}


def test_an_alarm_fired_was_not_due_or_failed_to_fire() -> None:
    watched = Watched(
        changes=(Change("early", 99.0), Change("right", 150.0), Change("odd", 160.0)),
        needs={"right": 60.0, "slow": 120.0, "odd": 60.0},
    )
    assert states(watched, ("right", "slow", "gone"), None) == {
        "right": "fired",
        "odd": "fired unexpectedly",
        "slow": "failed to fire",
        "gone": "failed to fire",
    }
    assert states(watched, ("slow",), 12.0)["slow"] == "was not due"
    assert states(watched, ("slow",), None, ended_at=120.0)["slow"] == "was not due"
    assert states(Watched(), ("slow",), None) == {}


def test_an_alarm_that_may_fire_is_no_deviation_where_it_may() -> None:
    watched = Watched(changes=(Change("dead-letters", 160.0),), needs={"dead-letters": 60.0})
    for possible, state in ((("dead-letters",), "fired, as it may"), ((), "fired unexpectedly")):
        (row,) = observed.alarms(seen(watched), (), None, possible)
        assert row["state"] == state
        assert bool(observed.deviations(MET, [row], [], [])) is (not possible)
    assert SCENARIOS["primary-lost"].possible_alarms == SCENARIOS["zone-c-lost"].possible_alarms == ("dead-letters",)
    assert SCENARIOS["standby-lost"].possible_alarms == SCENARIOS["network-slow"].possible_alarms == ()


def test_what_did_not_come_as_expected_is_told_in_a_sentence_each() -> None:
    rows: list[dict[str, Any]] = [
        {"name": "x", "state": "failed to fire", "note": "why"},
        {"name": "y", "state": "fired", "note": ""},
    ]
    record = {"timeline": [{"event": "Promote failed: Timeout"}, {"event": "decided"}, {"event": "RTO at risk"}]}
    assert observed.deviations(MET, [], [], []) == []
    missed = Measurement("missed", "Too long.", 1000.0, 0.1, 0.0, 9, 0)
    found = observed.deviations(
        missed, rows, ["a bucket"], [record], [{"check": "c", "verdict": "failed", "found": "f"}], ["could not look"]
    )
    assert len(found) == 7
    assert found[0] == "The verdict is 'missed': Too long."
    assert found[-1] == "The destroy left a bucket."
    assert not any("y" in sentence.split() for sentence in found)


def test_lost_rows_are_named_and_nothing_is_named_when_nothing_could_be_read() -> None:
    attempts = tuple(Attempt(number, 0, 1, "acknowledged") for number in (1, 2, 3))
    assert Observed(attempts, frozenset({1, 3}), 0, 1, Watched()).lost == (2,)
    assert Observed(attempts, None, 0, 1, Watched()).lost == ()


def test_a_lost_primary_has_alarms_that_tell_and_a_lost_standby_too() -> None:
    assert SCENARIOS["primary-lost"].telling_alarms == (*PRIMARY_ALARMS, *INCIDENT_ALARMS)
    assert SCENARIOS["both-lost"].telling_alarms == (*PRIMARY_ALARMS, *INCIDENT_ALARMS, *STANDBY_ALARMS)
    assert SCENARIOS["standby-lost"].telling_alarms == STANDBY_ALARMS
    assert SCENARIOS["multi-az-failover"].telling_alarms == ()
