"""When a drill may begin and go on, whose copy an instance is, what came of a drill, and when the next one is due."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery import drill
from recovery.alarm_states import AlarmState
from recovery.drill import (
    DAY_SECONDS,
    KINDS,
    Claim,
    Findings,
    Held,
    Ledger,
    Situation,
    days_since,
    due,
    hindrance,
    identifier,
    interruption,
    is_copy,
    judged,
    named,
    steps,
)
from recovery.incident import LEASE_SECONDS, Lease
from recovery.objectives import Objectives
from recovery.operation import Operation
from recovery.pause import Pause
from recovery.roles import Roles
from recovery.table import RecoveryTable
from tests.unit.recovery.conftest import PRIMARY, STANDBY

NOW = 1_800_000_000.0
READY = Situation(
    now=NOW,
    roles=Roles(3, PRIMARY, STANDBY, "2027-01-15T08:00:00Z"),
    lease=None,
    operation=None,
    pause=None,
    primary="available",
)
# What keeps a drill from beginning, too
OTHERS: dict[str, dict[str, Any]] = {
    "The incident i holds the lease.": {"lease": Lease(3, "i", NOW - 60, "a")},
    "An operation runs: reprotect arn.": {"operation": Operation("reprotect", "arn", NOW)},
    "The system is paused until 2027-01-15T08:01:00.000Z by me: patching.": {
        "pause": Pause("patching", NOW + 60, "me")
    },
}
INTERRUPTIONS = OTHERS | {
    "The roles have passed to epoch 4 since the drill began in 3.": {"roles": replace(READY.roles, epoch=4)}
}
HINDRANCES: dict[str, dict[str, Any]] = {
    "is no standby: reprotect first": {"roles": replace(READY.roles, protected=False)},
    "is storage-full": {"primary": "storage-full"},
    "is absent": {"primary": "absent"},
}


@pytest.mark.parametrize("sentence", INTERRUPTIONS)
def test_a_drill_gives_way_to_whatever_else_begins_and_says_to_what(sentence: str) -> None:
    assert interruption(replace(READY, **INTERRUPTIONS[sentence]), 3) == sentence


@pytest.mark.parametrize("sentence", [*OTHERS, *HINDRANCES])
def test_none_begins_where_one_would_have_to_give_way_or_where_the_pair_is_not_whole(sentence: str) -> None:
    found = hindrance(replace(READY, **(OTHERS | HINDRANCES)[sentence]))
    assert found is not None
    assert sentence in found


def test_a_whole_pair_at_rest_hinders_nothing() -> None:
    assert hindrance(READY) is None
    assert interruption(READY, 3) is None
    expired = replace(READY, lease=Lease(2, "i", NOW - LEASE_SECONDS, "a"))
    assert hindrance(expired) is None, "nobody's any more"


situations = st.builds(
    Situation,
    now=st.just(NOW),
    roles=st.builds(Roles, st.integers(1, 5), st.just(PRIMARY), st.just(STANDBY), st.just(""), st.booleans()),
    lease=st.none() | st.builds(Lease, st.integers(1, 5), st.just("i"), st.floats(NOW - 7200, NOW), st.just("a")),
    operation=st.none() | st.just(Operation("switchover", "arn", NOW)),
    pause=st.none() | st.just(Pause("why", NOW + 60, "me")),
    primary=st.sampled_from(["available", "backing-up", "failed", "absent", "unknown"]),
)


@given(situations)
def test_what_may_begin_may_go_on(situation: Situation) -> None:
    if hindrance(situation) is None:
        assert interruption(situation, situation.roles.epoch) is None
        assert situation.lease is None or not situation.lease.held(NOW)
        assert situation.operation is None
        assert situation.pause is None


suffixes = st.from_regex(r"[a-z0-9](?:-?[a-z0-9]){0,9}", fullmatch=True)


@given(suffixes, suffixes, st.floats(0, 4e9))
def test_a_copys_name_and_tag_are_of_one_environment_and_of_no_member(a: str, b: str, began: float) -> None:
    name = identifier(f"citizens-drill-{a}", began)
    assert len(name) <= 63
    assert re.fullmatch(r"[a-z](?:-?[a-z0-9])*", name), "as RDS wants it"
    assert is_copy(f"citizens-drill-{a}", ("citizens:drill", a), name, [{"Key": "citizens:drill", "Value": a}])
    assert not is_copy(f"citizens-drill-{a}", ("citizens:drill", a), name, []), "by its name alone"
    for tagged in (f"citizens-1-{a}", f"citizens-restored-{a}", f"citizens-drill-{a}"):
        assert not is_copy(
            f"citizens-drill-{a}", ("citizens:drill", a), tagged, [{"Key": "citizens:drill", "Value": a}]
        ), "by its tag alone"
    if a != b:
        assert not is_copy(f"citizens-drill-{b}", ("citizens:drill", b), name, [{"Key": "citizens:drill", "Value": b}])
        assert len(name) != len(f"citizens-drill-{b}-") + 14 or not name.startswith(f"citizens-drill-{b}-"), (
            "nor by the pattern that the machine's role is allowed"
        )


@pytest.mark.parametrize(
    "name", ["citizens-1-dev", "citizens-drill-dev", "citizens-drill-dev-2027", "x-20270115080000"]
)
def test_what_is_no_copys_name_is_nobodys(name: str) -> None:
    assert not is_copy("citizens-drill-dev", ("t", "dev"), name, [{"Key": "t", "Value": "dev"}])


moments = st.none() | st.floats(NOW - 400 * DAY_SECONDS, NOW)
ledgers = st.builds(
    Ledger,
    st.floats(NOW - 400 * DAY_SECONDS, NOW),
    st.fixed_dictionaries({kind: st.builds(Held, moments, moments) for kind in KINDS}),
)


@given(ledgers, st.integers(1, 365))
def test_a_drill_is_due_when_its_kind_was_not_held_for_so_long_and_the_oldest_comes_first(
    ledger: Ledger, days: int
) -> None:
    waits = {kind: NOW - (ledger.kinds[kind].at or ledger.since) for kind in KINDS}
    found = due(ledger, days, NOW)
    if found is None:
        assert max(waits.values()) < days * DAY_SECONDS
    else:
        assert waits[found] == max(waits.values())
        assert waits[found] >= (days - 0.5) * DAY_SECONDS
    assert due(ledger, 0, NOW) is None, "turned off"


@given(ledgers)
def test_the_days_since_a_drill_are_those_of_the_kind_that_passed_longest_ago(ledger: Ledger) -> None:
    found = days_since(ledger, NOW)
    assert found >= 0
    for kind in KINDS:
        passed = ledger.kinds[kind].passed_at
        assert found >= (NOW - (ledger.since if passed is None else passed)) / DAY_SECONDS - 1e-9


def test_a_drill_passes_with_its_numbers_and_misses_with_the_number_that_was_too_large() -> None:
    good = Findings(rto=123.4, rpo=1.5, log_reached=True)
    assert judged("replica", good, Objectives(), 480) == (
        "passed",
        "Promoted and verified in 123.4 s; 1.5 s were missing, nothing with the log.",
    )
    assert judged("replica", replace(good, rto=481), Objectives(), 480) == (
        "missed",
        "The promotion took 481 s of the 480 s granted to it.",
    )
    assert judged("restore", replace(good, rto=7200, rpo=250, log_reached=None), Objectives(), 480) == (
        "passed",
        "Restored and verified in 7200.0 s; 250.0 s were missing; no log is kept.",
    )
    outcome, reason = judged("restore", Findings(1, 4000, False), Objectives(), 480)
    assert outcome == "missed"
    assert "4000 s were missing, more than the RPO of 3600 s and the log could not" in reason


def test_each_step_took_from_the_end_of_the_one_before_to_its_own() -> None:
    assert steps({"began": 1_800_000_000_000, "promote": 1_800_000_003_000, "asked": 1_800_000_000_500}) == [
        {"step": "asked", "at": "2027-01-15T08:00:00.500Z", "seconds": 0.5},
        {"step": "promote", "at": "2027-01-15T08:00:03.000Z", "seconds": 2.5},
    ]
    assert steps({}) == []


def test_a_persons_drill_keeps_the_name_of_its_execution_and_a_scheduled_one_gets_one() -> None:
    assert named("20270115T080000Z-abcd", NOW) == "20270115T080000Z-abcd"
    assert re.fullmatch(r"20270115T080000Z-[0-9a-f]{4}", named("0b1f3c0e-5d3b-4a43-9d55-a5d6a1a5a111", NOW))


# In the table

CLAIM = Claim("i", "replica", "citizens-drill-test-20270115080000", "arn:1", NOW, "me", 3)


def test_one_execution_holds_the_claim_and_may_ask_again(table: RecoveryTable) -> None:
    assert drill.claimed(table) is None
    assert drill.claim(table, CLAIM, None)
    assert drill.claim(table, CLAIM, None), "its answer was lost"
    other = replace(CLAIM, execution="arn:2")
    assert not drill.claim(table, other, None)
    assert not drill.claim(table, other, "arn:0"), "somebody was faster"
    assert drill.claimed(table) == CLAIM
    assert drill.claim(table, other, "arn:1"), "in a dead one's place"


def test_only_the_drill_that_runs_can_be_asked_to_end(table: RecoveryTable) -> None:
    assert not drill.ask_to_end(table, "arn:1", "why")
    assert drill.claimed(table) is None
    drill.claim(table, CLAIM, None)
    assert not drill.ask_to_end(table, "arn:2", "why")
    assert drill.ask_to_end(table, "arn:1", "why")
    found = drill.claimed(table)
    assert found is not None
    assert found.abort == "why"


def test_the_ledger_begins_with_the_first_look_and_remembers_what_was_held(table: RecoveryTable) -> None:
    assert drill.ledger(table, NOW) == Ledger(NOW, {"replica": Held(), "restore": Held()})
    assert drill.ledger(table, NOW + 5).since == NOW
    drill.enter(table, "replica", "aborted", NOW + 10, NOW + 20)
    assert drill.ledger(table, NOW).kinds["replica"] == Held(), "nothing was held"
    drill.enter(table, "replica", "missed", NOW + 10, NOW + 20)
    assert drill.ledger(table, NOW).kinds["replica"] == Held(NOW + 10, None)
    drill.enter(table, "restore", "passed", NOW + 30, NOW + 40)
    drill.enter(table, "restore", "passed", NOW + 30, NOW + 40)
    assert drill.ledger(table, NOW) == Ledger(
        NOW, {"replica": Held(NOW + 10, None), "restore": Held(NOW + 30, NOW + 30)}
    )


def test_a_record_is_written_once(table: RecoveryTable) -> None:
    assert drill.keep(table, "i", {"outcome": "passed"})
    assert not drill.keep(table, "i", {"outcome": "aborted"})
    assert table.get("drill#i") == {"id": "drill#i", "outcome": "passed"}


@pytest.mark.parametrize("sentence", [None, *OTHERS, *HINDRANCES])
def test_the_preflight_fails_exactly_where_something_hinders(sentence: str | None) -> None:
    situation = READY if sentence is None else replace(READY, **(OTHERS | HINDRANCES)[sentence])
    looked = drill.preflight(situation, PRIMARY)
    failed = {each["check"] for each in looked if each["verdict"] != "ok"}
    assert (failed == set()) == (hindrance(situation) is None)
    assert all(each["found"] for each in looked)
    assert {each["check"] for each in drill.preflight(READY, None) if each["verdict"] != "ok"} == {"source"}


def test_what_did_not_come_as_expected_is_told_and_what_did_is_not() -> None:
    events = ("started by me", "citizens-drill-x is available", "verified: 1.2 s are missing", "outcome: passed")
    expected = [{"event": event} for event in events]
    assert drill.deviations("passed", "All is well.", expected) == []
    odd = [
        {"event": "deleteDBInstance: Rds.InvalidDbInstanceStateException"},
        {"event": "x is deleted: a drill that was killed has left it"},
    ]
    fired = [
        {"name": "cpu-1", "state": "fired unexpectedly", "note": "n"},
        {"name": "b", "state": "cleared", "note": "n"},
    ]
    found = drill.deviations("missed", "Too long.", [*expected, *odd], fired)
    assert [sentence.partition(" ")[0] for sentence in found] == ["The"] * 4
    assert found[0] == "The outcome is 'missed': Too long."
    assert found[-1] == "The alarm cpu-1 fired unexpectedly: n."


def test_only_what_changed_since_a_drill_began_did_so_meanwhile() -> None:
    states = [AlarmState("old", "ALARM", NOW - 1), AlarmState("on", "ALARM", NOW + 9), AlarmState("off", "OK", NOW + 3)]
    found = drill.alarms(states, NOW)
    assert [(each["name"], each["state"]) for each in found] == [("off", "cleared"), ("on", "fired unexpectedly")]
    assert found[1]["note"] == "9 s after the drill began; it is ALARM"


def test_how_a_drill_leaves_the_environment_is_told_by_whether_its_copy_was_seen_to_be_gone() -> None:
    assert drill.restoration("", {})[0] == "No copy was made."
    assert "the next sweep deletes it" in drill.restoration("c", {"began": 1.0})[0]
    assert "was gone at 2027-01-15T08:00:00" in drill.restoration("c", {"cleaned": NOW * 1000})[0]
