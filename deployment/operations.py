"""An operator's commands over a deployed environment: failover, reprotect, switchover, lifting a fence, pause, resume,
override and history.

What is decided is decided in `recovery`, by the same rules that the deployed machines follow; here it is shown before,
confirmed, started and followed.
"""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from deployment.account import Account
from deployment.problem import Problem
from recovery import (
    fence,
    history,
    incident,
    observation,
    operation,
    override,
    pause,
    rds,
    reprotection,
    roles,
    switchover,
)
from recovery.clock import iso
from recovery.observation import Observation
from recovery.override import FENCE, LAG, Override, OverrideMalformed
from recovery.pause import Pause, PauseRefused
from recovery.roles import Roles, RolesUnknown
from recovery.suspicion import Suspicion
from recovery.table import RecoveryTable
from stacks.names import Names

Announce = Callable[[str], None]
WITNESSES = ("a", "c")
FOLLOW_SECONDS = 1.0


@dataclass(frozen=True)
class Started:
    """An execution that was started: its ARN, and the epoch that it was started for."""

    execution_arn: str
    epoch: int


@dataclass(frozen=True)
class Fenced:
    """A member's security group, and the rules it lacks: each with `key`, who is let in, and EC2's `permission`."""

    group: str
    missing: tuple[dict[str, Any], ...]


class Operations:
    """The operations of one environment."""

    def __init__(self, account: Account, suffix: str, announce: Announce) -> None:
        self._account = account
        self._names = Names(suffix)
        self._suffix = suffix
        self._announce = announce

    # What would be done ----------------------------------------------------------------------------------------------

    def preview_of_reprotect(self) -> tuple[str, bool]:
        """What a reprotect would do first, in a sentence, and whether it deletes a member."""
        known, now = self.roles(), time.time()
        client = self._account.client("rds")
        lease = incident.read_lease(self.table)
        standby = reprotection.describe(client, known.standby, {})
        step = reprotection.plan(
            reprotection.Situation(
                now=now,
                epoch=known.epoch,
                roles=known,
                lease=lease,
                pause=None,
                observations=self._observations(),
                primary=reprotection.describe(client, known.primary, {}),
                standby=standby,
                wanted={},
            )
        )
        running = operation.running(self.table, now)
        if running is not None:
            raise Problem(f"Nothing was started: another operation runs, {running.kind} {running.execution}.")
        replica = standby.replica_of == known.primary and standby.status not in reprotection.BROKEN_REPLICA
        return f"Primary {known.primary}, epoch {known.epoch}. First step: {step.action}. {step.reason}", not replica

    def preview_of_switchover(self) -> str:
        """Who would become primary. Raises Problem with the reason when a switchover would be refused."""
        known, now = self.roles(), time.time()
        client = self._account.client("rds")
        hindrance = switchover.hindrance(
            switchover.Situation(
                now=now,
                epoch=known.epoch,
                roles=known,
                lease=incident.read_lease(self.table),
                pause=pause.active(self.table, now),
                operation=operation.running(self.table, now),
                observations=self._observations(),
                primary=rds.status(client, known.primary),
                standby=rds.status(client, known.standby),
            )
        )
        if hindrance is not None:
            raise Problem(f"Nothing was started: {hindrance}")
        return (
            f"{known.standby} becomes primary in place of {known.primary} (epoch {known.epoch} → {known.epoch + 1}). "
            f"Applications are kept out for some seconds; {known.primary} is then deleted and made again as a replica."
        )

    def preview_of_lifting(self) -> tuple[str, tuple[str, ...]]:
        """What would be done, in a sentence, and who would be let in to the primary of record; nobody when everybody
        is. Raises Problem with the reason when it must stay fenced."""
        known, client = self.roles(), self._account.client("rds")
        fenced = self._fenced(known.primary)
        if not fenced.missing:
            return f"{known.primary} is let in already: every rule of its group is there.", ()
        machines = self._account.client("stepfunctions")
        running = [
            f"{name} {execution['name']}"
            for name in (self._names.state_machine, self._names.switchover_machine)
            for execution in machines.list_executions(stateMachineArn=self.machine(name), statusFilter="RUNNING")[
                "executions"
            ]
        ]
        primary, standby = (rds.status(client, member) for member in (known.primary, known.standby))
        hindrance = fence.hindrance(known, primary, standby, running)
        if hindrance is not None:
            raise Problem(f"Nothing was done: {hindrance}")
        who = tuple(str(rule["key"]) for rule in fenced.missing)
        return (
            f"{known.primary}, the primary of epoch {known.epoch}, is let in again from {', '.join(who)}. RDS says "
            f"that it is {primary.status}, and {known.standby}, which has not taken its place, {standby.status}.",
            who,
        )

    def _fenced(self, member: str) -> Fenced:
        """What is missing of the rules that the deployed switchover would give back to a member."""
        machines, ec2 = self._account.client("stepfunctions"), self._account.client("ec2")
        described = machines.describe_state_machine(stateMachineArn=self.machine(self._names.switchover_machine))
        given = json.loads(described["definition"])["States"]["Begin"]["Assign"]
        group = str(given["groups"][member])
        rules = ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group]}])
        present = {
            rule.get("CidrIpv4") or rule.get("ReferencedGroupInfo", {}).get("GroupId")
            for rule in rules["SecurityGroupRules"]
            if not rule["IsEgress"]
        }
        return Fenced(group, tuple(rule for rule in given["ingress"] if rule["key"] not in present))

    def preview_of_override(self, accepts: Collection[str], reason: str, seconds: float) -> str:
        """What an override says may be lost, in sentences, with what the witnesses know of it now. Raises Problem when
        it does not say what, why and until when."""
        known, now = self.roles(), time.time()
        try:
            override.proposed(accepts, reason, getpass.getuser(), seconds, now)
        except OverrideMalformed as malformed:
            raise Problem(str(malformed)) from malformed
        said = [f"Primary {known.primary}, standby {known.standby}, epoch {known.epoch}; an override ends with it."]
        if LAG in accepts:
            said.append(
                f"You accept that transactions which {known.standby} lacks are lost, however many: {self._lag(now)}. "
                "The transaction log adds what it holds of them."
            )
        if FENCE in accepts:
            said.append(
                f"You accept that {known.primary} may go on taking writes which are lost afterwards, because nobody "
                "could show that it is out of reach. Make sure by other means that no application reaches it."
            )
        for running in (override.active(self.table, now, known.epoch), pause.active(self.table, now)):
            if isinstance(running, Override):
                said.append(f"It replaces the override of {running.by}, {' and '.join(sorted(running.accepts))}.")
            elif running is not None:
                said.append(f"It acts in spite of the pause: the system is {running}.")
        return "\n".join(said)

    def _lag(self, now: float) -> str:
        seen = [each for each in self._observations() if each.standby.lag_seconds is not None]
        if not seen:
            return "how far it is behind is not known"
        worst = max(seen, key=lambda each: each.standby.lag_seconds or 0.0)
        ago = max(0.0, now - worst.at)
        return f"witness {worst.witness} saw it {worst.standby.lag_seconds:.1f} s behind {ago:.0f} s ago"

    # Doing it --------------------------------------------------------------------------------------------------------

    def reprotect(self) -> Started:
        """Start a reprotect of the present epoch."""
        epoch, name = self.roles().epoch, incident.new_incident(time.time())
        order = {"id": name, "automatic": False, "forensics": True}
        return self._start(self._names.reprotect_machine, epoch, name, order)

    def switchover(self) -> Started:
        """Start a switchover from the present epoch."""
        epoch, name = self.roles().epoch, incident.new_incident(time.time())
        return self._start(self._names.switchover_machine, epoch, name, {"incident": name})

    def failover(self, since: float | None) -> Started:
        """Start the failover machine as a witness does that suspects a loss; one that runs already is the answer too.

        `since` is the first failed probe, epoch seconds, from which RDS's grace counts. What the machine may do is
        decided by the arbiter as ever. Killed between lease and start, the same command goes on from there.
        """
        known, now = self.roles(), time.time()
        paused = pause.active(self.table, now)
        if paused is not None:
            raise Problem(f"Nothing was started: the system is {paused}; resume first.")
        arn = self.machine(self._names.state_machine)
        suspicion = Suspicion(
            self.table,
            lambda: self._account.client("stepfunctions"),
            arn,
            incident.OPERATOR,
            self.machine(self._names.switchover_machine),
        )
        lease = suspicion.act(known, now, None, since)
        if lease is None:
            raise Problem("Nothing was started: somebody else took the lease at this moment; see `drctl status`.")
        if lease.witness == incident.SWITCHOVER:
            raise Problem(f"Nothing was started: the switchover {lease.incident} is under way; see `drctl history`.")
        return Started(f"{arn.replace(':stateMachine:', ':execution:')}:{lease.execution_name}", lease.epoch)

    def lift_fence(self) -> None:
        """Give the primary of record its missing rules back. Killed in between, the same command gives back the rest.
        Raises Problem when it must stay fenced by now: somebody may have thought about the preview for long."""
        self.preview_of_lifting()
        fenced = self._fenced(self.roles().primary)
        for rule in fenced.missing:
            # One rule at a time: a rule that is there already makes EC2 refuse all of a request
            self._account.client("ec2").authorize_security_group_ingress(
                GroupId=fenced.group, IpPermissions=[rule["permission"]]
            )
            self._announce(f"{rule['key']} is let in")

    def follow(self, started: Started) -> str:
        """Tell each step as it is taken, until the end. Returns the outcome; raises Problem when it is no good one."""
        machines, told = self._account.client("stepfunctions"), 0
        while True:
            described = machines.describe_execution(executionArn=started.execution_arn)
            if described["status"] != "RUNNING":
                break
            time.sleep(FOLLOW_SECONDS)
        for entry in history.read(self.table):
            if started.execution_arn.rpartition(":")[2].endswith(entry.identity):
                for step in entry.timeline[told:]:
                    self._announce(f"{step['at']}  {step['event']}")
                if entry.outcome in ("protected", "promoted", "passed"):
                    return entry.outcome
                raise Problem(f"The {entry.kind} was not done ({entry.outcome}): {entry.reason}")
        raise Problem(
            f"The execution {started.execution_arn} ended as {described['status']} and left no record: "
            f"{described.get('cause') or 'no cause given'}"
        )

    def await_protection(self, epoch: int, seconds: float) -> None:
        """Wait until the roles of `epoch` or a later one are protected. Raises Problem after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            known = self.roles()
            if known.epoch >= epoch and known.protected:
                return
            if time.monotonic() > deadline:
                raise Problem(f"Epoch {known.epoch} has no standby yet after {seconds:.0f} s; see `history`.")
            time.sleep(FOLLOW_SECONDS)

    def pause(self, reason: str, seconds: float) -> Pause:
        """Stop automatic action for so long. Raises Problem for a pause without reason or end."""
        self.roles()
        try:
            return pause.begin(self.table, reason, seconds, getpass.getuser(), time.time())
        except PauseRefused as refused:
            raise Problem(str(refused)) from refused

    def resume(self) -> bool:
        """Let the system act again; whether it was paused."""
        self.roles()
        return pause.end(self.table, time.time())

    def override(self, accepts: Collection[str], reason: str, seconds: float) -> Override:
        """Accept a loss for so long, in the present epoch; the next incident, or round of one, decides with it. Raises
        Problem when it does not say what, why and until when."""
        epoch = self.roles().epoch
        try:
            return override.order(self.table, accepts, reason, getpass.getuser(), seconds, time.time(), epoch)
        except OverrideMalformed as malformed:
            raise Problem(str(malformed)) from malformed

    def withdraw_override(self) -> bool:
        """Accept no loss any more; whether any was accepted."""
        self.roles()
        return override.withdraw(self.table, time.time())

    def history(self) -> list[history.Entry]:
        """What has happened, newest first."""
        self.roles()
        return history.read(self.table)

    # ----------------------------------------------------------------------------------------------------------------

    @property
    def table(self) -> RecoveryTable:
        """The recovery table."""
        return RecoveryTable(self._account.client("dynamodb"), self._names.recovery_table)

    def roles(self) -> Roles:
        """Who is what now. Raises Problem when nobody knows, or there is no such environment."""
        try:
            return roles.known(self.table)
        except RolesUnknown as unknown:
            raise Problem(str(unknown)) from unknown
        except ClientError as error:
            if error.response["Error"]["Code"] == "ResourceNotFoundException":
                raise Problem(f"There is no environment {self._suffix}: deploy it first.") from error
            raise

    def _observations(self) -> tuple[Observation, ...]:
        return tuple(seen for each in WITNESSES if (seen := observation.read(self.table, each)) is not None)

    def machine(self, name: str) -> str:
        """The ARN of a state machine of the environment. Raises Problem when there is none."""
        machines = self._account.client("stepfunctions")
        for page in machines.get_paginator("list_state_machines").paginate():
            for found in page["stateMachines"]:
                if found["name"] == name:
                    return str(found["stateMachineArn"])
        raise Problem(f"There is no state machine {name}: deploy {self._suffix} first.")

    def _start(self, machine: str, epoch: int, name: str, order: dict[str, Any]) -> Started:
        machines, arn = self._account.client("stepfunctions"), self.machine(machine)
        given = {**order, "epoch": epoch, "started_at": iso(time.time()), "by": getpass.getuser()}
        answer = machines.start_execution(stateMachineArn=arn, name=f"{epoch}-{name}", input=json.dumps(given))
        return Started(str(answer["executionArn"]), epoch)


def confirm(what: str, suffix: str, answer: str | None, ask: Callable[[str], str], command: str) -> None:
    """Raise Problem unless the suffix was typed, or given as `--yes <suffix>`."""
    if answer is None:
        try:
            answer = ask(f"{what}\nType {suffix} to go on: ")
        except EOFError:
            answer = ""
    if answer.strip() != suffix:
        raise Problem(
            f"Nothing was started: {answer.strip()!r} is not the suffix; type it, or run `drctl {command} "
            f"--yes {suffix}`."
        )
