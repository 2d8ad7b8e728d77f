"""What a DB instance class has: processors, memory, CPU credits; and what follows for connections."""

from collections.abc import Mapping
from dataclasses import dataclass

GIB = 1024**3
# RDS's default is LEAST(DBInstanceClassMemory / this, 5000) (RDS user guide, "Maximum number of database connections").
BYTES_A_CONNECTION = 9_531_392
MOST_CONNECTIONS = 5000
# RDS keeps part of the class's memory for itself and does not say how much: the parameter is set, so that an alarm's
# threshold can be told from it.
DATABASE_SHARE_OF_MEMORY = 0.8

# vCPUs by size (Amazon RDS instance types). A GiB figure is per vCPU for the fixed-performance families.
_PROCESSORS: Mapping[str, int] = {
    "large": 2,
    **{f"{times}xlarge": times * 4 for times in (2, 4, 8, 12, 16, 24, 48)},
    "xlarge": 4,
}
_GIB_A_PROCESSOR: Mapping[str, int] = {"m": 4, "r": 8}


@dataclass(frozen=True)
class InstanceClass:
    """vCPUs, memory in GiB, CPU credits earned in an hour; no credits for a class that does not burst."""

    processors: int
    memory_gib: int
    credits_an_hour: int | None = None

    @property
    def max_connections(self) -> int:
        """The parameter `max_connections` of an instance of this class."""
        return min(int(self.memory_gib * GIB * DATABASE_SHARE_OF_MEMORY / BYTES_A_CONNECTION), MOST_CONNECTIONS)


# T3 and T4g are alike (EC2 user guide, "CPU credits and baseline utilization"): a credit is a vCPU's minute.
_BURSTABLE: Mapping[str, InstanceClass] = {
    "micro": InstanceClass(2, 1, 12),
    "small": InstanceClass(2, 2, 24),
    "medium": InstanceClass(2, 4, 24),
    "large": InstanceClass(2, 8, 36),
    "xlarge": InstanceClass(4, 16, 96),
    "2xlarge": InstanceClass(8, 32, 192),
}


def of(name: str) -> InstanceClass:
    """The class `db.<family>.<size>`; KeyError for one that `stacks.settings` would not let through."""
    _, family, size = name.split(".")
    if family[0] == "t":
        return _BURSTABLE[size]
    processors = _PROCESSORS[size]
    return InstanceClass(processors, processors * _GIB_A_PROCESSOR[family[0]])
