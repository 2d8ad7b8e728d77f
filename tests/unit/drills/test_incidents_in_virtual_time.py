"""A small seeded sample of `make rehearse-time`: the bounds and the invariants hold in it, and a seed repeats."""

from __future__ import annotations

import json
from typing import Any

import pytest

from drills.virtual import __main__ as rehearsal
from drills.virtual.incidents import KINDS, Measured, lived_through, quantile, summary, violations
from drills.virtual.machine import Answer, Machine, TaskFailed
from recovery.objectives import Detection, Objectives
from stacks.failover_machine import definition
from tests.unit.stacks.test_failover import REFERENCES

DEFINITION = definition(REFERENCES)
SEEDS = range(101, 141)


@pytest.fixture(scope="module")
def sample() -> list[Measured]:
    return lived_through(DEFINITION, Detection(), Objectives(), SEEDS)


def test_nothing_forbidden_happens_in_the_sample(sample: list[Measured]) -> None:
    assert violations(sample) == []
    assert {each.kind for each in sample} > set(list(KINDS)[:6])


def test_the_sample_is_inside_its_bounds(sample: list[Measured]) -> None:
    assert summary(sample)["p99"] < 720
    promoted = [each for each in sample if each.promotions]
    assert promoted
    for each in promoted:
        assert max(each.noticing, each.deciding, each.fencing, each.finishing) <= 30, each
        assert each.outage >= each.promotion
        assert not each.alarmed


def test_a_seed_gives_the_same_incident_again(sample: list[Measured]) -> None:
    assert lived_through(DEFINITION, Detection(), Objectives(), SEEDS[:5]) == sample[:5]


def test_a_grace_that_is_too_short_is_seen_by_the_checker() -> None:
    """The checker can fail: without the grace, promotions race RDS's own failovers."""
    hasty = lived_through(DEFINITION, Detection(multi_az_grace=0), Objectives(), SEEDS[:15])
    assert any("though RDS recovers by itself" in sentence for sentence in violations(hasty))


def test_a_promotion_that_takes_for_ever_is_seen_by_the_checker(sample: list[Measured]) -> None:
    (one, *_) = [each for each in sample if each.promotions]
    for changed, said in (
        ({"promotions": 2}, "promoted 2 times"),
        ({"promoted_too_early": True}, "within the grace"),
        ({"outcome": "failed"}, "ended as failed"),
    ):
        assert any(said in sentence for sentence in violations([Measured(**{**one.__dict__, **changed})]))


def test_a_quantile_is_a_value_that_occurred() -> None:
    values = [float(n) for n in range(1, 1001)]
    assert [quantile(values, share) for share in (0.5, 0.95, 0.99, 1.0)] == [500, 950, 990, 1000]
    assert quantile([3.0], 0.99) == 3.0


def test_nonsense_on_the_command_line_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        rehearsal.main(["--count", "0"], {})
    assert "--count must be at least 1" in capsys.readouterr().err


def machine(**states: dict[str, Any]) -> Machine:
    return Machine({"StartAt": next(iter(states)), "States": states}, transition=0)


def test_the_interpreter_retries_as_the_retrier_says_then_catches() -> None:
    asked: list[float] = []

    def ask(state: str, arguments: dict[str, Any], now: float) -> Answer:
        asked.append(now)
        raise TaskFailed("Busy", "try later", 1.0)

    run = machine(
        Call={
            "Type": "Task",
            "TimeoutSeconds": 5,
            "Arguments": {},
            "Retry": [{"ErrorEquals": ["Busy"], "MaxAttempts": 2, "IntervalSeconds": 2, "BackoffRate": 2}],
            "Catch": [{"ErrorEquals": ["Busy"], "Assign": {"said": "{% $states.errorOutput.Cause %}"}, "Next": "End"}],
            "Next": "Never",
        },
        End={"Type": "Pass"},
    ).run({}, ask, 0.0)
    assert asked == [0, 3, 8]
    assert run.ended == 9
    assert run.variables == {"said": "try later"}


def test_the_interpreter_ends_a_task_at_its_time_out_and_reads_the_machines_clock() -> None:
    run = machine(
        Call={
            "Type": "Task",
            "TimeoutSeconds": 5,
            "Arguments": {},
            "Catch": [{"ErrorEquals": ["States.Timeout"], "Next": "Rest"}],
            "Next": "Never",
        },
        Rest={"Type": "Wait", "Seconds": 2, "Next": "End"},
        End={"Type": "Pass", "Assign": {"at": "{% $millis() %}"}, "Output": {"now": "{% $now() %}"}},
    ).run({}, lambda *_: Answer({}, 60.0), 1_800_000_000.0)
    assert run.variables == {"at": 1_800_000_007_000}
    assert run.output == {"now": "2027-01-15T08:00:07.000Z"}


def test_the_report_holds_every_incident_and_its_figures(sample: list[Measured], tmp_path: Any) -> None:
    rehearsal.write(tmp_path / "incidents.json", sample, [], 101)
    report = json.loads((tmp_path / "incidents.json").read_text())
    assert (report["incidents"], len(report["each"]), report["first_seed"]) == (40, 40, 101)
    assert report["rto_seconds"] == summary(sample)
