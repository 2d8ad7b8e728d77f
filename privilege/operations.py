"""Exercises of the operations: reprotect and switchover, their functions and their machines."""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import ClientError

from drills.scenarios import post
from privilege.site import Failed, Site, eventually, now_iso

WITNESSES = ("witness-a", "witness-c")
WITNESS_SECONDS = 9
"""A short run of a witness: it stops 6 s before its function's time-out."""
OPERATION_SECONDS = 120.0
PATIENCE_SECONDS = 40.0


@contextlib.contextmanager
def watched(site: Site) -> Iterator[None]:
    """Both witnesses look at the members again and again: the operations believe fresh observations only."""
    over = threading.Event()

    def watch(name: str) -> None:
        while not over.is_set():
            with contextlib.suppress(Failed, ClientError):
                site.invoke(name, {})
            over.wait(0.5)

    threads = [threading.Thread(target=watch, args=(name,), name=f"watching-{name}") for name in WITNESSES]
    for name, thread in zip(WITNESSES, threads, strict=True):
        site.renew(name, WITNESS_SECONDS)
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def plan(site: Site) -> None:
    """With a healthy pair there is nothing to do, which is written down."""
    epoch, primary, standby = site.role_record()
    site.forget("operation")
    site.renew("reprotect")
    event = {
        "epoch": epoch,
        "execution": "exercise",
        "wanted": {primary: {}, standby: {}},
        "lifted": True,
        "automatic": False,
        "forensics": True,
        "deletions": 0,
        "refusals": 0,
    }
    with watched(site):
        _unless_refused(
            site, "citizens-reprotect", lambda: site.invoke("reprotect", event)["action"] == "protected", "a plan"
        )
    site.forget("operation")
    logged(site, "reprotect")


def questions(site: Site) -> None:
    """A switchover may begin, and the standby has what it must have."""
    epoch, _, standby = site.role_record()
    site.forget("operation")
    site.forget("lease")
    site.renew("switchover")
    begin = {"step": "begin", "incident": "exercise", "epoch": epoch, "execution": "exercise"}
    with watched(site):
        _unless_refused(
            site,
            "citizens-switchover",
            lambda: site.invoke("switchover", begin)["hindrance"] is None,
            "a switchover that may begin",
        )
        caught_up = site.invoke("switchover", {"step": "catchUp", "standby": standby, "lsn": "0/1"})
    site.forget("operation")
    site.forget("lease")
    if not caught_up["replayed"]:
        raise Failed(f"{standby} could not be asked how far it is")
    logged(site, "switchover")


def reprotected(site: Site) -> None:
    """The standby is lost and was fenced: it is deleted, made again and let in."""
    _, _, standby = site.role_record()
    stand_by(site)
    _keep_out(site, standby)
    post(f"{site.control}/rds/{standby}/lose")
    eventually(lambda: _status(site, standby) == "failed", PATIENCE_SECONDS, f"the loss of {standby}")
    _run(site, "reprotect", "protected")


def switched_over(site: Site) -> None:
    """The roles change as planned; a reprotect follows."""
    stand_by(site)
    _run(site, "switchover", "promoted")


def abandoned(site: Site) -> None:
    """The functions cannot reach the standby any more: the applications are let in again."""
    _, _, standby = site.role_record()
    stand_by(site)
    _run(site, "switchover", "abandoned", before=lambda: _keep_out(site, standby))
    _let_in(site)


def _run(site: Site, kind: str, outcome: str, before: Callable[[], None] = lambda: None, tries: int = 3) -> None:
    machines = site.client("stepfunctions")
    epoch, *_ = site.role_record()
    name = f"exercise-{secrets.token_hex(4)}"
    order: dict[str, Any] = {"epoch": epoch, "started_at": now_iso(), "by": "exercise", "id": name, "incident": name}
    order |= {"automatic": False, "forensics": True}
    output = f"{kind.capitalize()}StateMachineArn"
    role = f"citizens-{kind}-machine"
    site.forget("operation")
    site.forget("lease")
    with watched(site):
        if kind == "switchover":
            begin = {"step": "begin", "incident": name, "epoch": epoch, "execution": "before"}
            eventually(
                lambda: site.invoke("switchover", begin)["hindrance"] is None, PATIENCE_SECONDS, "a healthy pair"
            )
            site.forget("operation")
            site.forget("lease")
        before()
        refused = site.denials(role)
        arn = machines.start_execution(
            stateMachineArn=site.outputs[output], name=f"{epoch}-{name}", input=json.dumps(order)
        )["executionArn"]

        def ended() -> str | None:
            status = str(machines.describe_execution(executionArn=arn)["status"])
            return status if status != "RUNNING" or site.denials(role) != refused else None

        try:
            eventually(ended, OPERATION_SECONDS, f"the end of the {kind}")
        finally:
            with contextlib.suppress(ClientError):
                machines.stop_execution(executionArn=arn)
    record = site.record(f"operation#{name}") or {}
    found = record.get("outcome", {}).get("S")
    if found == "refused" and site.denials(role) == refused and tries > 1:
        # Between our look and the machine's a witness was late: the rule's word, not a permission's
        _run(site, kind, outcome, before, tries - 1)
        return
    if found != outcome or site.denials(role) != refused:
        why = record.get("reason", {}).get("S", "no reason was recorded")
        raise Failed(f"the {kind}'s outcome is {found}, expected {outcome}: {why}")
    if not has_log(site, role, arn):
        raise Failed(f"the {kind} machine has written no log")


def stand_by(site: Site) -> None:
    """A healthy pair, whatever the exercise before has left: a replica, everybody let in, nobody at work."""
    _, primary, standby = site.role_record()
    rds = site.client("rds")
    _let_in(site)
    for leftover in ("lease", "operation"):
        site.forget(leftover)
    _stop_reprotects(site)
    found = _describe(site, standby)
    if found is not None and (
        found["DBInstanceStatus"] == "failed" or found.get("ReadReplicaSourceDBInstanceIdentifier") != primary
    ):
        with contextlib.suppress(ClientError):
            rds.delete_db_instance(DBInstanceIdentifier=standby, SkipFinalSnapshot=True)
        eventually(lambda: _describe(site, standby) is None, PATIENCE_SECONDS, f"the end of {standby}")
        found = None
    if found is None:
        rds.create_db_instance_read_replica(
            DBInstanceIdentifier=standby,
            SourceDBInstanceIdentifier=primary,
            MultiAZ=True,
            EnableIAMDatabaseAuthentication=True,
            VpcSecurityGroupIds=[_group(site, standby)["GroupId"]],
        )
    eventually(lambda: _status(site, standby) == "available", PATIENCE_SECONDS, f"{standby} as a replica")
    site.client("dynamodb").update_item(
        TableName=site.outputs["RecoveryTableName"],
        Key={"id": {"S": "roles"}},
        UpdateExpression="SET protected = :yes",
        ExpressionAttributeValues={":yes": {"BOOL": True}},
    )


def _stop_reprotects(site: Site) -> None:
    machines = site.client("stepfunctions")
    found = machines.list_executions(stateMachineArn=site.outputs["ReprotectStateMachineArn"], statusFilter="RUNNING")
    for execution in found["executions"]:
        with contextlib.suppress(ClientError):
            machines.stop_execution(executionArn=execution["executionArn"])


_ingress: dict[str, list[dict[str, Any]]] = {}


def _let_in(site: Site) -> None:
    for number in (1, 2):
        group = _group(site, site.outputs[f"Member{number}Identifier"])
        known = _ingress.setdefault(group["GroupId"], group["IpPermissions"])
        for permission in known:
            with contextlib.suppress(ClientError):  # it is there
                site.client("ec2").authorize_security_group_ingress(
                    GroupId=group["GroupId"], IpPermissions=[permission]
                )


def _keep_out(site: Site, member: str) -> None:
    ec2, group = site.client("ec2"), _group(site, member)["GroupId"]
    found = ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group]}])["SecurityGroupRules"]
    rules = [rule["SecurityGroupRuleId"] for rule in found if not rule["IsEgress"]]
    if rules:
        ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=rules)


def _group(site: Site, member: str) -> Any:
    number = 1 if member == site.outputs["Member1Identifier"] else 2
    filters = [{"Name": "group-name", "Values": [site.function(f"member-{number}")]}]
    (group,) = site.client("ec2").describe_security_groups(Filters=filters)["SecurityGroups"]
    return group


def _describe(site: Site, member: str) -> Any:
    try:
        return site.client("rds").describe_db_instances(DBInstanceIdentifier=member)["DBInstances"][0]
    except ClientError as error:
        if error.response["Error"]["Code"] != "DBInstanceNotFound":
            raise
        return None


def _status(site: Site, member: str) -> str | None:
    found = _describe(site, member)
    return None if found is None else str(found["DBInstanceStatus"])


def _unless_refused(site: Site, role: str, look: Callable[[], bool], what: str) -> None:
    refused, deadline = site.denials(role), time.monotonic() + PATIENCE_SECONDS
    while not look():
        if site.denials(role) != refused:
            raise Failed(f"{what} will not come: {role} was refused something")
        if time.monotonic() > deadline:
            raise Failed(f"{what} was not there within {PATIENCE_SECONDS:.0f} s")
        time.sleep(0.5)


def logged(site: Site, name: str) -> None:
    """Wait for the log of a function's new execution environment; Failed without."""
    _unless_refused(site, f"citizens-{name}", lambda: site.has_logged(name), f"the log of {name}")


def has_log(site: Site, role: str, arn: str) -> bool:
    """Whether a machine has written of an execution into its log."""
    group = f"/aws/vendedlogs/states/{role}-{site.suffix}"
    return any(arn in event["message"] for event in site.client("logs").filter_log_events(logGroupName=group)["events"])
