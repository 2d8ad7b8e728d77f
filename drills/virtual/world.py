"""The whole system in virtual time: the three machines as synthesised, beside each other, over the real rules.

Real are the definitions of the machines, the decisions (`arbiter`, `reprotection`, `switchover`), the suspicion, lease,
roles, pause, override, operation and history. A model are RDS, EC2, the network and the functions' shells (`pair`). All
times are epoch seconds of one virtual clock.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from botocore.exceptions import ClientError

from drills.virtual.kept import Kept
from drills.virtual.machine import Answer, Machine, Request, Run, TaskFailed
from drills.virtual.pair import APPLICATIONS, FAILOVER, FAILURE, FUNCTIONS, SIDES, Member, Pair
from recovery import incident, observation, operation, override, pause, promise, reprotection, roles, switchover
from recovery.arbiter import Situation, decide
from recovery.clock import iso, seconds
from recovery.objectives import Detection, Objectives
from recovery.observation import Observation, PrimaryView, StandbyView
from recovery.suspicion import Suspicion
from recovery.table import from_attribute
from stacks.names import Names

BEGIN = 1_800_000_000.0
FAILOVER_ARN, SWITCHOVER_ARN, REPROTECT_ARN = (
    f"arn:aws:states:eu-central-2:111122223333:stateMachine:{name}" for name in ("failover", "switchover", "reprotect")
)
# By state, the function that it invokes: a kill strikes one of these
FUNCTION_OF: Mapping[str, str] = {
    "Observe": "arbiter",
    "ConfirmFence": "probe",
    "ProbePromoted": "probe",
    "WarmUpProbe": "probe",
    "OpenLog": "open-log",
    "RollForward": "roll-forward",
    "RollForwardOn": "roll-forward",
    "PointSecret": "rotation",
    "PrepareDatabase": "rotation",
    "WarmUp": "rotation",
    "StopWrites": "rotation",
    "CutOver": "cutover",
    "Verify": "verify",
    "Plan": "reprotect",
    "MayBegin": "switchover",
    "CatchUp": "switchover",
}


@dataclass(frozen=True)
class Machines:
    """The three definitions."""

    failover: Mapping[str, Any]
    switchover: Mapping[str, Any]
    reprotect: Mapping[str, Any]

    @classmethod
    def synthesised(cls, assembly: Path, names: Names) -> Machines:
        """Those of an environment's templates."""
        templates = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(assembly.glob("*.template.json"))]
        machines = (names.state_machine, names.switchover_machine, names.reprotect_machine)
        return cls(*(promise.from_templates(templates, name) for name in machines))


@dataclass
class CallFault:
    """Calls of one machine's state or function that go wrong: `kind` is throttle, lose_answer or kill."""

    kind: str
    machine: str
    state: str
    times: int = 1
    skip: int = 0
    matched: int = 0
    struck: int = 0

    def strikes(self, machine: str, state: str) -> bool:
        """Whether this call suffers it; it is counted."""
        if machine != self.machine or self.state not in ("*", state):
            return False
        if self.kind == "kill" and state not in FUNCTION_OF:
            return False
        self.matched += 1
        if self.matched <= self.skip or self.struck >= self.times:
            return False
        self.struck += 1
        return True


@dataclass
class Execution:
    """One execution of a machine, and how it stands."""

    arn: str
    kind: str
    began: float
    course: Generator[Request, Any, Run]
    status: str = "RUNNING"
    error: str = ""


@dataclass(frozen=True)
class Pace:
    """How long AWS takes, s."""

    promotion: float = 240.0
    failover: float = 90.0
    failed_after: float = 30.0
    reboot: float = 20.0
    deletion: float = 60.0
    creation: float = 300.0


@dataclass
class WitnessState:
    """What a witness carries from round to round."""

    silent_until: float = 0.0
    last: Observation | None = None
    incident_at: float | None = None
    epoch: int = 0
    sequence: int = 0


@dataclass
class World:
    """Everything, at a moment of virtual time."""

    machines: Machines
    names: tuple[str, str]
    chance: random.Random
    pace: Pace = field(default_factory=Pace)
    detection: Detection = field(default_factory=Detection)
    objectives: Objectives = field(default_factory=Objectives)
    clients: int = 2
    now: float = BEGIN
    pair: Pair = field(init=False)
    table: Kept = field(default_factory=Kept)
    executions: dict[str, Execution] = field(default_factory=dict)
    faults: list[CallFault] = field(default_factory=list)
    entered: list[tuple[str, str]] = field(default_factory=list)
    _due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: itertools.count[int] = field(default_factory=itertools.count)
    _witnesses: dict[str, WitnessState] = field(default_factory=lambda: {name: WitnessState() for name in "ac"})

    def __post_init__(self) -> None:
        self.pair = Pair(self.names, self.clients, self.now)
        self._machines = {
            "failover": Machine(self.machines.failover),
            "switchover": Machine(self.machines.switchover),
            "reprotect": Machine(self.machines.reprotect),
        }
        roles.create(self.table, *self.names, self.now - 86_400)
        for number in range(self.clients):
            self._repeat(self.now + 0.3 * number, 1.0, lambda client=number: self.pair.write(client, self.now))  # type: ignore[misc]
        self._repeat(self.now, 0.5, lambda: self.pair.replicate(self.now))
        self._repeat(self.now, 3.0, self.pair.archive)
        for name in "ac":
            began = self.now + self.chance.uniform(0, self.detection.probe_interval)
            self._repeat(began, self.detection.probe_interval, lambda who=name: self._look(who))  # type: ignore[misc]

    # Time ------------------------------------------------------------------------------------------------------------

    def at(self, moment: float, do: Callable[[], None]) -> None:
        """Do something at a moment."""
        heapq.heappush(self._due, (max(moment, self.now), next(self._order), do))

    def run_until(self, moment: float) -> None:
        """Let time pass."""
        while self._due and self._due[0][0] <= moment:
            self.now, _, do = heapq.heappop(self._due)
            do()
        self.now = max(self.now, moment)

    def _repeat(self, first: float, every: float, do: Callable[[], None]) -> None:
        def again() -> None:
            do()
            self.at(self.now + every, again)

        self.at(first, again)

    # Harm ------------------------------------------------------------------------------------------------------------

    def lose(self, name: str, *, full: bool = False) -> None:
        """For good; RDS says so after a while, or at once when the storage is full."""
        self.pair.lose(name, "storage-full" if full else "failed")
        member = self.pair.members[name]

        def tell() -> None:
            if member.exists:
                member.status = "storage-full" if full else "failed"
                self.pair.tell(self.now, name, "DB instance put into failed state.", FAILURE)

        self.at(self.now + (0.0 if full else self.pace.failed_after), tell)

    def fail_over(self, name: str, *, told: bool = True) -> None:
        """To the Multi-AZ copy, which loses nothing."""
        member = self.pair.members[name]
        if not member.alive or not member.exists or member.lost:
            return
        member.alive = False
        member.restart()
        if told:
            self.pair.tell(self.now, name, "Multi-AZ instance failover started.", FAILOVER)

        def back() -> None:
            if member.exists and not member.lost and member.status not in ("deleting", "storage-full"):
                member.alive, member.frozen = True, False
                member.status = "available" if member.status == "rebooting" else member.status
                self.pair.tell(self.now, name, "Multi-AZ instance failover completed.", FAILOVER)

        self.at(self.now + self.pace.failover, back)

    def lose_witness(self, name: str, lasts: float) -> None:
        """A zone is away, and its witness with it."""
        self._witnesses[name].silent_until = self.now + lasts

    # Orders ----------------------------------------------------------------------------------------------------------

    def start(self, machine_arn: str, name: str, given: Mapping[str, Any]) -> str:
        """Start an execution; ClientError for a name that is taken by another input or an end."""
        kind = machine_arn.rpartition(":")[2]
        arn = f"{machine_arn.replace(':stateMachine:', ':execution:')}:{name}"
        if arn in self.executions:
            if self.executions[arn].status == "RUNNING":
                return arn
            raise ClientError({"Error": {"Code": "ExecutionAlreadyExists", "Message": name}}, "StartExecution")
        course = self._machines[kind].execution(given, self.now, arn)
        found = self.executions[arn] = Execution(arn, kind, self.now, course)
        self.at(self.now + 0.1, lambda: self._advance(found, None))
        return arn

    def order(self, kind: str) -> str:
        """What an operator's command starts."""
        known, name = roles.known(self.table), self._incident()
        given = {"id": name, "incident": name, "automatic": False, "forensics": True, "by": "operator"}
        given |= {"epoch": known.epoch, "started_at": iso(self.now)}
        return self.start(SWITCHOVER_ARN if kind == "switchover" else REPROTECT_ARN, f"{known.epoch}-{name}", given)

    def trigger(self, *, again: bool) -> None:
        """A start of the failover machine that nobody suspected anything for, or one that there was already."""
        lease = incident.read_lease(self.table) if again else None
        name = lease.incident if lease is not None else self._incident()
        epoch = lease.epoch if lease is not None else roles.known(self.table).epoch
        given = {"incident": name, "epoch": epoch, "witness": "a", "started_at": iso(self.now)}
        try:
            self.start(FAILOVER_ARN, f"{epoch}-{name}", given)
        except ClientError:
            return

    def _incident(self) -> str:
        return f"virtual-{next(self._order)}"

    # Witnesses -------------------------------------------------------------------------------------------------------

    def _look(self, name: str) -> None:
        state = self._witnesses[name]
        if self.now < state.silent_until:
            return
        known = roles.known(self.table)
        primary, standby = self.pair.members[known.primary], self.pair.members[known.standby]
        if state.epoch != known.epoch:
            state.epoch, state.last, state.incident_at = known.epoch, None, None
        writes = primary.answers(FUNCTIONS) and not primary.recovering
        reads = standby.answers(FUNCTIONS)
        failures, first = observation.failed_rounds(state.last, writes, self.now)
        shown = standby.rows[: standby.replayed] if standby.recovering else standby.rows
        seen = Observation(
            witness=name,
            at=self.now,
            epoch=known.epoch,
            primary=PrimaryView(writes),
            standby=StandbyView(
                reads,
                None if standby.recovering else "It is not in recovery: it has been promoted already.",
                self.pair.lag(standby, self.now) if reads else None,
                committed_at=shown[-1][1] if reads and shown else None,
            ),
            failures=failures,
            first_failure_at=first,
            incident_at=state.incident_at,
        )
        state.last = seen
        observation.put(self.table, seen)
        if failures >= self.detection.failure_threshold:
            suspicion = Suspicion(self.table, lambda: cast("Any", _States(self)), FAILOVER_ARN, name, SWITCHOVER_ARN)
            if suspicion.act(known, self.now, state.incident_at, first) is not None:
                state.incident_at = self.now

    # Machines --------------------------------------------------------------------------------------------------------

    def _advance(self, execution: Execution, answer: Answer | TaskFailed | None) -> None:
        try:
            request = execution.course.send(answer)
        except StopIteration as end:
            run: Run = end.value
            failed = run.states[-1] == "Failed"
            execution.status = "FAILED" if failed else "SUCCEEDED"
            execution.error = f"{execution.kind.capitalize()}Failed" if failed else ""
            return
        except (TaskFailed, ValueError, NotImplementedError) as error:
            execution.status, execution.error = "FAILED", f"States.Runtime: {error}"
            return
        self.at(request.at, lambda: self._advance(execution, self._answer(execution, request)))

    def _answer(self, execution: Execution, request: Request) -> Answer | TaskFailed:
        self.entered.append((execution.kind, request.state))
        took = min(3.0, self.chance.lognormvariate(-1.9, 0.8))
        fault = next((each for each in self.faults if each.strikes(execution.kind, request.state)), None)
        if fault is not None and fault.kind == "throttle":
            return TaskFailed("Lambda.TooManyRequestsException", "Rate exceeded", took)
        if fault is not None and fault.kind == "kill" and self.chance.random() < 0.5:
            return TaskFailed("Runtime.ExitError", "killed before it did anything", took)
        try:
            result = self._do(execution, request)
        except TaskFailed as failed:
            return failed
        except (roles.RolesChanged, roles.RolesUnknown) as error:
            return TaskFailed(type(error).__name__, str(error), took)
        if fault is not None:
            return TaskFailed("Runtime.ExitError" if fault.kind == "kill" else "SdkClientException", "no answer", took)
        return Answer(result, took)

    def _do(self, execution: Execution, request: Request) -> Any:
        resource, given = self._machines[execution.kind].resource(request.state), request.arguments
        action = resource.rpartition(":")[2]
        if resource.endswith(":lambda:invoke"):
            return {"Payload": self._invoke(request.state, dict(given["Payload"]))}
        match action:
            case "updateItem":
                names, values = given["ExpressionAttributeNames"], given["ExpressionAttributeValues"]
                record = {name: from_attribute(values[f":{short[1:]}"]) for short, name in names.items()}
                self.table.put(given["Key"]["id"]["S"], record)
                return {}
            case "deleteItem":
                (value,) = given["ExpressionAttributeValues"].values()
                (name,) = given["ExpressionAttributeNames"].values()
                if not self.table.delete_if(given["Key"]["id"]["S"], f"{name} = :it", {":it": from_attribute(value)}):
                    raise TaskFailed("DynamoDB.ConditionalCheckFailedException", "it is another's")
                return {}
            case "publish":
                return {}
            case "startExecution":
                try:
                    return {"ExecutionArn": self.start(REPROTECT_ARN, given["Name"], given["Input"])}
                except ClientError as error:
                    raise TaskFailed("StepFunctions.ExecutionAlreadyExistsException", str(error)) from error
            case _:
                return self._ec2_or_rds(action, given)

    def _ec2_or_rds(self, action: str, given: Mapping[str, Any]) -> Any:
        match action:
            case "describeSecurityGroupRules":
                member = self._of_group(given["Filters"][0]["Values"][0])
                return {"SecurityGroupRules": [self._rule(member.name, side) for side in sorted(member.ingress)]}
            case "revokeSecurityGroupIngress":
                member = self._of_group(given["GroupId"])
                asked = {rule.rpartition("/")[2] for rule in given["SecurityGroupRuleIds"]}
                if not asked <= member.ingress:
                    raise TaskFailed("Ec2.Ec2Exception", "InvalidSecurityGroupRuleId.NotFound")
                member.ingress -= asked
                return {}
            case "authorizeSecurityGroupIngress":
                member = self._of_group(given["GroupId"])
                side = APPLICATIONS if given["IpPermissions"][0].get("IpRanges") else FUNCTIONS
                if side in member.ingress:
                    raise TaskFailed("Ec2.Ec2Exception", "InvalidPermission.Duplicate")
                member.ingress.add(side)
                return {}
            case _:
                return self._rds(action, given)

    def _rds(self, action: str, given: Mapping[str, Any]) -> Any:
        name = str(given.get("DbInstanceIdentifier", ""))
        match action:
            case "describeDBInstances":
                member = self.pair.members[name]
                if not member.exists:
                    raise TaskFailed("Rds.DbInstanceNotFoundException", name)
                source = {"ReadReplicaSourceDBInstanceIdentifier": member.replica_of} if member.replica_of else {}
                return {"DbInstances": [{"DbInstanceStatus": member.status, **source}]}
            case "promoteReadReplica":
                self._promote(self.pair.need(name, "available"))
            case "rebootDBInstance":
                self._reboot(self.pair.need(name, "available"), forced=bool(given.get("ForceFailover")))
            case "deleteDBInstance":
                self._delete(name, given)
            case "createDBInstanceReadReplica":
                self._create(name, str(given["SourceDBInstanceIdentifier"]))
            case "modifyDBInstance":
                self.pair.need(name, "available", "storage-full", "failed").settings.update(given)
            case unknown:
                raise AssertionError(f"the model of RDS knows no {unknown}")
        return {}

    def _promote(self, member: Member) -> None:
        if not member.recovering:
            raise TaskFailed("Rds.InvalidDbInstanceStateException", f"{member.name} is not a read replica")
        self.pair.promotions.append((self.now, member.name))

        def begin() -> None:
            if member.exists and member.status == "available":
                member.status = "modifying"

        def done() -> None:
            if member.exists and not member.alive and not member.lost and member.status in ("modifying", "available"):
                self.at(self.now + 5, done)
            elif member.exists and not member.lost and member.status in ("modifying", "available"):
                member.replica_of, member.status = None, "available"
                member.restart()

        self.at(self.now + 5, begin)
        self.at(self.now + self.pace.promotion, done)

    def _reboot(self, member: Member, *, forced: bool) -> None:
        if forced:
            self.fail_over(member.name)
            return
        member.status, member.alive = "rebooting", False
        member.restart()

        def back() -> None:
            if member.exists and not member.lost and member.status == "rebooting":
                member.status, member.alive, member.frozen = "available", True, False

        self.at(self.now + self.pace.reboot, back)

    def _delete(self, name: str, given: Mapping[str, Any]) -> None:
        member = self.pair.members[name]
        if not member.exists:
            raise TaskFailed("Rds.DbInstanceNotFoundException", name)
        snapshot = given.get("FinalDBSnapshotIdentifier")
        if snapshot is not None and member.status != "available":
            raise TaskFailed("Rds.InvalidDbInstanceStateException", f"{name} is {member.status}")
        if snapshot is not None:
            if snapshot in self.pair.snapshots:
                raise TaskFailed("Rds.DbSnapshotAlreadyExistsException", str(snapshot))
            self.pair.snapshots.append(str(snapshot))
        member.status, member.alive = "deleting", False
        member.restart()
        self.at(self.now + self.pace.deletion, lambda: self.pair.remove(name))

    def _create(self, name: str, source: str) -> None:
        old, primary = self.pair.members[name], self.pair.need(source, "available")
        if old.exists:
            raise TaskFailed("Rds.DbInstanceAlreadyExistsException", name)
        if primary.recovering:
            raise TaskFailed("Rds.InvalidDbInstanceStateException", f"{source} is a replica")
        made = Member(name, replica_of=source, status="creating", alive=False, ingress=set(old.ingress))
        made.generation, made.heard_at = old.generation + 1, self.now
        # Faults of the network are of the place, not of the instance
        made.fault, made.fault_side, made.delay_ms = old.fault, old.fault_side, old.delay_ms
        self.pair.members[name] = made

        def done() -> None:
            if made.exists and made.status == "creating" and made.replica_of == source:
                made.status, made.alive, made.rows = "available", True, list(self.pair.members[source].rows)
                made.replayed, made.heard_at = len(made.rows), self.now

        self.at(self.now + self.pace.creation, done)

    def _rule(self, member: str, side: str) -> dict[str, Any]:
        rules = self.machines.reprotect["States"]["Begin"]["Assign"]["ingress"]
        (key,) = [each["key"] for each in rules if bool(each["permission"].get("IpRanges")) == (side == APPLICATIONS)]
        who = {"CidrIpv4": key} if side == APPLICATIONS else {"ReferencedGroupInfo": {"GroupId": key}}
        return {"SecurityGroupRuleId": f"sgr-{member}/{side}", "IsEgress": False, **who}

    def _of_group(self, group: str) -> Member:
        groups: Mapping[str, str] = self.machines.failover["States"]["Begin"]["Assign"]["groups"]
        return self.pair.members[next(name for name, found in groups.items() if found == group)]

    # Functions -------------------------------------------------------------------------------------------------------

    def _invoke(self, state: str, given: dict[str, Any]) -> Any:
        match state:
            case "Observe":
                return self._decided(given)
            case "ConfirmFence" | "ProbePromoted" | "WarmUpProbe":
                member = self.pair.members[given["member"]]
                reachable = member.answers(FUNCTIONS)
                return {"reachable": reachable, "in_recovery": member.recovering if reachable else None, "error": None}
            case "OpenLog":
                self._writable(given["member"])
                return {"begin_lsn": "0/1"}
            case "RollForward" | "RollForwardOn":
                return self._rolled_forward(self._writable(given["member"]))
            case "PointSecret":
                return {"host": self._writable(given["primary"]).name}
            case "CutOver":
                after = roles.advance(self.table, given["epoch"], given["primary"], given["standby"], self.now)
                return {"epoch": after.epoch, "host": after.primary}
            case "Verify":
                return {"member": self._writable(roles.known(self.table).primary).name}
            case "PrepareDatabase" | "WarmUp":
                return {"prepared": self._writable(given["member"]).name}
            case "StopWrites":
                member = self._writable(given["member"])
                # Its sessions are ended, and with the security group closed none comes back
                member.restart()
                return {"sessions": 0, "lsn": str(len(member.rows))}
            case "CatchUp":
                standby = self.pair.members[given["standby"]]
                return {"replayed": standby.answers(FUNCTIONS) and standby.replayed >= int(given["lsn"])}
            case "MayBegin":
                return self._may_begin(given)
            case "Plan":
                return self._planned(given)
            case unknown:
                raise AssertionError(f"no function stands for {unknown}")

    def _writable(self, name: str) -> Member:
        member = self.pair.members[name]
        if not member.answers(FUNCTIONS) or member.recovering:
            raise TaskFailed("Unreachable", f"{name} takes no writes", 2.0)
        return member

    def _rolled_forward(self, member: Member) -> dict[str, Any]:
        had = {number for number, _ in member.rows}
        added = [(number, at) for number, at in self.pair.log.items() if number not in had]
        member.rows.extend(added)
        return {"transactions": len(added), "trouble": None}

    def _observations(self) -> tuple[Observation, ...]:
        return tuple(seen for name in "ac" if (seen := observation.read(self.table, name)) is not None)

    def _decided(self, given: Mapping[str, Any]) -> dict[str, Any]:
        known, lease = roles.known(self.table), incident.read_lease(self.table)
        holder = lease.incident if lease is not None else ""
        accepted = override.parse(given["override"]) or override.active(self.table, self.now, int(given["epoch"]))
        situation = Situation(
            now=self.now,
            epoch=int(given["epoch"]),
            started_at=seconds(given["started_at"]),
            roles=known,
            observations=self._observations(),
            primary=self.pair.members[known.primary].described(),
            standby=self.pair.members[known.standby].described(),
            events=tuple(each for each in self.pair.events if each.member == known.primary),
            forced=bool(given["forced"]),
            holder=None if holder == given["incident"] else holder,
            paused=pause.active(self.table, self.now),
            override=accepted,
            detection=self.detection,
            objectives=self.objectives,
        )
        return asdict(decide(situation))

    def _may_begin(self, given: Mapping[str, Any]) -> dict[str, Any]:
        known = roles.known(self.table)
        lease, other = incident.read_lease(self.table), operation.running(self.table, self.now)
        name, execution = str(given["incident"]), str(given["execution"])
        hindrance = switchover.hindrance(
            switchover.Situation(
                now=self.now,
                epoch=int(given["epoch"]),
                roles=known,
                lease=None if lease is not None and lease.incident == name else lease,
                pause=pause.active(self.table, self.now),
                operation=None if other is not None and other.execution == execution else other,
                observations=self._observations(),
                primary=self.pair.members[known.primary].described(),
                standby=self.pair.members[known.standby].described(),
                detection=self.detection,
            )
        )
        if hindrance is None and not operation.claim(self.table, "switchover", execution, self.now):
            hindrance = "Another operation has begun in this moment."
        if hindrance is None and incident.take_lease_for(self.table, known.epoch, name, self.now) is None:
            hindrance = "An incident has begun in this moment."
        return {"hindrance": hindrance, "primary": known.primary, "standby": known.standby}

    def _planned(self, given: Mapping[str, Any]) -> dict[str, Any]:
        known = roles.known(self.table)
        if not operation.claim(self.table, "reprotect", str(given["execution"]), self.now):
            refused = operation.running(self.table, self.now) is not None and not given["automatic"]
            action: reprotection.Action = "refuse" if refused else "wait"
            return asdict(reprotection.Plan(action, "Another operation runs.", known.primary, known.standby))
        wanted = dict(given["wanted"].get(known.standby, {}))
        plan = reprotection.plan(
            reprotection.Situation(
                now=self.now,
                epoch=int(given["epoch"]),
                roles=known,
                lease=incident.read_lease(self.table),
                pause=pause.active(self.table, self.now),
                observations=self._observations(),
                primary=self._instance(known.primary, {}),
                standby=self._instance(known.standby, wanted),
                wanted=wanted,
                lifted=bool(given["lifted"]),
                automatic=bool(given["automatic"]),
                forensics=bool(given["forensics"]),
                deletions=int(given["deletions"]),
                refusals=int(given["refusals"]),
                detection=self.detection,
            )
        )
        settled = plan.action in ("unprotect", "protected")
        if settled and not roles.set_protected(self.table, known.epoch, plan.action == "protected"):
            plan = replace(plan, action="wait", reason="The roles have changed in this moment.")
        return asdict(plan)

    def _instance(self, name: str, wanted: Mapping[str, Any]) -> reprotection.Instance:
        member = self.pair.members[name]
        status = member.described()
        return reprotection.Instance(
            status.status, status.replica_of, False, {each: member.settings.get(each) for each in wanted}
        )

    # What it looks like ----------------------------------------------------------------------------------------------

    def whole(self) -> bool:
        """Whether the pair is one again and nobody is at work."""
        known = roles.known(self.table)
        primary, standby = self.pair.members[known.primary], self.pair.members[known.standby]
        both = all(each.exists and each.alive and each.status == "available" for each in (primary, standby))
        open_ = primary.ingress == SIDES and standby.ingress == SIDES
        return both and open_ and known.protected and standby.replica_of == primary.name and not self.left()

    def left(self) -> list[str]:
        """What is held or at work."""
        lease, running = incident.read_lease(self.table), operation.running(self.table, self.now)
        found = [f"the lease of {lease.incident}"] if lease is not None else []
        found += [f"the operation {running.execution}"] if running is not None else []
        return found + [f"the execution {each.arn}" for each in self.executions.values() if each.status == "RUNNING"]

    def serves(self, since: float) -> bool:
        """Whether anything was acknowledged since then."""
        for attempt in reversed(self.pair.attempts):
            if attempt.ended < since:
                return False
            if attempt.outcome == "acknowledged":
                return True
        return False


class _States:
    """Step Functions as a witness uses it."""

    def __init__(self, world: World) -> None:
        self._world = world

    def start_execution(self, *, stateMachineArn: str, name: str, input: str) -> dict[str, Any]:  # noqa: N803
        """Start it."""
        return {"executionArn": self._world.start(stateMachineArn, name, json.loads(input))}

    def describe_execution(self, *, executionArn: str) -> dict[str, Any]:  # noqa: N803
        """How it stands."""
        found = self._world.executions.get(executionArn)
        if found is None:
            error = {"Error": {"Code": "ExecutionDoesNotExist", "Message": executionArn}}
            raise ClientError(cast("Any", error), "DescribeExecution")
        return {"status": found.status}
