"""The walker: what it adds up, what it refuses, and that no run of a machine takes longer than it says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recovery.worst_case import Unbounded, budget, longest, reachable
from tests.examples import up_to

Definition = dict[str, Any]


def task(seconds: float, following: str, **more: Any) -> dict[str, Any]:
    return {"Type": "Task", "TimeoutSeconds": seconds, "Next": following, **more}


def wait(seconds: float, following: str, **more: Any) -> dict[str, Any]:
    return {"Type": "Wait", "Seconds": seconds, "Next": following, **more}


def after(deadline: str, following: str) -> dict[str, Any]:
    return {"Condition": f"{{% $millis() >= ${deadline} %}}", "Next": following}


def machine(**states: dict[str, Any]) -> Definition:
    return {"StartAt": next(iter(states)), "States": {**states, "End": {"Type": "Succeed"}}}


def from_now(seconds: float) -> str:
    return f"{{% $millis() + {round(seconds * 1000)} %}}"


def test_a_tasks_budget_holds_every_attempt_and_every_pause_between_them() -> None:
    retry = [{"MaxAttempts": 3, "IntervalSeconds": 2, "BackoffRate": 2}, {"MaxAttempts": 1, "IntervalSeconds": 5}]
    assert budget("A", task(10, "B", Retry=retry)) == 10 * 5 + (2 + 4 + 8) + 5
    capped = [{"MaxAttempts": 3, "IntervalSeconds": 2, "BackoffRate": 2, "MaxDelaySeconds": 3}]
    assert budget("A", task(10, "B", Retry=capped)) == 40 + 2 + 3 + 3
    # What AWS takes when nothing is said: three more attempts, 1, 2 and 4 s apart
    assert budget("A", task(10, "B", Retry=[{}])) == 40 + 1 + 2 + 4
    assert budget("A", wait(4, "B")) == 4


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"Type": "Task", "Next": "End"}, "A has no fixed TimeoutSeconds"),
        (task("{% $x %}", "End"), "A has no fixed TimeoutSeconds"),  # type: ignore[arg-type]
        ({"Type": "Wait", "Timestamp": "2027-01-01T00:00:00Z", "Next": "End"}, "A has no fixed Seconds"),
        ({"Type": "Parallel", "Next": "End"}, "A is a Parallel"),
        (task(1, "A"), "loop of A has no deadline"),
        (task(1, "Nowhere"), "do not exist: Nowhere"),
    ],
)
def test_what_has_no_bound_is_refused(state: dict[str, Any], said: str) -> None:
    with pytest.raises(Unbounded, match=said):
        longest(machine(A=state), to="End")


def test_the_longest_way_goes_through_errors_that_are_caught() -> None:
    found = longest(machine(A=task(5, "End", Catch=[{"Next": "B"}]), B=wait(7, "End")), to="End", begin=1)
    assert found.seconds == 13
    assert [(part.name, part.seconds) for part in found.parts] == [("A", 5), ("B", 7)]


def loop(condition: dict[str, Any], **assigned: Any) -> Definition:
    return machine(
        Begin={"Type": "Pass", "Assign": assigned, "Next": "Look"},
        Look=task(3, "Seen"),
        Seen={"Type": "Choice", "Choices": [condition], "Default": "Rest"},
        Rest=wait(2, "Look"),
    )


def test_a_loop_takes_its_deadline_and_one_round_more() -> None:
    assert longest(loop(after("by", "End"), by=from_now(10)), to="End").seconds == 10 + 2 + 3


def test_a_deadline_of_the_first_failed_probe_counts_from_there() -> None:
    anchored = loop(after("by", "End"), by="{% $toMillis($states.input.since) + 10000 %}")
    assert longest(anchored, to="End", begin=8, first_failure=3).seconds == 13 + 5
    assert longest(anchored, to="End", begin=30, first_failure=3).seconds == 30 + 5
    assert longest(anchored, to="End").seconds == 5, "long past"


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        (loop({"Condition": "{% $rounds >= 3 %}", "Next": "End"}), "has no deadline"),
        (loop(after("by", "End")), "by is never set"),
        (loop(after("by", "End"), by="{% $millis() + $patience %}"), "is not understood"),
        (loop({**after("by", "End"), "Next": "Rest"}, by=from_now(1)), "No way leads|has no deadline"),
    ],
)
def test_a_loop_without_an_end_is_refused(definition: Definition, said: str) -> None:
    with pytest.raises(Unbounded, match=said):
        longest(definition, to="End")


def test_a_deadline_that_its_own_loop_moves_is_none() -> None:
    moving = loop(after("by", "End"), by=from_now(10))
    moving["States"]["Rest"]["Assign"] = {"by": from_now(10)}
    with pytest.raises(Unbounded, match="moved by Rest, inside of the loop"):
        longest(moving, to="End")


def test_a_choice_before_the_deadline_stays_open_and_one_after_it_does_not() -> None:
    definition = loop(after("by", "End"), by=from_now(10))
    definition["States"]["Seen"]["Choices"].insert(0, {"Condition": "{% $found %}", "Next": "Use"})
    definition["States"]["Use"] = task(20, "End")
    assert longest(definition, to="End").seconds == 10 + 5 + 20
    definition["States"]["Seen"]["Choices"].reverse()
    assert longest(definition, to="End").seconds == 10 + 20


def test_what_is_left_out_adds_nothing() -> None:
    definition = machine(A=task(5, "End", Catch=[{"Next": "B"}]), B=wait(7, "End"))
    assert longest(definition, to="End", without=frozenset({"B"})).seconds == 5
    assert reachable(definition) == {"A", "B", "End"}


# -- generated machines -----------------------------------------------------------------------------------------------

NAMES = ("S0", "S1", "S2", "S3", "S4")
DEADLINES = ("near", "far")


@st.composite
def machines(draw: st.DrawFn) -> Definition:
    """Up to five states that lead anywhere, with two deadlines that may be set anywhere; many cannot be bounded."""
    count = draw(st.integers(1, len(NAMES)))
    targets = st.sampled_from([*NAMES[:count], "End"])
    settings_of_deadlines = st.dictionaries(
        st.sampled_from(DEADLINES), st.integers(0, 4).map(lambda seconds: from_now(seconds)), max_size=1
    )
    states: dict[str, Any] = {
        "Start": {"Type": "Pass", "Assign": {"near": from_now(2), "far": from_now(5)}, "Next": draw(targets)}
    }
    for name in NAMES[:count]:
        kind = draw(st.sampled_from(["Task", "Choice", "Choice"]))
        if kind == "Task":
            caught = [{"Next": draw(targets), "Assign": draw(settings_of_deadlines)}] if draw(st.booleans()) else []
            states[name] = task(draw(st.integers(0, 3)), draw(targets), Catch=caught)
        else:
            choices = [
                draw(
                    st.one_of(
                        st.builds(after, st.sampled_from(DEADLINES), targets),
                        st.builds(lambda target: {"Condition": "{% $any %}", "Next": target}, targets),
                    )
                )
                for _ in range(draw(st.integers(1, 2)))
            ]
            states[name] = {"Type": "Choice", "Choices": choices, "Default": draw(targets)}
    return machine(**states)


def slowest(definition: Definition, horizon: int) -> int | None:
    """The latest arrival at End over every run in whole seconds; None when some run is under way at the horizon.

    A run that goes round in no time at all is not counted: no real one does.
    """
    latest = 0
    seen = set()
    coming: list[tuple[str, int, tuple[int, int]]] = [("Start", 0, (0, 0))]
    while coming:
        at = coming.pop()
        if at in seen:
            continue
        seen.add(at)
        name, now, by = at
        if now >= horizon:
            return None
        if name == "End":
            latest = max(latest, now)
            continue
        state = definition["States"][name]
        for spent in range(int(budget(name, state)) + 1):
            for target, assigned in ways(state, now + spent, by):
                moved = tuple(
                    now + spent + int(assigned[key].split("+ ")[1].split(" ")[0]) // 1000 if key in assigned else old
                    for key, old in zip(DEADLINES, by, strict=True)
                )
                coming.append((target, now + spent, moved))  # type: ignore[arg-type]
    return latest


def ways(state: dict[str, Any], now: int, by: tuple[int, int]) -> list[tuple[str, dict[str, str]]]:
    """Where a state may lead at this moment: a condition that is no deadline may hold or not."""
    if state["Type"] != "Choice":
        found = [(state["Next"], state.get("Assign", {}))]
        return found + [(each["Next"], each["Assign"]) for each in state.get("Catch", [])]
    found = []
    for choice in state["Choices"]:
        name = choice["Condition"].split("$")[-1].split(" ")[0]
        if name not in DEADLINES:
            found.append((choice["Next"], {}))
        elif now >= by[DEADLINES.index(name)]:
            return [*found, (choice["Next"], {})]
    return [*found, (state["Default"], {})]


@settings(max_examples=up_to(600))
@given(machines())
def test_no_run_takes_longer_than_the_bound(definition: Definition) -> None:
    try:
        bound = longest(definition, to="End").seconds
    except Unbounded as error:
        if "No way leads" in str(error):
            assert "End" not in reachable(definition)
        return
    found = slowest(definition, 200)
    assert found is not None, "a machine with a bound ends"
    assert found <= bound


@settings(max_examples=up_to(300))
@given(st.data())
def test_without_loops_the_bound_is_the_slowest_run(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(NAMES)))
    states: dict[str, Any] = {"Start": {"Type": "Pass", "Next": "S0"}}
    for number, name in enumerate(NAMES[:count]):
        later = st.sampled_from([*NAMES[number + 1 : count], "End"])
        caught = [{"Next": data.draw(later), "Assign": {}}] if data.draw(st.booleans()) else []
        states[name] = task(data.draw(st.integers(0, 3)), data.draw(later), Catch=caught)
    definition = machine(**states)
    assert longest(definition, to="End").seconds == slowest(definition, 200)


@settings(max_examples=100)
@given(st.integers(1, 8), st.integers(1, 4), st.integers(0, 3), st.integers(0, 3))
def test_around_a_loop_the_bound_is_less_than_a_second_above_the_slowest_run(
    by: int, look: int, rest: int, use: int
) -> None:
    """A round may begin just before the deadline; whole seconds come within one second of that."""
    definition = machine(
        Start={"Type": "Pass", "Assign": {"near": from_now(by)}, "Next": "Look"},
        Look=task(look, "Seen"),
        Seen={"Type": "Choice", "Choices": [after("near", "Use")], "Default": "Rest"},
        Rest=task(rest, "Look"),
        Use=task(use, "End"),
    )
    found = slowest(definition, 200)
    assert found is not None
    assert found <= longest(definition, to="End").seconds <= found + 1
