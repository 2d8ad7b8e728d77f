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
