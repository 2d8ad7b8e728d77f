"""Random schedules and struck steps on a deployed system of its own, with settings under which an incident takes
seconds. `make soak` and `make faults` go on where this ends."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from drills import cycles
from drills.soak.__main__ import deployed
from drills.soak.course import Course
from drills.soak.steps import everything, judged

pytestmark = pytest.mark.skipif("config.getoption('--outputs') is not None", reason="breaks what only ours may break")


@pytest.fixture(scope="module")
def course() -> Iterator[Course]:
    with deployed(os.environ) as course:
        yield course


@pytest.mark.parametrize("seed", [9, 25])
def test_a_seed_on_the_deployed_system_violates_nothing(course: Course, seed: int) -> None:
    lived = course.live(seed)
    assert lived.finding.violations == (), lived.notes


def test_a_failover_in_which_the_first_answer_to_every_state_is_lost(course: Course) -> None:
    lived = course.live_through(everything(course.failover_machine, "lose_answer").schedule)
    assert judged(lived) == (), lived.notes


def test_a_primary_that_is_cut_off_and_restarted_acknowledges_nothing_behind_its_fence(course: Course) -> None:
    """Beside the load, clients that have cached its address and keep their connections; `make fences` does more."""
    steps = cycles.run(course.account, course.outputs, lambda course: [course.partition("restart", 6.0)], print)
    assert [step.lost for step in steps] == [0]
