"""What the agency was promised (RTO, RPO) and what detection is set to. Standard library only: the stacks import it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Objectives:
    """The recovery objectives in seconds, as the request states them: RTO < 15 minutes, RPO < 1 hour."""

    rto_seconds: float = 900.0
    rpo_seconds: float = 3600.0


@dataclass(frozen=True)
class Detection:
    """How a loss is noticed; all times in seconds.

    `multi_az_grace` is how long RDS may try to fail over by itself, counted from the first failed probe: RDS documents
    60-120 s for a Multi-AZ failover.
    """

    probe_interval: float = 2.0
    probe_timeout: float = 2.0
    failure_threshold: int = 3
    multi_az_grace: float = 150.0

    @property
    def round_seconds(self) -> float:
        """The longest from the begin of one round of probes to the next: a round waits for the slower of its two
        probes, and for half an interval at most for the roles."""
        return max(self.probe_interval, self.probe_timeout + self.probe_interval / 2)

    @property
    def first_failure_seconds(self) -> float:
        """The longest from the loss to the begin of the first round that fails. A run of a witness goes on until its
        successor probes, so the change of runs adds nothing."""
        return self.round_seconds

    @property
    def worst_case_seconds(self) -> float:
        """The longest from the loss to the threshold, at which the loss is suspected: the last probe times out too."""
        return self.failure_threshold * self.round_seconds + self.probe_timeout


@dataclass(frozen=True)
class LogKeeping:
    """How the archive follows the primary; all times in seconds. A test keeps these equal to what the archive does."""

    period: float = 60.0
    work: float = 55.0
    pause: float = 4.0
    start: float = 10.0
    batch: float = 30.0

    @property
    def worst_case_seconds(self) -> float:
        """The longest from a commit until the log holds it, as long as batches end in time: it just missed the last
        batch of a run, the next run starts, and its first batch takes all that it may."""
        return self.pause + (self.period - self.work) + self.start + self.batch


def detection_of(variables: Mapping[str, str]) -> Detection:
    """How a loss is noticed by a function with these environment variables; ValueError says which is no number."""
    usual = Detection()
    return Detection(
        probe_interval=number(variables, "PROBE_INTERVAL_SECONDS", usual.probe_interval),
        probe_timeout=number(variables, "PROBE_TIMEOUT_SECONDS", usual.probe_timeout),
        failure_threshold=int(number(variables, "FAILURE_THRESHOLD", usual.failure_threshold)),
        multi_az_grace=number(variables, "MULTI_AZ_GRACE_SECONDS", usual.multi_az_grace),
    )


def objectives_of(variables: Mapping[str, str]) -> Objectives:
    """The objectives of a function with these environment variables; ValueError says which is no number."""
    usual = Objectives()
    return Objectives(
        number(variables, "RTO_SECONDS", usual.rto_seconds), number(variables, "RPO_SECONDS", usual.rpo_seconds)
    )


def number(variables: Mapping[str, str], name: str, usual: float) -> float:
    """The variable as a number, `usual` where it is not set or empty."""
    text = variables.get(name)
    try:
        return float(text) if text else usual
    except ValueError:
        raise ValueError(f"The environment variable {name} is {text!r}, not a number; deploy again.") from None
