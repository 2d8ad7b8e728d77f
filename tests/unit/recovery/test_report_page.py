"""The report's page: the verdict first, every section of a test report, and nothing of a record becomes markup."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery import report_page, report_plot

INCIDENT = {
    "id": "incident#20270115T080000Z-1a2b",
    "outcome": "promoted",
    "reason": "citizens-1 is lost by 3 signals",
    "epoch": 1,
    "started_at": "2027-01-15T08:00:00.000Z",
    "ended_at": "2027-01-15T08:00:12.500Z",
    "decision": '{"action": "promote", "primary": "citizens-1"}',
    "account": '{"transactions": 7, "missing": 0}',
    "timeline": '[{"at": "2027-01-15T08:00:01.000Z", "event": "decided: promote"}]',
    "execution": "arn:aws:states:eu-central-2:1:execution:citizens-failover-x:1-y",
    "expires_at": 1,
    "note": "<b>of ours</b>",
}
SECTIONS = (
    *("What clients saw", "Objectives and their basis", "Before the fault", "Timeline", "Loss account", "Alarms"),
    *("Deviations from what was expected", "Corrective actions", "Restoration", "Scope and participants", "Preflight"),
    *("Controls", "Provenance"),
)
TEXT = st.text() | st.sampled_from(["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "&amp;", "\x00"])
VALUE = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.lists(TEXT, max_size=2)


def document(**changed: Any) -> dict[str, Any]:
    clients = [
        {"at": at / 2, "acknowledged": 0 if 0 <= at < 8 else 9, "failed": 3 if 0 <= at < 8 else 0,
         "median_ms": None if 0 <= at < 8 else 4.0, "longest_ms": None if 0 <= at < 8 else 40.0}
        for at in range(-10, 14)
    ]  # fmt: skip
    return {
        "title": "Drill primary-lost on drill-1",
        "id": "20270115T080000Z-primary-lost-drill-1",
        "kind": "drill",
        "verdict": "met",
        "reason": "Outage 4.0 s of 900 s.",
        "started_at": "2027-01-15T08:00:00Z",
        "rto_seconds": 4.0,
        "rto_resolution_seconds": 0.5,
        "rpo_seconds": 0.0,
        "objectives": {"rto_seconds": 900.0, "rpo_seconds": 3600.0},
        "transactions_acknowledged": 1234,
        "transactions_missing": 2,
        "lost": [7, 8],
        "series": {
            "bucket_seconds": 0.5,
            "clients": clients,
            "lag": [{"at": -4.0, "seconds": 0.0}, {"at": -2.0, "seconds": 1.5}],
            "steps": [{"name": "Observe", "from": 1.0, "to": 2.0}, {"name": "Promote", "from": 2.0, "to": 2.01}],
            "back": 4.0,
        },
        "before": {"LSN of the primary": "0/3000148"},
        "timeline": [{"at": "2027-01-15T08:00:00.250+00:00", "source": "client", "event": "failed"}],
        "loss_account": {"transactions": 7},
        "alarms": [{"name": "primary-lost", "state": "failed to fire", "at": None, "note": "after 120 s"}],
        "deviations": ["The alarm primary-lost failed to fire."],
        "corrective_actions": [{"what": "lower the period", "owner": "duty", "due": "2027-02-01"}],
        "restoration": ["The environment was destroyed."],
        "participants": [{"role": "test director", "who": "someone"}],
        "preflight": [{"check": "region", "verdict": "ok", "found": "enabled"}],
        "controls": list(report_page.CONTROLS),
        "plan": {"name": "docs/failover-machine.md", "sha256": "p" * 64},
        "seal": {"number": 3, "previous": "e" * 64, "sealed_at": "2027-01-15T08:01:00Z"},
        "commit": "c" * 40,
        "template_sha256": "f" * 64,
        **changed,
    }


def words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.partition("<body>")[2]))


def test_the_verdict_and_both_objectives_come_before_everything_else() -> None:
    head = words(report_page.page(document()).partition("<section>")[0])
    for said in ("met", "Outage 4.0 s of 900 s.", "4.0 s ± 0.5 s", "objective 15 min", "0.0 s", "objective 60 min"):
        assert said in head
    assert "2 of 1,234 acknowledged" in re.sub(r"\s+", " ", head)


def test_every_section_of_a_test_report_is_there_with_what_was_found() -> None:
    html = report_page.page(document())
    assert re.findall(r"<h2>([^<]+)</h2>", html) == list(SECTIONS)
    text = words(html)
    for said in (
        *("0/3000148", "08:00:00.250", "failed to fire", "lower the period", "duty", "2027-02-01", "CP-4", "CP-10(2)"),
        *("1,232 of 1,234 found again", "7, 8", "docs/failover-machine.md", "p" * 64, "c" * 40, "f" * 64, "e" * 64),
        *("test director", "region", "The environment was destroyed."),
    ):
        assert said in text, said


def test_what_is_not_known_is_said_and_not_made_up() -> None:
    text = words(report_page.page({}))
    for said in ("unknown", "not measured", "No client was watched", "There is no timeline", "Alarms were not watched"):
        assert said in text
    nothing = words(report_page.page(document(alarms=[], deviations=[], corrective_actions=[], rpo_seconds=None)))
    assert "No alarm fired, and none had to." in nothing
    assert "None: everything came as it was expected." in nothing


def test_actions_that_nobody_has_written_yet_are_lines_to_fill_in() -> None:
    html = report_page.page(document(corrective_actions=[]))
    table = html.partition("Corrective actions</h2>")[2].partition("</table>")[0]
    assert table.count("<tr>") == 1 + 3
    assert re.findall(r"<th scope=col>([^<]+)</th>", table) == ["action", "owner", "due"]


def test_an_incidents_record_becomes_the_same_page_with_what_the_table_knows() -> None:
    made = report_page.of_record(str(INCIDENT["id"]), INCIDENT, {"number": 4, "sha256": "a" * 64})
    html = report_page.page(made)
    text = words(html)
    for said in ("promoted", "12.5 s", "decided: promote", "failover of epoch 1", "a" * 64, "not measured"):
        assert said in text
    assert "&lt;b&gt;of ours&lt;/b&gt;" in html
    assert "expires" not in text
    assert made["loss_account"] == {"transactions": 7, "missing": 0}


@pytest.mark.parametrize(
    ("verdict", "tone"), [("met", "good"), ("stood_by", "good"), ("failed", "bad"), ("refused", "unsure")]
)
def test_a_verdict_has_a_sign_and_a_word_besides_its_colour(verdict: str, tone: str) -> None:
    html = report_page.page({"verdict": verdict})
    assert f'<p class="verdict {tone}"><svg class=sign' in html
    assert report_page.SIGNS[tone] in html


FIELDS = st.sampled_from(
    (
        *("kind", "by", "measured", "verified", "log", "steps", "preflight", "alarms", "deviations", "restoration"),
        *("rto_seconds", "rto_resolution_seconds", "rto_limit_seconds", "rpo_seconds", "rpo_limit_seconds", "rpo_by"),
        *("plan", "commit", "template_sha256", "identifier", "timeline", "suffix"),
    )
)


@given(
    st.dictionaries(st.text() | FIELDS, VALUE | st.builds(json.dumps, VALUE) | st.just('[{"check": 1}]'), max_size=6),
    TEXT,
    st.sampled_from(["incident", "drill"]),
)
def test_no_record_breaks_the_page_or_becomes_markup(record: dict[str, Any], reason: str, family: str) -> None:
    made = report_page.of_record(f"{family}#x", {**INCIDENT, "reason": reason, **record})
    html = report_page.page(made)
    assert "<script" not in html
    assert "<img" not in html
    assert html.endswith("</html>\n")


def test_a_page_asks_the_network_for_nothing() -> None:
    html = report_page.page(document())
    assert "default-src 'none'" in html
    assert re.findall(r"(?:src|href)=(\S+?)>", html) == ['"data:,"']
    assert "@import" not in html
    assert "url(" not in html


# -- the plot ---------------------------------------------------------------------------------------------------------


def numbers(svg: str, name: str) -> list[float]:
    return [float(value) for value in re.findall(rf' {name}="(-?[\d.]+)"', svg)]


@given(
    st.lists(
        st.builds(
            lambda at, good, bad, ms: {"at": at, "acknowledged": good, "failed": bad,
                                       "median_ms": ms if good else None, "longest_ms": ms * 3 if good else None},
            st.integers(-50, 900), st.integers(0, 500), st.integers(0, 500), st.floats(0.01, 60_000),
        ),
        max_size=40, unique_by=lambda each: each["at"],
    ),
    st.lists(st.builds(lambda at, behind: {"at": at, "seconds": behind}, st.floats(-50, 900), st.floats(0, 4000))),
    st.lists(st.builds(lambda at, took: {"name": "Step", "from": at, "to": at + took},
                       st.floats(0, 900), st.floats(0, 500))),
    st.none() | st.floats(0, 900),
    st.sampled_from([report_page.WIDE, report_page.NARROW]),
)  # fmt: skip
def test_whatever_was_measured_is_drawn_inside_the_plot(
    clients: list[dict[str, Any]], lag: list[Any], steps: list[Any], back: float | None, width: int
) -> None:
    ordered = sorted(clients, key=lambda each: each["at"])
    svg = report_plot.plot({"clients": ordered, "lag": lag, "steps": steps, "back": back}, width)
    if not clients and not lag and not steps:
        assert svg == ""
        return
    (height,) = numbers(svg.partition(">")[0], "height")
    assert all(0 <= x <= width for name in ("x1", "x2", "cx") for x in numbers(svg, name))
    assert all(0 <= y <= height for name in ("y", "y1", "y2", "cy") for y in numbers(svg, name))
    assert "nan" not in svg


def test_an_outage_is_shaded_from_the_fault_to_when_service_was_back() -> None:
    series = document()["series"]
    assert "No service for 4.0 s" in report_plot.plot(series, 960)
    assert "No service" not in report_plot.plot({**series, "back": None}, 960)
    assert report_plot.plot(series, 960).count('class="bad"') == 8 + 1, "a bar for each bucket with failures, and a key"


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (-5, 12, [-5, 0, 5, 10]), (0, 0, [0]), (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1])],
)
def test_ticks_are_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert report_plot.ticks(low, high, 5) == expected
