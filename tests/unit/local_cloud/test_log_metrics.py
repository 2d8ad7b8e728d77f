from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ministack.core.responses import request_scope
from ministack.services import cloudwatch, cloudwatch_logs

from local_cloud import log_metrics
from local_cloud.log_metrics import PatternUnsupported, compiled, measured

REFUSED = "FATAL:  password authentication failed for user"
WORDS = st.text("abcXYZ 123:=-", min_size=1).filter(lambda text: text.strip())


@pytest.mark.parametrize(
    ("pattern", "message", "matches"),
    [
        ("", "anything", True),
        ("ERROR", "an ERROR here", True),
        ("ERROR", "an error here", False),
        ("one two", "two, then one", True),
        ("one two", "only one", False),
        ('"one two"', "one two", True),
        ('"one two"', "two, then one", False),
        ("?one ?two", "two", True),
        ("?one ?two", "three", False),
        ("one -two", "one", True),
        ("one -two", "one two", False),
        ('"password authentication failed for user"', f'db:{REFUSED} "master"', True),
        (r'"a \"quoted\" word"', 'a "quoted" word', True),
    ],
)
def test_terms_are_matched_as_the_user_guide_says(pattern: str, message: str, matches: bool) -> None:
    assert compiled(pattern)(message) is matches


@pytest.mark.parametrize(
    ("pattern", "event", "matches"),
    [
        ('{ $.event = "rotation step failed" }', {"event": "rotation step failed"}, True),
        ('{ $.event = "rotation step failed" }', {"event": "step failed"}, False),
        ('{ $.event != "x" }', {"event": "y"}, True),
        ('{ $.event != "x" }', {}, False),
        ('{ $.step = "*Secret" }', {"step": "testSecret"}, True),
        ('{ $.step = "a?c" }', {"step": "abc"}, False),
        ("{ $.days > 31 }", {"days": 31.5}, True),
        ("{ $.days > 31 }", {"days": 31}, False),
        ("{ $.days >= 31 && $.days < 32 }", {"days": "31"}, True),
        ("{ ($.a = 1) || ($.b = 2 && $.c = true) }", {"b": 2, "c": True}, True),
        ("{ ($.a = 1 || $.b = 2) && $.c = 3 }", {"a": 1}, False),
        ("{ $.list[1].name = x }", {"list": [{}, {"name": "x"}]}, True),
        ("{ $.list[7].name = x }", {"list": []}, False),
        ("{ $.deep.er = 1 }", {"deep": 1}, False),
        ("{ $.object = * }", {"object": {}}, False),
    ],
)
def test_fields_of_a_json_event_are_compared(pattern: str, event: dict[str, object], matches: bool) -> None:
    assert compiled(pattern)(json.dumps(event)) is matches


def test_a_json_pattern_matches_no_line_that_is_not_a_json_object() -> None:
    for line in ("plain", "[]", "1", '{"a": 1'):
        assert not compiled("{ $.a != 2 }")(line)


@pytest.mark.parametrize(
    "pattern",
    [
        *("[a, b]", "%regular%", "{ $.a IS NULL }", "{ $.a NOT EXISTS }", "{ $.a = }", "{ a = 1 }", "{ ($.a = 1 }"),
        *("{ $.a = 1 && }", '"open', "{ $.a > big }", "{ $.a = 1 } more", "{ $.a = 1 $.b = 2 }", "{ $.a = IS }"),
    ],
)
def test_what_is_not_evaluated_is_refused(pattern: str) -> None:
    with pytest.raises(PatternUnsupported):
        compiled(pattern)


@given(WORDS, st.text(), st.text())
def test_a_quoted_phrase_matches_exactly_the_lines_that_hold_it(phrase: str, before: str, after: str) -> None:
    matches = compiled(f'"{phrase}"')
    assert matches(before + phrase + after)
    assert matches(before) is (phrase in before)


@given(st.text())
def test_every_text_is_a_pattern_or_is_refused(pattern: str) -> None:
    try:
        compiled(pattern)("some line")
    except PatternUnsupported as unsupported:
        assert "local cloud" in str(unsupported) or "quoted" in str(unsupported)  # noqa: PT017


def test_each_match_is_a_point_of_a_number_or_of_a_field_and_none_is_the_default() -> None:
    def filtered(pattern: str, value: str, default: float | None = None) -> dict[str, object]:
        return {"filterPattern": pattern, "metricTransformations": [{"metricValue": value, "defaultValue": default}]}

    lines = ['{"days": 3}', '{"days": 4.5}', '{"days": "old"}', '{"other": 1}']
    for each, values in (
        (filtered("{ $.days = * }", "$.days"), [3, 4.5]),
        (filtered("days", "1"), [1, 1, 1]),
        (filtered("nowhere", "1"), []),
        (filtered("nowhere", "1", 0), [0]),
    ):
        assert [value for _, value in measured([each], lines)] == values
    assert measured([filtered("", "1", 0)], []) == []


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module, name in (
        (cloudwatch_logs, "_put_metric_filter"),
        (cloudwatch_logs, "_put_log_events"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    log_metrics.install()
    with request_scope("210987654321", "eu-central-2"):
        try:
            yield
        finally:
            cloudwatch_logs._log_groups.clear()
            cloudwatch_logs._metric_filters.clear()
            cloudwatch._metrics.clear()


def put_filter(pattern: str) -> int:
    status, _headers, _body = cloudwatch_logs._put_metric_filter(
        {
            "logGroupName": "group",
            "filterName": "filter",
            "filterPattern": pattern,
            "metricTransformations": [{"metricName": "Refused", "metricNamespace": "Ours", "metricValue": "1"}],
        }
    )
    return int(status)


def test_what_a_group_receives_is_measured_and_a_pattern_of_another_kind_is_refused(installed: None) -> None:
    for name in ("group", "other"):
        cloudwatch_logs._create_log_group({"logGroupName": name})
        cloudwatch_logs._create_log_stream({"logGroupName": name, "logStreamName": "stream"})
    assert put_filter("[a, b]") == 400
    assert put_filter(f'"{REFUSED}"') == 200
    for group in ("group", "other"):
        cloudwatch_logs._put_log_events(
            {
                "logGroupName": group,
                "logStreamName": "stream",
                "logEvents": [{"timestamp": 1, "message": text} for text in (f"{REFUSED} a", "LOG: fine", REFUSED)],
            }
        )
    points = cloudwatch._metrics.get(("Ours", "Refused", cloudwatch._dims_key({})))
    assert [point["Value"] for point in points] == [1, 1]


def test_events_that_were_not_taken_are_not_measured(installed: None) -> None:
    cloudwatch_logs._create_log_group({"logGroupName": "group"})
    assert put_filter("") == 200
    status, *_ = cloudwatch_logs._put_log_events(
        {"logGroupName": "group", "logStreamName": "nowhere", "logEvents": [{"timestamp": 1, "message": "x"}]}
    )
    assert status == 400
    assert not cloudwatch._metrics
