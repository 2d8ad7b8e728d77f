"""When a switchover may begin, that it really stops the writes, and that witnesses do not take it for a loss."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery import history, incident, operation, pause
from recovery.connection import Refused, Session, Unreachable
from recovery.heartbeat import lsn_number
from recovery.incident import SWITCHOVER, Lease
from recovery.observation import Observation, PrimaryView, StandbyView
from recovery.operation import CLAIM_SECONDS, Operation
from recovery.pause import Pause, PauseRefused
from recovery.rds import MemberStatus
from recovery.roles import Roles
from recovery.suspicion import REST_SECONDS, Suspicion
from recovery.switchover import LAG_SECONDS, Situation, caught_up, hindrance, stop_writes
from recovery.table import RecoveryTable
from tests.unit.recovery.conftest import PRIMARY, STANDBY, Pair

if TYPE_CHECKING:
    from mypy_boto3_stepfunctions import SFNClient

NOW = 1_800_000_000.0
SEEN = Observation("a", NOW - 1, 1, PrimaryView(True), StandbyView(True, lag_seconds=0.0))
READY = Situation(
    now=NOW,
    epoch=1,
    roles=Roles(1, PRIMARY, STANDBY, "2027-01-15T08:00:00Z"),
    lease=None,
    pause=None,
    operation=None,
    observations=(SEEN, replace(SEEN, witness="c")),
    primary=MemberStatus("available"),
    standby=MemberStatus("available", PRIMARY),
)


def test_nothing_hinders_a_switchover_of_a_healthy_pair() -> None:
    assert hindrance(READY) is None


HINDERED = {
    "The roles have passed to epoch 2": {"roles": replace(READY.roles, epoch=2)},
    "is no standby: reprotect first": {"roles": replace(READY.roles, protected=False)},
    "The incident i holds the lease": {"lease": Lease(1, "i", NOW - 60, "a")},
    "Another operation runs: reprotect arn": {"operation": Operation("reprotect", "arn", NOW)},
    "paused until 2027-01-15T08:01:00.000Z by me: patching; resume first": {"pause": Pause("patching", NOW + 60, "me")},
    "citizens-1-test is rebooting": {"primary": MemberStatus("rebooting")},
    "citizens-2-test is backing-up": {"standby": MemberStatus("backing-up", PRIMARY)},
    "is the replica of": {"standby": MemberStatus("available")},
    "A witness is silent": {"observations": (SEEN,)},
    "Witness c does not write to": {
        "observations": (SEEN, replace(SEEN, witness="c", primary=PrimaryView(False, "no answer")))
    },
    "Witness c does not see citizens-2-test replicate": {
        "observations": (SEEN, replace(SEEN, witness="c", standby=StandbyView(False, "no answer")))
    },
    "is 11 s behind, more than the 10 s": {
        "observations": (SEEN, replace(SEEN, witness="c", standby=StandbyView(True, lag_seconds=LAG_SECONDS + 1)))
    },
}


@pytest.mark.parametrize("sentence", HINDERED)
def test_each_hindrance_is_told(sentence: str) -> None:
    found = hindrance(replace(READY, **HINDERED[sentence]))
    assert found is not None
    assert sentence in found


@given(
    st.sampled_from(["a", "c"]),
    st.floats(NOW - 3600, NOW + 5),
    st.booleans(),
    st.booleans(),
    st.none() | st.floats(0, 100),
    st.booleans(),
)
def test_never_with_a_witness_that_is_stale_or_sees_less_than_a_pair(
    witness: str, at: float, primary: bool, standby: bool, lag: float | None, protected: bool
) -> None:
    other = Observation(witness, at, 1, PrimaryView(primary), StandbyView(standby, lag_seconds=lag))
    situation = replace(READY, observations=(SEEN, other), roles=replace(READY.roles, protected=protected))
    if hindrance(situation) is None:
        assert protected
        assert witness == "c"
        assert primary
        assert standby
        assert lag is not None
        assert at > NOW - 20


# -- on real servers --------------------------------------------------------------------------------------------------


def _ends(session: Session) -> bool:
    try:
        session.run("SELECT 1", 2.0)
    except (Refused, Unreachable):
        return True
    return False


def test_every_session_of_an_application_ends_even_in_a_transaction_of_its_own_choice(members: Pair) -> None:
    idle, writing = members.open(), members.open()
    writing.run("CREATE TABLE ledger (n int)", 5)
    writing.run("BEGIN READ WRITE; INSERT INTO ledger VALUES (1)", 5)
    with members.open() as main:
        stopped = stop_writes(main, 5.0)
        assert stopped.sessions == 0
        assert _ends(idle)
        assert _ends(writing)
        assert main.run("SELECT count(*) FROM ledger", 5) == [[0]], "what was not acknowledged is not there"


def test_the_functions_own_sessions_are_left_alone(members: Pair) -> None:
    members.prepare()
    with members.access("citizens_witness").open(members.primary, 5.0, "witness") as witness, members.open() as main:
        assert stop_writes(main, 5.0).sessions == 0
        assert not _ends(witness)


def test_what_was_committed_asynchronously_lies_before_the_position_that_is_waited_for(members: Pair) -> None:
    writing = members.open()
    writing.run("CREATE TABLE ledger (n int); SET synchronous_commit = off", 5)
    writing.run("INSERT INTO ledger SELECT generate_series(1, 1000)", 5)
    members.prepare()
    with members.open() as main:
        stopped = stop_writes(main, 5.0)
    assert caught_up(members.access("citizens_probe"), members.standby, stopped.lsn, 10.0)
    with members.open(members.standby) as standby:
        assert standby.run("SELECT count(*) FROM ledger", 5) == [[1000]]


def test_a_standby_that_does_not_get_there_is_given_up_in_time(members: Pair) -> None:
    members.prepare()
    started = time.monotonic()
    with members.open() as main:
        ((lsn,),) = main.run("SELECT (pg_current_wal_lsn() + 1000000000)::text", 5)
    assert lsn_number(lsn) > 0
    assert not caught_up(members.access("citizens_probe"), members.standby, lsn, 0.5)
    assert time.monotonic() - started < 8


# -- records ----------------------------------------------------------------------------------------------------------


def test_one_operation_at_a_time_and_a_dead_one_keeps_nobody_off(table: RecoveryTable) -> None:
    assert operation.claim(table, "reprotect", "one", NOW)
    assert operation.claim(table, "reprotect", "one", NOW + 5), "a renewal"
    assert not operation.claim(table, "switchover", "two", NOW + 10)
    assert operation.running(table, NOW + 10) == Operation("reprotect", "one", NOW + 5)
    assert operation.running(table, NOW + 6 + CLAIM_SECONDS) is None
    assert operation.claim(table, "switchover", "two", NOW + 6 + CLAIM_SECONDS)


def test_a_pause_ends_by_itself_or_when_it_is_resumed(table: RecoveryTable) -> None:
    assert pause.active(table, NOW) is None
    begun = pause.begin(table, " patching ", 60, "me", NOW)
    assert pause.active(table, NOW + 59) == begun == Pause("patching", NOW + 60, "me")
    assert pause.active(table, NOW + 60) is None
    pause.begin(table, "patching", 60, "me", NOW)
    assert pause.end(table, NOW + 1)
    assert pause.active(table, NOW + 1) is None
    assert not pause.end(table, NOW + 1)


@pytest.mark.parametrize(
    ("reason", "seconds"), [(" ", 60), ("why", 0), ("why", -5), ("why", 86_401), ("why", float("nan"))]
)
def test_a_pause_without_reason_or_end_is_refused(table: RecoveryTable, reason: str, seconds: float) -> None:
    with pytest.raises(PauseRefused):
        pause.begin(table, reason, seconds, "me", NOW)
    assert pause.active(table, NOW) is None


def test_the_history_holds_incidents_and_operations_newest_first(table: RecoveryTable) -> None:
    steps = json.dumps([{"at": "t", "event": "started"}])
    table.put(
        "incident#i1", {"outcome": "promoted", "reason": "lost", "epoch": 1, "started_at": "2", "timeline": steps}
    )
    table.put("operation#o1", {"kind": "reprotect", "outcome": "protected", "epoch": 2, "started_at": "3"})
    table.put("operation", {"kind": "reprotect", "execution": "arn", "renewed_at": NOW})
    entries = history.read(table)
    assert [(each.kind, each.identity, each.epoch) for each in entries] == [
        ("reprotect", "o1", 2),
        ("failover", "i1", 1),
    ]
    assert "started" in history.as_text(entries, steps=True)
    assert json.loads(history.as_json(entries))[1]["outcome"] == "promoted"
    assert history.as_text([]) == "Nothing has happened yet."


# -- witnesses --------------------------------------------------------------------------------------------------------


@pytest.fixture
def states(aws: None) -> SFNClient:
    return boto3.client("stepfunctions")


def machine(states: SFNClient, name: str) -> str:
    definition = json.dumps({"StartAt": "End", "States": {"End": {"Type": "Succeed"}}})
    role = "arn:aws:iam::123456789012:role/machine"
    return states.create_state_machine(name=name, definition=definition, roleArn=role)["stateMachineArn"]


def test_stopped_writes_are_no_loss_while_the_switchover_runs_but_are_when_it_was_killed(
    table: RecoveryTable, states: SFNClient
) -> None:
    failover, switchover = machine(states, "failover"), machine(states, "switchover")
    suspects = Suspicion(table, lambda: states, failover, "a", switchover)
    lease = incident.take_lease_for(table, 1, "planned", NOW)
    assert lease is not None
    assert lease.witness == SWITCHOVER
    assert incident.take_lease_for(table, 1, "planned", NOW + 1) is not None, "an answer that was lost"
    assert incident.take_lease_for(table, 1, "another", NOW + 1) is None
    arn = states.start_execution(stateMachineArn=switchover, name=lease.execution_name)["executionArn"]
    assert suspects.act(READY.roles, NOW + 2, None) is not None
    assert not states.list_executions(stateMachineArn=failover)["executions"]
    states.stop_execution(executionArn=arn)
    assert suspects.act(READY.roles, NOW + 5, None) is None
    assert suspects.act(READY.roles, NOW + REST_SECONDS + 5, None) is not None
    assert len(states.list_executions(stateMachineArn=failover)["executions"]) == 1


def test_a_switchover_that_never_started_is_no_reason_to_wait(table: RecoveryTable, states: SFNClient) -> None:
    failover, switchover = machine(states, "failover"), machine(states, "switchover")
    incident.take_lease_for(table, 1, "planned", NOW)
    suspects = Suspicion(table, lambda: states, failover, "a", switchover)
    assert suspects.act(READY.roles, NOW + REST_SECONDS + 5, None) is not None
    assert len(states.list_executions(stateMachineArn=failover)["executions"]) == 1


def test_in_a_pause_a_suspicion_starts_nothing(table: RecoveryTable, states: SFNClient) -> None:
    failover = machine(states, "failover")
    suspects = Suspicion(table, lambda: states, failover, "a")
    pause.begin(table, "patching", 60, "me", NOW)
    assert suspects.act(READY.roles, NOW + 5, None) is None
    assert incident.read_lease(table) is None
    assert suspects.act(READY.roles, NOW + 61, None) is not None
