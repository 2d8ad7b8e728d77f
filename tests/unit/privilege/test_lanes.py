"""What `make least-privilege` goes through: an exercise outside of every lane would show nothing, unnoticed."""

from __future__ import annotations

from collections import Counter

from privilege.exercises import EXERCISES
from privilege.mutation import LANES, LANES_WITHOUT_PRIMARY, MACHINE, OPERATIONS


def test_every_exercise_is_in_one_lane() -> None:
    lanes = Counter(role for lane in (*LANES, *OPERATIONS) for role in lane)
    assert lanes.keys() == {exercise.role for exercise in EXERCISES if not exercise.breaks}
    assert set(lanes.values()) == {1}, "side by side, its own changes of the policy would meet"


def test_every_exercise_that_needs_the_primary_cut_off_is_in_a_lane_of_its_own_or_comes_last() -> None:
    lanes = Counter(role for lane in LANES_WITHOUT_PRIMARY for role in lane)
    assert lanes.keys() | {MACHINE} == {exercise.role for exercise in EXERCISES if exercise.breaks}
    assert set(lanes.values()) == {1}
