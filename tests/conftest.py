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
    parser.addoption(
        "--permissions",
        type=Path,
        default=None,
        help="a file for what every role asked for in the integration tests' local cloud",
    )
    parser.addoption("--soak", action="store_true", help="faults by the hundred and data by the gigabyte")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Spare a real account what breaks things; keep what shares an expensive session fixture on one worker."""
    deployed = {item.path for item in items if "deployed" in getattr(item, "fixturenames", ())}
    for item in items:
        # By a mark, not in a fixture: fixtures of the session would start a local cloud before that.
        if config.getoption("--outputs") is not None and item.get_closest_marker("breaks_the_machine"):
            item.add_marker(pytest.mark.skip(reason="needs to break what only the local cloud lets us break"))
        area = item.path.parent
        if area.name in ("stacks", "recovery", "functions"):
            item.add_marker(pytest.mark.xdist_group("stacks" if area.name == "stacks" else "members"))
        elif item.path in deployed:
            # One after the other, in the order of the files: the last one loses the primary and destroys.
            item.add_marker(pytest.mark.xdist_group("deployed"))
        else:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
