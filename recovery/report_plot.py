"""The plot of a report: what clients saw over time, the fault, each step of the machine, and the lag, as inline SVG.

Colours are CSS variables of the page, so that light, dark and paper each have their own. A plot is drawn for a width:
text keeps its size, and a narrow page shows the narrow one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

LABEL = 11
ROW = 17
PANEL = 96
GAP = 34
TOP = 26
RIGHT = 14
MOST_STEPS = 24


@dataclass(frozen=True)
class Scale:
    """Maps a value to a coordinate; `logarithmic` needs positive values."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The coordinate, within the scale's ends."""
        if self.logarithmic:
            low, high = math.log10(self.low), math.log10(self.high)
            share = (math.log10(max(value, self.low)) - low) / (high - low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round values from `low` to `high`, `most` at most: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    exponent = math.floor(math.log10((high - low) / most))
    step = next(
        factor * 10.0**power
        for power in (exponent, exponent + 1)
        for factor in (1, 2, 5)
        if (high - low) / (factor * 10.0**power) <= most
    )
    first = math.ceil(low / step - 1e-9)
    return [round(step * number, 9) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def plot(series: Mapping[str, Any], width: int) -> str:
    """The SVG, `width` CSS pixels wide.

    `series`, times in seconds since the fault: {"bucket_seconds", "clients": [{"at", "acknowledged", "failed",
    "median_ms", "longest_ms"}], "lag": [{"at", "seconds"}], "steps": [{"name", "from", "to"}], "back": seconds | None}.
    """
    clients, lag = series.get("clients") or [], series.get("lag") or []
    steps = _shortened(series.get("steps") or [])
    bucket = float(series.get("bucket_seconds") or 1.0)
    moments = [
        *(moment for each in clients for moment in (each["at"], each["at"] + bucket)),
        *(each["at"] for each in lag),
        *(moment for each in steps for moment in (each["from"], each["to"])),
    ]
    if not moments:
        return ""
    left = 58 if width >= 600 else 44
    x = Scale(min(*moments, 0.0), max(*moments, 1.0), left, width - RIGHT)
    drawing, y = [], TOP
    if clients:
        drawing.append(_transactions(clients, bucket, x, y))
        y += PANEL + GAP
        drawing.append(_latency(clients, bucket, x, y))
        y += PANEL + GAP
    if lag:
        drawing.append(_lag(lag, x, y))
        y += PANEL // 2 + GAP
    if steps:
        drawing.append(_steps(steps, x, y))
        y += ROW * len(steps) + GAP // 2
    height = y + 22
    back = series.get("back")
    behind = _moments(x, y, back) + _time_axis(x, y, width)
    title = "Transactions, latency, replication lag and steps of the machine over time, in seconds since the fault"
    return (
        f'<svg class="plot" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{title}">{behind}{"".join(drawing)}</svg>'
    )


def _shortened(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for what is repeated in a row; the longest are kept when there are too many."""
    rows: list[dict[str, Any]] = []
    for step in sorted(steps, key=lambda step: step["from"]):
        if rows and rows[-1]["name"] == step["name"]:
            rows[-1]["to"] = max(rows[-1]["to"], step["to"])
        else:
            rows.append(dict(step))
    kept = sorted(rows, key=lambda row: row["to"] - row["from"], reverse=True)[:MOST_STEPS]
    return sorted(kept, key=lambda row: row["from"])


def _transactions(clients: Sequence[Mapping[str, Any]], bucket: float, x: Scale, top: int) -> str:
    most = max(each["acknowledged"] + each["failed"] for each in clients) or 1
    y = Scale(0, most, top + PANEL, top)
    parts = [
        _panel(
            f"Transactions per {bucket:g} s",
            (("acknowledged", "good"), ("failed", "bad")),
            x,
            top,
            PANEL,
            y,
            [(value, f"{value:g}") for value in ticks(0, most, 4)],
        )
    ]
    for each in clients:
        at, width = x(each["at"]), max(x(each["at"] + bucket) - x(each["at"]) - 1, 0.8)
        floor = y(0)
        said = f"{each['at']:.1f} s: {each['acknowledged']} acknowledged, {each['failed']} failed"
        bars = []
        for kind, name in (("acknowledged", "good"), ("failed", "bad")):
            if each[kind]:
                height = y(0) - y(each[kind])
                bars.append(
                    f'<rect class="{name}" x="{at:.1f}" y="{floor - height:.1f}" width="{width:.1f}" '
                    f'height="{height:.1f}"/>'
                )
                floor -= height + 1
        parts.append(f"<g><title>{said}</title>{''.join(bars)}</g>")
    return "".join(parts)


def _latency(clients: Sequence[Mapping[str, Any]], bucket: float, x: Scale, top: int) -> str:
    known = [each for each in clients if each.get("median_ms") is not None]
    low = 10.0 ** math.floor(math.log10(max(min((each["median_ms"] for each in known), default=1.0), 0.1)))
    high = 10.0 ** math.ceil(math.log10(max(max((each["longest_ms"] for each in known), default=10.0), low * 10)))
    y = Scale(low, high, top + PANEL, top, logarithmic=True)
    powers = range(round(math.log10(low)), round(math.log10(high)) + 1)
    marks = [(10.0**power, _duration(10.0**power)) for power in powers]
    parts = [
        _panel(
            "Answer time, acknowledged",
            (("median", "good line"), ("longest", "second line")),
            x,
            top,
            PANEL,
            y,
            marks,
        )
    ]
    for field, name in (("longest_ms", "second"), ("median_ms", "good")):
        for run in _runs(clients, field):
            points = " ".join(f"{x(each['at'] + bucket / 2):.1f},{y(each[field]):.1f}" for each in run)
            if len(run) == 1:
                at, value = points.split(",")
                parts.append(f'<circle class="{name}" cx="{at}" cy="{value}" r="2"/>')
            else:
                parts.append(f'<polyline class="line {name}" points="{points}"/>')
    return "".join(parts)


def _lag(lag: Sequence[Mapping[str, Any]], x: Scale, top: int) -> str:
    height = PANEL // 2
    most = max([each["seconds"] for each in lag] + [1.0])
    y = Scale(0, most, top + height, top)
    marks = [(value, f"{value:g} s") for value in ticks(0, most, 2)]
    points = " ".join(f"{x(each['at']):.1f},{y(each['seconds']):.1f}" for each in lag)
    drawn = f'<polyline class="line third" points="{points}"/>' + "".join(
        f'<circle class="third" cx="{x(each["at"]):.1f}" cy="{y(each["seconds"]):.1f}" r="2">'
        f"<title>{each['at']:.1f} s: {each['seconds']:.2f} s behind</title></circle>"
        for each in lag
    )
    return _panel("Standby behind the primary", (), x, top, height, y, marks) + drawn


def _steps(steps: Sequence[Mapping[str, Any]], x: Scale, top: int) -> str:
    parts = [f'<text class="title" x="{x.start:.0f}" y="{top - 8}">Steps of the machine</text>']
    for row, step in enumerate(steps):
        y = top + row * ROW
        begin, end = x(step["from"]), max(x(step["to"]), x(step["from"]) + 2)
        text = f"{step['name']} {_taken(step['to'] - step['from'])}"
        room = len(text) * LABEL * 0.56
        # Beside the bar, on the side where there is room
        beside, anchor = (end + 4, "start") if end + room + 4 < x.end else (begin - 4, "end")
        parts.append(
            f'<rect class="step" x="{begin:.1f}" y="{y + 3}" width="{end - begin:.1f}" height="{ROW - 6}" rx="2"/>'
            f'<text class="label" x="{beside:.1f}" y="{y + ROW - 5}" text-anchor="{anchor}">{escape(text)}</text>'
        )
    return "".join(parts)


def _panel(
    title: str,
    keys: Sequence[tuple[str, str]],
    x: Scale,
    top: int,
    height: int,
    y: Scale,
    marks: Sequence[tuple[float, str]],
) -> str:
    legend, at = [], x.start + len(title) * LABEL * 0.56 + 10
    for name, style in keys:
        swatch = (
            f'<line class="line {style.split()[0]}" x1="{at:.0f}" x2="{at + 10:.0f}" y1="{top - 12}" y2="{top - 12}"/>'
            if style.endswith("line")
            else f'<rect class="{style}" x="{at:.0f}" y="{top - 16}" width="9" height="9" rx="1"/>'
        )
        # What does not fit beside the title is in the bars' and points' own titles
        if at + 14 + len(name) * LABEL * 0.56 < x.end + RIGHT:
            legend.append(f'{swatch}<text class="label" x="{at + 14:.0f}" y="{top - 8}">{name}</text>')
        at += 14 + len(name) * LABEL * 0.56 + 14
    grid = "".join(
        f'<line class="grid" x1="{x.start:.0f}" x2="{x.end:.0f}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        f'<text class="label" x="{x.start - 6:.0f}" y="{y(value) + 4:.1f}" text-anchor="end">{text}</text>'
        for value, text in marks
    )
    base = (
        f'<line class="axis" x1="{x.start:.0f}" x2="{x.end:.0f}" y1="{top + height}" y2="{top + height}"/>'
        f'<text class="title" x="{x.start:.0f}" y="{top - 8}">{title}</text>'
    )
    return f"{grid}{base}{''.join(legend)}"


def _moments(x: Scale, bottom: int, back: float | None) -> str:
    """The fault and the end of the outage, through every panel."""
    parts = []
    if back is not None and back > 0:
        parts.append(
            f'<rect class="outage" x="{x(0):.1f}" y="{TOP - 6}" width="{max(x(back) - x(0), 1):.1f}" '
            f'height="{bottom - TOP + 6}"><title>No service for {back:.1f} s</title></rect>'
            f'<line class="back" x1="{x(back):.1f}" x2="{x(back):.1f}" y1="{TOP - 6}" y2="{bottom}"/>'
        )
    parts.append(f'<line class="fault" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{TOP - 6}" y2="{bottom}"/>')
    return "".join(parts)


def _time_axis(x: Scale, bottom: int, width: int) -> str:
    marks = ticks(x.low, x.high, max(width // 90, 3))
    return "".join(
        f'<text class="label" x="{x(value):.1f}" y="{bottom + 14}" text-anchor="middle">'
        f"{'fault' if value == 0 else f'{value:+g} s'}</text>"
        f'<line class="axis" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        for value in marks
    )


def _runs(clients: Iterable[Mapping[str, Any]], field: str) -> Iterable[list[Mapping[str, Any]]]:
    """Stretches without a gap: what was not measured is not drawn across."""
    run: list[Mapping[str, Any]] = []
    for each in clients:
        if each.get(field) is None:
            if run:
                yield run
            run = []
        else:
            run.append(each)
    if run:
        yield run


def _taken(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds * 1000:.0f} ms"


def _duration(milliseconds: float) -> str:
    return f"{milliseconds / 1000:g} s" if milliseconds >= 1000 else f"{milliseconds:g} ms"
