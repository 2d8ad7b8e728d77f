"""What a benchmark hands back."""

from __future__ import annotations

import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """The median of several runs, and the target it must not exceed (or reach, with `at_least`), in the same unit."""

    median: float
    unit: str
    runs: tuple[float, ...]
    target: float
    at_least: bool = False
    note: str = ""
    """What must be known to read the figures."""

    @property
    def kept(self) -> bool:
        """Whether the target is kept."""
        return self.median >= self.target if self.at_least else self.median <= self.target


def median_of(figures: list[float], target: float, unit: str = "s", at_least: bool = False) -> Result:
    """The result of several runs."""
    runs = tuple(round(figure, 2) for figure in figures)
    return Result(round(statistics.median(figures), 2), unit, runs, target, at_least)
