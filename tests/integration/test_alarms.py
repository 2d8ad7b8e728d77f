"""Every alarm of the deployed system fires because of what it is about, and clears when that has passed.

Each test causes some conditions and names the alarms that they must set off; `SHOWN_ELSEWHERE` names the tests that
show the others. The last test fails for an alarm that is deployed and of which neither is true.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from deployment.operations import Operations
from drills.dashboard.picture import draw
from drills.dashboard.reading import read
from drills.scenarios import post
from privilege.site import Site
from recovery import drill
from recovery.table import RecoveryTable
from stacks.alarms import EVERY_MINUTE, LONGEST_RUNS
from stacks.names import deployed_functions
from tests.integration.conftest import Cloud, Deployed, a_cloud, a_system, eventually
from tests.unit.functions.test_posture import authority

pytestmark = pytest.mark.breaks_the_machine

MINUTE, QUARTER, DAY = 60, 900, 86_400
GIB = 1024**3
FUNCTIONS = deployed_functions(transaction_log=True)
# A run of a witness ends six seconds before its function's time-out: one round of probes.
ONE_ROUND_SECONDS = 7
MACHINES = {
    "machine": ("FailoverStateMachineArn", "arbiter"),
    "reprotect-machine": ("ReprotectStateMachineArn", "reprotect"),
    "switchover-machine": ("SwitchoverStateMachineArn", "switchover"),
    "drill-machine": ("DrillStateMachineArn", "drill"),
}
_STANDS_STILL = "test_an_archive_that_stands_still_is_an_alarm_and_so_is_the_wal_that_its_slot_keeps"
SHOWN_ELSEWHERE: Mapping[str, str] = {
    "rotation-failed": "test_workflow.py::test_no_rotation_runs_during_an_incident_and_an_alarm_says_that_it_failed",
    "rotation-overdue": "test_workflow.py::test_a_rotation_that_is_overdue_is_an_alarm_until_it_has_run",
    "superseded-password": (
        "test_workflow.py::test_a_password_that_was_superseded_is_an_alarm_when_it_is_used_again_and_again"
    ),
    **dict.fromkeys(
        ("log-lag", "slot-lag-1", "slot-lag-2", "transaction-logs-1", "transaction-logs-2"),
        f"test_log_alarms.py::{_STANDS_STILL}",
    ),
    "log-lag-bytes": "test_log_alarms.py::test_an_archive_that_does_not_keep_up_is_an_alarm",
    "log-gap": "test_log_alarms.py::test_a_slot_that_is_gone_is_an_alarm_once_and_the_log_goes_on",
    "log-verdict": "test_log_alarms.py::test_a_segment_that_was_changed_is_an_alarm_until_it_is_brought_back",
}


@dataclass
class Panel:
    """The deployed alarms, the clock that they are evaluated on, and which of them have fired and cleared."""

    site: Site
    fired: set[str] = field(default_factory=set)
    cleared: set[str] = field(default_factory=set)

    def full(self, name: str) -> str:
        return f"citizens-{name}-{self.site.suffix}"

    def states(self, names: Sequence[str]) -> dict[str, str]:
        found = self.site.client("cloudwatch").describe_alarms(
            AlarmNames=[self.full(name) for name in names], AlarmTypes=["MetricAlarm", "CompositeAlarm"], MaxRecords=100
        )
        of = {each["AlarmName"]: each["StateValue"] for each in (*found["MetricAlarms"], *found["CompositeAlarms"])}
        return {name: of[self.full(name)] for name in names}

    def expect(self, names: Sequence[str], state: str, within: float = 20) -> None:
        deadline = time.monotonic() + within
        while others := {name: found for name, found in self.states(names).items() if found != state}:
            assert time.monotonic() < deadline, f"not {state} within {within:.0f} s: {others}"
            time.sleep(0.3)

    def fires(self, *names: str) -> None:
        self.expect(names, "ALARM")
        self.fired |= set(names)

    def clears(self, *names: str) -> None:
        assert set(names) <= self.fired, "what has not fired cannot clear"
        self.expect(names, "OK")
        self.cleared |= set(names)

    def now(self) -> float:
        return float(post(f"{self.site.control}/clock", {"advance_seconds": 0}, "PUT")["now"])

    def next_period(self, seconds: int) -> None:
        """Move the clock to where the next period of that length has just begun."""
        now = self.now()
        post(f"{self.site.control}/clock", {"advance_seconds": seconds - now % seconds + 1}, "PUT")

    def each(self, periods: int, seconds: int, act: Callable[[], object] | None = None) -> None:
        for _ in range(periods):
            self.next_period(seconds)
            if act is not None:
                act()

    def posture(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.site.invoke("posture", {})
        return answer

    def set_host(self, member: str, **values: float | None) -> None:
        post(f"{self.site.control}/rds/{member}/host", values, "PUT")


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    """One of these tests' own: they move its clock by days."""
    with a_cloud() as made:
        yield made


@pytest.fixture(scope="module")
def deployed(cloud: Cloud) -> Iterator[Deployed]:
    with a_system(cloud) as made:
        yield made


@pytest.fixture(scope="module")
def panel(deployed: Deployed) -> Panel:
    site = Site(deployed.account, deployed.outputs)
    site.role_record()
    return Panel(site)


@pytest.fixture(scope="module", autouse=True)
def began(panel: Panel) -> float:
    """When these tests began, on the clock that they move."""
    return panel.now()


@pytest.fixture(scope="module")
def operator(deployed: Deployed) -> Operations:
    return Operations(deployed.account, deployed.outputs["EnvironmentSuffix"], print)


@pytest.fixture(scope="module")
def impatient(deployed: Deployed) -> Any:
    """A client of Lambda that takes the first refusal for an answer."""
    environment = deployed.account.environment
    return boto3.client(
        "lambda",
        region_name=environment["AWS_REGION"],
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        verify=environment["AWS_CA_BUNDLE"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        config=Config(read_timeout=60, retries={"total_max_attempts": 1}, max_pool_connections=8),
    )


@contextlib.contextmanager
def changed_variables(site: Site, name: str, **changes: str | None) -> Iterator[None]:
    """A function with other environment variables; None for one that it lacks."""
    functions, function = site.client("lambda"), site.function(name)
    before = functions.get_function_configuration(FunctionName=function)["Environment"]["Variables"]
    changed = {key: value for key, value in {**before, **changes}.items() if value is not None}
    functions.update_function_configuration(FunctionName=function, Environment={"Variables": changed})
    try:
        yield
    finally:
        functions.update_function_configuration(FunctionName=function, Environment={"Variables": before})


@contextlib.contextmanager
def not_allowed_to_run(site: Site, name: str) -> Iterator[None]:
    """A function whose reserved concurrency somebody has set to nothing."""
    functions, function = site.client("lambda"), site.function(name)
    before = functions.get_function_concurrency(FunctionName=function)["ReservedConcurrentExecutions"]
    functions.put_function_concurrency(FunctionName=function, ReservedConcurrentExecutions=0)
    try:
        yield
    finally:
        functions.put_function_concurrency(FunctionName=function, ReservedConcurrentExecutions=before)


def is_refused(impatient: Any, site: Site, name: str) -> None:
    with (
        not_allowed_to_run(site, name),
        pytest.raises(ClientError, match="TooManyRequestsException"),
    ):
        impatient.invoke(FunctionName=site.function(name), Payload=b"{}")


def fails(impatient: Any, site: Site, name: str) -> None:
    """Repeated while a run that the schedule began takes the only place."""

    def failed() -> bool:
        try:
            answer = impatient.invoke(FunctionName=site.function(name), Payload=b"{}")
        except impatient.exceptions.TooManyRequestsException:
            return False
        assert answer.get("FunctionError"), f"{name} did not fail: {answer['Payload'].read()!r}"
        return True

    eventually(failed, 20, f"a run of {name}")


def test_a_function_that_fails_or_may_not_run_is_an_alarm_as_is_what_was_given_up(panel: Panel, impatient: Any) -> None:
    """Each is deployed without a variable that it needs, and is not allowed to run for a moment in every minute."""
    site = panel.site
    queue = site.client("sqs").get_queue_url(QueueName=site.function("dead-letters"))["QueueUrl"]

    def all_of(names: Sequence[str], act: Callable[[Any, Site, str], None]) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: act(impatient, site, name), names))

    def minute(names: Sequence[str]) -> None:
        panel.next_period(MINUTE)
        all_of(names, is_refused)
        all_of(names, fails)

    now_and_then = [name for name in FUNCTIONS if name not in EVERY_MINUTE]
    often = list(EVERY_MINUTE)
    with contextlib.ExitStack() as broken:
        for name in FUNCTIONS:
            broken.enter_context(changed_variables(site, name, SUFFIX=None))
        site.client("lambda").put_function_event_invoke_config(
            FunctionName=site.function("probe"), MaximumRetryAttempts=0
        )
        impatient.invoke(FunctionName=site.function("probe"), InvocationType="Event", Payload=b"{}")
        minute(FUNCTIONS)
        panel.fires(*(f"{name}-errors" for name in now_and_then))
        panel.fires(*(f"{name}-throttles" for name in now_and_then if name not in LONGEST_RUNS))
        assert set(panel.states([f"{name}-errors" for name in often]).values()) == {"OK"}, "once is no fault"
        minute([*often, "roll-forward", "evidence"])
        panel.fires("roll-forward-throttles", "dead-letters")
        minute([*often, "evidence"])
        panel.fires("evidence-throttles")
        panel.fires(*(f"{name}-errors" for name in often))
        panel.fires(*(f"{name}-throttles" for name in often if name != "archive"))
        # One run of the archive may take a quarter of an hour, and keeps the next ones out
        assert panel.states(["archive-throttles"]) == {"archive-throttles": "OK"}
        panel.each(13, MINUTE, lambda: is_refused(impatient, site, "archive"))
        panel.fires("archive-throttles")
    site.client("lambda").delete_function_event_invoke_config(FunctionName=site.function("probe"))
    # At once: minute by minute the schedules would begin more runs than may run together
    panel.next_period(2 * QUARTER)
    panel.clears(*(f"{name}-{what}" for name in FUNCTIONS for what in ("errors", "throttles")))

    def emptied() -> bool:
        site.client("sqs").purge_queue(QueueUrl=queue)
        panel.next_period(MINUTE)
        time.sleep(1.5)
        return panel.states(["dead-letters"]) == {"dead-letters": "OK"}

    eventually(emptied, 30, "an empty queue")
    panel.clears("dead-letters")


@contextlib.contextmanager
def time_limit(site: Site, machine: str, seconds: int) -> Iterator[None]:
    machines = site.client("stepfunctions")
    before = machines.describe_state_machine(stateMachineArn=machine)["definition"]
    changed = json.dumps({**json.loads(before), "TimeoutSeconds": seconds})
    machines.update_state_machine(stateMachineArn=machine, definition=changed)
    try:
        yield
    finally:
        machines.update_state_machine(stateMachineArn=machine, definition=before)


def at_work(site: Site, machine: str) -> bool:
    machines = site.client("stepfunctions")
    return bool(machines.list_executions(stateMachineArn=machine, statusFilter="RUNNING")["executions"])


def test_a_machine_that_begins_fails_is_cut_off_or_stopped_is_an_alarm(panel: Panel) -> None:
    """An execution without an input fails; one whose first function may not run goes on until it is ended."""
    site = panel.site
    machines = site.client("stepfunctions")
    order = {"incident": "alarm-test", "id": "alarm-test", "epoch": -1, "witness": "a", "automatic": False}
    more = {"forensics": False, "by": "test", "started_at": "2027-01-15T08:00:00Z", "ask": "sweep"}
    given = json.dumps({**order, **more})

    def start(machine: str, text: str) -> str:
        return str(machines.start_execution(stateMachineArn=machine, input=text)["executionArn"])

    def ends_as(execution: str, status: str) -> None:
        def look() -> bool:
            found = machines.describe_execution(executionArn=execution)["status"]
            assert found in ("RUNNING", status), f"{execution} is {found}, not {status}"
            return bool(found == status)

        eventually(look, 20, f"{execution} as {status}")

    panel.next_period(MINUTE)
    with contextlib.ExitStack() as held:
        running = []
        for output, first in MACHINES.values():
            machine = site.outputs[output]
            held.enter_context(not_allowed_to_run(site, first))
            running.append((start(machine, "{}"), "FAILED"))
            stopped = start(machine, given)
            machines.stop_execution(executionArn=stopped)
            running.append((stopped, "ABORTED"))
            held.enter_context(time_limit(site, machine, 1))
            running.append((start(machine, given), "TIMED_OUT"))
        for execution, status in running:
            ends_as(execution, status)
    names = [f"{machine}-{ending}" for machine in MACHINES for ending in ("failed", "timedout", "aborted")]
    panel.fires(*names, "incident-begun", "incident")
    # A drill that is cut short is swept after, by an execution that was cut short as well
    eventually(lambda: not at_work(site, site.outputs["DrillStateMachineArn"]), 30, "the last sweep")
    panel.each(2, MINUTE)
    # The witnesses were silent, which keeps `incident` up: it clears when both have spoken, below
    panel.clears(*names, "incident-begun")


def members(site: Site) -> tuple[str, str]:
    return site.outputs["Member1Identifier"], site.outputs["Member2Identifier"]


def test_a_member_without_room_is_an_alarm(panel: Panel, deployed: Deployed) -> None:
    """Connections are opened; what would take this machine away from everybody else its hosts are told."""
    threshold = int(alarm(panel, "connections-1")["Threshold"])
    short = {"CPUUtilization": 97.0, "FreeableMemory": 0.1 * GIB, "FreeStorageSpace": 1.0 * GIB}
    exhausted = ("cpu", "memory", "free-storage", "connections")
    with contextlib.ExitStack() as sessions, ThreadPoolExecutor(8) as pool:
        _, password = deployed.application.credentials()

        def connect(member: int) -> psycopg.Connection[tuple[object, ...]]:
            return deployed.application.connect_member(member, password=password)

        for member in members(panel.site):
            panel.set_host(member, **short)
            panel.each(1, MINUTE)
        for number in (1, 2):
            for session in pool.map(connect, [number] * (threshold + 1)):
                sessions.enter_context(contextlib.closing(session))
        panel.each(10, MINUTE)
        panel.fires(*(f"{what}-{number}" for what in exhausted for number in (1, 2)))
    for member in members(panel.site):
        panel.set_host(member, **dict.fromkeys(short))
    panel.each(2, MINUTE)
    panel.clears(*(f"{what}-{number}" for what in exhausted for number in (1, 2)))


def test_a_burstable_member_that_lives_on_credit_is_an_alarm_only_after_it_could_have_earned_some(panel: Panel) -> None:
    names = [f"credits-{number}" for number in (1, 2)]
    for member in members(panel.site):
        panel.set_host(member, CPUCreditBalance=3)
    needed = alarm(panel, names[0])["EvaluationPeriods"]
    panel.each(needed - 2, QUARTER)
    time.sleep(2.5)
    assert set(panel.states(names).values()) == {"OK"}
    panel.each(2, QUARTER)
    panel.fires(*names)
    for member in members(panel.site):
        panel.set_host(member, CPUCreditBalance=300)
    panel.each(1, QUARTER)
    panel.clears(*names)
    for member in members(panel.site):
        panel.set_host(member, CPUCreditBalance=None)


def alarm(panel: Panel, name: str) -> dict[str, Any]:
    (found,) = panel.site.client("cloudwatch").describe_alarms(AlarmNames=[panel.full(name)])["MetricAlarms"]
    return dict(found)


def recovery_point(site: Site, member: str) -> str:
    """How a job of AWS Backup for a member ends, as one that its plan starts."""
    account, region = site.outputs["FailoverStateMachineArn"].split(":")[4], "eu-central-2"
    job = site.client("backup").start_backup_job(
        BackupVaultName=site.outputs["BackupVaultName"],
        ResourceArn=f"arn:aws:rds:{region}:{account}:db:{member}",
        IamRoleArn=f"arn:aws:iam::{account}:role/citizens-backup-{site.suffix}",
    )
    return str(site.client("backup").describe_backup_job(BackupJobId=job["BackupJobId"])["State"])


def test_both_primaries_in_one_zone_are_an_alarm_until_one_of_them_has_failed_over(panel: Panel) -> None:
    """While it fails over it cannot be backed up either, which is an alarm of its own."""
    site, rds, standby = panel.site, panel.site.client("rds"), panel.site.role_record()[2]

    def zone(member: str) -> str:
        return str(rds.describe_db_instances(DBInstanceIdentifier=member)["DBInstances"][0]["AvailabilityZone"])

    def fail_over() -> None:
        before = zone(standby)

        def moved() -> bool:
            if not available(rds, standby):
                return False
            if zone(standby) != before:
                return True
            # Again, too, where RDS has abandoned it because there was no copy yet
            with contextlib.suppress(ClientError):
                rds.reboot_db_instance(DBInstanceIdentifier=standby, ForceFailover=True)
                recovery_point(site, standby)
            return False

        eventually(moved, 30, "the failover of the standby")

    if len({zone(member) for member in members(site)}) == 2:
        fail_over()
    panel.each(1, QUARTER, panel.posture)
    panel.fires("same-zone")
    fail_over()
    panel.fires("backup-job-failed")
    panel.each(1, QUARTER, panel.posture)
    panel.clears("same-zone", "backup-job-failed")


def available(rds: Any, member: str) -> bool:
    found = rds.describe_db_instances(DBInstanceIdentifier=member)["DBInstances"][0]
    return bool(found["DBInstanceStatus"] == "available")


def test_certificates_that_are_about_to_end_are_an_alarm(panel: Panel, tmp_path: Path) -> None:
    """A server certificate that RDS did not renew, and a bundle with an authority that ends this year."""
    site = panel.site
    member = members(site)[1]
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(authority(4000) + authority(200))
    tmp_path.chmod(0o755)
    post(f"{site.control}/rds/{member}/certificate", {"days": 20})
    with changed_variables(site, "posture", PGSSLROOTCERT=str(bundle)):
        panel.each(1, QUARTER, panel.posture)
        panel.fires("certificate-expiring", "authority-expiring")
    site.client("rds").modify_db_instance(
        DBInstanceIdentifier=member, CACertificateIdentifier="rds-ca-rsa2048-g1", ApplyImmediately=True
    )
    panel.each(1, QUARTER, panel.posture)
    panel.clears("certificate-expiring", "authority-expiring")


def test_backups_that_somebody_turned_off_are_an_alarm(panel: Panel) -> None:
    rds, primary = panel.site.client("rds"), panel.site.role_record()[1]

    def restorable() -> bool:
        return "LatestRestorableTime" in rds.describe_db_instances(DBInstanceIdentifier=primary)["DBInstances"][0]

    before = rds.describe_db_instances(DBInstanceIdentifier=primary)["DBInstances"][0]["BackupRetentionPeriod"]
    rds.modify_db_instance(DBInstanceIdentifier=primary, BackupRetentionPeriod=0, ApplyImmediately=True)
    try:
        eventually(lambda: not restorable(), 20, "no more backups")
        panel.each(4, 300, panel.posture)
        panel.fires("backups-missing")
    finally:
        rds.modify_db_instance(DBInstanceIdentifier=primary, BackupRetentionPeriod=before, ApplyImmediately=True)
    eventually(restorable, 60, "a new backup")
    panel.each(1, 300, panel.posture)
    panel.clears("backups-missing")


def test_a_day_without_a_recovery_point_is_an_alarm_and_one_of_them_ends_it(panel: Panel) -> None:
    """A night without the plan: the local cloud runs none, so that only jobs that are started here make any."""
    primary, hour = panel.site.role_record()[1], 3600
    told = alarm(panel, "backups-overdue")
    assert recovery_point(panel.site, primary) == "COMPLETED"
    panel.expect(["backups-overdue"], "OK")
    to_the_hour = told["EvaluationPeriods"] * hour - panel.now() % hour + 1
    post(f"{panel.site.control}/clock", {"advance_seconds": to_the_hour}, "PUT")
    time.sleep(2.5)
    assert panel.states(["backups-overdue"]) == {"backups-overdue": "OK"}, "as old as it may be"
    panel.next_period(hour)
    panel.fires("backups-overdue")
    assert recovery_point(panel.site, primary) == "COMPLETED"
    panel.clears("backups-overdue")


@pytest.fixture(scope="module")
def look(panel: Panel) -> Iterator[Callable[[], None]]:
    """Both witnesses look once, and the posture is measured."""
    site = panel.site
    functions = site.client("lambda")
    names = ("witness-a", "witness-c")
    before = {name: functions.get_function_configuration(FunctionName=site.function(name))["Timeout"] for name in names}

    def once() -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda name: site.invoke(name, {}), names))
        panel.posture()

    for name in names:
        site.renew(name, ONE_ROUND_SECONDS)
    yield once
    for name, timeout in before.items():
        site.renew(name, timeout)


BOTH_WITNESSES = ("a", "c")


def of_both(name: str) -> list[str]:
    return [f"{name}-from-{witness}" for witness in BOTH_WITNESSES]


def test_a_standby_that_stopped_replaying_half_an_objective_ago_is_an_alarm(
    panel: Panel, deployed: Deployed, look: Callable[[], None]
) -> None:
    """It stops now, at heartbeats that were made to be of a good half hour ago."""
    _, primary, standby = panel.site.role_record()
    number = {name: position for position, name in enumerate(members(panel.site), 1)}
    threshold = alarm(panel, "standby-lag-from-a")["Threshold"]
    old = "SELECT count(*) FROM recovery.heartbeat WHERE at < now() - make_interval(secs => %s)"

    def pause(paused: bool) -> None:
        post(f"{panel.site.control}/rds/{standby}/replay", {"paused": paused})

    with (
        deployed.application.connect_member(number[primary]) as writing,
        deployed.application.connect_member(number[standby]) as reading,
    ):

        def stopped_long_ago() -> bool:
            writing.execute("UPDATE recovery.heartbeat SET at = now() - make_interval(secs => %s)", (threshold + 300,))
            for _ in range(50):
                if reading.execute(old, (threshold,)).fetchone() == (2,):
                    break
            pause(True)
            time.sleep(0.2)
            if reading.execute(old, (threshold,)).fetchone() == (2,):
                return True
            pause(False)  # a witness was faster
            return False

        eventually(stopped_long_ago, 60, "a standby that stopped long ago")
    try:
        panel.each(3, MINUTE, look)
        panel.fires(*of_both("standby-lag"), "recovery-at-risk")
    finally:
        pause(False)
    panel.each(1, MINUTE, look)
    panel.clears(*of_both("standby-lag"), "recovery-at-risk")


def test_a_primary_that_no_witness_reaches_is_an_alarm_and_the_lease_an_incident(
    panel: Panel, operator: Operations, look: Callable[[], None]
) -> None:
    """In a pause, so that nobody does anything about it; the lease is written as a witness takes it."""
    site = panel.site
    epoch, primary, _ = site.role_record()
    names = [*of_both("primary-unreachable"), "primary-lost", "incident-running", "incident"]
    operator.pause("alarms are tried out", 600)
    try:
        site.write("lease", epoch=epoch, incident="alarm-test", taken_at=time.time(), witness="a")
        post(f"{site.control}/rds/{primary}/endpoint", {"fault": "cut", "from": "functions"})
        panel.each(3, MINUTE, look)
        panel.fires(*names)
        assert panel.states(["incident-begun"]) == {"incident-begun": "OK"}, "nobody acts in a pause"
    finally:
        post(f"{site.control}/rds/{primary}/endpoint", {"fault": "none"})
        site.forget("lease")
    panel.each(2, MINUTE, look)
    operator.resume()
    panel.clears(*names)


def test_a_standby_that_is_lost_is_an_alarm_until_it_was_made_again(
    panel: Panel, operator: Operations, look: Callable[[], None]
) -> None:
    standby = panel.site.role_record()[2]
    names = [*of_both("standby-unreachable"), "takeover-hindered", "redundancy-lost", "recovery-at-risk"]
    post(f"{panel.site.control}/rds/{standby}/lose")
    # In the first minute the schedules may still see what was there before
    panel.each(6, MINUTE, look)
    panel.fires(*of_both("standby-unreachable"), "takeover-hindered", "recovery-at-risk")
    assert panel.states(["redundancy-lost"]) == {"redundancy-lost": "OK"}, "not yet for an hour"
    panel.each(4, QUARTER, panel.posture)
    panel.fires("redundancy-lost")
    # The local cloud's executions that were cut off above went on asking for their first function
    panel.site.forget("operation")
    with ThreadPoolExecutor(1) as pool:
        made_again = pool.submit(operator.follow, operator.reprotect())
        while not made_again.done():
            # It waits for a witness that sees the pair
            look()
    assert made_again.result() == "protected"
    panel.each(2, MINUTE, look)
    panel.clears(*names)


def test_a_drill_that_has_not_passed_for_too_long_is_an_alarm(panel: Panel) -> None:
    """Drills were held and did not pass; every night the drill machine says how long ago one did."""
    site = panel.site
    table = RecoveryTable(site.client("dynamodb"), site.outputs["RecoveryTableName"])
    machines, now = site.client("stepfunctions"), time.time()
    long_ago = now - (alarm(panel, "drill-overdue")["Threshold"] + 1) * DAY
    held = {"since": long_ago, "replica_at": now, "restore_at": now}
    before = table.get(drill.LEDGER)

    def sweep() -> None:
        given = json.dumps({"ask": "sweep", "by": "the test of alarms"})
        machine = site.outputs["DrillStateMachineArn"]
        execution = machines.start_execution(stateMachineArn=machine, input=given)["executionArn"]

        def ended() -> bool:
            return bool(machines.describe_execution(executionArn=execution)["status"] != "RUNNING")

        eventually(ended, 30, "the sweep")

    table.put(drill.LEDGER, held)
    try:
        panel.each(2, DAY, sweep)
        panel.fires("drill-overdue")
        table.put(drill.LEDGER, {**held, "replica_passed_at": now, "restore_passed_at": now})
        panel.each(1, DAY, sweep)
        panel.clears("drill-overdue")
    finally:
        if before is not None:
            table.put(drill.LEDGER, {name: value for name, value in before.items() if name != "id"})


def test_every_line_of_the_dashboard_has_been_measured_and_it_can_be_drawn(
    panel: Panel, began: float, tmp_path: Path
) -> None:
    """After all that has happened here, so that machines have run and functions that are seldom needed too."""
    end = panel.now()
    board = read(panel.site.account, panel.site.outputs["DashboardName"], began, end)
    assert len(board.widgets) > 25
    # CloudWatch has a count of executions from the first one that ends so: these two do in test_workflow
    assert set(board.unmeasured) <= {"Failover machine: succeeded", "Operations and drills: switchover succeeded"}
    states = [widget.states for widget in board.widgets if widget.states is not None]
    assert {state for each in states for state in each.values()} <= {"OK", "ALARM", "INSUFFICIENT_DATA"}
    draw(board, tmp_path / "dashboard.png")
    assert (tmp_path / "dashboard.png").read_bytes().startswith(b"\x89PNG")


def test_every_deployed_alarm_has_fired_and_cleared(panel: Panel) -> None:
    pages = panel.site.client("cloudwatch").get_paginator("describe_alarms")
    deployed = {
        each["AlarmName"].removeprefix("citizens-").removesuffix(f"-{panel.site.suffix}")
        for page in pages.paginate(AlarmTypes=["MetricAlarm", "CompositeAlarm"])
        for each in (*page["MetricAlarms"], *page["CompositeAlarms"])
        if each["AlarmName"].endswith(f"-{panel.site.suffix}")
    }
    assert len(deployed) > 80
    assert panel.fired == panel.cleared
    assert deployed - panel.fired - SHOWN_ELSEWHERE.keys() == set(), "these have not been shown to fire"
    assert (panel.fired | SHOWN_ELSEWHERE.keys()) - deployed == set(), "these are not deployed"


@pytest.mark.parametrize(("short", "test"), SHOWN_ELSEWHERE.items())
def test_what_is_shown_elsewhere_is_shown_there(short: str, test: str) -> None:
    file, _, name = test.partition("::")
    text = (Path(__file__).parent / file).read_text(encoding="utf-8")
    _, _, body = text.partition(f"def {name}(")
    body = body.partition("\ndef ")[0]
    assert f'"{short}", "ALARM"' in body
    assert f'"{short}", "OK"' in body
