"""Alarms as CloudWatch evaluates them: the metric with exactly those dimensions, period by period, M out of N, and
what is missing treated as the alarm says.

The emulator looks at all points of a metric of that name together, whatever their dimensions, and only when one is
put. Here all alarms are evaluated every second, on the clock of schedules and rotations: when it is moved, what was
measured before is as old as that. Periods begin at multiples of their length, and the one that is still running counts
as soon as it has a point. When points are missing CloudWatch also looks further back, and does not say how far; this
does not.
"""

from __future__ import annotations

import logging
import math
import operator
import threading
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Literal

from ministack.core.responses import request_scope
from ministack.services import cloudwatch

from local_cloud import schedules

State = Literal["OK", "ALARM", "INSUFFICIENT_DATA"]
Alarm = Mapping[str, Any]

EVALUATION_SECONDS = 1.0
_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "GreaterThanThreshold": operator.gt,
    "GreaterThanOrEqualToThreshold": operator.ge,
    "LessThanThreshold": operator.lt,
    "LessThanOrEqualToThreshold": operator.le,
}

_logger = logging.getLogger(__name__)


class Alarms:
    """Evaluates every metric alarm of every account and region until it is closed."""

    def __init__(self) -> None:
        self._closed = threading.Event()
        self._lock = threading.RLock()

    def install(self) -> None:
        """Take over from the emulator's evaluation, and let its metrics and alarms live on the movable clock."""
        cloudwatch.time = SimpleNamespace(time=schedules.now)
        cloudwatch._evaluate_alarm = self.evaluate
        cloudwatch._evaluate_all_alarms = lambda: None
        threading.Thread(target=self._watch, name="alarms", daemon=True).start()

    def close(self) -> None:
        """Evaluate no longer."""
        self._closed.set()

    def evaluate(self, alarm: dict[str, Any]) -> None:
        """Evaluate one alarm of the current account and region; its actions run when the state changes."""
        with self._lock:
            values = _values(alarm, schedules.now())
            old, new = alarm["StateValue"], state_of(alarm, values)
            if new in (None, old):
                return
            shown = ", ".join("missing" if value is None else f"{value:g}" for value in values)
            reason = f"{alarm.get('Statistic')} of the last periods: {shown}; threshold {alarm['Threshold']:g}"
            alarm.update(StateValue=new, StateReason=reason, StateUpdatedTimestamp=int(schedules.now()))
            cloudwatch._record_history(alarm["AlarmName"], old, new, reason)
            cloudwatch._dispatch_alarm_actions(alarm, old, new, reason)
            cloudwatch._evaluate_parent_alarms(alarm)

    def _watch(self) -> None:
        while not self._closed.wait(EVALUATION_SECONDS):
            for (account, region, name), alarm in list(cloudwatch._alarms._data.items()):
                with request_scope(account, region):
                    if cloudwatch._alarms.get(name) is alarm:
                        self._evaluate_whatever_happens(alarm)

    def _evaluate_whatever_happens(self, alarm: dict[str, Any]) -> None:
        try:
            self.evaluate(alarm)
        except Exception:
            _logger.exception("the alarm %s was not evaluated", alarm["AlarmName"])


def state_of(alarm: Alarm, values: Sequence[float | None]) -> State | None:
    """The state that the values of the evaluated periods (None: missing) give; None: it stays what it is."""
    compare = _COMPARISONS[alarm["ComparisonOperator"]]
    treatment = str(alarm.get("TreatMissingData") or "missing")
    breaching = [compare(value, alarm["Threshold"]) for value in values if value is not None]
    missing = len(values) - len(breaching)
    if not breaching and treatment in ("missing", "ignore"):
        return "INSUFFICIENT_DATA" if treatment == "missing" else None
    wanted = int(alarm.get("DatapointsToAlarm") or alarm["EvaluationPeriods"])
    count = sum(breaching) + (missing if treatment == "breaching" else 0)
    return "ALARM" if count >= wanted else "OK"


def _values(alarm: Alarm, now: float) -> list[float | None]:
    """The statistic of each evaluated period, oldest first."""
    period, count = int(alarm["Period"]), int(alarm["EvaluationPeriods"])
    key = (
        alarm.get("Namespace"),
        alarm.get("MetricName"),
        cloudwatch._dims_key({each["Name"]: each["Value"] for each in alarm.get("Dimensions") or []}),
    )
    running = math.floor(now / period)
    points: dict[int, list[Any]] = {}
    for point in list(cloudwatch._metrics.get(key) or ()):
        number = math.floor(point["Timestamp"] / period)
        if running - count <= number <= running:
            points.setdefault(number, []).append(point)
    last = running if running in points else running - 1
    statistic = str(alarm.get("ExtendedStatistic") or alarm.get("Statistic") or "Average")
    return [
        cloudwatch._stat_value(cloudwatch._calc_stats(points[number]), statistic, points[number])
        if number in points
        else None
        for number in range(last - count + 1, last + 1)
    ]
