"""The alarms of an environment as CloudWatch tells them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch import CloudWatchClient

PREFIX = "citizens-"


@dataclass(frozen=True)
class AlarmState:
    """An alarm's name without prefix and suffix, its state in CloudWatch's words, and since when (epoch seconds)."""

    name: str
    state: str
    changed_at: float


def read(client: CloudWatchClient, suffix: str) -> list[AlarmState]:
    """Every alarm and composite alarm of the environment. Raises what boto3 raises."""
    ending = f"-{suffix}"
    pages = client.get_paginator("describe_alarms").paginate(
        AlarmNamePrefix=PREFIX, AlarmTypes=["MetricAlarm", "CompositeAlarm"]
    )
    return [
        AlarmState(
            each["AlarmName"].removeprefix(PREFIX).removesuffix(ending),
            each["StateValue"],
            each["StateUpdatedTimestamp"].timestamp(),
        )
        for page in pages
        for each in (*page.get("MetricAlarms", ()), *page.get("CompositeAlarms", ()))
        if each["AlarmName"].endswith(ending)
    ]
