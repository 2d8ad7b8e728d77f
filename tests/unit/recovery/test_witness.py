from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ConnectTimeoutError

from local_cloud.endpoint import Fault
from recovery import incident, observation, roles
from recovery import witness as witnessing
from recovery.access import Access
from recovery.arbiter import CLOCK_SKEW_SECONDS, Situation, decide, fresh, trust_seconds
from recovery.connection import Refused, Session, Unreachable
from recovery.objectives import Detection
from recovery.observation import Observation, PrimaryView, StandbyView
from recovery.rds import MemberStatus
from recovery.suspicion import Suspicion
from recovery.table import RecoveryTable
from recovery.witness import Line, Means, Witness
from tests.unit.recovery.conftest import PRIMARY, STANDBY, Pair

if TYPE_CHECKING:
    pass

# Above what a sign-in takes on a busy machine: a probe that is late by that alone would be taken for a lost primary
QUICK = Detection(probe_interval=0.1, probe_timeout=1.0, failure_threshold=3)


@dataclass
class Stage:
    """A witness's world, and what it reports."""

    members: Pair
    means: Means
    table: RecoveryTable
    machine: str
    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)

    def witness(self, name: str = "a", detection: Detection = QUICK, **more: Any) -> Witness:
        return Witness(name, self.means, detection, lambda event, fields: self.events.append((event, fields)), **more)

    def said(self) -> list[str]:
        return [event for event, _ in self.events]

    def seen(self, name: str = "a") -> Observation:
        found = observation.read(self.table, name)
        assert found is not None
        return found

    def executions(self) -> list[str]:
        listed = boto3.client("stepfunctions").list_executions(stateMachineArn=self.machine)["executions"]
        return [each["name"] for each in listed]


def settled(witness: Witness) -> None:
    """One round, and what it had to tell is told."""
    witness.round()
    if witness._publishing is not None:
        witness._publishing.result(5)


@pytest.fixture
def stage(members: Pair, table: RecoveryTable) -> Stage:
    states = boto3.client("stepfunctions")
    machine = states.create_state_machine(
        name="failover",
        definition=json.dumps({"StartAt": "End", "States": {"End": {"Type": "Succeed"}}}),
        roleArn="arn:aws:iam::123456789012:role/failover",
    )["stateMachineArn"]
    metrics: list[dict[str, Any]] = []

    class CloudWatch:
        def put_metric_data(self, **arguments: Any) -> None:
            metrics.append(arguments)

    means = Means(
        members=members.members,
        access=members.access("citizens_witness"),
        table=table,
        suspicion=Suspicion(table, lambda: states, machine, "a"),
        cloudwatch=lambda: CloudWatch(),  # type: ignore[arg-type, return-value]
        namespace="CitizensRecovery",
        suffix="test",
    )
    return Stage(members, means, table, machine, metrics=metrics)


@pytest.fixture
def witness(stage: Stage) -> Iterator[Witness]:
    made = stage.witness()
    yield made
    made.close()


def test_the_first_witness_writes_down_the_roles_it_sees(stage: Stage, witness: Witness) -> None:
    settled(witness)
    found = roles.known(stage.table)
    assert (found.epoch, found.primary, found.standby) == (1, PRIMARY, STANDBY)


def test_a_round_writes_the_heartbeat_and_measures_the_lag(stage: Stage, witness: Witness) -> None:
    settled(witness)
    stage.members.caught_up()
    settled(witness)
    seen = stage.seen()
    assert seen.primary.reachable
    assert seen.primary.lsn
    assert (seen.standby.reachable, seen.standby.error, seen.standby.lag_seconds) == (True, None, 0.0)
    assert seen.standby.lag_bytes is not None
    assert (seen.failures, seen.first_failure_at, seen.sequence) == (0, None, 2)
    with stage.members.open() as session:
        assert session.run("SELECT witness, epoch, sequence FROM recovery.heartbeat", 5) == [["a", 1, 2]]
    assert stage.said() == ["primary reachable", "standby reachable"]


def test_two_witnesses_at_once_share_table_and_roles(stage: Stage) -> None:
    both = [stage.witness("a"), stage.witness("c")]
    threads = [threading.Thread(target=settled, args=(each,)) for each in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in both:
        settled(each)
        each.close()
    assert stage.seen("a").primary.reachable
    assert stage.seen("c").primary.reachable


def test_a_standby_that_does_not_replay_falls_behind_in_seconds_and_bytes(stage: Stage, witness: Witness) -> None:
    settled(witness)
    stage.members.caught_up()
    with stage.members.open(stage.members.standby) as standby:
        standby.run("SELECT pg_wal_replay_pause()", 5)
        try:
            for _ in range(3):
                settled(witness)
                time.sleep(0.1)
            lagging = stage.seen().standby
        finally:
            standby.run("SELECT pg_wal_replay_resume()", 5)
    assert lagging.lag_seconds is not None
    assert lagging.lag_seconds > 0.1
    assert lagging.lag_bytes
    stage.members.caught_up()
    settled(witness)
    assert stage.seen().standby.lag_seconds == 0.0


@pytest.mark.parametrize("fault", ["cut", "hang"])
def test_a_lost_primary_is_suspected_after_the_threshold_and_one_failover_starts(
    stage: Stage, witness: Witness, fault: Any
) -> None:
    settled(witness)
    stage.members.fault(PRIMARY, Fault(fault))
    began = time.monotonic()
    for _ in range(3):
        assert not stage.executions()
        settled(witness)
    assert time.monotonic() - began < 3 * (QUICK.probe_timeout + 0.5)
    (name,) = stage.executions()
    lease = incident.read_lease(stage.table)
    assert lease is not None
    assert name == lease.execution_name
    seen = stage.seen()
    assert (seen.failures, seen.primary.reachable, seen.standby.reachable) == (3, False, True)
    assert seen.first_failure_at is not None
    assert seen.first_failure_at <= seen.at
    settled(witness)
    assert stage.executions() == [name]
    assert stage.said().count("failover started") == 1
    assert "primary lost" in stage.said()
    assert "primary suspected" in stage.said()
    stage.members.fault(PRIMARY, Fault())
    settled(witness)
    settled(witness)
    assert stage.seen().failures == 0


def test_a_primary_that_does_not_take_writes_has_failed(stage: Stage, witness: Witness) -> None:
    roles.create(stage.table, STANDBY, PRIMARY, time.time())
    settled(witness)
    seen = stage.seen()
    assert not seen.primary.reachable
    assert "not written" in str(seen.primary.error)
    assert "read-only" in str(seen.primary.error)
    assert seen.standby.reachable
    assert "promoted already" in str(seen.standby.error)


def test_the_count_of_failures_survives_to_the_next_run(stage: Stage, witness: Witness) -> None:
    settled(witness)
    stage.members.fault(PRIMARY, Fault("cut"))
    settled(witness)
    settled(witness)
    first = stage.seen().first_failure_at
    successor = stage.witness()
    settled(successor)
    assert (stage.seen().failures, stage.seen().first_failure_at) == (3, first)
    late = stage.witness(clock=lambda: time.time() + 3600)
    settled(late)
    assert stage.seen().failures == 1
    successor.close()
    late.close()


def test_a_cut_over_is_followed_within_one_round(stage: Stage, witness: Witness) -> None:
    settled(witness)
    stage.members.fault(PRIMARY, Fault("cut"))
    settled(witness)
    roles.advance(stage.table, 1, STANDBY, PRIMARY, time.time())
    assert witness.round() is True
    settled(witness)
    seen = stage.seen()
    assert (seen.epoch, seen.failures) == (2, 1)
    assert "roles followed" in stage.said()


def test_a_primary_whose_answers_take_a_third_of_a_second_is_not_lost(stage: Stage) -> None:
    """Nor while the connection is renewed."""
    witness = stage.witness(detection=replace(QUICK, probe_timeout=Detection().probe_timeout))
    settled(witness)
    stage.members.fault(PRIMARY, Fault("slow", delay_ms=350))
    for _ in range(witnessing.RENEW_ROUNDS + 1):
        settled(witness)
        assert stage.seen().failures == 0, stage.seen().primary.error
    witness.close()


def test_connections_are_kept_but_not_for_long(stage: Stage) -> None:
    line = Line(stage.members.members[PRIMARY], stage.means.access, 2.0, "t")

    def pid(session: Session, seconds: float) -> int:
        return int(session.run("SELECT pg_backend_pid()", seconds)[0][0])

    pids = [line.ask(pid) for _ in range(7)]
    line.drop()
    assert pids[0] == pids[1] == pids[2]
    assert pids[2] != pids[3] == pids[5] != pids[6]


def test_a_closed_security_group_is_noticed_although_the_connection_lives(stage: Stage) -> None:
    line = Line(stage.members.members[PRIMARY], stage.means.access, 0.3, "t")
    line.ask(lambda session, seconds: session.run("SELECT 1", seconds))
    stage.members.gate.closed.add(PRIMARY)
    for _ in range(witnessing.RENEW_ROUNDS - 1):
        line.ask(lambda session, seconds: session.run("SELECT 1", seconds))
    with pytest.raises(Unreachable):
        line.ask(lambda session, seconds: session.run("SELECT 1", seconds))
    with pytest.raises(Unreachable):
        line.ask(lambda session, seconds: session.run("SELECT 1", seconds))


def test_full_slots_are_no_failure_while_the_kept_connection_works(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line(stage.members.members[PRIMARY], stage.means.access, 2.0, "t")
    line.ask(lambda session, seconds: session.run("SELECT 1", seconds))

    def full(*_: object) -> Session:
        raise Refused("53300", "too many clients already")

    monkeypatch.setattr(Access, "open", full)
    for _ in range(5):
        assert line.ask(lambda session, seconds: session.run("SELECT 1", seconds)) == [[1]]
    line.drop()
    with pytest.raises(Refused):
        line.ask(lambda session, seconds: session.run("SELECT 1", seconds))


# -- AWS that fails ---------------------------------------------------------------------------------------------------


def hanging(seconds: float) -> Callable[..., Any]:
    def hang(*_: object, **__: object) -> Any:
        time.sleep(seconds)
        raise ConnectTimeoutError(endpoint_url="https://aws")

    return hang


def test_a_table_that_hangs_never_delays_a_probe(
    stage: Stage, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(witness)
    monkeypatch.setattr(stage.table._client, "put_item", hanging(1.5))
    monkeypatch.setattr(stage.table._client, "get_item", hanging(1.5))
    began = time.monotonic()
    for _ in range(5):
        witness.round()
    assert time.monotonic() - began < 1.5
    assert witness.probes == 6
    assert witness.troubles["publish"] > 0
    assert witness.troubles["roles"] > 0


def test_two_witnesses_that_cannot_reach_aws_decide_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """They see the primary lost and can tell nobody: no failover starts, and what they said before is stale."""
    both = [stage.witness("a"), stage.witness("c")]
    for each in both:
        settled(each)
    stage.members.fault(PRIMARY, Fault("cut"))
    with monkeypatch.context() as patch:
        for call in ("get_item", "put_item"):
            patch.setattr(stage.table._client, call, hanging(0))
        for _ in range(QUICK.failure_threshold + 2):
            for each in both:
                settled(each)
    assert all(each.failures >= QUICK.failure_threshold for each in both)
    assert stage.executions() == []
    later = Situation(
        now=time.time() + trust_seconds(QUICK) + CLOCK_SKEW_SECONDS,
        epoch=1,
        started_at=time.time(),
        roles=roles.known(stage.table),
        observations=(stage.seen("a"), stage.seen("c")),
        primary=MemberStatus("available", None, True),
        standby=MemberStatus("available", PRIMARY, True),
        detection=QUICK,
    )
    assert fresh(later) == ()
    assert decide(later).action == "wait"
    assert decide(replace(later, started_at=later.now - 899)).action == "refuse"
    for each in both:
        each.close()


def test_what_aws_refuses_is_counted_and_said_once(
    stage: Stage, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(witness)
    monkeypatch.setattr(stage.table._client, "put_item", hanging(0))
    for _ in range(3):
        settled(witness)
    assert witness.troubles["observation"] == 3
    assert stage.said().count("trouble") == 1


def test_without_roles_a_witness_suspects_nothing(
    stage: Stage, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(stage.table._client, "get_item", hanging(0))
        assert witness.round() is False
    stage.members.fault(STANDBY, Fault("cut"))
    assert witness.round() is False
    assert "roles unknown" in stage.said()
    assert witness.probes == 0
    assert roles.read(stage.table) is None


def test_a_primary_that_shuts_the_witness_out_is_not_lost(stage: Stage, witness: Witness) -> None:
    settled(witness)
    with stage.members.open() as session:
        session.run("REVOKE ALL ON recovery.heartbeat FROM citizens_witness", 5)
    for _ in range(4):
        settled(witness)
    with stage.members.open() as session:
        session.run("REVOKE rds_iam FROM citizens_witness", 5)
    for line in witness._lines.values():
        line.drop()
    settled(witness)
    seen = stage.seen()
    assert (seen.primary.reachable, seen.failures) == (True, 0)
    assert "password authentication failed" in str(seen.primary.error)
    assert witness.troubles["sign-in"] >= 4
    assert stage.said().count("trouble") == 1
    stage.members.prepare()
    settled(witness)
    assert stage.seen().primary.error is None


def test_metrics_are_sent_now_and_then(stage: Stage, witness: Witness) -> None:
    for _ in range(3):
        settled(witness)
    deadline = time.monotonic() + 2
    while not stage.metrics and time.monotonic() < deadline:
        time.sleep(0.01)
    (sent,) = stage.metrics
    assert sent["Namespace"] == "CitizensRecovery"
    assert {each["MetricName"] for each in sent["MetricData"]} >= {"PrimaryReachable", "StandbyReachable"}
    assert sent["MetricData"][0]["Dimensions"] == [
        {"Name": "Suffix", "Value": "test"},
        {"Name": "Witness", "Value": "a"},
    ]


def test_an_error_of_our_own_while_telling_is_not_swallowed(
    stage: Stage, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled(witness)
    monkeypatch.setattr(observation, "put", lambda *_: 1 / 0)
    witness.round()
    time.sleep(0.2)
    with pytest.raises(ZeroDivisionError):
        witness.round()
    witness._publishing = None


# -- the loop ---------------------------------------------------------------------------------------------------------


@dataclass
class Clock:
    """Time passes by sleeping only."""

    now: float = 1_800_000_000.0
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += max(seconds, 0.05)


def test_a_run_without_a_successor_ends_before_its_time_out(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    detection = Detection(probe_interval=10)
    result = stage.witness(detection=detection, clock=clock, sleep=clock.sleep).watch(lambda: 60.0)
    assert result["probes"] == 14
    assert result["failures"] == 0
    assert 130 <= clock.now - 1_800_000_000 < 140


def test_a_run_ends_when_its_successor_has_taken_over(stage: Stage) -> None:
    clock = Clock()
    mine = stage.witness(detection=Detection(probe_interval=10), clock=clock, sleep=clock.sleep)
    theirs = Observation("a", clock.now + 61, 1, PrimaryView(True), StandbyView(True), run="successor")
    rounds = iter(range(100))

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        # Only after this run's own observation is written, or that may come last and hide the successor's.
        if mine._publishing is not None:
            mine._publishing.result(5)
        if next(rounds) == 5:
            observation.put(stage.table, theirs)

    mine._sleep = sleep
    result = mine.watch(lambda: 60.0)
    assert clock.now - 1_800_000_000 <= 70
    assert result["probes"] in (7, 8)


def test_a_run_ends_when_the_functions_time_is_short(stage: Stage) -> None:
    clock = Clock()
    result = stage.witness(clock=clock, sleep=clock.sleep).watch(lambda: 5.0)
    assert result["probes"] == 1


def test_a_run_follows_new_roles_without_a_pause(stage: Stage) -> None:
    clock = Clock()
    mine = stage.witness(clock=clock, sleep=clock.sleep)
    mine.round()
    roles.advance(stage.table, 1, STANDBY, PRIMARY, clock.now)
    remaining = iter([60.0, 60.0, 1.0])
    mine.watch(lambda: next(remaining))
    assert len(clock.slept) <= 1


def test_a_loss_between_two_runs_is_noticed_as_soon_as_any_other(stage: Stage) -> None:
    """EventBridge Scheduler may start a minute's run 59 s late: the run before it goes on probing until then."""
    clock = Clock()
    begun: list[float] = []
    detection = Detection(probe_interval=10)
    mine = stage.witness(detection=detection, clock=clock, sleep=clock.sleep)
    probe = mine.round

    def noted() -> bool:
        begun.append(clock.now)
        return probe()

    mine.round = noted  # type: ignore[method-assign]
    mine.watch(lambda: 60.0)
    assert begun[-1] - begun[0] >= 60 + 59
    assert max(after - before for before, after in pairwise(begun)) <= detection.round_seconds


def test_a_loss_is_suspected_no_later_than_the_promise_says(stage: Stage) -> None:
    """The slowest primary there is: every probe takes all of its time-out, and so does the answer about the roles."""
    detection = Detection()
    clock = Clock()
    mine = stage.witness(clock=clock, sleep=clock.sleep)
    settled(mine)
    lost_at = clock.now
    clock.sleep(detection.round_seconds)  # the loss came right after a round's successful probe
    suspected_at = None
    stage.members.fault(PRIMARY, Fault("cut"))
    while suspected_at is None:
        began = clock.now
        settled(mine)
        clock.now = began + detection.probe_timeout
        if stage.seen().failures >= detection.failure_threshold:
            suspected_at = clock.now
        clock.now = began + detection.round_seconds
    assert suspected_at - lost_at <= detection.worst_case_seconds
