"""Going back to before a harmful transaction: a point-in-time restore beside the members, rolled forward by the log.

RDS restores to a whole second, and not to the last five minutes. The transaction log goes on from there to just before
the transaction, and lists what came after it. Members and clients are left alone: what is done with the restored
instance is the operator's decision. Every step asks what is there, so a command that was interrupted is run again.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError, ReadTimeoutError

from deployment.account import Account
from deployment.problem import Problem
from recovery import roles
from recovery.clock import iso
from recovery.members import Endpoint
from recovery.roles import RolesUnknown
from recovery.table import RecoveryTable
from stacks.names import Names

Announce = Callable[[str], None]
PURPOSE_TAG = "citizens:restored-for"
RESTORED_TO_TAG = "citizens:restored-to"
# Lambda's own limit is 900 s.
FUNCTION_SECONDS = 930
ATTEMPTS = 8
"""Of roll forward: a run that Lambda ends is gone on from where it committed last."""
MOST_LISTED = 100_000
"""Of transactions at once: the function hands them on by the thousand."""
HOPELESS = ("failed", "incompatible-restore", "incompatible-network", "incompatible-parameters", "restore-error")


@dataclass(frozen=True)
class Target:
    """Where to stop: `before` the transaction that commits there (EPOCH:X/Y), or at a time (`until`, epoch seconds)."""

    before: str | None = None
    until: float | None = None

    def __str__(self) -> str:
        return f"before {self.before}" if self.before else f"until {iso(self.until or 0.0)}"


@dataclass(frozen=True)
class Patience:
    """Seconds: for the restored instance, between two looks, between two lines of progress."""

    instance: float = 3 * 60 * 60
    poll: float = 10
    tell: float = 60


LOCAL_PATIENCE = Patience(instance=120, poll=0.2, tell=10)


@dataclass(frozen=True)
class Backup:
    """Automated backups of a member: which moments (epoch seconds) can be restored from them."""

    resource_id: str
    identifier: str
    earliest: float
    latest: float


@dataclass(frozen=True)
class Outcome:
    """A restored instance: its endpoint, the moment it was restored to, the loss account of the roll forward, and the
    transactions that the log holds beyond it (`more`: not all of them are listed).
    """

    identifier: str
    endpoint: Endpoint
    restored_to: str
    account: Mapping[str, Any]
    after: tuple[Mapping[str, Any], ...] = field(repr=False)
    more: bool = False

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "identifier": self.identifier,
            "host": self.endpoint.host,
            "port": self.endpoint.port,
            "restored_to": self.restored_to,
            "account": dict(self.account),
            "after": [dict(each) for each in self.after],
            "more": self.more,
        }


def moment_before(wanted: float) -> int:
    """The last whole second before a moment (epoch seconds): RDS restores to whole seconds."""
    return math.ceil(wanted) - 1


def best(backups: list[Backup], wanted: int) -> tuple[Backup, int] | None:
    """The backup that gets closest to a moment (epoch seconds) without passing it, and how close; None if none can."""
    reachable = [(min(math.floor(backup.latest), wanted), backup) for backup in backups]
    within = [(moment, backup) for moment, backup in reachable if moment >= backup.earliest]
    if not within:
        return None
    moment, backup = max(within, key=lambda each: each[0])
    return backup, moment


class Restoration:
    """Restores beside the members of an environment and rolls forward."""

    def __init__(self, account: Account, suffix: str, announce: Announce, patience: Patience | None = None) -> None:
        self._rds = account.client("rds")
        self._functions = account.client("lambda", patience=FUNCTION_SECONDS)
        self._names = Names(suffix)
        self._table = RecoveryTable(account.client("dynamodb"), self._names.recovery_table)
        self._announce = announce
        self._patience = patience or (LOCAL_PATIENCE if account.is_local else Patience())

    def transactions(
        self, since: str | None = None, before: str | None = None, after: str | None = None
    ) -> tuple[list[Mapping[str, Any]], bool]:
        """The log's transactions between two times (ISO 8601) and beyond a position; whether there are more."""
        listed: list[Mapping[str, Any]] = []
        more = True
        while more and len(listed) < MOST_LISTED:
            found = self._ask(action="list", since=since, before=before, after=after)
            listed += found["transactions"]
            more = bool(found["more"])
            after = listed[-1]["position"] if listed else after
        return listed, more

    def run(self, target: Target) -> Outcome:
        """Restore, roll forward, and list what is beyond. Raises Problem."""
        wanted = self._wanted(target)
        if self._existing(target) is None:
            try:
                self._restore(target, wanted)
            except self._rds.exceptions.DBInstanceAlreadyExistsFault:
                # The answer to an earlier request was lost, or somebody else was faster.
                self._existing(target)
        instance = self._await_available()
        endpoint = Endpoint(instance["Endpoint"]["Address"], int(instance["Endpoint"]["Port"]))
        account = self._roll_forward(target, endpoint)
        after, more = self.transactions(iso(wanted), after=str(account["reached"]))
        restored_to = next((tag["Value"] for tag in instance["TagList"] if tag["Key"] == RESTORED_TO_TAG), "")
        return Outcome(self._names.restored, endpoint, restored_to, account, tuple(after), more)

    def _wanted(self, target: Target) -> int:
        """The last whole second that the restored instance may hold."""
        if target.before is None:
            return math.floor(target.until or 0.0)
        found = self._ask(action="find", at=target.before)
        self._announce(f"To stop before: {found['text']}")
        return moment_before(int(found["committed_at_us"]) / 1e6)

    # The instance ----------------------------------------------------------------------------------------------------

    def _describe(self) -> Any:
        try:
            return self._rds.describe_db_instances(DBInstanceIdentifier=self._names.restored)["DBInstances"][0]
        except ClientError as error:
            if error.response["Error"]["Code"] != "DBInstanceNotFound":
                raise
            return None

    def _existing(self, target: Target) -> Any:
        """The instance of an earlier run for the same target; Problem when it is of another one."""
        instance = self._describe()
        if instance is None:
            return None
        tags = {tag["Key"]: tag["Value"] for tag in instance.get("TagList", [])}
        if tags.get(PURPOSE_TAG) != str(target):
            raise Problem(
                f"{self._names.restored} is there already, restored {tags.get(PURPOSE_TAG, 'by somebody else')}: "
                f"delete it first, when nobody needs it (RDS, delete-db-instance), then run the same command again."
            )
        self._announce(f"{self._names.restored} is there already, {instance['DBInstanceStatus']}: going on with it")
        return instance

    def _restore(self, target: Target, wanted: int) -> None:
        found = best(self._backups(), wanted)
        if found is None:
            raise Problem(
                f"No automated backup of {' or '.join(self._names.members)} reaches back to {iso(wanted)}: restore a "
                "snapshot, or a recovery point of the vault, by hand."
            )
        backup, moment = found
        behind = f", {wanted - moment} s short of it" if moment < wanted else ""
        self._announce(f"Restoring {backup.identifier} as {self._names.restored} to {iso(moment)}{behind}")
        primary = self._primary()
        self._rds.restore_db_instance_to_point_in_time(
            SourceDbiResourceId=backup.resource_id,
            TargetDBInstanceIdentifier=self._names.restored,
            RestoreTime=datetime.fromtimestamp(moment, UTC),
            DBInstanceClass=primary["DBInstanceClass"],
            DBSubnetGroupName=primary["DBSubnetGroup"]["DBSubnetGroupName"],
            DBParameterGroupName=primary["DBParameterGroups"][0]["DBParameterGroupName"],
            VpcSecurityGroupIds=[group["VpcSecurityGroupId"] for group in primary["VpcSecurityGroups"]],
            MultiAZ=bool(primary["MultiAZ"]),
            PubliclyAccessible=False,
            EnableIAMDatabaseAuthentication=True,
            AutoMinorVersionUpgrade=False,
            CopyTagsToSnapshot=True,
            DeletionProtection=bool(primary.get("DeletionProtection")),
            Tags=[
                *(tag for tag in primary.get("TagList", []) if not tag["Key"].startswith("aws:")),
                {"Key": PURPOSE_TAG, "Value": str(target)},
                {"Key": RESTORED_TO_TAG, "Value": iso(moment)},
            ],
        )

    def _backups(self) -> list[Backup]:
        found = []
        for member in self._names.members:
            listed = self._rds.describe_db_instance_automated_backups(DBInstanceIdentifier=member)
            for each in listed["DBInstanceAutomatedBackups"]:
                window = each.get("RestoreWindow") or {}
                if "EarliestTime" in window and "LatestTime" in window:
                    bounds = (window["EarliestTime"].timestamp(), window["LatestTime"].timestamp())
                    found.append(Backup(each["DbiResourceId"], member, *bounds))
        return found

    def _primary(self) -> Any:
        """The member that takes writes: its groups and class are the ones that work now."""
        try:
            primary = roles.known(self._table).primary
        except RolesUnknown as unknown:
            raise Problem(str(unknown)) from unknown
        return self._rds.describe_db_instances(DBInstanceIdentifier=primary)["DBInstances"][0]

    def _await_available(self) -> Any:
        started = told = time.monotonic()
        while True:
            instance = self._describe()
            status = "gone" if instance is None else instance["DBInstanceStatus"]
            if status == "available":
                return instance
            now = time.monotonic()
            if status in (*HOPELESS, "gone", "deleting") or now - started > self._patience.instance:
                raise Problem(
                    f"{self._names.restored} is {status} after {now - started:.0f} s: see its events in RDS, delete "
                    "it, and run the same command again."
                )
            if now - told > self._patience.tell:
                told = now
                self._announce(f"{self._names.restored} is {status} ({now - started:.0f} s so far)")
            time.sleep(self._patience.poll)

    # The log ---------------------------------------------------------------------------------------------------------

    def _roll_forward(self, target: Target, endpoint: Endpoint) -> Mapping[str, Any]:
        stop = {"before": target.before} if target.before else {"until": iso(target.until or 0.0)}
        self._announce(f"Rolling {self._names.restored} forward {target}")
        for attempt in range(1, ATTEMPTS + 1):
            try:
                account = self._ask(action="roll-forward", host=endpoint.host, port=endpoint.port, **stop)
            except (_FunctionTimedOut, ReadTimeoutError):
                self._announce(f"Not done within the function's time (attempt {attempt} of {ATTEMPTS}): going on")
                continue
            if target.before and not account["target_reached"]:
                raise Problem(
                    f"The log ends at {account['log_ends']}, before {target.before}: rolled forward to there."
                )
            return account
        raise Problem("Rolling forward did not end; run the same command again, which goes on from where it stands.")

    def _ask(self, **event: Any) -> Mapping[str, Any]:
        payload = json.dumps({name: value for name, value in event.items() if value is not None}).encode()
        answer = self._functions.invoke(FunctionName=self._names.of("rewind"), Payload=payload)
        said = json.load(answer["Payload"])
        if "FunctionError" not in answer:
            return dict(said)
        message = str(said.get("errorMessage", said))
        if "timed out" in message:
            raise _FunctionTimedOut(message)
        raise Problem(message)


class _FunctionTimedOut(Exception):
    """Lambda ended the function before it was done."""
