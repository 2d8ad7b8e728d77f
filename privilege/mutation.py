"""Take one action of one statement away, do the work, see it fail, and put the policy back."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

from privilege import operations
from privilege.exercises import EXERCISES, FUNCTIONS_OF_SCHEDULES, Exercise, end_runs, set_schedule
from privilege.granted import Document, Grant, Policy, Role
from privilege.site import Failed, Site
from privilege.used import policy_name
from stacks.unused_permissions import reason

Tell = Callable[[str], None]

# What may run side by side: the roles of a lane are gone through one after the other, because their exercises share
# something (the secret and the roles, the scheduled functions, the arbiter that the machine asks).
LANES: Sequence[Sequence[str]] = (
    ("citizens-close-default-group", "citizens-probe", "citizens-arbiter", "citizens-failover"),
    (
        "citizens-open-log",
        "citizens-roll-forward",
        "citizens-rewind",
        "citizens-verify",
        "citizens-cutover",
        "citizens-rotation",
        "citizens-rotation-schedule",
        "citizens-log-care",
        "citizens-log-care-schedule",
        "citizens-evidence",
        "citizens-evidence-schedule",
        "citizens-posture",
        "citizens-posture-schedule",
    ),
    (
        *(f"citizens-{name}-schedule" for name in FUNCTIONS_OF_SCHEDULES),
        *(f"citizens-{name}" for name in FUNCTIONS_OF_SCHEDULES),
    ),
)
# One after the other and beside nothing else: they change the roles, and each needs a healthy pair.
OPERATIONS: Sequence[Sequence[str]] = (
    (
        *("citizens-drill", "citizens-drill-machine", "citizens-drill-machine-schedule", "citizens-drill-killed"),
        *("citizens-reprotect", "citizens-switchover", "citizens-reprotect-machine", "citizens-switchover-machine"),
    ),
)
LANES_WITHOUT_PRIMARY: Sequence[Sequence[str]] = (("citizens-witness-a",), ("citizens-witness-c",))
MACHINE = "citizens-failover"


@dataclass(frozen=True)
class Verdict:
    """What an exercise said without an action: `sign` is how it failed, None when nothing was noticed."""

    grant: Grant
    exercise: str
    sign: str | None
    seconds: float


@dataclass
class Trial:
    """Every exercise with the deployed policies, and again without each action that it uses."""

    site: Site
    tell: Tell
    only: Callable[[Grant], bool] = lambda _grant: True
    verdicts: list[Verdict] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Exercises that fail with the deployed policies."""
    denied: dict[str, list[str]] = field(default_factory=dict)
    """Actions that were refused to a role with the deployed policies."""
    _used: dict[tuple[str, str], set[tuple[str, int, str]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Everything, in its order: what needs the primary first, then what needs it to be cut off."""
        roles = {role.short: role for role in self.site.roles()}
        self.site.role_record()
        for name in FUNCTIONS_OF_SCHEDULES:
            set_schedule(self.site, name, enabled=False)
            end_runs(self.site, name)
        self._lanes(LANES, roles, breaks=False)
        self._lanes(OPERATIONS, roles, breaks=False)
        # Nobody is promoted while the pair is unprotected, which the last switchover leaves it
        operations.stand_by(self.site)
        _, primary, _ = self.site.role_record()
        self.site.cut(primary, off=True)
        self._lanes(LANES_WITHOUT_PRIMARY, roles, breaks=True)
        self.site.forget("lease")
        self._machine_recovers(roles[MACHINE])

    def _lanes(self, lanes: Sequence[Sequence[str]], roles: dict[str, Role], *, breaks: bool) -> None:
        with ThreadPoolExecutor(len(lanes)) as pool:
            try:
                for done in [pool.submit(self._lane, lane, roles, breaks) for lane in lanes]:
                    done.result()
            except BaseException:
                # Ctrl-C, or another lane's end: each lane stops after what it is at.
                self._stopped.set()
                raise

    def _lane(self, lane: Sequence[str], roles: dict[str, Role], breaks: bool) -> None:
        for short in lane:
            for exercise in EXERCISES:
                wanted = exercise.role == short and exercise.breaks == breaks and short in roles
                if wanted and not self._stopped.is_set():
                    self.try_exercise(roles[short], exercise)

    def try_exercise(self, role: Role, exercise: Exercise) -> None:
        """The exercise as deployed, then without each action it was seen to use and none before it was."""
        if not self._passes(role, exercise):
            return
        used = self._used[role.name, exercise.name]
        for policy in role.policies:
            for grant in policy.grants(role.name, role.short):
                if (policy.arn, grant.statement, grant.action) in used and self._to_try(grant):
                    self._try_without(policy, grant, exercise)
                    if exercise.heals:
                        self._passes(role, exercise)
        self._passes(role, exercise)

    def _machine_recovers(self, role: Role) -> None:
        """The recovery can succeed only once: first without each action that is left, and in the end with all."""
        (exercise,) = [each for each in EXERCISES if each.role == MACHINE and each.breaks]
        epoch, *_ = self.site.role_record()
        for policy in role.policies:
            for grant in policy.grants(role.name, role.short):
                # Once it has succeeded, nothing is left to recover from.
                if self._to_try(grant) and self.site.role_record()[0] == epoch:
                    self._try_without(policy, grant, exercise)
        self._passes(role, exercise)

    def _to_try(self, grant: Grant) -> bool:
        with self._lock:
            # One that another exercise used by the way and did not miss is left to those that follow.
            shown = any(verdict.grant == grant and verdict.sign for verdict in self.verdicts)
        return (
            not shown and not self._stopped.is_set() and reason(grant.short, grant.action) is None and self.only(grant)
        )

    def _passes(self, role: Role, exercise: Exercise) -> bool:
        before, refused = _allowed(self.site, role), self.site.denials(role.short)
        try:
            exercise.run(self.site)
        except (Failed, ClientError) as failure:
            self.broken.append(f"{exercise.name}: {failure}")
            return False
        finally:
            if new := _more(refused, self.site.denials(role.short)):
                self.denied.setdefault(role.short, []).extend(new)
        after = _allowed(self.site, role)
        now = {key for key, count in after.items() if count > before.get(key, 0)}
        self._used.setdefault((role.name, exercise.name), set()).update(now)
        return True

    def _try_without(self, policy: Policy, grant: Grant, exercise: Exercise) -> None:
        started, sign = time.monotonic(), None
        refused = self.site.denials(grant.short)
        with without(self.site, policy, grant):
            try:
                exercise.run(self.site)
            except (Failed, ClientError) as failure:
                sign = str(failure)
            new = _more(refused, self.site.denials(grant.short))
        if grant.action not in new:
            # It failed for another reason, if at all: that shows nothing.
            sign = None
        elif sign is None:
            sign = f"{grant.action} was refused, which nothing else noticed"
        verdict = Verdict(grant, exercise.name, sign, time.monotonic() - started)
        with self._lock:
            self.verdicts.append(verdict)
        self.tell(f"without {grant} — {exercise.name}: {'fails' if sign else 'PASSES'} ({verdict.seconds:.1f} s)")


def to_show(role: Role) -> tuple[Grant, ...]:
    """What a role may do and is not excused for."""
    return tuple(grant for grant in role.grants if reason(grant.short, grant.action) is None)


@contextmanager
def without(site: Site, policy: Policy, grant: Grant) -> Iterator[None]:
    """The policy lacks one action of one statement while this is open."""
    _replace(site.client("iam"), policy.arn, policy.without(grant))
    try:
        yield
    finally:
        _replace(site.client("iam"), policy.arn, policy.document)


def _replace(iam: Any, arn: str, document: Document) -> None:
    """Make the document the policy's only version."""
    text = json.dumps(document)
    default = iam.create_policy_version(PolicyArn=arn, PolicyDocument=text, SetAsDefault=True)["PolicyVersion"]
    for version in iam.list_policy_versions(PolicyArn=arn)["Versions"]:
        if version["VersionId"] != default["VersionId"]:
            iam.delete_policy_version(PolicyArn=arn, VersionId=version["VersionId"])


def _allowed(site: Site, role: Role) -> dict[tuple[str, int, str], int]:
    """How often each action of each statement of the role's policies was allowed up to now."""
    names = {policy_name(policy.arn, site.suffix): policy.arn for policy in role.policies}
    found: dict[tuple[str, int, str], int] = {}
    for request, count in site.usage().allowed.items():
        if request.short == role.short and request.policy in names:
            key = (names[request.policy], request.statement, request.action)
            found[key] = found.get(key, 0) + count
    return found


def _more(before: dict[str, int], after: dict[str, int]) -> list[str]:
    return sorted(action for action, count in after.items() if count > before.get(action, 0))
