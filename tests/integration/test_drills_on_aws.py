"""The drills that are deployed with the system: held when due, given up for an incident, swept when killed."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from deployment.destruction import Destruction
from deployment.evidence import EvidenceRoom
from deployment.exercises import Exercises
from drills.scenarios import post
from recovery import drill, history, incident, provenance, report_page, roles
from recovery.history import Entry
from recovery.table import RecoveryTable
from tests import browser
from tests.contingency_test_report import missing, section
from tests.integration.conftest import Cloud, Deployed, a_system, eventually
from tests.integration.test_commands import run

pytestmark = pytest.mark.breaks_the_machine


@pytest.fixture(scope="module")
def cloud(steady_cloud: Cloud) -> Cloud:
    return steady_cloud


@pytest.fixture(scope="module")
def deployed(cloud: Cloud) -> Iterator[Deployed]:
    with a_system(cloud) as made:
        yield made
        assert made.cdk is not None
        # Or its witnesses go on beside the tests that follow
        Destruction(made.account, made.cdk, protect=False, announce=lambda _: None).run()


@pytest.fixture
def table(deployed: Deployed) -> RecoveryTable:
    return RecoveryTable(deployed.account.client("dynamodb"), deployed.outputs["RecoveryTableName"])


@pytest.fixture(autouse=True)
def undisturbed(deployed: Deployed, table: RecoveryTable, request: pytest.FixtureRequest) -> Iterator[None]:
    """Before and after: both members as they were, nobody at work, and no copy left."""
    known = eventually(lambda: roles.read(table), 120, "the roles")
    yield
    if "switchover" not in request.function.__name__:
        assert roles.read(table) == known
    assert copies(deployed) == []
    assert eventually(lambda: table.get(drill.RECORD) is None, 30, "the end of the claim")


def copies(deployed: Deployed) -> list[str]:
    found = deployed.account.client("rds").describe_db_instances()["DBInstances"]
    prefix = f"citizens-drill-{deployed.outputs['EnvironmentSuffix']}-"
    return [each["DBInstanceIdentifier"] for each in found if each["DBInstanceIdentifier"].startswith(prefix)]


def exercises(deployed: Deployed) -> Exercises:
    return Exercises(deployed.account, deployed.outputs["EnvironmentSuffix"], print)


def begun(deployed: Deployed, kind: str) -> str:
    """The execution of a drill whose copy is being made."""
    started = exercises(deployed).start(kind)
    eventually(lambda: copies(deployed), 60, "a copy")
    return started.execution_arn


def entry_of(table: RecoveryTable, execution: str) -> Entry:
    def found() -> Entry | None:
        return next((each for each in history.read(table) if each.execution == execution), None)

    return eventually(found, 90, f"the record of {execution}")


def test_the_schedule_holds_the_drill_that_is_due_and_tells_how_long_ago_it_passed(
    deployed: Deployed, table: RecoveryTable
) -> None:
    """A replica of the primary is promoted and verified; the infrastructure's diff is empty meanwhile."""
    now = time.time()
    month_ago = now - 31 * drill.DAY_SECONDS
    table.put(drill.LEDGER, {"since": month_ago, "restore_at": now, "restore_passed_at": now})
    post(f"{deployed.control}/schedules/fire")
    claim = eventually(lambda: c if (c := drill.claimed(table)) is not None and c.kind else None, 60, "a drill")
    assert deployed.cdk is not None
    assert deployed.cdk.diff() == ""
    done = entry_of(table, claim.execution)
    assert (done.kind, done.outcome) == ("replica drill", "passed"), done.reason
    assert done.timeline[0]["event"] == "started by the schedule"
    record = table.get(f"drill#{done.identity}")
    assert record is not None
    assert 0 < record["rto_seconds"] < 60
    assert 0 <= record["rpo_seconds"] < 60
    assert json.loads(record["measured"])["lag_seconds"] < 30
    assert json.loads(record["log"])["target_reached"] is True
    assert 0 < record["rto_resolution_seconds"] < record["rto_seconds"]
    told = report_page.of_record(f"drill#{done.identity}", record)
    assert list(missing(told)) == []
    assert {each["verdict"] for each in told["preflight"]} == {"ok"}
    assert told["template_sha256"] == deployed.cdk.template_sha256()
    assert told["commit"] == provenance.read(table).commit
    steps = [step["step"] for step in json.loads(record["steps"])]
    assert steps == ["asked", "copied", "promote", "verified", "rolled", "cleaned"]
    assert drill.ledger(table, now).kinds["replica"].passed_at is not None
    points = deployed.account.client("cloudwatch").get_metric_statistics(
        Namespace="CitizensRecovery",
        MetricName="DaysSinceDrill",
        Dimensions=[{"Name": "Suffix", "Value": deployed.outputs["EnvironmentSuffix"]}],
        StartTime=now - 600,
        EndTime=now + 600,
        Period=60,
        Statistics=["Maximum", "Minimum"],
    )["Datapoints"]
    assert max(point["Maximum"] for point in points) == pytest.approx(31, abs=0.1), "before"
    assert min(point["Minimum"] for point in points) < 0.1, "after"
    post(f"{deployed.control}/schedules/fire")
    machine = {"stateMachineArn": deployed.outputs["DrillStateMachineArn"]}
    machines = deployed.account.client("stepfunctions")

    def idle() -> bool:
        newest = machines.list_executions(**machine)["executions"][0]
        if newest["executionArn"] == claim.execution or newest["status"] == "RUNNING":
            return False
        output = json.loads(machines.describe_execution(executionArn=newest["executionArn"])["output"])
        assert output["outcome"] == "idle"
        return True

    assert eventually(idle, 60, "a night without a drill")


def test_the_newest_backup_is_restored_rolled_forward_and_deleted_again(
    cloud: Cloud, deployed: Deployed, table: RecoveryTable
) -> None:
    prepared = time.time()
    post(f"{deployed.control}/delays", {"log_upload_seconds": 0.5}, "PUT")
    suffix = deployed.outputs["EnvironmentSuffix"]
    try:
        member = roles.known(table).primary

        def latest() -> bool:
            found = deployed.account.client("rds").describe_db_instances(DBInstanceIdentifier=member)["DBInstances"][0]
            return "LatestRestorableTime" in found and found["LatestRestorableTime"].timestamp() > prepared

        assert eventually(latest, 60, "something to restore")
        place = ("--local", "--state", str(cloud.state), "--suffix", suffix)
        told = run("drctl", "exercise", "restore", *place, "--yes", suffix)
    finally:
        post(f"{deployed.control}/delays", {"log_upload_seconds": 300}, "PUT")
    assert told.returncode == 0, told.stderr
    assert "Restored and verified in" in told.stdout
    done = history.read(table)[0]
    record = table.get(f"drill#{done.identity}")
    assert record is not None
    assert (record["kind"], record["outcome"]) == ("restore drill", "passed")
    log = json.loads(record["log"])
    assert log["target_reached"] is True
    assert record["rpo_seconds"] < 60


def test_a_drill_that_was_stopped_is_swept_at_once_and_leaves_a_record(
    deployed: Deployed, table: RecoveryTable
) -> None:
    execution = begun(deployed, "replica")
    deployed.account.client("stepfunctions").stop_execution(executionArn=execution, cause="somebody's hand")
    done = entry_of(table, execution)
    assert done.outcome == "aborted"
    assert "ABORTED: somebody's hand" in done.reason
    eventually(lambda: not copies(deployed), 60, "the end of the copy")


def test_an_instance_that_only_looks_like_a_copy_is_left_alone(deployed: Deployed, table: RecoveryTable) -> None:
    rds, suffix = deployed.account.client("rds"), deployed.outputs["EnvironmentSuffix"]
    name = f"citizens-drill-{suffix}-20270101000000"
    rds.create_db_instance_read_replica(
        DBInstanceIdentifier=name, SourceDBInstanceIdentifier=roles.known(table).primary, MultiAZ=False
    )
    try:
        exercises(deployed).sweep()
        assert copies(deployed) == [name]
        rds.add_tags_to_resource(
            ResourceName=rds.describe_db_instances(DBInstanceIdentifier=name)["DBInstances"][0]["DBInstanceArn"],
            Tags=[{"Key": "citizens:drill", "Value": suffix}],
        )
        exercises(deployed).sweep()
        eventually(lambda: not copies(deployed), 60, "the end of what is a copy now")
    finally:
        with contextlib.suppress(ClientError):
            rds.delete_db_instance(DBInstanceIdentifier=name, SkipFinalSnapshot=True)


def test_a_drill_gives_way_to_an_incident_whose_machine_goes_its_way(deployed: Deployed, table: RecoveryTable) -> None:
    machines = deployed.account.client("stepfunctions")
    execution = begun(deployed, "replica")
    lease = incident.take_lease(table, roles.known(table).epoch, "a", time.time())
    assert lease is not None, "a drill holds no lease"
    order = {"incident": lease.incident, "epoch": lease.epoch, "witness": "a", "started_at": "2026-11-22T10:00:00Z"}
    done = entry_of(table, execution)
    assert (done.outcome, done.reason) == ("aborted", f"The incident {lease.incident} holds the lease.")
    refused = run_refused(deployed)
    assert f"The incident {lease.incident} holds the lease" in refused
    incidents = machines.start_execution(
        stateMachineArn=deployed.outputs["FailoverStateMachineArn"],
        name=lease.execution_name,
        input=json.dumps(order),
    )["executionArn"]

    def ended() -> Any:
        status = machines.describe_execution(executionArn=incidents)["status"]
        return None if status == "RUNNING" else status

    assert eventually(ended, 60, "the end of the incident") == "SUCCEEDED"
    assert incident.read_lease(table) is None


def run_refused(deployed: Deployed) -> str:
    from deployment.problem import Problem

    with pytest.raises(Problem) as problem:
        exercises(deployed).preview("replica")
    return str(problem.value)


def test_a_person_ends_a_drill_which_cleans_up_and_says_by_whom(deployed: Deployed, table: RecoveryTable) -> None:
    execution = begun(deployed, "replica")
    exercises(deployed).abort("month's end")
    done = entry_of(table, execution)
    assert done.outcome == "aborted"
    assert "Ended by" in done.reason
    assert "month's end" in done.reason
    assert [step["event"] for step in done.timeline][-2].endswith("is gone")


def test_a_switchover_on_command_changes_the_roles_and_is_kept_as_a_drill_too(
    cloud: Cloud, deployed: Deployed, table: RecoveryTable
) -> None:
    """Under way, it tells each step; at its end the old primary is a standby again."""
    before, suffix = roles.known(table), deployed.outputs["EnvironmentSuffix"]
    place = ("--local", "--state", str(cloud.state), "--suffix", suffix)
    told = run("drctl", "exercise", "switchover", *place, "--yes", suffix)
    assert told.returncode == 0, told.stderr
    assert "Applications were kept out for" in told.stdout
    after = roles.known(table)
    assert (after.epoch, after.primary, after.standby) == (before.epoch + 1, before.standby, before.primary)
    assert after.protected
    (done,) = [each for each in history.read(table) if each.kind == "switchover drill"]
    record = table.get(f"drill#{done.identity}")
    assert record is not None
    assert (record["outcome"], record["rpo_seconds"]) == ("passed", 0)
    assert 0 < record["rto_seconds"] < 60
    assert list(missing(report_page.of_record(f"drill#{done.identity}", record))) == []
    (itself,) = [each for each in history.read(table) if each.execution == done.execution and each != done]
    assert (itself.kind, itself.outcome) == ("switchover", "promoted")


def test_what_was_exported_of_all_this_can_be_read_and_is_whole(deployed: Deployed, tmp_path: Path) -> None:
    """Drills that passed, were stopped, given up and ended, an incident, a switchover and its reprotect: each as JSON
    with the report and as a page, which a browser shows at a desk and on a phone, and prints."""
    room = EvidenceRoom(deployed.account, deployed.outputs["EnvironmentSuffix"])
    # OK: each has been sealed and exported, and nothing is otherwise than it was
    eventually(lambda: room.verify().verdict == "OK", 60, "the exports")
    sealed = room.entries()
    assert len(sealed) >= 8
    kept = list(room.download(tmp_path))
    assert len(kept) == 2 * len(sealed)
    pages = {path.stem: path.read_text(encoding="utf-8") for path in kept if path.suffix == ".html"}
    reports = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))["report"] for path in kept if path.suffix == ".json"
    }
    assert pages.keys() == reports.keys()
    for name, report in reports.items():
        assert report["id"] in section(pages[name], "Provenance")
        assert report["seal"]["sha256"] in section(pages[name], "Provenance")
    whole = {report["kind"] for name, report in reports.items() if not list(missing(report, pages[name]))}
    assert whole >= {"replica drill", "switchover drill"}
    families = {report["id"].partition("#")[0] for report in reports.values()}
    assert families == {"drill", "incident", "operation"}
    restored = next(name for name, report in reports.items() if report["kind"] == "restore drill")
    assert [each.partition(":")[0] for each in missing(reports[restored], pages[restored])] == ["LSN before"]
    assert "none: it is shown" in section(pages[restored], "Objectives and their basis")
    if not browser.is_available():
        pytest.skip("the browser's package is for Linux on x86-64 and comes with make setup")
    with browser.opened(tmp_path) as opened:
        for path in (each for each in kept if each.suffix == ".html"):
            for width in (1280, 390):
                look = opened.look(path, width, whole=False, paper=width == 1280)
                assert look.content_width == width, f"{path.name} has to be scrolled sideways"
                assert (look.requests, look.complaints) == ([path.as_uri()], [])
                assert "Corrective actions" in look.text
                if look.pdf:
                    assert len(re.findall(rb"/Type\s*/Page\b", look.pdf)) >= 1
