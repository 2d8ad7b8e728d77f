"""A dashboard's picture: whatever was measured, or was not, it can be drawn, and is drawn where its widgets are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.image import imread

from drills.dashboard.__main__ import main
from drills.dashboard.picture import draw
from drills.dashboard.reading import Board, Series, Widget

BEGIN = 1_800_000_000.0
GRAPH = Widget(
    "metric", 0, 2, 8, 6,
    {"title": "Standby lag (s)", "view": "timeSeries", "yAxis": {"left": {"min": 0}},
     "annotations": {"horizontal": [{"label": "alarm above", "value": 1800, "color": "#e07941"}]}},
    (Series("witness a", tuple((BEGIN + 60 * n, float(n % 5)) for n in range(60))), Series("witness c", ())),
)  # fmt: skip
NUMBER = Widget(
    "metric", 8, 2, 8, 6, {"title": "RPO now (s)", "view": "singleValue"}, (Series("now", ((BEGIN, 1.5),)),)
)
ALARMS = Widget(
    "alarm", 16, 2, 8, 6, {"title": "All alarms"}, (),
    {"citizens-log-lag-x": "OK", "citizens-incident-x": "ALARM", "citizens-cpu-1-x": "INSUFFICIENT_DATA"},
)  # fmt: skip
HEAD = Widget("text", 0, 0, 24, 2, {"markdown": "# citizens-x\nRecovery time objective 900 s"})
BOARD = Board("citizens-x", BEGIN, BEGIN + 3600, (HEAD, GRAPH, NUMBER, ALARMS))


def test_every_widget_leaves_its_marks_where_it_is(tmp_path: Path) -> None:
    draw(BOARD, tmp_path / "all.png")
    whole = imread(tmp_path / "all.png")
    for widget in BOARD.widgets:
        without = replace(BOARD, widgets=tuple(each for each in BOARD.widgets if each is not widget))
        draw(without, tmp_path / "some.png")
        other = imread(tmp_path / "some.png")
        if other.shape != whole.shape:
            continue
        _, columns = np.nonzero((whole != other).any(axis=2))
        unit = whole.shape[1] / 24
        assert columns.size > 500, widget.kind
        assert columns.min() > (widget.x - 1) * unit
        assert columns.max() < (widget.x + widget.width + 1) * unit


def test_what_was_never_measured_is_named(tmp_path: Path) -> None:
    assert BOARD.unmeasured == ("Standby lag (s): witness c",)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.floats(0, 1e12), max_size=4), max_size=9), st.floats(0, 1e12))
def test_any_values_can_be_drawn(tmp_path: Path, values: list[list[float]], line: float) -> None:
    series = tuple(
        Series(f"function {number}", tuple((BEGIN + 60 * n, each) for n, each in enumerate(of_one)))
        for number, of_one in enumerate(values)
    )
    annotations = {"horizontal": [{"label": "alarm below", "value": line, "color": "#d13212"}]}
    drawn = replace(GRAPH, series=series, properties={**GRAPH.properties, "annotations": annotations})
    draw(replace(BOARD, widgets=(HEAD, drawn)), tmp_path / "any.png")
    assert (tmp_path / "any.png").stat().st_size > 1000


@pytest.mark.parametrize("minutes", ["9", "601"])
def test_an_hour_of_no_length_is_refused_with_a_sentence(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--minutes", minutes], {}) == 1
    assert "give 10 to 600" in capsys.readouterr().err
