"""A seed's schedule lived through in virtual time, with AWS's delays: the same acts, twenty times slower.

A rotation does nothing here: passwords are no part of the model.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from drills.soak.checker import Evidence, Finding, judge
from drills.soak.schedule import Act, Schedule
from drills.virtual.world import BEGIN, FUNCTION_OF, CallFault, Machines, Pace, World
from recovery import history, incident, override, pause, roles
from recovery.clock import seconds

STRETCH = 20.0
"""What takes seconds in the local cloud takes minutes on AWS."""
WARM_SECONDS = 20.0
SETTLE_SECONDS = 2 * 3600.0
LOOK_SECONDS = 20.0
OPERATOR_SECONDS = 300.0
"""After so long without anybody at work an operator orders a reprotect."""
HARMS = ("lose", "fill", "kill", "crash", "freeze", "replay", "zone", "reboot")
# The state whose call stands for an action of a machine, where it is not one function's
STATES_OF_ACTIONS: Mapping[str, tuple[str, ...]] = {
    "rds:PromoteReadReplica": ("Promote",),
    "rds:DescribeDBInstances": ("AwaitPromotion",),
    "rds:RebootDBInstance": ("RestartOldPrimary", "ForceFailover"),
    "rds:DeleteDBInstance": ("Delete", "DeleteKeepingData"),
    "rds:CreateDBInstanceReadReplica": ("Create",),
    "rds:ModifyDBInstance": ("Modify",),
    "ec2:DescribeSecurityGroupRules": ("FindIngress", "FindOpenings"),
    "ec2:RevokeSecurityGroupIngress": ("RevokeIngress", "KeepOut", "Fence"),
    "ec2:AuthorizeSecurityGroupIngress": ("LetIn",),
    "dynamodb:UpdateItem": ("Record",),
    "dynamodb:DeleteItem": ("ReleaseLease", "Close"),
    "sns:Publish": ("Notify",),
    "states:StartExecution": ("StartReprotect",),
}


class VirtualSeed:
    """One schedule in a world of its own."""

    def __init__(self, machines: Machines, schedule: Schedule) -> None:
        self._schedule = schedule
        self._chance = random.Random(f"world {schedule.seed}")  # noqa: S311 - a seed, no secret
        names = tuple(machines.failover["States"]["Begin"]["Assign"]["groups"])
        assert len(names) == 2
        pace = Pace(
            promotion=self._chance.uniform(120, 480),
            failover=self._chance.uniform(60, 120),
            failed_after=self._chance.uniform(5, 120),
            reboot=self._chance.uniform(5, 40),
            deletion=self._chance.uniform(30, 200),
            creation=self._chance.uniform(200, 900),
        )
        self.world = World(machines, names, self._chance, pace, clients=schedule.writers)
        self._harmed_at: float | None = None
        self._unfenced = False
        self._doomed: set[str] = set()
        self.notes: list[str] = []

    def live(self) -> Finding:
        """Live through it; what it violates."""
        world = self.world
        world.run_until(BEGIN + WARM_SECONDS)
        before = roles.known(world.table)
        for act in self._schedule.acts:
            self._plan(act)
        world.run_until(world.now + STRETCH * max((a.at + a.lasts for a in self._schedule.acts), default=0.0) + 1)
        self._heal()
        served = self._settle()
        after = roles.known(world.table)
        standby = world.pair.members[after.standby]
        members = [
            f"{each.name} lets in {sorted(each.ingress)} only."
            for each in world.pair.members.values()
            if len(each.ingress) < 2
        ]
        if standby.replica_of != after.primary or standby.status != "available":
            members.append(f"{standby.name} is {standby.status}, a replica of {standby.replica_of}.")
        return judge(
            Evidence(
                before=before,
                after=after,
                attempts=world.pair.attempts,
                present={number for number, _ in world.pair.members[after.primary].rows},
                entries=[each for each in history.read(world.table) if seconds(each.started_at) >= BEGIN],
                hosts={name: name for name in world.names},
                harmed_at=self._harmed_at,
                unfenced=self._unfenced,
                members=members,
                left=world.left(),
                executions=[
                    {"name": each.arn, "status": each.status, "error": each.error} for each in world.executions.values()
                ],
                served=served,
            )
        )

    # Acts ------------------------------------------------------------------------------------------------------------

    def _plan(self, act: Act) -> None:
        world, at = self.world, self.world.now + STRETCH * act.at

        def do() -> None:
            victim = self._whom(act)
            if act.what in HARMS and self._harmed_at is None:
                self._harmed_at = world.now
            self._unfenced = self._unfenced or act.how.get("accepts") == override.FENCE
            self.notes.append(f"{world.now - BEGIN:.0f} s {act} → {victim} {self._act(act, victim)}".strip())
            if act.lasts:
                world.at(world.now + STRETCH * act.lasts, lambda: self._end(act, victim))

        world.at(at, do)

    def _whom(self, act: Act) -> str:
        known = roles.known(self.world.table)
        return {"primary": known.primary, "standby": known.standby}.get(act.whom, act.whom)

    def _act(self, act: Act, victim: str) -> str:
        world = self.world
        member = world.pair.members.get(victim)
        match act.what:
            case "lose" | "fill":
                return self._lose(act, victim)
            case "kill" | "reboot":
                world.fail_over(victim, told=self._chance.random() < 0.8)
            case "crash" if member is not None and member.alive:
                member.restart()
            case "freeze" if member is not None:
                member.frozen = True
            case "replay" if member is not None:
                member.replaying = False
            case "back_up" if member is not None and member.status == "available":
                member.status = "backing-up"
                world.at(world.now + STRETCH * 5, lambda: self._backed_up(victim))
            case "zone":
                world.lose_witness(act.whom, STRETCH * act.lasts)
                for each in world.names:
                    if self._chance.random() < 0.5:
                        world.fail_over(each)
            case "network" if member is not None:
                member.fault, member.fault_side = str(act.how["fault"]), str(act.how["from"])
                member.delay_ms = int(act.how.get("delay_ms", 0))
                if member.fault == "cut":
                    member.restart()
            case "calls":
                world.faults += call_faults(act)
            case "trigger" if act.whom in ("repeat", "false"):
                world.trigger(again=act.whom == "repeat")
            case "switchover" | "reprotect":
                return world.order(act.what).rpartition(":")[2]
            case "pause":
                pause.begin(world.table, "soak", STRETCH * act.lasts, "soak", world.now)
            case "override":
                accepts = [str(act.how["accepts"])]
                override.order(world.table, accepts, "soak", "soak", STRETCH * act.lasts, world.now)
        return ""

    def _lose(self, act: Act, victim: str) -> str:
        world, known = self.world, roles.known(self.world.table)
        other = world.pair.members[known.standby if victim == known.primary else known.primary]
        if not known.protected or not other.exists or other.name in self._doomed:
            return "spared: the other one could not take over"
        if victim == known.standby and incident.read_lease(world.table) is not None:
            return "spared: it may be taking over"
        self._doomed.add(victim)
        world.lose(victim, full=act.what == "fill")
        return ""

    def _backed_up(self, victim: str) -> None:
        member = self.world.pair.members[victim]
        if member.status == "backing-up":
            member.status = "available"

    def _end(self, act: Act, victim: str) -> None:
        member = self.world.pair.members.get(victim)
        if member is not None:
            if act.what == "freeze":
                member.frozen = False
            elif act.what == "replay":
                member.replaying = True
            elif act.what == "network":
                member.fault = "none"

    def _heal(self) -> None:
        for member in self.world.pair.members.values():
            member.frozen, member.replaying, member.fault = False, True, "none"

    def _settle(self) -> bool:
        world = self.world
        until, idle_since = world.now + SETTLE_SECONDS, world.now
        while world.now < until:
            world.run_until(world.now + LOOK_SECONDS)
            if world.whole() and world.serves(world.now - LOOK_SECONDS):
                return True
            if world.left():
                idle_since = world.now
            elif world.now - idle_since >= OPERATOR_SECONDS:
                idle_since = world.now
                self.notes.append(f"{world.now - BEGIN:.0f} s reprotect ordered: {world.order('reprotect')}")
        return world.serves(world.now - LOOK_SECONDS)


def call_faults(act: Act) -> list[CallFault]:
    """The faults of a machine's calls, or of the calls that invoke a function."""
    times, skip, kind = int(act.how.get("times", 1)), int(act.how.get("skip", 0)), str(act.how["kind"])
    if act.whom.endswith("-machine"):
        machine, action = act.whom.removesuffix("-machine"), str(act.how["action"])
        found = ("*",) if action in ("*", "lambda:InvokeFunction") else STATES_OF_ACTIONS[action]
        return [CallFault(kind, machine, state, times, skip) for state in found]
    states = [state for state, function in FUNCTION_OF.items() if function == act.whom]
    return [
        CallFault(kind, machine, state, times, skip)
        for state in states
        for machine in ("failover", "switchover", "reprotect")
    ]


def lived_through(machines: Machines, schedules: Sequence[Schedule]) -> list[tuple[int, Finding, list[str], Any]]:
    """Each schedule in a world of its own: seed, finding, what became of the acts, and the states that were entered."""
    found = []
    for schedule in schedules:
        seed = VirtualSeed(machines, schedule)
        finding = seed.live()
        found.append((schedule.seed, finding, seed.notes, frozenset(seed.world.entered)))
    return found
