"""There is a page for whatever may wake somebody up, and it has what that person needs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from hypothesis import given

from recovery.arbiter import Situation, decide
from tests.command_lines import commands, parsed
from tests.runbook_pages import RUNBOOKS, STATES, all_blocks, pages, pattern, squeezed
from tests.unit.recovery.test_arbiter import situations

PARTS = ("**What it means.**", "**Urgent?**", "## Look", "## Do", "## Over when", "## Who to call")


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.stem))
def test_a_page_says_what_it_means_what_to_see_what_to_do_and_when_it_is_over(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    places = [text.find(part) for part in PARTS]
    assert -1 not in places
    assert places == sorted(places)
    assert re.search(r"```console\n\$ drctl ", text), "nothing to look at"


def test_every_page_is_on_the_overview() -> None:
    overview = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    assert {page.stem for page in pages()} == set(re.findall(r"\]\(([a-z-]+)\.md\)", overview))


def test_every_command_stands_in_a_block_of_a_state_that_a_test_brings_about() -> None:
    assert {block.state for block in all_blocks()} == set(STATES)
    for block in all_blocks():
        assert block.commands
        for command in block.commands:
            assert command.line.startswith("drctl "), "a command of another program would go untested"
    fenced = sum(page.read_text(encoding="utf-8").count("```console") for page in pages())
    assert fenced == len(all_blocks())


ROOT = RUNBOOKS.parents[1]
DOCUMENTATION = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(RUNBOOKS.glob("*.md"))]
TARGETS = frozenset(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`(?:bin/)?drctl(?: ([^`]*))?`")
_MAKE = re.compile(r"`(?:[A-Z_]+=\S+ )*make ([a-z-]+)[^`]*`")


@pytest.mark.parametrize("page", DOCUMENTATION, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_command_inside_of_a_sentence_exists_with_these_options(page: Path) -> None:
    """Those in blocks are run; these are parsed by the program itself, and not run."""
    prose = _FENCED.sub("", page.read_text(encoding="utf-8"))
    named = {command for command, _ in commands()}
    for found in _INLINE.findall(prose):
        words = shlex.split(found)
        if tuple(words) not in named:  # the command as such, without what it needs
            assert parsed(words) if words else True
    assert set(_MAKE.findall(prose)) <= TARGETS


@pytest.mark.parametrize("wrong", ["fail-over", "failover --accept", "pause --for 30", "logs a b", "log roll-back"])
def test_a_command_that_does_not_exist_so_is_found(wrong: str) -> None:
    with pytest.raises(typer.TyperException):
        parsed(shlex.split(wrong))


def test_the_output_of_a_page_matches_what_it_says_and_nothing_else() -> None:
    shown = pattern("citizens-dev  …\n…\nroles   epoch … since …, protected\n…\n")
    said = "citizens-dev  all is well  now\nrisks none\nroles  epoch 1 since then, protected\nalarms  none\n"
    assert shown.fullmatch(squeezed(said))
    assert not shown.fullmatch(squeezed(said.replace("protected", "NOT protected")))
    assert not pattern("nothing is held\n").fullmatch("held: x\n")


FAMILIES = {
    "paused automatic action": "paused",
    " signals (": "only 1 of 2 signals",
    "beyond the RPO": "beyond the RPO, or lag unknown",
    "knows the lag": "beyond the RPO, or lag unknown",
    "has not become a standby again": "has not become a standby again",
    "RDS has lost both": "both lost",
    "is lost too": "the standby is lost too, or replicates another",
    " replicates ": "the standby is lost too, or replicates another",
    "RDS promotes only an available one": "backing-up, or not reachable",
    "no fresh witness reaches": "backing-up, or not reachable",
}
"""What is in a reason for which the arbiter refuses → the row of `refused.md` that says what to do."""
ROWS = frozenset(
    re.findall(r"^\| ([^|]+?) \|", (RUNBOOKS / "refused.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
)


@given(situations)
def test_whatever_the_arbiter_refuses_for_has_a_row_in_the_runbook(situation: Situation) -> None:
    decision = decide(situation)
    if decision.action == "refuse":
        rows = {row for words, row in FAMILIES.items() if words in decision.reason}
        assert rows, decision.reason
        assert rows <= ROWS
