"""What the agency was promised (RTO, RPO) and what detection is set to. Standard library only: the stacks import it."""

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
    def worst_case_seconds(self) -> float:
        """Longest time from the loss to the threshold: one interval missed, then every probe times out."""
        return self.probe_interval + self.failure_threshold * max(self.probe_interval, self.probe_timeout)
