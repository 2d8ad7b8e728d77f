"""Destroying an environment, so that nothing of it is left: what CloudFormation cannot delete, what it waits for in
vain, what services make again behind its back.

Every step asks what is there before it acts, so a destroy that was interrupted, or that ended in DELETE_FAILED, is
run again and goes on. With protection on, data is kept: the command lifts only what keeps the *stack* from going.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from deployment import remains
from deployment.account import Account
from deployment.cdk import Cdk, stack_name
from deployment.problem import Problem
from recovery import drill
from stacks.names import DRILL_TAG, Names

Announce = Callable[[str], None]
# RDS takes no snapshot of an instance in one of these, and CloudFormation would fail on it.
BEYOND_SNAPSHOTS = ("failed", "incompatible-network", "incompatible-restore", "incompatible-parameters")
# Interfaces of the stack's own instances and mount targets go with those; nobody need wait for them.
OWNED = ("RDSNetworkInterface", "EFS mount target")
# A failed deletion may be the last one's echo (a replica that is being promoted because its source went).
ATTEMPTS = 4
NOT_FOUND = ("ResourceNotFoundException", "DBSnapshotNotFound", "TableNotFoundException", "NoSuchBucket")
# What one call deletes of a bucket at most.
DELETED_AT_ONCE = 1000


@dataclass(frozen=True)
class Patience:
    """How long to wait, in seconds: for interfaces (Lambda releases them 5 to 30 minutes after its functions), for
    anything else, for lists to catch up; `poll` between two looks and `tell` between two lines of progress."""

    interfaces: float = 45 * 60
    steps: float = 60 * 60
    lists: float = 5 * 60
    poll: float = 10
    tell: float = 60


LOCAL_PATIENCE = Patience(interfaces=10, steps=60, lists=0, poll=0.25, tell=2)


@dataclass(frozen=True)
class Outcome:
    """What is left after a destroy: `kept` on purpose, because the environment was protected, and `left`, which should
    not be there."""

    kept: tuple[str, ...]
    left: tuple[str, ...]


class Destruction:
    """Destroys the environment of `cdk`'s suffix. `protect` is the setting; what is deployed is looked at as well."""

    def __init__(
        self, account: Account, cdk: Cdk, *, protect: bool, announce: Announce, patience: Patience | None = None
    ) -> None:
        self._account = account
        self._cdk = cdk
        self._suffix = cdk.suffix
        self._stack = stack_name(cdk.suffix)
        self._names = Names(cdk.suffix)
        self._announce = announce
        self._patience = patience or (LOCAL_PATIENCE if account.is_local else Patience())
        stack = self._describe_stack()
        self._born = None if stack is None else stack["CreationTime"]
        self._shields = self._find_shields()
        self._protect = protect or bool(self._shields)

    @property
    def is_protected(self) -> bool:
        """Whether this environment is to be destroyed only when confirmed."""
        return self._protect

    @property
    def shields(self) -> tuple[str, ...]:
        """What protects the deployed environment now, a line each."""
        return self._shields

    def run(self) -> Outcome:
        """Destroy it. Raises Problem when the stack cannot be deleted, with what keeps it."""
        self._await_settled()
        self._stop_machines()
        self._delete_restored()
        self._delete_copies()
        if self._protect:
            self._lift()
        elif self._status() is not None:
            self._drop_data()
        self._delete_stack()
        self._sweep()
        return self._what_is_left()

    def _stop_machines(self) -> None:
        """End what could make a member again behind CloudFormation's back: a machine outlives its own deletion."""
        machines = self._client("stepfunctions")
        # In this order: each of the first two starts the third
        wanted = (
            self._names.state_machine,
            self._names.switchover_machine,
            self._names.reprotect_machine,
            self._names.drill_machine,
        )
        found = {
            machine["name"]: machine["stateMachineArn"]
            for page in remains.pages(machines, "list_state_machines")
            for machine in page["stateMachines"]
        }
        for name in wanted:
            if name not in found:
                continue
            running = {"stateMachineArn": found[name], "statusFilter": "RUNNING"}
            for page in remains.pages(machines, "list_executions", **running):
                for execution in page["executions"]:
                    self._announce(f"Stopping the execution {execution['name']} of {name}")
                    machines.stop_execution(
                        executionArn=execution["executionArn"], cause=f"{self._suffix} is being destroyed"
                    )

    # Protection ------------------------------------------------------------------------------------------------------

    def _find_shields(self) -> tuple[str, ...]:
        found = []
        stack = self._describe_stack()
        if stack is not None and stack.get("EnableTerminationProtection"):
            found.append(f"termination protection of the stack {self._stack}")
        found += [
            f"deletion protection of {member['DBInstanceIdentifier']}"
            for member in [*self._members(), *self._instances(self._names.restored)]
            if member.get("DeletionProtection")
        ]
        vault = self._vault()
        if vault is not None and vault.get("Locked"):
            found.append(f"the lock of the vault {self._names.plain}")
        return tuple(found)

    def _lift(self) -> None:
        """Final snapshots first, the stack's own protection last: an interruption before leaves the stack protected."""
        for member in self._members():
            identifier, status = member["DBInstanceIdentifier"], member["DBInstanceStatus"]
            if status in BEYOND_SNAPSHOTS:
                self._discard_failed(member)
                continue
            # A replica cannot have a snapshot of its own at its end; and CloudFormation takes the second member for
            # one even after it was promoted, so the newest data would go without.
            if not member.get("ReadReplicaSourceDBInstanceIdentifier") and status != "deleting":
                self._snapshot(identifier)
            if member.get("DeletionProtection"):
                self._announce(f"Lifting the deletion protection of {identifier}")
                self._unprotect(identifier)
        stack = self._describe_stack()
        if stack is not None and stack.get("EnableTerminationProtection"):
            self._announce(f"Lifting the termination protection of {self._stack}")
            self._client("cloudformation").update_termination_protection(
                EnableTerminationProtection=False, StackName=self._stack
            )
        vault = self._vault()
        if vault is not None and vault.get("Locked"):
            self._announce(
                f"The vault {self._names.plain} is locked and stays with its recovery points until they expire"
            )

    def _unprotect(self, identifier: str) -> None:
        self._client("rds").modify_db_instance(
            DBInstanceIdentifier=identifier, DeletionProtection=False, ApplyImmediately=True
        )

    def _snapshot(self, identifier: str) -> None:
        """Always a new one: since an earlier, interrupted destroy there may have been writes."""
        rds, name = self._client("rds"), f"{identifier}-final-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
        self._announce(f"Taking the final snapshot {name}")
        rds.create_db_snapshot(DBInstanceIdentifier=identifier, DBSnapshotIdentifier=name)

        def is_complete() -> bool:
            found = rds.describe_db_snapshots(DBSnapshotIdentifier=name)["DBSnapshots"][0]
            if found["Status"] == "failed":
                raise Problem(f"The final snapshot {name} failed: nothing was destroyed; see RDS's events for {name}.")
            return bool(found["Status"] == "available")

        self._wait(is_complete, f"for the final snapshot {name}")

    def _discard_failed(self, member: Any) -> None:
        identifier = str(member["DBInstanceIdentifier"])
        self._announce(f"Deleting {identifier}, of which RDS cannot take a snapshot in its state")
        if member.get("DeletionProtection"):
            self._unprotect(identifier)
        self._client("rds").delete_db_instance(
            DBInstanceIdentifier=identifier, SkipFinalSnapshot=True, DeleteAutomatedBackups=not self._protect
        )
        self._wait(
            lambda: identifier not in [member["DBInstanceIdentifier"] for member in self._members()],
            f"for the end of {identifier}",
        )

    # What an operator made outside the stack --------------------------------------------------------------------------

    def _delete_restored(self) -> None:
        """The instance of `restore`: the stack's subnet, parameter and security groups cannot go while it uses them."""
        for instance in self._instances(self._names.restored):
            identifier, status = str(instance["DBInstanceIdentifier"]), instance["DBInstanceStatus"]
            if status != "deleting":
                if self._protect and status not in BEYOND_SNAPSHOTS:
                    self._snapshot(identifier)
                if instance.get("DeletionProtection"):
                    self._unprotect(identifier)
                self._announce(f"Deleting {identifier}, which was restored outside the stack")
                self._client("rds").delete_db_instance(
                    DBInstanceIdentifier=identifier,
                    SkipFinalSnapshot=True,
                    DeleteAutomatedBackups=not self._protect,
                )
            self._wait(lambda: not self._instances(self._names.restored), f"for the end of {identifier}")

    def _delete_copies(self) -> None:
        """What a drill has made, whatever has become of the drill: of the same groups. Its data are the members'."""
        found = self._copies()
        for identifier in found:
            self._announce(f"Deleting {identifier}, the throw-away copy of a drill")
        if found:
            self._wait(self._no_copies, f"for the end of {', '.join(found)}")

    def _no_copies(self) -> bool:
        """Ask for the deletion of each that is not on its way out; RDS deletes none that it is still making."""
        rds = self._client("rds")
        for identifier, status in self._copies().items():
            if status != "deleting":
                try:
                    rds.delete_db_instance(
                        DBInstanceIdentifier=identifier, SkipFinalSnapshot=True, DeleteAutomatedBackups=True
                    )
                except ClientError as error:
                    if error.response["Error"]["Code"] not in ("DBInstanceNotFound", "InvalidDBInstanceState"):
                        raise
        return not self._copies()

    def _copies(self) -> dict[str, str]:
        """The throw-away copies of drills by their status."""
        prefix, tag = self._names.drill_copies, (DRILL_TAG, self._suffix)
        return {
            instance["DBInstanceIdentifier"]: instance["DBInstanceStatus"]
            for page in remains.pages(self._client("rds"), "describe_db_instances")
            for instance in page["DBInstances"]
            if drill.is_copy(prefix, tag, instance["DBInstanceIdentifier"], instance.get("TagList", []))
        }

    # Data that CloudFormation cannot delete --------------------------------------------------------------------------

    def _drop_data(self) -> None:
        """Before the stack, so that its deletion does not fail on them."""
        self._empty_vault()
        self._empty_buckets()
        dynamodb, table = self._client("dynamodb"), self._names.recovery_table
        # Deleted with point-in-time recovery on, a table leaves a system backup for 35 days that nobody can delete
        _if_there(
            lambda: dynamodb.update_continuous_backups(
                TableName=table, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": False}
            )
        )

    def _empty_vault(self) -> bool:
        """Delete every recovery point of the vault; returns whether there were any."""
        vault = self._vault()
        if vault is None:
            return False
        if vault.get("Locked"):
            raise Problem(
                f"The vault {self._names.plain} is locked, so its recovery points cannot be deleted: "
                "destroy with PROTECT=true, which keeps it."
            )
        backup, name = self._client("backup"), self._names.plain
        points = list(self._recovery_points())
        if not points:
            return False
        self._announce(f"Deleting {len(points)} recovery points of the vault {name}")
        for point in points:
            if point.get("Status") != "DELETING":
                arn = point["RecoveryPointArn"]
                _if_there(functools.partial(backup.delete_recovery_point, BackupVaultName=name, RecoveryPointArn=arn))
        self._wait(lambda: not list(self._recovery_points()), f"for the recovery points of {name} to go")
        return True

    def _empty_buckets(self) -> None:
        """Delete every version of every object of the environment's own buckets, by the names its templates give them:
        CloudFormation deletes a bucket only when nothing is in it."""
        s3 = self._client("s3")
        account = self._client("sts").get_caller_identity()["Account"]
        wanted = self._names.evidence_bucket(account)
        if wanted not in [bucket["Name"] for page in remains.pages(s3, "list_buckets") for bucket in page["Buckets"]]:
            return
        for page in remains.pages(s3, "list_object_versions", Bucket=wanted):
            versions = [
                {"Key": each["Key"], "VersionId": each["VersionId"]}
                for each in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))
            ]
            for start in range(0, len(versions), DELETED_AT_ONCE):
                some = versions[start : start + DELETED_AT_ONCE]
                self._announce(f"Deleting {len(some)} object versions of the bucket {wanted}")
                refused = s3.delete_objects(Bucket=wanted, Delete={"Objects": some, "Quiet": True}).get("Errors", [])
                if refused:
                    raise Problem(
                        f"{len(refused)} object versions of {wanted} cannot be deleted "
                        f"({refused[0].get('Code')}: {refused[0].get('Message')}): destroy with PROTECT=true, which "
                        "keeps the bucket."
                    )

    def _recovery_points(self) -> Iterator[Any]:
        backup = self._client("backup")
        for page in remains.pages(backup, "list_recovery_points_by_backup_vault", BackupVaultName=self._names.plain):
            yield from page["RecoveryPoints"]

    # The stack -------------------------------------------------------------------------------------------------------

    def _delete_stack(self) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            if self._status() is None:
                return
            try:
                self._cdk.destroy()
            except Problem:
                # Whatever the CLI saw: what counts is whether the stack is still there, and why.
                self._await_settled()
            if self._status() is None:
                return
            reasons = list(self._failures(self._stack))
            self._announce(f"The stack was not deleted (attempt {attempt} of {ATTEMPTS}):")
            for reason in reasons:
                self._announce(f"  {reason}")
            if attempt == ATTEMPTS:
                break
            if not self._protect:
                self._empty_vault()
                # A late run of the function may have written since
                self._empty_buckets()
            self._await_interfaces()
        raise Problem(
            f"The stack {self._stack} cannot be deleted; the reasons are above. Remove what is in the way, then "
            f"run the same command again."
        )

    def _failures(self, stack: str) -> Iterator[str]:
        resources = self._client("cloudformation").describe_stack_resources(StackName=stack)["StackResources"]
        for resource in resources:
            if resource["ResourceStatus"] != "DELETE_FAILED":
                continue
            if resource["ResourceType"] == "AWS::CloudFormation::Stack":
                yield from self._failures(resource["PhysicalResourceId"])
            else:
                reason = resource.get("ResourceStatusReason", "no reason given")
                yield f"{resource['ResourceType']} {resource['PhysicalResourceId']}: {reason}"

    def _await_interfaces(self) -> None:
        """Wait until nothing but the stack's own resources holds an interface in the VPC; then, or when that time is
        over, the next attempt is made."""

        def held() -> str:
            each = [
                f"{one['NetworkInterfaceId']} ({one.get('Description') or 'nameless'})" for one in self._interfaces()
            ]
            return f"for {len(each)} network interfaces to be released: {', '.join(each[:3])}"

        if self._interfaces():
            self._wait(lambda: not self._interfaces(), held, within=self._patience.interfaces, must=False)

    def _interfaces(self) -> list[Any]:
        ec2 = self._client("ec2")
        vpcs = ec2.describe_vpcs(Filters=[{"Name": "tag:Name", "Values": [self._names.plain]}])["Vpcs"]
        wanted = [{"Name": "vpc-id", "Values": [vpc["VpcId"] for vpc in vpcs]}]
        if not vpcs:
            return []
        return [
            each
            for page in remains.pages(ec2, "describe_network_interfaces", Filters=wanted)
            for each in page["NetworkInterfaces"]
            if each.get("InterfaceType") != "vpc_endpoint" and not each.get("Description", "").startswith(OWNED)
        ]

    def _await_settled(self) -> None:
        """Wait until CloudFormation is done with what an earlier, interrupted command has begun."""
        if (self._status() or "").endswith("_IN_PROGRESS"):
            self._wait(
                lambda: not (self._status() or "").endswith("_IN_PROGRESS"),
                lambda: f"for {self._stack}, which is {self._status()}",
            )

    def _status(self) -> str | None:
        stack = self._describe_stack()
        return None if stack is None else str(stack["StackStatus"])

    def _describe_stack(self) -> Any:
        try:
            found = self._client("cloudformation").describe_stacks(StackName=self._stack)["Stacks"]
        except ClientError as error:
            if error.response["Error"]["Code"] == "ValidationError":
                return None
            raise
        alive = [stack for stack in found if stack["StackStatus"] != "DELETE_COMPLETE"]
        return alive[0] if alive else None

    # Afterwards ------------------------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Delete what services have made again, or what was made beside the stack, each by its exact name: a suffix
        can be the end of another one, and what is deleted here is nobody else's."""
        self._end_rotation()
        if self._protect:
            return
        logs, rds = self._client("logs"), self._client("rds")
        ours = {str(group["LogGroupName"]) for group in self._cdk.resources("AWS::Logs::LogGroup")}
        for remainder in remains.survey(self._account, self._suffix).found:
            if remainder.kind == "log group" and remainder.name in ours:
                self._announce(f"Deleting the log group {remainder.name}, made again by a late line")
                _if_there(functools.partial(logs.delete_log_group, logGroupName=remainder.name))
        for name in self._snapshots_of_this_life():
            self._announce(f"Deleting the snapshot {name}")
            _if_there(functools.partial(rds.delete_db_snapshot, DBSnapshotIdentifier=name))

    def _end_rotation(self) -> None:
        """Of the agency's secret, when it still names a function that is gone."""
        secrets, function = self._client("secretsmanager"), self._names.of("rotation")
        for page in remains.pages(secrets, "list_secrets"):
            for secret in page["SecretList"]:
                if not secret.get("RotationEnabled") or secret.get("OwningService"):
                    continue
                if remains.rotation_function(secrets, secret) == function:
                    self._announce(f"Ending the rotation of {secret['Name']}, whose function is gone")
                    secrets.cancel_rotate_secret(SecretId=secret["ARN"])

    def _snapshots_of_this_life(self) -> Iterator[str]:
        """Manual snapshots of the members since the stack was created: older ones are of an environment of the same
        suffix that was protected, and were kept on purpose."""
        if self._born is None:
            return
        for member in (*self._names.members, self._names.restored):
            arguments = {"DBInstanceIdentifier": member, "SnapshotType": "manual"}
            for page in remains.pages(self._client("rds"), "describe_db_snapshots", **arguments):
                for snapshot in page["DBSnapshots"]:
                    if snapshot["SnapshotCreateTime"] >= self._born:
                        yield snapshot["DBSnapshotIdentifier"]

    def _what_is_left(self) -> Outcome:
        """Ask for everything; lists may show for minutes what is gone already."""
        outcome = self._look()
        if outcome.left and self._patience.lists > 0:
            self._wait(
                lambda: not self._look().left,
                lambda: f"for {len(self._look().left)} resources to disappear from AWS's lists",
                within=self._patience.lists,
                must=False,
            )
            outcome = self._look()
        return outcome

    def _look(self) -> Outcome:
        seen = remains.survey(self._account, self._suffix)
        kept = tuple(str(each) for each in seen.found if self._protect and each.holds_data)
        left = tuple(str(each) for each in seen.found if not (self._protect and each.holds_data))
        return Outcome(kept, (*left, *(f"unknown, could not be asked for: {kind}" for kind in seen.unasked)))

    # Helpers ---------------------------------------------------------------------------------------------------------

    def _members(self) -> list[Any]:
        return self._instances(*self._names.members)

    def _instances(self, *identifiers: str) -> list[Any]:
        rds = self._client("rds")
        found: list[Any] = []
        for identifier in identifiers:
            try:
                found += rds.describe_db_instances(DBInstanceIdentifier=identifier)["DBInstances"]
            except ClientError as error:
                if error.response["Error"]["Code"] != "DBInstanceNotFound":
                    raise
        return found

    def _vault(self) -> Any:
        try:
            return self._client("backup").describe_backup_vault(BackupVaultName=self._names.plain)
        except ClientError as error:
            # AWS Backup says AccessDenied for a vault that does not exist
            if error.response["Error"]["Code"] in ("ResourceNotFoundException", "AccessDeniedException"):
                return None
            raise

    def _client(self, service: str) -> Any:
        return self._account.client(service)

    def _wait(
        self,
        until: Callable[[], bool],
        what: str | Callable[[], str],
        within: float | None = None,
        *,
        must: bool = True,
    ) -> None:
        """Look until it is so, with a line of progress now and then. Raises Problem after `within` s if it must be."""
        started = told = time.monotonic()
        text = what if isinstance(what, str) else what()
        self._announce(f"Waiting {text}")
        while not until():
            now = time.monotonic()
            if now - started > (within or self._patience.steps):
                if must:
                    raise Problem(f"Waited {text} for {now - started:.0f} s in vain; run the same command again.")
                self._announce(f"Waited {text} for {now - started:.0f} s in vain; going on")
                return
            if now - told > self._patience.tell:
                text, told = (what if isinstance(what, str) else what()), now
                self._announce(f"Still waiting {text} ({now - started:.0f} s so far)")
            time.sleep(self._patience.poll)


def confirm(suffix: str, shields: tuple[str, ...], answer: str | None, ask: Callable[[str], str]) -> None:
    """Raise Problem unless the suffix of a protected environment was typed, or given as `--yes-destroy <suffix>`."""
    if answer is None:
        protected = "; ".join(shields) or "the setting protect"
        try:
            answer = ask(
                f"{suffix} is protected ({protected}). Its data is kept: final snapshots, files, table, backups, logs, "
                f"keys. Type {suffix} to destroy everything else: "
            )
        except EOFError:
            answer = ""
    if answer.strip() != suffix:
        raise Problem(
            f"Nothing was destroyed: {suffix} is protected, and {answer.strip()!r} is not its suffix; type it, or "
            f"run `python -m deployment destroy --suffix {suffix} --yes-destroy {suffix}`."
        )


def _if_there(act: Callable[[], object]) -> None:
    """Do it; that the resource is gone already is no error."""
    try:
        act()
    except ClientError as error:
        if error.response["Error"]["Code"] not in NOT_FOUND:
            raise
