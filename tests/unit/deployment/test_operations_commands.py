"""The operator's commands before anything is touched: bad input is one sentence."""

from __future__ import annotations

import pytest

from deployment.operations import confirm
from deployment.problem import Problem
from drills.cycles import outage
from drills.ledger import Attempt


def test_the_typed_suffix_confirms_and_nothing_else_does() -> None:
    confirm("Who changes.", "dev", None, lambda _: " dev ", "switchover")
    confirm("Who changes.", "dev", "dev", lambda _: pytest.fail("asked although it was given"), "switchover")
    for answer in ("", "prod", "yes"):
        with pytest.raises(Problem, match=r"Nothing was started: .* is not the suffix"):
            confirm("Who changes.", "dev", None, lambda _, given=answer: given, "switchover")  # type: ignore[misc]


def test_a_closed_terminal_confirms_nothing() -> None:
    def closed(_: str) -> str:
        raise EOFError

    with pytest.raises(Problem, match="--yes dev"):
        confirm("Who changes.", "dev", None, closed, "reprotect")


def test_the_outage_of_a_step_is_the_longest_time_without_an_acknowledgement() -> None:
    attempts = [Attempt(n, end - 0.1, end, "acknowledged") for n, end in enumerate((9.0, 10.5, 11.0, 14.0, 14.5, 21.0))]
    attempts.append(Attempt(99, 12.0, 12.5, "failed"))
    assert outage(attempts, 10.0, 15.0) == 3.0
    assert outage([], 10.0, 15.0) == 5.0, "nothing acknowledged at all is no service"
