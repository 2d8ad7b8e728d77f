"""A seed's schedule: what goes wrong, what operators do and how much is written, each at a random moment. Pure.

The same seed gives the same schedule. A schedule is survivable: at most one member is lost for good, at most one zone
is away at a time, and every other fault ends by itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SPAN_SECONDS = 6.0
"""The last act begins within this time."""
LONGEST_SECONDS = 8.0
"""No fault lasts longer, but for what shall outlast a failover: twice as long."""
FUNCTIONS = (
    *("arbiter", "probe", "rotation", "open-log", "roll-forward", "cutover", "verify"),
    *("witness-a", "witness-c", "archive", "reprotect", "switchover"),
)
MACHINES = ("failover", "reprotect", "switchover")
FATAL = ("lose", "fill")
"""What an instance does not come back from."""
# What the machines ask of AWS, as IAM names it
MACHINE_ACTIONS = (
    *("lambda:InvokeFunction", "rds:PromoteReadReplica", "rds:DescribeDBInstances", "rds:RebootDBInstance"),
    *("rds:DeleteDBInstance", "rds:CreateDBInstanceReadReplica", "rds:ModifyDBInstance"),
    *("ec2:DescribeSecurityGroupRules", "ec2:RevokeSecurityGroupIngress", "ec2:AuthorizeSecurityGroupIngress"),
    *("dynamodb:UpdateItem", "dynamodb:DeleteItem", "sns:Publish", "states:StartExecution", "*"),
)
FUNCTION_ACTIONS = ("dynamodb:*", "rds:*", "secretsmanager:*", "states:*", "*")


@dataclass(frozen=True)
class Act:
    """Something that is done `at` seconds after the start: `what` to `whom`, for `lasts` seconds (0: it is done at
    once). `whom` is a role ("primary", "standby": whoever it is then), a zone's letter, a function or a machine."""

    at: float
    what: str
    whom: str
    lasts: float = 0.0
    how: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        how = " ".join(f"{name}={value}" for name, value in self.how.items())
        lasting = f" for {self.lasts:.1f} s" if self.lasts else ""
        return f"{self.at:.1f} s {self.what} {self.whom}{' ' + how if how else ''}{lasting}"


@dataclass(frozen=True)
class Schedule:
    """All acts of a seed in order of time, RDS's delays (s) and how many writers there are."""

    seed: int
    writers: int
    delays: Mapping[str, float]
    acts: tuple[Act, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


Draw = Callable[[random.Random], Act]


def drawn(seed: int) -> Schedule:
    """The schedule of a seed."""
    chance = random.Random(f"soak {seed}")  # noqa: S311 - a seed, no secret
    # Most of the time something that changes the roles: the rest then goes wrong in the middle of that
    moving = [chance.choice(_MOVING)(chance)] if chance.random() < 0.8 else []
    faults = [chance.choice(_FAULTS)(chance) for _ in range(chance.choice((0, 1, 1, 2, 3)) + (not moving))]
    commands = [chance.choice(_COMMANDS)(chance) for _ in range(chance.choice((0, 0, 1, 1, 2)))]
    return Schedule(
        seed=seed,
        writers=chance.choice((1, 2, 4)),
        delays={
            "promotion_seconds": chance.choice((0.0, 0.5, 2.0)),
            "multi_az_failover_seconds": chance.choice((0.0, 1.0, 3.0)),
            "failed_after_seconds": chance.choice((0.0, 1.0, 4.0)),
            "reboot_seconds": chance.choice((0.0, 0.5)),
            "backing_up_seconds": chance.choice((0.0, 2.0, 5.0)),
            "creation_seconds": 0.0,
        },
        acts=survivable([*moving, *faults, *commands]),
    )


def survivable(acts: list[Act]) -> tuple[Act, ...]:
    """In order of time, without a second loss for good and without a second zone."""
    kept: list[Act] = []
    for act in sorted(acts, key=lambda each: each.at):
        only_once = (FATAL, ("zone",))
        if not any(act.what in kinds and any(each.what in kinds for each in kept) for kinds in only_once):
            kept.append(act)
    return tuple(kept)


def _moment(chance: random.Random) -> float:
    return round(chance.uniform(0, SPAN_SECONDS), 1)


def _length(chance: random.Random) -> float:
    return round(chance.uniform(0.5, LONGEST_SECONDS), 1)


def _instance(chance: random.Random) -> Act:
    what = chance.choice(("lose", "lose", "lose", "fill", "kill", "kill", "crash", "freeze", "freeze"))
    whom = chance.choice(("primary", "primary", "primary", "standby"))
    if what == "fill":
        whom = "primary"
    return Act(_moment(chance), what, whom, _length(chance) if what == "freeze" else 0.0)


def _standby(chance: random.Random) -> Act:
    what = chance.choice(("back_up", "replay"))
    return Act(_moment(chance), what, "standby", _length(chance) if what == "replay" else 0.0)


def _zone(chance: random.Random) -> Act:
    return Act(_moment(chance), "zone", chance.choice("ac"), _length(chance))


def _network(chance: random.Random) -> Act:
    fault = chance.choice(("cut", "cut", "hang", "hang", "slow"))
    how: dict[str, Any] = {"fault": fault, "from": chance.choice(("everyone", "everyone", "functions", "applications"))}
    if fault == "slow":
        how["delay_ms"] = chance.choice((50, 200, 600))
    return Act(_moment(chance), "network", chance.choice(("primary", "primary", "standby")), _length(chance), how)


def _process(chance: random.Random) -> Act:
    return Act(_moment(chance), "process", chance.choice(FUNCTIONS))


def _calls_of_a_machine(chance: random.Random) -> Act:
    kind = chance.choice(("throttle", "lose_answer", "kill"))
    how: dict[str, Any] = {"kind": kind, "action": chance.choice(MACHINE_ACTIONS), "times": chance.choice((1, 1, 2, 4))}
    how["skip"] = chance.choice((0, 0, 1, 2, 5))
    if kind == "kill":
        how |= {"action": "lambda:InvokeFunction", "after_ms": chance.choice((0, 20, 100, 400))}
    return Act(0.0, "calls", f"{chance.choice(MACHINES)}-machine", 0.0, how)


def _calls_of_a_function(chance: random.Random) -> Act:
    how: dict[str, Any] = {
        "kind": chance.choice(("throttle", "lose_answer", "kill", "kill")),
        "action": chance.choice(FUNCTION_ACTIONS),
        "times": chance.choice((1, 1, 2, 5)),
        "skip": chance.choice((0, 0, 1, 2, 5)),
    }
    return Act(0.0, "calls", chance.choice(FUNCTIONS), 0.0, how)


def _trigger(chance: random.Random) -> Act:
    return Act(_moment(chance), "trigger", chance.choice(("false", "repeat", "witness-a", "witness-c")))


def _reboot(chance: random.Random) -> Act:
    return Act(_moment(chance), "reboot", chance.choice(("primary", "standby")), 0.0, {"failover": True})


def _command(what: str) -> Draw:
    return lambda chance: Act(_moment(chance), what, "operator")


def _pause(chance: random.Random) -> Act:
    return Act(_moment(chance), "pause", "operator", _length(chance))


def _override(chance: random.Random) -> Act:
    return Act(_moment(chance), "override", "operator", _length(chance), {"accepts": chance.choice(("lag", "fence"))})


def _loss(chance: random.Random) -> Act:
    return Act(_moment(chance), chance.choice(("lose", "lose", "lose", "fill")), "primary")


def _silence(chance: random.Random) -> Act:
    """Long enough for a failover, which it may end in the middle of."""
    lasts = round(chance.uniform(3, 2 * LONGEST_SECONDS), 1)
    what = chance.choice(("freeze", "cut", "hang"))
    how = {} if what == "freeze" else {"fault": what, "from": "everyone"}
    return Act(_moment(chance), "freeze" if what == "freeze" else "network", "primary", lasts, how)


_MOVING: tuple[Draw, ...] = (_loss, _loss, _silence, _command("switchover"))
_FAULTS: tuple[Draw, ...] = (
    *(_instance, _instance, _instance, _network, _network, _zone, _standby, _process),
    *(_calls_of_a_machine, _calls_of_a_machine, _calls_of_a_function, _calls_of_a_function, _trigger, _reboot),
)
_COMMANDS: tuple[Draw, ...] = (
    *(_command("switchover"), _command("switchover"), _command("reprotect")),
    *(_command("rotate"), _command("rotate"), _pause, _override),
)
