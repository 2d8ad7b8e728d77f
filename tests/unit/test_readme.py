"""A newcomer finishes the README in ten minutes, and what it takes from longer pages says the same there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
WORDS_A_MINUTE = 238
"""Silent reading of English non-fiction (Brysbaert, How many words do we read per minute?, 2019)."""


def section(heading: str) -> str:
    """The README's section of that name, without its heading."""
    return re.split(r"^## ", README.split(f"\n## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def test_it_is_read_in_ten_minutes() -> None:
    assert len(README.split()) / WORDS_A_MINUTE <= 10


@pytest.mark.parametrize(
    ("heading", "page"),
    [("What happens when", "what-happens-when.md"), ("Figures", "figures.md")],
)
def test_its_tables_say_what_the_longer_page_says(heading: str, page: str) -> None:
    rows = [line for line in section(heading).splitlines() if line.startswith("|")]
    longer = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    assert len(rows) > 3
    assert [row for row in rows if row not in longer] == []


def test_its_limits_are_some_of_those_of_the_longer_page() -> None:
    ours = [" ".join(each.split()) for each in re.split(r"^- ", section("Limits"), flags=re.MULTILINE)[1:]]
    longer = " ".join((ROOT / "docs" / "limits.md").read_text(encoding="utf-8").split())
    ours[-1] = ours[-1].split(" The others,")[0]
    assert len(ours) == 5
    assert [limit for limit in ours if limit not in longer] == []
