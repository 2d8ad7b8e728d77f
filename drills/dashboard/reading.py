"""A deployed dashboard and what CloudWatch has for each of its widgets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from deployment.account import Account

LONGEST_POINTS = 1440
"""Of one answer of GetMetricStatistics."""


@dataclass(frozen=True)
class Series:
    """One line of a widget: its label and its points, epoch seconds and value, oldest first."""

    label: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Widget:
    """A widget as the dashboard's body has it, with its lines or the states of its alarms (by the alarm's name)."""

    kind: str
    x: int
    y: int
    width: int
    height: int
    properties: Mapping[str, Any]
    series: tuple[Series, ...] = ()
    states: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Board:
    """A dashboard at a moment: from when until when, epoch seconds."""

    name: str
    begin: float
    end: float
    widgets: tuple[Widget, ...]

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """The lines without a single point: what the dashboard promises and nobody publishes."""
        return tuple(
            f"{widget.properties['title']}: {series.label}"
            for widget in self.widgets
            for series in widget.series
            if not series.points
        )


def read(account: Account, name: str, begin: float, end: float) -> Board:
    """The dashboard of this name with everything that was measured between two moments (epoch seconds)."""
    cloudwatch = account.client("cloudwatch")
    body = json.loads(cloudwatch.get_dashboard(DashboardName=name)["DashboardBody"])
    return Board(name, begin, end, tuple(_widget(cloudwatch, each, begin, end) for each in body["widgets"]))


def _widget(cloudwatch: Any, described: Mapping[str, Any], begin: float, end: float) -> Widget:
    properties = described["properties"]
    series: tuple[Series, ...] = ()
    states: dict[str, str] | None = None
    if described["type"] == "metric":
        series = tuple(_series(cloudwatch, properties, line, begin, end) for line in properties["metrics"])
    elif described["type"] == "alarm":
        states = _states(cloudwatch, [str(arn).rpartition(":")[2] for arn in properties["alarms"]])
    x, y, width, height = (int(described[name]) for name in ("x", "y", "width", "height"))
    return Widget(str(described["type"]), x, y, width, height, properties, series, states)


def _series(cloudwatch: Any, properties: Mapping[str, Any], line: Sequence[Any], begin: float, end: float) -> Series:
    options = line[-1] if isinstance(line[-1], dict) else {}
    namespace, name, *dimensions = [part for part in line if isinstance(part, str)]
    period, statistic = int(options.get("period", properties["period"])), str(options.get("stat", properties["stat"]))
    # A period that has begun before is part of what is shown
    first = begin - begin % period
    points: dict[float, float] = {}
    while first < end:
        last = min(end, first + LONGEST_POINTS * period)
        found = cloudwatch.get_metric_statistics(
            Namespace=namespace,
            MetricName=name,
            Dimensions=[
                {"Name": key, "Value": value} for key, value in zip(dimensions[::2], dimensions[1::2], strict=True)
            ],
            StartTime=datetime.fromtimestamp(first, UTC),
            EndTime=datetime.fromtimestamp(last, UTC),
            Period=period,
            Statistics=[statistic],
        )["Datapoints"]
        points |= {point["Timestamp"].timestamp(): float(point[statistic]) for point in found}
        first = last
    return Series(str(options.get("label", name)), tuple(sorted(points.items())))


def _states(cloudwatch: Any, names: Sequence[str]) -> dict[str, str]:
    pages = cloudwatch.get_paginator("describe_alarms").paginate(AlarmTypes=["MetricAlarm", "CompositeAlarm"])
    states = {
        str(each["AlarmName"]): str(each["StateValue"])
        for page in pages
        for each in (*page["MetricAlarms"], *page["CompositeAlarms"])
    }
    return {name: states.get(name, "missing") for name in names}
