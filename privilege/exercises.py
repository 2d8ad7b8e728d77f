"""The work that shows a permission to be needed: one function's or the machine's whole job, done in the local cloud.

Each exercise passes with the deployed policies. With one action taken away it must fail, either because the job comes
out wrong or because the local cloud refused a request of the role while the job was being done.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from drills.scenarios import post
from privilege import drills, operations
from privilege.site import Failed, Site, eventually, now_iso

WITNESS_SECONDS = 9
"""A short run of a witness: it stops 6 s before its function's time-out."""
ARCHIVE_SECONDS = 33
"""Likewise of the archive, which keeps 30 s for its last statement."""
INCIDENT_SECONDS = 60.0
PATIENCE_SECONDS = 15.0
LOG_CARE_SECONDS = 90
"""Likewise of the log's care, which keeps 60 s for removing what expired."""
EVIDENCE_TRIES = 3
"""The function's own schedule may be the faster one, and leave nothing to export."""
FUNCTIONS_OF_SCHEDULES = ("witness-a", "witness-c", "archive")


@dataclass(frozen=True)
class Exercise:
    """A named job of a role. `breaks` tells that it needs the primary cut off; `heals` that a failed run of it leaves
    something which the next good run puts right."""

    name: str
    role: str
    run: Callable[[Site], None]
    breaks: bool = False
    heals: bool = False


def unless_refused(site: Site, role: str, refused: dict[str, int], look: Callable[[], bool], what: str) -> None:
    """Wait for something; Failed as soon as the role is refused more than before: waiting on would change nothing."""

    def looking() -> bool:
        if look():
            return True
        expect(site.denials(role) == refused, f"{what} will not come: {role} was refused something")
        return False

    eventually(looking, PATIENCE_SECONDS, what)


def expect(condition: object, sentence: str) -> None:
    """Raise Failed unless the condition holds."""
    if not condition:
        raise Failed(sentence)


# -- functions that the machine or Secrets Manager invokes ---------------------------------------------------------


def _probe(site: Site) -> None:
    _, primary, _ = site.role_record()
    site.renew("probe")
    answer = site.invoke("probe", {"member": primary})
    expect(answer["reachable"] is True, f"the probe cannot reach {primary}: {answer['error']}")
    _logged(site, "probe")


def _arbiter(site: Site) -> None:
    epoch, *_ = site.role_record()
    site.renew("arbiter")
    answer = site.invoke("arbiter", {"incident": "exercise", "epoch": epoch, "started_at": now_iso()})
    for role in ("primary", "standby"):
        status = answer["inputs"][role]["status"]
        expect(status == "available", f"the arbiter takes the {role} for {status}")
    expect(answer["inputs"]["events"], "the arbiter knows no event of the primary, which was created just now")
    _logged(site, "arbiter")


def _open_log(site: Site) -> None:
    epoch, primary, _ = site.role_record()
    site.forget("epoch#0")
    site.renew("open-log")
    answers = [site.invoke("open-log", {"epoch": 0, "member": primary}) for _ in range(2)]
    expect(answers[0] == answers[1], "opening the log again gives another position")
    expect(site.record("epoch#0"), f"no record of the opened log (epoch {epoch})")
    _logged(site, "open-log")


def _roll_forward(site: Site) -> None:
    """Of an epoch that never was: it finds out where the primary stands in the log, and that there is nothing to do."""
    site.role_record()
    site.renew("roll-forward")
    answer: dict[str, Any] = {}

    def stands() -> bool:
        answer.update(site.invoke("roll-forward", {"epoch": 0, "member": site.role_record()[1]}))
        return "had" in answer

    unless_refused(site, "citizens-roll-forward", site.refused["roll-forward"], stands, "a place in the log")
    expect(answer["trouble"] is None, f"roll forward has trouble: {answer['trouble']}")
    _logged(site, "roll-forward")


def _verify(site: Site) -> None:
    site.role_record()
    site.renew("verify")
    expect(site.invoke("verify", {})["verified"], "the recovery was not verified")
    _logged(site, "verify")


def _cut_over(site: Site) -> None:
    """To the primary that it is already, so that nothing has to move but the epoch."""
    epoch, primary, standby = site.role_record()
    site.renew("cutover")
    event = {"incident": f"exercise-{secrets.token_hex(4)}", "epoch": epoch, "primary": primary, "standby": standby}
    answers = [site.invoke("cutover", event) for _ in range(2)]
    expect(answers[0] == answers[1], "cutting over again gives another answer")
    expect(site.role_record() == (epoch + 1, primary, standby), f"the roles are {site.role_record()}")
    _logged(site, "cutover")


def _secret(site: Site) -> dict[str, Any]:
    answer = site.client("secretsmanager").get_secret_value(SecretId=site.outputs["SecretArn"])
    value: dict[str, Any] = json.loads(answer["SecretString"])
    return value


def _rotate(site: Site) -> None:
    """The four steps, as Secrets Manager calls them."""
    before = _secret(site)["password"]
    token = str(uuid.uuid4())
    site.renew("rotation")
    for step in ("createSecret", "setSecret", "testSecret", "finishSecret"):
        site.invoke("rotation", {"SecretId": site.outputs["SecretArn"], "ClientRequestToken": token, "Step": step})
    expect(_secret(site)["password"] != before, "the password is still the old one")
    stages = site.client("secretsmanager").describe_secret(SecretId=site.outputs["SecretArn"])["VersionIdsToStages"]
    expect("AWSCURRENT" in stages[token], f"the new version has the labels {stages[token]}")
    _logged(site, "rotation")


def _archive(site: Site) -> None:
    site.role_record()
    site.renew("archive", ARCHIVE_SECONDS)
    answer = site.invoke("archive", {"seconds": 1})
    expect(answer.keys() >= {"segments", "last_lsn"}, f"the archive tells of no progress: {answer}")
    _logged(site, "archive")


def _log_care(site: Site) -> None:
    """What nothing has told of yet is looked at: the members' restorable times are asked for, the files are there."""
    site.renew("log-care", LOG_CARE_SECONDS)
    answer = site.invoke("log-care", {})
    expect(answer["verdict"] in ("OK", "WARNING"), f"the log's verdict is {answer['verdict']}")
    expect(answer["needed_since"], "RDS names no time to which the primary can be restored")
    _logged(site, "log-care")


def _evidence(site: Site) -> None:
    """A record that has ended is sealed, and what the bucket holds of it is what the chain holds."""
    site.renew("evidence")
    for _ in range(EVIDENCE_TRIES):
        identity = f"drill#exercise-{secrets.token_hex(4)}"
        site.write(identity, outcome="passed", started_at=now_iso(), ended_at=now_iso())
        answer = site.invoke("evidence", {})
        if answer["exported"]:
            break
    expect(answer["exported"] >= 1, f"nothing was exported: {answer}")
    number = int((site.record(f"sealed#{identity}") or {"number": {"N": "0"}})["number"]["N"])
    expect(number, f"{identity} was not sealed: {answer}")
    held = (site.record(f"evidence#{number}") or {}).get("sha256", {}).get("S")
    objects, bucket = site.client("s3"), site.outputs["EvidenceBucketName"]
    name = f"records/{number:06d}-{identity.replace('#', '-')}.json"
    kept = json.loads(objects.get_object(Bucket=bucket, Key=name)["Body"].read())
    expect(kept["sha256"] == held, f"{name} is not entry {number} of the chain")
    _logged(site, "evidence")


def _posture(site: Site) -> None:
    """Roles, observations and lease are read, RDS is asked of both members, and CloudWatch takes the numbers."""
    site.role_record()
    site.renew("posture")
    answer = site.invoke("posture", {})
    expect(answer.keys() >= {"TakeoverPossible", "Protected", "SameZone"}, f"RDS told nothing: {answer}")
    _logged(site, "posture")


def _rewind(site: Site) -> None:
    """It reads the log, and signs in to the primary as the main user to tell where that stands in it."""
    _, primary, _ = site.role_record()
    number = {site.outputs[f"Member{n}Identifier"]: n for n in (1, 2)}[primary]
    site.invoke("archive", {"seconds": 1})
    site.renew("rewind")
    listed = site.invoke("rewind", {"action": "list"})
    expect(listed["log_ends"], f"the log was not read: {listed}")
    host = site.outputs[f"Member{number}Endpoint"]
    answer = site.invoke("rewind", {"action": "stand", "host": host, "port": 5432})
    expect(answer.keys() >= {"stands", "log_ends"}, f"where {primary} stands is not known: {answer}")
    _logged(site, "rewind")


def _witness(name: str) -> Callable[[Site], None]:
    def watch(site: Site) -> None:
        """The primary is cut off, and the lease is of an incident whose machine has ended: everything a witness does.

        It has to ask for that execution, so it needs both permissions on the machine, and starts none itself because
        the lease is young.
        """
        ended = _ended_incident(site)
        site.write("lease", epoch=site.role_record()[0], incident=ended, taken_at=time.time(), witness=name[-1])
        site.renew(name, WITNESS_SECONDS)
        answer = site.invoke(name, {})
        expect(not answer["troubles"], f"{name} had trouble with {answer['troubles']}")
        expect(answer["failures"] >= 2, f"{name} saw the lost primary {answer['failures']} times only")
        _logged(site, name)

    return watch


def _ended_incident(site: Site) -> str:
    """An incident of this epoch whose execution was stopped right after its start."""
    machines, machine = site.client("stepfunctions"), site.outputs["FailoverStateMachineArn"]
    epoch, *_ = site.role_record()
    incident = f"ended-{secrets.token_hex(4)}"
    started = {"incident": incident, "epoch": -1, "witness": "a", "started_at": now_iso()}
    execution = machines.start_execution(stateMachineArn=machine, name=f"{epoch}-{incident}", input=json.dumps(started))
    _stop(machines, execution["executionArn"])
    return incident


def _logged(site: Site, name: str) -> None:
    role, refused = f"citizens-{name}", site.refused[name]
    unless_refused(site, role, refused, lambda: site.has_logged(name), f"the log of {name}")


# -- what is invoked asynchronously leaves its failures in the queue ------------------------------------------------


def _dead_letter(name: str) -> Callable[[Site], None]:
    def fail(site: Site) -> None:
        functions, queues = site.client("lambda"), site.client("sqs")
        function = site.function(name)
        queue = queues.get_queue_url(QueueName=site.function("dead-letters"))["QueueUrl"]
        reserved = functions.get_function_concurrency(FunctionName=function)["ReservedConcurrentExecutions"]
        functions.put_function_event_invoke_config(FunctionName=function, MaximumRetryAttempts=0)
        functions.put_function_concurrency(FunctionName=function, ReservedConcurrentExecutions=0)
        mark = uuid.uuid4().hex
        try:
            payload = json.dumps({"mark": mark}).encode()
            before = site.denials(f"citizens-{name}")
            functions.invoke(FunctionName=function, InvocationType="Event", Payload=payload)
            unless_refused(
                site, f"citizens-{name}", before, lambda: _receives(queues, queue, mark), f"the dead letter of {name}"
            )
        finally:
            functions.put_function_concurrency(FunctionName=function, ReservedConcurrentExecutions=reserved)

    return fail


def _receives(queues: Any, queue: str, mark: str) -> bool:
    for message in queues.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", []):
        queues.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        if mark in message["Body"]:
            return True
    return False


# -- schedules ------------------------------------------------------------------------------------------------------


def _schedule(name: str) -> Callable[[Site], None]:
    def fires(site: Site) -> None:
        """Fired now instead of at the next minute, it invokes the function if its role may."""
        before = _invocations(site, name)
        set_schedule(site, name, enabled=True)
        try:
            refused = site.denials(f"citizens-{name}-schedule")
            post(f"{site.control}/schedules/fire")
            unless_refused(
                site,
                f"citizens-{name}-schedule",
                refused,
                lambda: _invocations(site, name) > before,
                f"a run of {name}",
            )
        finally:
            set_schedule(site, name, enabled=False)
            end_runs(site, name)

    return fires


def _schedule_left_alone(name: str) -> Callable[[Site], None]:
    """Fired now, it has its function do what harms nobody; the schedule stays as it is."""

    def fires(site: Site) -> None:
        before = _invocations(site, name)
        refused = site.denials(f"citizens-{name}-schedule")
        post(f"{site.control}/schedules/fire")
        unless_refused(
            site,
            f"citizens-{name}-schedule",
            refused,
            lambda: _invocations(site, name) > before,
            f"a run of {name}",
        )

    return fires


def _close_default_group(site: Site) -> None:
    """The rules that EC2 gives a VPC's default group are there again, and its two schedules take them away."""
    ec2 = site.client("ec2")
    filters = [
        {"Name": "vpc-id", "Values": [site.outputs["VpcId"]]},
        {"Name": "group-name", "Values": ["default"]},
    ]
    (group,) = ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    everything = [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    itself = [{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group["GroupId"]}]}]
    for authorize, rule in (
        (ec2.authorize_security_group_ingress, itself),
        (ec2.authorize_security_group_egress, everything),
    ):
        # There still when the run before this one was refused
        with contextlib.suppress(ClientError):
            authorize(GroupId=group["GroupId"], IpPermissions=rule)
    refused = site.denials("citizens-close-default-group")
    post(f"{site.control}/schedules/fire")

    def closed() -> bool:
        (now,) = ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
        return not now["IpPermissions"] and not now["IpPermissionsEgress"]

    unless_refused(site, "citizens-close-default-group", refused, closed, "a closed default group")


def _invocations(site: Site, name: str) -> float:
    short = f"citizens-{name}-schedule"
    return sum(
        count
        for request, count in site.usage().allowed.items()
        if request.short == short and request.action == "lambda:InvokeFunction"
    )


def set_schedule(site: Site, name: str, *, enabled: bool) -> None:
    """Enable or disable the schedule of a function."""
    scheduler, schedule = site.client("scheduler"), site.function(name)
    (found,) = [each for each in scheduler.list_schedules()["Schedules"] if each["Name"] == schedule]
    current = scheduler.get_schedule(Name=schedule, GroupName=found["GroupName"])
    keys = ("Name", "GroupName", "ScheduleExpression", "FlexibleTimeWindow", "Target", "Description")
    kept = {key: current[key] for key in keys if key in current}
    scheduler.update_schedule(**kept, State="ENABLED" if enabled else "DISABLED")


def end_runs(site: Site, name: str) -> None:
    """End what a schedule has started, and make further runs short."""
    functions, function = site.client("lambda"), site.function(name)
    functions.put_function_event_invoke_config(FunctionName=function, MaximumRetryAttempts=0)
    site.renew(name, ARCHIVE_SECONDS if name == "archive" else WITNESS_SECONDS)


# -- the machine ----------------------------------------------------------------------------------------------------


def _stood_by(site: Site) -> None:
    """An incident of an epoch that has passed: the machine asks, records, tells, and ends."""
    _run_machine(site, epoch=-1, outcome="stood_by")


def _failed_over(site: Site) -> None:
    """The primary is cut off, both witnesses say so: fence, restart, promote, cut over, verify, release the lease."""
    _prepare_incident(site)
    _run_machine(site, epoch=site.role_record()[0], outcome="promoted")
    expect(site.record("lease") is None, "the lease was not released")


def _prepare_incident(site: Site) -> None:
    if (site.record("roles") or {}).get("protected", {}).get("BOOL") is False:
        # An earlier try has promoted, and nobody is promoted while the pair is unprotected
        operations.stand_by(site)
    epoch, primary, _ = site.role_record()
    _restore_ingress(site)
    for number in (1, 2):
        _await_available(site, site.outputs[f"Member{number}Identifier"])
    site.cut(primary, off=True)
    ended = _ended_incident(site)
    site.write("lease", epoch=epoch, incident=ended, taken_at=time.time(), witness="a")
    for name in ("witness-a", "witness-c"):
        site.renew(name, WITNESS_SECONDS)
        site.invoke(name, {})
    site.forget("lease")


def _await_available(site: Site, member: str) -> None:
    def available() -> bool:
        found = site.client("rds").describe_db_instances(DBInstanceIdentifier=member)["DBInstances"][0]
        return bool(found["DBInstanceStatus"] == "available")

    eventually(available, 30, f"{member} being available")


_ingress: dict[str, list[dict[str, Any]]] = {}


def _restore_ingress(site: Site) -> None:
    """Put back the ingress of the members' security groups that an earlier incident has revoked."""
    ec2 = site.client("ec2")
    names = [site.function(f"member-{number}") for number in (1, 2)]
    groups = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": names}])["SecurityGroups"]
    for group in groups:
        known = _ingress.setdefault(group["GroupId"], group["IpPermissions"])
        if known and not group["IpPermissions"]:
            ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=known)


def _run_machine(site: Site, epoch: int, outcome: str) -> None:
    machines = site.client("stepfunctions")
    incident = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(2)}"
    if epoch >= 0:
        site.write("lease", epoch=epoch, incident=incident, taken_at=time.time(), witness="a")
    given = {"incident": incident, "epoch": epoch, "witness": "a", "started_at": now_iso()}
    before = site.denials("citizens-failover")
    arn = machines.start_execution(
        stateMachineArn=site.outputs["FailoverStateMachineArn"], name=f"{epoch}-{incident}", input=json.dumps(given)
    )["executionArn"]
    try:
        status = eventually(lambda: _ended(site, machines, arn, before), INCIDENT_SECONDS, "the end of the machine")
    finally:
        # What is refused once will be refused again: there is no need to see the machine try.
        _stop(machines, arn)
    expect(status == "SUCCEEDED", f"the machine: {status}")
    found = (site.record(f"incident#{incident}") or {}).get("outcome", {}).get("S")
    expect(found == outcome, f"the incident's outcome is {found}, expected {outcome}")
    expect(_has_log(site, arn), "the machine has written no log")


def _stop(machines: Any, arn: str) -> None:
    with contextlib.suppress(ClientError):  # it has ended by itself
        machines.stop_execution(executionArn=arn)


def _ended(site: Site, machines: Any, arn: str, before: dict[str, int]) -> str | None:
    status = str(machines.describe_execution(executionArn=arn)["status"])
    if status != "RUNNING":
        return status
    refused = site.denials("citizens-failover")
    new = sorted(action for action, count in refused.items() if count > before.get(action, 0))
    return f"was refused {', '.join(new)}" if new else None


def _has_log(site: Site, arn: str) -> bool:
    logs = site.client("logs")
    events = logs.filter_log_events(logGroupName=site.outputs["FailoverLogGroupName"])["events"]
    return any(arn in event["message"] for event in events)


EXERCISES: tuple[Exercise, ...] = (
    *(
        Exercise(f"the schedule of {name} invokes it", f"citizens-{name}-schedule", _schedule(name))
        for name in FUNCTIONS_OF_SCHEDULES
    ),
    *(
        Exercise(f"the schedule of {name} invokes it", f"citizens-{name}-schedule", _schedule_left_alone(name))
        for name in ("rotation", "log-care", "posture", "evidence")
    ),
    Exercise("the default group is closed again", "citizens-close-default-group", _close_default_group),
    Exercise("the probe reaches the primary", "citizens-probe", _probe),
    Exercise("the arbiter knows both members' status and events", "citizens-arbiter", _arbiter),
    Exercise("the log of an epoch is opened, and opened again", "citizens-open-log", _open_log),
    Exercise("the primary knows where it stands in the log", "citizens-roll-forward", _roll_forward),
    Exercise("an application's write is verified", "citizens-verify", _verify),
    Exercise("the cut-over moves the roles into the next epoch", "citizens-cutover", _cut_over),
    Exercise("the four steps of a rotation change the password", "citizens-rotation", _rotate, heals=True),
    Exercise("the archive works through the log", "citizens-archive", _archive),
    Exercise("the log's files are looked after", "citizens-log-care", _log_care),
    Exercise("a record is sealed and exported", "citizens-evidence", _evidence),
    Exercise("how ready the system is gets measured", "citizens-posture", _posture),
    Exercise("the log is read, and a database's place in it found", "citizens-rewind", _rewind),
    *(
        Exercise(f"{name} publishes what it sees and asks for the machine", f"citizens-{name}", _witness(name), True)
        for name in ("witness-a", "witness-c")
    ),
    *(
        Exercise(f"a failed run of {name} is kept in the queue", f"citizens-{name}", _dead_letter(name))
        for name in (*FUNCTIONS_OF_SCHEDULES, "rotation", "log-care", "posture", "evidence")
    ),
    Exercise("the reprotect of a healthy pair has nothing to do", "citizens-reprotect", operations.plan),
    Exercise("a switchover may begin and its standby is asked", "citizens-switchover", operations.questions),
    Exercise("a lost standby is made again", "citizens-reprotect-machine", operations.reprotected),
    Exercise(
        "a switchover that cannot finish is abandoned", "citizens-switchover-machine", operations.abandoned, heals=True
    ),
    Exercise("a switchover changes the roles", "citizens-switchover-machine", operations.switched_over),
    Exercise("a drill may begin, is measured, and its end is kept", "citizens-drill", drills.questions),
    Exercise("a throw-away replica is promoted", "citizens-drill-machine", drills.replica),
    Exercise("the newest backup is restored", "citizens-drill-machine", drills.restore),
    Exercise("the schedule of the drills starts the machine", "citizens-drill-machine-schedule", drills.scheduled),
    Exercise("a stopped drill is swept after", "citizens-drill-killed", drills.swept),
    Exercise("the machine stands by, records, tells and releases", "citizens-failover", _stood_by),
    Exercise("the machine recovers from a primary that is cut off", "citizens-failover", _failed_over, breaks=True),
)
