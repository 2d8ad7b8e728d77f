from __future__ import annotations

import inspect
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ministack.core.responses import request_scope
from ministack.services import cloudwatch

from local_cloud import schedules
from local_cloud.alarms import Alarms, state_of
from tests.unit.local_cloud.emulated_account import eventually

VALUES = st.lists(st.none() | st.integers(0, 3), min_size=1, max_size=6)


def rule(periods: int, datapoints: int, missing: str, **more: Any) -> dict[str, Any]:
    return {
        "ComparisonOperator": "GreaterThanThreshold",
        "Threshold": 1,
        "EvaluationPeriods": periods,
        "DatapointsToAlarm": datapoints,
        "TreatMissingData": missing,
        **more,
    }


@pytest.mark.parametrize(
    ("values", "needed", "missing", "state"),
    [
        ([0, 2, 2], 2, "notBreaching", "ALARM"),
        ([2, 0, 2], 2, "notBreaching", "ALARM"),
        ([2, 0, 1], 2, "notBreaching", "OK"),
        ([None, None, 2], 1, "notBreaching", "ALARM"),
        ([None, None, None], 1, "notBreaching", "OK"),
        ([None, None, None], 3, "breaching", "ALARM"),
        ([None, None, 0], 3, "breaching", "OK"),
        ([None, None, None], 3, "missing", "INSUFFICIENT_DATA"),
        ([None, None, None], 3, "ignore", None),
    ],
)
def test_m_out_of_n_periods_make_an_alarm_and_what_is_missing_counts_as_the_alarm_says(
    values: list[float | None], needed: int, missing: str, state: str | None
) -> None:
    assert state_of(rule(len(values), needed, missing), values) == state


@given(VALUES, st.integers(1, 6), st.sampled_from(["breaching", "notBreaching"]))
def test_one_more_value_beyond_the_threshold_never_ends_an_alarm(
    values: list[float | None], needed: int, missing: str
) -> None:
    alarm = rule(len(values), min(needed, len(values)), missing)
    if state_of(alarm, values) == "ALARM":
        for position in range(len(values)):
            assert state_of(alarm, [*values[:position], 9, *values[position + 1 :]]) == "ALARM"


@given(VALUES)
def test_all_periods_are_needed_when_the_alarm_does_not_say_how_many(values: list[float | None]) -> None:
    alarm = rule(len(values), 0, "notBreaching")
    del alarm["DatapointsToAlarm"]
    assert (state_of(alarm, values) == "ALARM") is all(value is not None and value > 1 for value in values)


@pytest.fixture
def alarms(monkeypatch: pytest.MonkeyPatch) -> Iterator[Alarms]:
    monkeypatch.setattr("local_cloud.alarms.EVALUATION_SECONDS", 0.02)
    for name in ("time", "_evaluate_alarm", "_evaluate_all_alarms", "_dispatch_alarm_actions"):
        monkeypatch.setattr(cloudwatch, name, getattr(cloudwatch, name))
    ahead = schedules._clock.ahead
    evaluated = Alarms()
    with request_scope("210987654321", "eu-central-2"):
        try:
            evaluated.install()
            yield evaluated
        finally:
            evaluated.close()
            schedules._clock.ahead = ahead
            for store in (cloudwatch._alarms, cloudwatch._composite_alarms, cloudwatch._metrics):
                store.clear()


def put_alarm(name: str, **more: Any) -> None:
    cloudwatch._put_metric_alarm(
        {}, {"AlarmName": name, "Namespace": "Ours", "MetricName": "Errors", "Period": 60, **more}, False, True
    )


def state(name: str) -> str:
    return str(cloudwatch._alarms[name]["StateValue"])


def test_an_alarm_looks_at_its_own_dimensions_alone(alarms: Alarms) -> None:
    mine, other = ({"Name": "Witness", "Value": value} for value in "ac")
    common = rule(1, 1, "notBreaching", Statistic="Sum")
    put_alarm("mine", **common, Dimensions=[mine])
    put_alarm("other", **common, Dimensions=[other])
    put_alarm("none", **common)
    cloudwatch.record_metric("Ours", "Errors", 5, "Count", {"Witness": "a"})
    eventually(lambda: state("mine") == "ALARM", 5)
    assert (state("other"), state("none")) == ("OK", "OK")


def test_an_alarm_fires_and_clears_as_the_clock_moves_and_tells_who_listens(
    alarms: Alarms, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str, str]] = []
    monkeypatch.setattr(
        cloudwatch,
        "_dispatch_alarm_actions",
        lambda alarm, old, new, _reason: told.append((alarm["AlarmName"], old, new)),
    )
    put_alarm("failed", **rule(1, 1, "notBreaching", Statistic="Sum"))
    cloudwatch._put_composite_alarm({}, {"AlarmName": "both", "AlarmRule": 'ALARM("failed")'}, False, is_json=True)
    eventually(lambda: state("failed") == "OK", 5)
    cloudwatch.record_metric("Ours", "Errors", 2)
    eventually(lambda: cloudwatch._composite_alarms["both"]["StateValue"] == "ALARM", 5)
    assert "2" in cloudwatch._alarms["failed"]["StateReason"]
    schedules.advance(120)
    eventually(lambda: cloudwatch._composite_alarms["both"]["StateValue"] == "OK", 5)
    of_the_metric = [change[1:] for change in told if change[0] == "failed"]
    assert of_the_metric == [("INSUFFICIENT_DATA", "OK"), ("OK", "ALARM"), ("ALARM", "OK")]


def test_silence_of_what_must_speak_is_an_alarm_that_its_next_word_ends(alarms: Alarms) -> None:
    put_alarm("silent", **rule(2, 2, "breaching", Statistic="Maximum"))
    eventually(lambda: state("silent") == "ALARM", 5)
    cloudwatch.record_metric("Ours", "Errors", 0)
    eventually(lambda: state("silent") == "OK", 5)
    schedules.advance(600)
    eventually(lambda: state("silent") == "ALARM", 5)


def test_two_refusals_in_different_periods_of_an_hour_are_an_alarm_and_one_is_none(alarms: Alarms) -> None:
    put_alarm("refused", **{**rule(12, 2, "notBreaching", Statistic="Sum", Threshold=0), "Period": 300})
    cloudwatch.record_metric("Ours", "Errors", 1)
    cloudwatch.record_metric("Ours", "Errors", 1)
    time.sleep(0.1)
    assert state("refused") == "OK"
    schedules.advance(300)
    cloudwatch.record_metric("Ours", "Errors", 1)
    eventually(lambda: state("refused") == "ALARM", 5)


def test_an_alarm_that_cannot_be_evaluated_does_not_stop_the_others(alarms: Alarms) -> None:
    cloudwatch._alarms["broken"] = {"AlarmName": "broken", "StateValue": "OK", "Period": "?"}
    put_alarm("failed", **rule(1, 1, "notBreaching", Statistic="Sum"))
    cloudwatch.record_metric("Ours", "Errors", 2)
    eventually(lambda: state("failed") == "ALARM", 5)


def test_the_emulator_still_has_what_the_evaluation_takes_from_it() -> None:
    for name in ("_calc_stats", "_stat_value", "_dims_key", "_record_history", "_evaluate_parent_alarms"):
        assert callable(getattr(cloudwatch, name))
    # All that the module wants of `time` is the clock that is put in its place.
    assert set(re.findall(r"\btime\.(\w+)", inspect.getsource(cloudwatch))) == {"time"}
