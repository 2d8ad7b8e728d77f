"""The runbooks as data: each page's commands, the state that they belong to, and the output that the page shows.

A fenced `console` block belongs to the state that the comment before it names (`healthy` without one); a block marked
`last` brings its state to an end. `…` stands for anything, on a line of its own for any lines.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

RUNBOOKS = Path(__file__).resolve().parents[1] / "docs" / "runbooks"
STATES = (
    *("healthy", "paused", "standby-frozen", "standby-lags", "table-dropped", "primary-lost", "unprotected"),
    "both-lost",
)
"""In the order in which one system goes through them."""

_BLOCK = re.compile(
    r"(?:<!-- state: (?P<state>[a-z-]+)(?P<last>, last)? -->\n)?```console\n(?P<text>.*?)```", re.DOTALL
)


@dataclass(frozen=True)
class Command:
    """A command of a page, and the output that the page shows."""

    line: str
    expected: str


@dataclass(frozen=True)
class Block:
    """The commands of a page that belong to one state."""

    page: str
    state: str
    last: bool
    commands: tuple[Command, ...]

    def __str__(self) -> str:
        return f"{self.state}-{self.page}"


def pages() -> list[Path]:
    """Every page but the overview."""
    return sorted(page for page in RUNBOOKS.glob("*.md") if page.stem != "README")


def blocks(page: Path) -> list[Block]:
    """A page's blocks, in its order."""
    found = []
    for block in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        commands = [
            Command(line, expected)
            for line, _, expected in (part.partition("\n") for part in block["text"].split("$ ")[1:])
        ]
        found.append(Block(page.stem, block["state"] or "healthy", block["last"] is not None, tuple(commands)))
    return found


def all_blocks() -> list[Block]:
    """Every block of every page, in the order in which one system can go through them."""
    found = [block for page in pages() for block in blocks(page)]
    return sorted(found, key=lambda block: (STATES.index(block.state), block.last))


def pattern(expected: str) -> re.Pattern[str]:
    """What matches the output that a page shows; the width of gaps does not count."""
    lines = []
    for line in expected.splitlines():
        if line.strip() == "…":
            lines.append(r"(?:[^\n]*\n)*?")
        else:
            lines.append(r"[^\n]*".join(re.escape(squeezed(part)) for part in line.split("…")) + r"\s*\n")
    return re.compile("".join(lines))


def squeezed(text: str) -> str:
    """The text with each gap as wide as one space."""
    return re.sub(r"[ \t]+", " ", text)
