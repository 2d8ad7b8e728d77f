"""What all tests share: the choice of what they run against."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--outputs",
        type=Path,
        default=None,
        help="flat outputs of a deployed system (a real account's); without it one is deployed into a local cloud",
    )
    parser.addoption("--soak", action="store_true", help="faults by the hundred and data by the gigabyte")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what shares an expensive session fixture on one worker: one synthesis, one pair of members per session."""
    for item in items:
        area = item.path.parent
        if area.name in ("stacks", "recovery", "functions"):
            item.add_marker(pytest.mark.xdist_group("stacks" if area.name == "stacks" else "members"))
        else:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
