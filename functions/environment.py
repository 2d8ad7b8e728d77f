"""The functions' environment variables, read here and nowhere else."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from recovery import members
from recovery.members import Member, Members
from recovery.objectives import Detection, Objectives, detection_of, number, objectives_of
from recovery.rotation import PasswordPolicy

T = TypeVar("T")


class EnvironmentIncomplete(Exception):
    """The function was deployed without a variable it needs."""


@dataclass(frozen=True)
class Environment:
    """What every function is told; `ca_file` is the bundle that the members' certificates must chain to."""

    suffix: str
    table: str
    secret_id: str
    members: Members
    database: str
    namespace: str
    ca_file: str

    def member(self, identifier: str) -> Member:
        """A member by its identifier; EnvironmentIncomplete when it is none of the two."""
        if identifier not in self.members:
            raise EnvironmentIncomplete(f"{identifier} is not a member; expected one of {', '.join(self.members)}.")
        return self.members[identifier]


def required(name: str) -> str:
    """A variable's value; EnvironmentIncomplete when it is not set."""
    value = os.environ.get(name)
    if not value:
        raise EnvironmentIncomplete(f"The environment variable {name} is not set; deploy the function again.")
    return value


def environment() -> Environment:
    """The common variables."""
    return Environment(
        suffix=required("SUFFIX"),
        table=required("RECOVERY_TABLE"),
        secret_id=required("SECRET_ID"),
        members=members.parse(required("MEMBERS")),
        database=required("DATABASE"),
        namespace=required("METRICS_NAMESPACE"),
        # PGSSLROOTCERT is libpq's own name for it; the bundle of the region lies beside this module.
        ca_file=os.environ.get("PGSSLROOTCERT") or str(Path(__file__).with_name("rds-ca-eu-central-2.pem")),
    )


def detection() -> Detection:
    """How a loss is noticed; defaults where a variable is not set."""
    return _parsed(detection_of)


def objectives() -> Objectives:
    """The recovery objectives; defaults where a variable is not set."""
    return _parsed(objectives_of)


def password_policy() -> PasswordPolicy:
    """What a new password is made of; defaults where a variable is not set."""
    usual = PasswordPolicy()
    return PasswordPolicy(
        int(_number("PASSWORD_LENGTH", usual.length)), os.environ.get("PASSWORD_EXCLUDED", usual.excluded)
    )


def transaction_log() -> bool:
    """Whether the transaction log is kept; it is when the variable is not set."""
    text = os.environ.get("TRANSACTION_LOG") or "on"
    if text not in ("on", "off"):
        raise EnvironmentIncomplete(
            f"The environment variable TRANSACTION_LOG is {text!r}, not on or off; deploy again."
        )
    return text == "on"


def log_kept_days() -> float:
    """How long the transaction log is kept at least, days."""
    required("LOG_KEPT_DAYS")
    return _number("LOG_KEPT_DAYS", 0)


def promised_rto() -> float:
    """The bound of the recovery time that was proved of the deployed machine, s."""
    required("PROMISED_RTO_SECONDS")
    return _number("PROMISED_RTO_SECONDS", 0)


def log_folder() -> Path:
    """Where the transaction log's file system is mounted."""
    return Path(required("LOG_PATH"))


@dataclass(frozen=True)
class DrillSettings:
    """The beginning of a drill's instance names and their tag, days between two drills of a kind (0: none), the seconds
    granted to a promotion, and whether the log is rolled forward."""

    prefix: str
    tag: str
    days: int
    promotion_seconds: float
    transaction_log: bool


def drill_settings() -> DrillSettings:
    """What a drill needs to know."""
    for name in ("DRILL_DAYS", "PROMOTION_SECONDS"):
        required(name)
    return DrillSettings(
        required("DRILL_PREFIX"),
        required("DRILL_TAG"),
        int(_number("DRILL_DAYS", 0)),
        _number("PROMOTION_SECONDS", 0),
        transaction_log(),
    )


def _number(name: str, usual: float) -> float:
    return _parsed(lambda variables: number(variables, name, usual))


def _parsed(parse: Callable[[Mapping[str, str]], T]) -> T:
    try:
        return parse(os.environ)
    except ValueError as error:
        raise EnvironmentIncomplete(str(error)) from None
