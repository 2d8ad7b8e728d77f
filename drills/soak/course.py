"""One deployed environment that lives through seed after seed: each seed's acts are done, healed, and judged."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg
from botocore.exceptions import BotoCoreError, ClientError

from deployment.account import Account
from deployment.operations import Operations, Started
from deployment.problem import Problem
from drills.client import Application
from drills.ledger import Ledger
from drills.scenarios import post
from drills.soak.checker import Evidence, Finding, judge
from drills.soak.schedule import FATAL, Act, Schedule, drawn
from recovery import history, incident, operation, override, pause, roles
from recovery.clock import iso, seconds
from recovery.roles import Roles
from recovery.table import RecoveryTable

SWIFT: Mapping[str, str] = {
    "PROBE_INTERVAL_SECONDS": "0.5",
    "PROBE_TIMEOUT_SECONDS": "1",
    "FAILURE_THRESHOLD": "2",
    "MULTI_AZ_GRACE_SECONDS": "0",
}
"""Settings under which an incident takes seconds; every rule is the same."""
WARM_SECONDS = 1.0
SETTLE_SECONDS = 240.0
LOOK_SECONDS = 0.5
REPROTECTS = 4
"""So often an operator orders a reprotect that did not come about by itself."""
REPLICATION_SECONDS = 20.0
HARMS = ("lose", "fill", "kill", "crash", "freeze", "replay", "zone", "reboot")
"""After these the standby may lack transactions; a network between members and their callers carries none of them."""

T = TypeVar("T")


@dataclass
class Lived:
    """A seed that was lived through: its schedule, what became of each act, the finding and how long it took (s)."""

    schedule: Schedule
    notes: list[str] = field(default_factory=list)
    finding: Finding = field(default_factory=lambda: Finding((), 0))
    seconds: float = 0.0
    epochs: tuple[int, int] = (0, 0)
    acknowledged: int = 0
    struck: list[dict[str, Any]] = field(default_factory=list)
    """The faults of calls, each with how often it struck."""

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "seed": self.schedule.seed,
            "seconds": round(self.seconds, 1),
            "violations": list(self.finding.violations),
            "changes_of_roles": list(self.finding.changes),
            "epochs": list(self.epochs),
            "acknowledged": self.acknowledged,
            "not_replicated_at_a_loss": self.finding.tail,
            "acts": self.notes,
            "calls_struck": sum(each["struck"] for each in self.struck),
        }


class Course:
    """Seed after seed in one environment, which each of them must leave whole."""

    def __init__(self, account: Account, outputs: Mapping[str, str]) -> None:
        self.account = account
        self.outputs = outputs
        self._application = Application(account, outputs)
        self._control = account.environment["LOCAL_CLOUD_URL"]
        self._table = RecoveryTable(account.client("dynamodb"), outputs["RecoveryTableName"])
        self._operations = Operations(account, outputs["EnvironmentSuffix"], lambda _: None)
        self._suffix = outputs["EnvironmentSuffix"]
        self._members = tuple(outputs[f"Member{n}Identifier"] for n in (1, 2))
        self._hosts = {outputs[f"Member{n}Identifier"]: outputs[f"Member{n}Endpoint"] for n in (1, 2)}
        self._broken: dict[str, str] = {}

    @property
    def failover_machine(self) -> Mapping[str, Any]:
        """The definition that is deployed."""
        arn = self.outputs["FailoverStateMachineArn"]
        found: Mapping[str, Any] = json.loads(
            self.account.client("stepfunctions").describe_state_machine(stateMachineArn=arn)["definition"]
        )
        return found

    def prepare(self) -> None:
        """Wait for the first roles and make the ledger's table."""
        self._until(lambda: roles.read(self._table), SETTLE_SECONDS, "the first roles")
        self._until(self.whole, SETTLE_SECONDS, "a whole pair")
        Ledger(self._application.connect).create_table()

    def live(self, seed: int) -> Lived:
        """Live through one seed. What it violates is in the finding."""
        return self.live_through(drawn(seed))

    def live_through(self, schedule: Schedule) -> Lived:
        """Live through a schedule."""
        began = time.time()
        lived = Lived(schedule)
        post(f"{self._control}/delays", schedule.delays, "PUT")
        before = roles.known(self._table)
        ledger = Ledger(self._application.connect, writers=schedule.writers)
        ledger.empty_table()
        ledger.start()
        try:
            time.sleep(WARM_SECONDS)
            harmed_at, unfenced = self._perform(schedule, lived)
            self._heal()
            served = self._settle(ledger, lived)
        finally:
            self._heal()
            lived.struck = self._call_off()
            ledger.stop()
        after = roles.known(self._table)
        lived.finding = judge(
            Evidence(
                before=before,
                after=after,
                attempts=ledger.attempts,
                present=self._rows(ledger),
                entries=[each for each in history.read(self._table) if seconds(each.started_at) >= began - 1],
                hosts=self._hosts,
                harmed_at=harmed_at,
                unfenced=unfenced,
                members=self._members_wrong(),
                left=self._left(),
                executions=self._executions(began),
                served=served and not ledger.broken,
            )
        )
        lived.acknowledged = sum(each.outcome == "acknowledged" for each in ledger.attempts)
        lived.epochs = (before.epoch, after.epoch)
        lived.seconds = time.time() - began
        return lived

    # What goes wrong -------------------------------------------------------------------------------------------------

    def _perform(self, schedule: Schedule, lived: Lived) -> tuple[float | None, bool]:
        """Do every act at its moment and end what lasts. When the first harm was done, and whether an operator accepted
        an unfenced primary."""
        start, harmed_at, unfenced = time.time(), None, False
        due = [(act.at, act, self._act) for act in schedule.acts]
        due += [(act.at + act.lasts, act, self._end) for act in schedule.acts if act.lasts]
        victims: dict[int, str] = {}
        for at, act, do in sorted(due, key=lambda each: each[0]):
            time.sleep(max(0.0, start + at - time.time()))
            if do == self._act:
                victims[id(act)] = self._whom(act)
                if act.what in HARMS and harmed_at is None:
                    harmed_at = time.time()
                unfenced = unfenced or act.how.get("accepts") == override.FENCE
            try:
                said = do(act, victims[id(act)])
            except urllib.error.HTTPError as refused:
                said = f"refused: {json.loads(refused.read() or b'{}').get('error', refused)}"
            except (Problem, ClientError, BotoCoreError) as refused:
                said = f"refused: {refused}"
            if do == self._act or said:
                lived.notes.append(f"{time.time() - start:.1f} s {act} → {victims[id(act)]} {said}".strip())
        return harmed_at, unfenced

    def _whom(self, act: Act) -> str:
        known = roles.known(self._table)
        return {"primary": known.primary, "standby": known.standby}.get(act.whom, act.whom)

    def _act(self, act: Act, victim: str) -> str:
        match act.what:
            case "lose" | "fill" if why := self._not_survivable(victim):
                return f"spared: {why}"
            case "lose" | "fill" | "kill" | "crash" | "freeze" | "back_up":
                if act.what in FATAL:
                    self._broken[victim] = act.what
                self._post(f"rds/{victim}/{act.what}")
            case "replay":
                self._post(f"rds/{victim}/replay", {"paused": True})
            case "zone":
                self._post(f"zones/{self.outputs['Region']}{act.whom}/lose")
            case "network":
                self._post(f"rds/{victim}/endpoint", dict(act.how))
            case "process":
                self._post(f"functions/citizens-{act.whom}-{self._suffix}/kill")
            case "calls":
                role = "failover" if act.whom == "failover-machine" else act.whom
                self._post("api-faults", {**act.how, "role": f"citizens-{role}-{self._suffix}"})
            case "reboot":
                self.account.client("rds").reboot_db_instance(DBInstanceIdentifier=victim, ForceFailover=True)
            case "trigger":
                return self._trigger(act.whom)
            case "switchover":
                return self._ordered(self._operations.switchover)
            case "reprotect":
                return self._ordered(self._operations.reprotect)
            case "rotate":
                self.account.client("secretsmanager").rotate_secret(SecretId=self.outputs["SecretArn"])
            case "pause":
                pause.begin(self._table, "soak", act.lasts + SETTLE_SECONDS, "soak", time.time())
            case "override":
                accepts = [str(act.how["accepts"])]
                override.order(self._table, accepts, "soak", "soak", act.lasts, time.time())
            case unknown:
                raise Problem(f"Nobody knows how to do {unknown!r}.")
        return ""

    def _end(self, act: Act, victim: str) -> str:
        match act.what:
            case "freeze":
                self._post(f"rds/{victim}/thaw")
            case "replay":
                self._post(f"rds/{victim}/replay", {"paused": False})
            case "zone":
                self._post(f"zones/{self.outputs['Region']}{act.whom}/restore")
            case "network":
                self._post(f"rds/{victim}/endpoint", {"fault": "none"})
            case "pause":
                self._operations.resume()
        return ""

    def _not_survivable(self, victim: str) -> str:
        """Why this member may not be lost for good now: the other one could not take over."""
        known = roles.known(self._table)
        if not known.protected:
            return f"{known.standby} is no standby"
        if victim == known.standby and incident.read_lease(self._table) is not None:
            return f"{victim} may be taking over"
        other = known.standby if victim == known.primary else known.primary
        status = self._described(other).get("DBInstanceStatus")
        if status not in ("available", "backing-up") or other in self._broken:
            return f"{other} is {status}"
        return ""

    def _ordered(self, order: Callable[[], Started]) -> str:
        return order().execution_arn.rpartition(":")[2]

    def _trigger(self, how: str) -> str:
        if how.startswith("witness"):
            name = f"citizens-{how}-{self._suffix}"
            self.account.client("lambda").invoke(FunctionName=name, InvocationType="Event")
            return ""
        lease = incident.read_lease(self._table) if how == "repeat" else None
        if how == "repeat" and lease is None:
            return "nothing to repeat"
        name = lease.incident if lease is not None else incident.new_incident(time.time())
        epoch = lease.epoch if lease is not None else roles.known(self._table).epoch
        given = {"incident": name, "epoch": epoch, "witness": "a", "started_at": iso(time.time())}
        self.account.client("stepfunctions").start_execution(
            stateMachineArn=self.outputs["FailoverStateMachineArn"], name=f"{epoch}-{name}", input=json.dumps(given)
        )
        return name

    def _post(self, path: str, body: Mapping[str, object] | None = None) -> None:
        post(f"{self._control}/{path}", body)

    # What ends it ----------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        """End every fault that can be ended, and every order that lasts; faults of calls end by their numbers."""
        for letter in "ac":
            self._post(f"zones/{self.outputs['Region']}{letter}/restore")
        for member in self._members:
            for path, body in (("endpoint", {"fault": "none"}), ("thaw", {}), ("replay", {"paused": False})):
                with contextlib.suppress(urllib.error.HTTPError):
                    self._post(f"rds/{member}/{path}", body)
        with contextlib.suppress(Problem):
            self._operations.resume()
        override.withdraw(self._table, time.time())

    def _call_off(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = post(f"{self._control}/api-faults", method="GET")["faults"]
        post(f"{self._control}/api-faults", None, "DELETE")
        return found

    def _settle(self, ledger: Ledger, lived: Lived) -> bool:
        """Wait until the pair is whole and nobody is at work any more, ordering what an operator would; whether there
        is service."""
        deadline, ordered = time.monotonic() + SETTLE_SECONDS, 0
        served_since = time.time()
        idle = 0
        while time.monotonic() < deadline:
            served = ledger.acknowledged_since(time.time() - 2) is not None
            busy = self._left()
            if served and not busy and self.whole():
                self._broken.clear()
                return ledger.acknowledged_since(served_since) is not None
            idle = 0 if busy else idle + 1
            known = roles.known(self._table)
            # An operator who is alarmed looks first whether it is being done by itself
            if idle * LOOK_SECONDS >= 5 and served and ordered < REPROTECTS and not self._replicates(known):
                ordered, idle = ordered + 1, 0
                with contextlib.suppress(Problem, ClientError):
                    lived.notes.append(f"reprotect ordered: {self._ordered(self._operations.reprotect)}")
            time.sleep(LOOK_SECONDS)
        return ledger.acknowledged_since(time.time() - 5) is not None

    # What it looks like ----------------------------------------------------------------------------------------------

    def _described(self, member: str) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = self.account.client("rds").describe_db_instances(DBInstanceIdentifier=member)[
                "DBInstances"
            ][0]
        except ClientError:
            return {"DBInstanceStatus": "absent"}
        return found

    def _replicates(self, known: Roles) -> bool:
        standby = self._described(known.standby)
        return (
            known.protected
            and standby.get("ReadReplicaSourceDBInstanceIdentifier") == known.primary
            and standby["DBInstanceStatus"] == "available"
        )

    def whole(self) -> bool:
        """Whether the pair is one, and what decides sees it so."""
        known = roles.known(self._table)
        if not self._replicates(known) or self._described(known.primary)["DBInstanceStatus"] != "available":
            return False
        try:
            self._operations.preview_of_switchover()
        except Problem:
            return False
        return True

    def _members_wrong(self) -> list[str]:
        """What an application and RDS find wrong with the members, in sentences."""
        known, wrong = roles.known(self._table), []
        for name, source in ((known.primary, None), (known.standby, known.primary)):
            found = self._described(name)
            if found["DBInstanceStatus"] != "available":
                wrong.append(f"{name} is {found['DBInstanceStatus']}.")
            if (found.get("ReadReplicaSourceDBInstanceIdentifier") or None) != source:
                wrong.append(f"{name} is a replica of {found.get('ReadReplicaSourceDBInstanceIdentifier')}.")
        for name in (known.primary, known.standby):
            try:
                # One password works on both, and both let applications in
                with self._application.connect_member(self._members.index(name) + 1) as connection:
                    recovering = connection.execute("SELECT pg_is_in_recovery()").fetchone()
            except psycopg.Error as error:
                wrong.append(f"{name} does not let an application in: {str(error).strip().splitlines()[0]}.")
            else:
                if recovering != (name == known.standby,):
                    wrong.append(f"{name} answers {recovering} when asked whether it is in recovery.")
        return wrong or self._not_replicated(known)

    def _not_replicated(self, known: Roles) -> list[str]:
        with self._application.connect() as primary:
            row = primary.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
        assert row is not None

        def there() -> bool:
            with self._application.connect_member(self._members.index(known.standby) + 1) as standby:
                found = standby.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (str(row[0]),)).fetchone()
            return found == (True,)

        try:
            self._until(there, REPLICATION_SECONDS, "replication")
        except (Problem, psycopg.Error):
            return [f"{known.standby} does not replay what {known.primary} has written."]
        return []

    def _left(self) -> list[str]:
        """What is held or at work."""
        now, left = time.time(), []
        if (lease := incident.read_lease(self._table)) is not None:
            left.append(f"the lease of {lease.incident}")
        if (running := operation.running(self._table, now)) is not None:
            left.append(f"the operation {running.execution.rpartition(':')[2]}")
        if (paused := pause.active(self._table, now)) is not None:
            left.append(f"a pause ({paused})")
        return left + [f"the execution {each['name']}" for each in self._executions(0) if each["status"] == "RUNNING"]

    def _executions(self, since: float) -> list[dict[str, Any]]:
        """The machines' executions that were started since then."""
        client, found = self.account.client("stepfunctions"), []
        for kind in ("Failover", "Reprotect", "Switchover"):
            arn = self.outputs[f"{kind}StateMachineArn"]
            for each in client.list_executions(stateMachineArn=arn, maxResults=50)["executions"]:
                if each["startDate"].timestamp() >= since:
                    described = client.describe_execution(executionArn=each["executionArn"]) if since else each
                    found.append(
                        {
                            "name": f"{kind.lower()} {each['name']}",
                            "status": described["status"],
                            "error": described.get("error", ""),
                        }
                    )
        return found

    def _rows(self, ledger: Ledger) -> set[int]:
        found: set[int] = set()

        def read() -> bool:
            try:
                found.update(ledger.rows_present())
            except psycopg.Error:
                return False
            return True

        with contextlib.suppress(Problem):
            self._until(read, 20, "the ledger's rows")
        return found

    @staticmethod
    def _until(look: Callable[[], T | None], within: float, what: str) -> T:
        deadline = time.monotonic() + within
        while not (found := look()):
            if time.monotonic() > deadline:
                raise Problem(f"Waited {within:.0f} s in vain for {what}.")
            time.sleep(LOOK_SECONDS)
        return found


def lived_through(course: Course, seeds: range, told: Callable[[Lived], None]) -> None:
    """The seeds one after the other, until one leaves the environment in pieces (the later ones would say nothing)."""
    for seed in seeds:
        lived = course.live(seed)
        told(lived)
        if lived.finding.violations and not course.whole():
            return
