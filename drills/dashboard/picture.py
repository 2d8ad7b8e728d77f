"""Draws a dashboard: the widgets where its body puts them, in the manner of CloudWatch's console."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib import dates
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from drills.dashboard.reading import Board, Series, Widget

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 24
# Inches of a column and of a row, and between two widgets.
COLUMN, ROW, GAP, MARGIN = 0.72, 0.46, 0.07, 0.25
DOTS_PER_INCH = 100
INK, FAINT, PAPER, BACKGROUND, BORDER = "#16191f", "#687078", "#ffffff", "#f2f3f3", "#d5dbdb"
COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b", "#17becf", "#e377c2", "#bcbd22")
# Fill and edge of an alarm by its state.
STATES = {"OK": ("#e8f5e9", "#1d8102"), "ALARM": ("#fdd8d2", "#d13212")}
NO_STATE = ("#eaeded", "#879596")
SHOWN_IN_LEGEND = 6
LEGEND_COLUMNS = 3


def draw(board: Board, path: Path) -> None:
    """Write the board as PNG."""
    rows = max(widget.y + widget.height for widget in board.widgets)
    width, height = COLUMNS * COLUMN + 2 * MARGIN, rows * ROW + 2 * MARGIN + 0.2
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    for widget in board.widgets:
        _Drawn(figure, board, widget, width, height).draw()
    moments = " to ".join(f"{datetime.fromtimestamp(each, UTC):%Y-%m-%d %H:%M}" for each in (board.begin, board.end))
    figure.text(MARGIN / width, 0.12 / height, f"{board.name}, {moments} UTC", color=FAINT, size=7)
    figure.savefig(path, metadata={"Software": None})


class _Drawn:
    """One widget on the figure. Sizes in inches, from the figure's lower left corner."""

    def __init__(self, figure: Figure, board: Board, widget: Widget, width: float, height: float) -> None:
        self._figure, self._board, self._widget = figure, board, widget
        self._page = (width, height)
        self._left = MARGIN + widget.x * COLUMN + GAP / 2
        self._bottom = height - MARGIN - (widget.y + widget.height) * ROW + GAP / 2
        self._width, self._height = widget.width * COLUMN - GAP, widget.height * ROW - GAP

    def draw(self) -> None:
        if self._widget.kind == "text":
            self._text()
            return
        self._frame()
        self._title(str(self._widget.properties["title"]))
        if self._widget.kind == "alarm":
            self._alarms()
        elif self._widget.properties.get("view") == "singleValue":
            self._number()
        else:
            self._graph()

    # -- kinds -----------------------------------------------------------------------------------------------------

    def _text(self) -> None:
        head, _, rest = str(self._widget.properties["markdown"]).lstrip("# ").partition("\n")
        self._write(0.05, self._height - 0.05, head, size=15, weight="bold", va="top")
        self._write(0.05, 0.12, rest, size=9, color=FAINT, va="bottom")

    def _number(self) -> None:
        (series,) = self._widget.series[:1]
        value = series.points[-1][1] if series.points else None
        self._write(
            self._width / 2, self._height * 0.54, _as_number(value), size=24, weight="bold", ha="center", va="center"
        )
        if len(series.points) > 1:
            axes = self._axes(0.15, 0.1, self._width - 0.3, self._height * 0.28)
            axes.axis("off")
            times, values = zip(*series.points, strict=True)
            axes.plot(times, values, color=COLORS[0], linewidth=1)
            axes.fill_between(times, values, min(0.0, *values), color=COLORS[0], alpha=0.15)
            axes.set_xlim(self._board.begin, self._board.end)

    def _graph(self) -> None:
        widget = self._widget
        lines = [each for each in widget.series if each.points]
        named = _worth_naming(lines)
        rows = math.ceil(max(1, len(named)) / LEGEND_COLUMNS)
        below = 0.36 + 0.17 * rows
        axes = self._axes(0.62, below, self._width - 0.8, self._height - below - 0.42)
        for each in lines:
            color = COLORS[named.index(each) % len(COLORS)] if each in named else COLORS[0]
            times = [datetime.fromtimestamp(moment, UTC) for moment, _ in each.points]
            values = [value for _, value in each.points]
            marker = "o" if len(values) < 4 else None
            axes.plot(times, values, color=color, linewidth=1.3, marker=marker, markersize=2.5, label=each.label)  # type: ignore[arg-type]
        self._thresholds(axes, lines)
        self._scales(axes)
        if not lines:
            axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center", color=FAINT, size=9)
        self._legend(lines, named)

    def _alarms(self) -> None:
        states = self._widget.states or {}
        few = len(states) <= COLUMNS // 4
        columns = len(states) if few else 8
        rows = math.ceil(len(states) / columns)
        cell_width = (self._width - 0.2) / columns
        cell_height = (self._height - 0.45) / rows
        shared = _shared_ends(tuple(states))
        for number, (name, state) in enumerate(states.items()):
            row, column = divmod(number, columns)
            left = 0.1 + column * cell_width
            bottom = self._height - 0.36 - (row + 1) * cell_height
            fill, edge = STATES.get(state, NO_STATE)
            self._box(left + 0.03, bottom + 0.025, cell_width - 0.06, cell_height - 0.05, fill, edge)
            short = name.removeprefix(shared[0]).removesuffix(shared[1])
            label = f"{short}: {state}" if few else short
            size = 11 if few else min(7.0, 1.75 * 72 * (cell_width - 0.14) / max(1, len(short)) / 1.05)
            self._write(left + cell_width / 2, bottom + cell_height / 2, label, size=size, ha="center", va="center")

    # -- parts -----------------------------------------------------------------------------------------------------

    def _frame(self) -> None:
        self._figure.add_artist(
            Rectangle(
                self._at(self._left, self._bottom),
                self._width / self._page[0],
                self._height / self._page[1],
                facecolor=PAPER,
                edgecolor=BORDER,
                linewidth=0.8,
                zorder=-1,
            )
        )

    def _title(self, text: str) -> None:
        self._write(0.12, self._height - 0.12, text, size=9.5, weight="bold", va="top")

    def _box(self, left: float, bottom: float, width: float, height: float, fill: str, edge: str) -> None:
        self._figure.add_artist(
            FancyBboxPatch(
                self._at(self._left + left, self._bottom + bottom),
                width / self._page[0],
                height / self._page[1],
                boxstyle="round,pad=0,rounding_size=0.0015",
                facecolor=fill,
                edgecolor=edge,
                linewidth=0.7,
            )
        )

    def _thresholds(self, axes: Axes, lines: Sequence[Series]) -> None:
        """As far as they are anywhere near what was measured: a line far above would press the curve flat."""
        highest = max((value for each in lines for _, value in each.points), default=0.0)
        far = []
        drawn: list[float] = []
        lines_of_alarms = self._widget.properties.get("annotations", {}).get("horizontal", ())
        for line in sorted(lines_of_alarms, key=lambda each: -float(each["value"])):
            value, label = float(line["value"]), str(line["label"])
            if highest and value > 20 * highest:
                far.append(f"{label} {_tick(value, self._in_bytes)}")
                continue
            # The lower one of two that are close to each other has its label below
            above = not drawn or drawn[-1] - value > 0.12 * max(highest, *drawn)
            drawn.append(value)
            axes.axhline(value, color=line["color"], linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                f"{label} {_tick(value, self._in_bytes)}",
                (1, value),
                xycoords=("axes fraction", "data"),
                xytext=(-2, 2 if above else -2),
                textcoords="offset points",
                ha="right",
                va="bottom" if above else "top",
                size=6.5,
                color=line["color"],
            )
        if far:
            axes.text(
                0.995, 0.98, "\n".join(f"{each} ↑" for each in far), transform=axes.transAxes,
                ha="right", va="top", size=6.5, color="#e07941",
            )  # fmt: skip

    def _scales(self, axes: Axes) -> None:
        limits = self._widget.properties.get("yAxis", {}).get("left", {})
        lowest, highest = axes.get_ylim()
        if "min" in limits:
            lowest = min(float(limits["min"]), lowest) if lowest < 0 else float(limits["min"])
        highest = float(limits["max"]) if "max" in limits else max(highest, lowest + 1) * 1.08
        axes.set_ylim(lowest, highest)
        # Bytes in steps of a power of two, everything else of ten
        step = 2.0 ** math.ceil(math.log2(max(1.0, highest - lowest) / 4))
        axes.yaxis.set_major_locator(
            MultipleLocator(step) if self._in_bytes else MaxNLocator(4, steps=[1, 2, 2.5, 5, 10])
        )
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, self._in_bytes)))
        axes.set_xlim(
            datetime.fromtimestamp(self._board.begin, UTC),  # type: ignore[arg-type]
            datetime.fromtimestamp(self._board.end, UTC),  # type: ignore[arg-type]
        )
        axes.xaxis.set_major_locator(dates.AutoDateLocator(minticks=3, maxticks=6))  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M", tz=UTC))  # type: ignore[no-untyped-call]
        axes.tick_params(labelsize=7, colors=FAINT, length=2, width=0.6)
        axes.grid(axis="y", color="#eaeded", linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(BORDER)

    def _legend(self, lines: Sequence[Series], named: Sequence[Series]) -> None:
        for number, each in enumerate(named):
            row, column = divmod(number, LEGEND_COLUMNS)
            left = 0.15 + column * (self._width - 0.2) / LEGEND_COLUMNS
            bottom = 0.1 + 0.17 * (math.ceil(len(named) / LEGEND_COLUMNS) - 1 - row)
            self._box(left, bottom + 0.02, 0.09, 0.06, COLORS[number % len(COLORS)], COLORS[number % len(COLORS)])
            self._write(left + 0.15, bottom, each.label, size=7, color=FAINT, va="bottom")
        if not named and lines:
            self._write(0.15, 0.1, f"all {len(lines)} are 0", size=7, color=FAINT, va="bottom")

    @property
    def _in_bytes(self) -> bool:
        return "(bytes)" in str(self._widget.properties["title"])

    def _axes(self, left: float, bottom: float, width: float, height: float) -> Axes:
        x, y = self._at(self._left + left, self._bottom + bottom)
        return self._figure.add_axes((x, y, width / self._page[0], height / self._page[1]))

    def _at(self, left: float, bottom: float) -> tuple[float, float]:
        return left / self._page[0], bottom / self._page[1]

    def _write(self, left: float, bottom: float, text: str, **how: object) -> None:
        x, y = self._at(self._left + left, self._bottom + bottom)
        self._figure.text(x, y, text, **{"color": INK, **how})  # type: ignore[arg-type]


def _worth_naming(lines: Sequence[Series]) -> list[Series]:
    """All of a few; of many those that are not nothing all the time."""
    if len(lines) <= SHOWN_IN_LEGEND:
        return list(lines)
    return [each for each in lines if any(value for _, value in each.points)][: 2 * SHOWN_IN_LEGEND]


def _as_number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 100 else f"{value:.1f}"


def _tick(value: float, in_bytes: bool) -> str:
    if in_bytes:
        for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
            if abs(value) >= size:
                return f"{value / size:.3g} {unit}"
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _shared_ends(names: Sequence[str]) -> tuple[str, str]:
    """What all names begin and end with, up to a hyphen: `citizens-` and the suffix."""
    first = names[0] if names else ""
    begin = first.partition("-")[0] + "-"
    ends = ["-".join(part) for number in range(1, first.count("-") + 1) if (part := first.split("-")[-number:])]
    shared = [f"-{end}" for end in ends if all(name.endswith(f"-{end}") for name in names)]
    return begin if all(name.startswith(begin) for name in names) else "", max(shared, key=len, default="")
