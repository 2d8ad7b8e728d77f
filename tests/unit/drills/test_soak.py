"""Random schedules in virtual time and the steps of the machine, each struck: nothing may be violated; and the checker
finds what is."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drills.ledger import Attempt
from drills.soak import __main__ as soak
from drills.soak.checker import Evidence, Finding, judge
from drills.soak.course import Lived
from drills.soak.schedule import FATAL, LONGEST_SECONDS, SPAN_SECONDS, Act, Schedule, drawn
from drills.soak.steps import ELSEWHERE, calls, combinations, judged
from drills.virtual.schedules import VirtualSeed, call_faults, lived_through
from drills.virtual.world import FUNCTION_OF, CallFault, Machines, Pace
from recovery.clock import iso
from recovery.history import Entry
from recovery.roles import Roles
from stacks.failover_machine import definition
from tests.unit.stacks.test_failover import REFERENCES
from tests.unit.stacks.test_operations import REPROTECT, SWITCHOVER

FAILOVER = definition(replace(REFERENCES, reprotect_arn="reprotect"))
MACHINES = Machines(FAILOVER, SWITCHOVER, REPROTECT)
BRISK = Pace(promotion=8, failover=5, failed_after=4, reboot=2, deletion=2, creation=5)
OLD, NEW = "citizens-1-unit", "citizens-2-unit"

# -- schedules ------------------------------------------------------------------------------------------------------


@given(st.integers(min_value=0, max_value=10**9))
def test_a_seed_gives_the_same_survivable_schedule_every_time(seed: int) -> None:
    schedule = drawn(seed)
    assert schedule == drawn(seed)
    assert json.loads(json.dumps(schedule.as_json()))["seed"] == seed
    assert [act.at for act in schedule.acts] == sorted(act.at for act in schedule.acts)
    for act in schedule.acts:
        assert 0 <= act.at <= SPAN_SECONDS
        assert 0 <= act.lasts <= 2 * LONGEST_SECONDS
    assert sum(act.what in FATAL for act in schedule.acts) <= 1
    assert sum(act.what == "zone" for act in schedule.acts) <= 1


def test_three_hundred_seeds_hold_every_kind_of_act() -> None:
    kinds = {act.what for seed in range(1, 301) for act in drawn(seed).acts}
    assert kinds == {
        *("lose", "fill", "kill", "crash", "freeze", "back_up", "replay", "zone", "network", "process", "calls"),
        *("trigger", "reboot", "switchover", "reprotect", "rotate", "pause", "override"),
    }


# -- virtual time ---------------------------------------------------------------------------------------------------


def test_twenty_seeds_violate_nothing_in_virtual_time() -> None:
    found = lived_through(MACHINES, [drawn(seed) for seed in range(1, 21)])
    assert {seed: (finding.violations, notes) for seed, finding, notes, _ in found if finding.violations} == {}
    assert sum(len(finding.changes) for _, finding, _, _ in found) >= 8, "too little happened to show anything"


def test_a_seed_goes_the_same_way_again() -> None:
    first, second = (VirtualSeed(MACHINES, drawn(4)) for _ in range(2))
    assert first.live() == second.live()
    assert (first.notes, first.world.entered) == (second.notes, second.world.entered)


def lost_primary(*faults: CallFault, acts: tuple[Act, ...] = (Act(0.1, "lose", "primary"),)) -> VirtualSeed:
    seed = VirtualSeed(MACHINES, Schedule(0, 2, {}, acts), BRISK)
    seed.world.faults += faults
    return seed


AFTER = {"PrepareDatabase": "OpenLog", "RollForwardOn": "RollForward"}
# The tasks of a failover; a primary that RDS takes for available is cut off, not lost
CUT = (Act(0.1, "network", "primary", 16.0, {"fault": "cut", "from": "everyone"}),)
STRUCK = [
    (state, kind, times)
    for state in calls(FAILOVER)
    for kind in ("throttle", "lose_answer", "kill")
    for times in (1, 3)
    if kind != "kill" or state in FUNCTION_OF
]


@pytest.mark.parametrize(("state", "kind", "times"), STRUCK)
def test_each_call_of_each_state_may_go_wrong_and_there_is_one_failover(state: str, kind: str, times: int) -> None:
    fault = CallFault(kind, "failover", state, times)
    # Nobody enters these but after a failure, and a failure of theirs is the last word
    before = [CallFault("throttle", "failover", AFTER[state])] if state in AFTER else []
    seed = lost_primary(fault, *before, acts=CUT if state == "RestartOldPrimary" else (Act(0.1, "lose", "primary"),))
    finding = seed.live()
    assert fault.struck >= 1, f"{state} was never entered"
    assert finding.violations == ()
    assert finding.changes == ("failover",)
    assert len({member for _, member in seed.world.pair.promotions}) == 1


@pytest.mark.parametrize("machine", ["switchover", "reprotect"])
@pytest.mark.parametrize("kind", ["throttle", "lose_answer", "kill"])
def test_each_call_of_a_switchover_and_of_a_reprotect_may_go_wrong(machine: str, kind: str) -> None:
    states = getattr(MACHINES, machine)["States"]
    entered = []
    for state in (name for name, each in states.items() if each["Type"] == "Task"):
        if kind == "kill" and state not in FUNCTION_OF:
            continue
        fault = CallFault(kind, machine, state)
        seed = lost_primary(fault, acts=(Act(0.1, "switchover", "operator"),))
        finding = seed.live()
        assert finding.violations == (), (state, seed.notes)
        entered += [state] * fault.struck
    assert entered, "nothing was struck"


def test_every_trigger_twice_and_out_of_order_is_one_failover() -> None:
    triggers = tuple(Act(0.1 + n * 0.05, "trigger", ("repeat", "false")[n % 2]) for n in range(40))
    finding = lost_primary(acts=(Act(0.1, "lose", "primary"), *triggers)).live()
    assert (finding.violations, finding.changes) == ((), ("failover",))


def test_the_combinations_strike_every_task_of_the_machine() -> None:
    tasks = {name for name, state in FAILOVER["States"].items() if state["Type"] == "Task"}
    assert set(calls(FAILOVER)) == tasks - set(ELSEWHERE)
    names = [each.name for each in combinations(FAILOVER)]
    assert len(names) == len(set(names))
    for state in calls(FAILOVER):
        assert sum(name.startswith(f"{state}:") for name in names) >= 4


# -- the checker can fail -------------------------------------------------------------------------------------------


def without(machine: dict[str, Any], change: Any) -> Machines:
    """The machines with something of the failover machine taken away."""
    changed = copy.deepcopy(machine)
    change(changed["States"])
    return Machines(changed, SWITCHOVER, REPROTECT)


def _no_fence(states: dict[str, Any]) -> None:
    states["Decide"]["Choices"][0]["Next"] = "Promote"
    states["Decide"]["Choices"][0]["Assign"] = {"promoteBy": "{% $millis() + 480000 %}"}


def _no_release(states: dict[str, Any]) -> None:
    states["StartReprotect"]["Next"] = "End"


def _no_reprotect(states: dict[str, Any]) -> None:
    states["Recovered"]["Choices"][0]["Next"] = "ReleaseLease"


@pytest.mark.parametrize(
    ("change", "said"),
    [(_no_fence, "without a fence in the record"), (_no_release, "the lease of")],
)
def test_a_machine_with_a_step_missing_is_found_out(change: Any, said: str) -> None:
    seed = VirtualSeed(without(FAILOVER, change), Schedule(0, 2, {}, CUT), BRISK)
    assert any(said in sentence for sentence in seed.live().violations)


def test_an_operator_brings_the_standby_back_where_no_machine_does() -> None:
    seed = VirtualSeed(without(FAILOVER, _no_reprotect), Schedule(0, 2, {}, (Act(0.1, "lose", "primary"),)), BRISK)
    assert seed.live().violations == ()
    assert any("reprotect ordered" in note for note in seed.notes)


AT = 1_800_000_000.0
ROLES = Roles(3, OLD, NEW, iso(AT))
PROMOTED = Entry(
    *("failover", "i", 3, "promoted", "", iso(AT + 5), iso(AT + 20)),
    [{"at": iso(AT + 10), "event": f"{OLD} is fenced"}],
)


def evidence(**changed: Any) -> Evidence:
    """A failover 10 s after the harm, of which nothing is wrong."""
    attempts = [
        Attempt(1, AT, AT, "acknowledged", host=OLD),
        Attempt(2, AT + 9, AT + 9, "acknowledged", host=OLD),
        Attempt(3, AT + 30, AT + 30, "acknowledged", host=NEW),
    ]
    given: dict[str, Any] = {"before": ROLES, "after": Roles(4, NEW, OLD, iso(AT + 15)), "attempts": attempts}
    given |= {"present": {1, 2, 3}, "entries": [PROMOTED], "hosts": {OLD: OLD, NEW: NEW}, "harmed_at": AT + 5}
    return Evidence(**{**given, **changed})


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert judge(evidence()).violations == ()
    assert judge(evidence(present={1, 3})).tail == 1, "not replicated when the primary was lost"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"present": {2, 3}}, "1 acknowledged transactions are missing"),
        ({"present": {1, 3}, "harmed_at": None}, "1 acknowledged transactions are missing"),
        ({"present": {1, 2}}, "1 acknowledged transactions are missing"),
        ({"attempts": [Attempt(1, AT + 11, AT + 11, "acknowledged", host=OLD)]}, "after it was fenced"),
        ({"entries": [replace(PROMOTED, timeline=[])]}, "without a fence in the record"),
        ({"entries": []}, "by changes of []"),
        ({"entries": [PROMOTED, replace(PROMOTED, identity="j")]}, "by changes of [3, 3]"),
        ({"after": Roles(4, OLD, NEW, iso(AT))}, "After 1 changes the roles"),
        ({"after": Roles(4, NEW, OLD, iso(AT), protected=False)}, "not become a standby again"),
        ({"members": ["One is failed."]}, "One is failed."),
        ({"left": ["the lease of x"]}, "the lease of x is left"),
        ({"executions": [{"name": "x", "status": "RUNNING", "error": ""}]}, "still runs"),
        ({"executions": [{"name": "x", "status": "FAILED", "error": "States.Runtime"}]}, "ended as FAILED"),
        ({"served": False}, "Nothing is acknowledged"),
    ],
)
def test_everything_that_must_not_be_is_found(changed: dict[str, Any], said: str) -> None:
    assert any(said in sentence for sentence in judge(evidence(**changed)).violations)


def test_a_switchover_may_lose_nothing_at_all() -> None:
    planned = replace(PROMOTED, kind="switchover")
    assert judge(evidence(entries=[planned])).violations == ()
    assert "1 acknowledged" in judge(evidence(entries=[planned], present={1, 3})).violations[0]


def test_a_primary_that_is_promoted_again_may_acknowledge_again() -> None:
    back = replace(PROMOTED, epoch=4, timeline=[{"at": iso(AT + 40), "event": f"{NEW} is fenced"}])
    later = [Attempt(9, AT + 50, AT + 50, "acknowledged", host=OLD)]
    both = {"entries": [PROMOTED, back], "after": Roles(5, OLD, NEW, iso(AT + 45)), "present": {9}}
    assert judge(evidence(attempts=later, **both)).violations == ()
    early = [Attempt(9, AT + 20, AT + 20, "acknowledged", host=OLD)]
    assert any("after it was fenced" in each for each in judge(evidence(attempts=early, **both)).violations)


# -- the command ----------------------------------------------------------------------------------------------------


def test_nonsense_on_the_command_line_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        soak.main(["--seeds", "0"], {})
    assert "--seeds must be at least 1" in capsys.readouterr().err


def test_a_schedule_can_be_read_before_it_is_lived_through(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["--show", "--seeds", "2", "--first", "7"], {}) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["seed 7", "seed 8"]
    assert str(drawn(7).acts[0]) in lines[0]


def test_faults_of_calls_strike_the_states_that_make_them() -> None:
    act = Act(0, "calls", "failover-machine", 0, {"kind": "throttle", "action": "rds:PromoteReadReplica", "times": 2})
    assert [(each.machine, each.state, each.times) for each in call_faults(act)] == [("failover", "Promote", 2)]
    of_a_function = call_faults(Act(0, "calls", "probe", 0, {"kind": "kill", "action": "*"}))
    assert {each.state for each in of_a_function} == {"ConfirmFence", "ProbePromoted", "WarmUpProbe"}


def test_a_seed_says_what_became_of_its_acts() -> None:
    seed, finding, notes = soak.one_seed(MACHINES, 2)
    assert (seed, finding.violations) == (2, ())
    assert len(notes) >= len(drawn(2).acts)


def test_what_was_lived_through_is_told_with_a_way_to_repeat_it(tmp_path: Any, capsys: Any) -> None:
    told = soak.Told(tmp_path / "reports" / "soak.json")
    lived = Lived(drawn(7), ["0.1 s something was done"], Finding(("One thing is wrong.",), 3, ("failover",)))
    told.seed(lived)
    told.seed(Lived(drawn(8)))
    told.step("1/9 Promote: kind throttle times 1", lived, ("It never happened.",))
    told.write()
    shown = capsys.readouterr().out
    assert "again: make soak SEEDS=1 FROM=7" in shown
    assert "again: make faults STATE=Promote" in shown
    report = json.loads((tmp_path / "reports" / "soak.json").read_text())
    assert (report["runs"], len(report["violated"]), report["changes_of_roles"]) == (3, 2, 2)
    assert report["each"][0]["acts"] == ["0.1 s something was done"]


def test_a_combination_that_struck_nothing_or_failed_over_twice_shows_nothing() -> None:
    fault = {"kind": "throttle", "action": "sns:Publish", "resource": "*", "skip": 0}
    good = Lived(drawn(1), finding=Finding((), 0, ("failover",)), struck=[{**fault, "struck": 1}])
    assert judged(good) == ()
    good.struck[0]["struck"] = 0
    assert "never happened" in judged(good)[0]
    assert "not by one failover" in judged(Lived(drawn(1)))[0]
