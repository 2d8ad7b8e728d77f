"""A scenario's verdict: what clients saw, and whether what had to come of the failure came of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deployment.cdk import ROOT
from deployment.work_tree import plan_of
from drills.__main__ import FAILOVER_PLAN, REWIND_PLAN
from drills.drill import judge
from drills.measurement import Measurement
from drills.scenarios import SCENARIOS, Scenario

SHORT = Measurement("met", "Outage 9.0 s of 900 s.", 9.0, 0.4, 0.0, 120, 0)
NOTHING = replace(SHORT, rto_seconds=0.0)
NO_SERVICE = Measurement("missed", "No transaction was acknowledged within 20 s.", None, None, None, 120, None)

PROMOTED = SCENARIOS["primary-lost"]
UNTOUCHED = SCENARIOS["primary-crashed"]
UNNOTICED = SCENARIOS["standby-lost"]
REFUSED = SCENARIOS["both-lost"]


def test_each_end_is_met_by_what_it_promises() -> None:
    assert judge(SHORT, PROMOTED, 1, []) == SHORT
    assert judge(SHORT, UNTOUCHED, 0, []) == SHORT
    assert judge(NOTHING, UNNOTICED, 0, []) == NOTHING
    refused = judge(NO_SERVICE, REFUSED, 0, ["both are lost."])
    assert (refused.verdict, refused.reason) == ("met", "Refused, as it must be: both are lost.")


@pytest.mark.parametrize(
    ("scenario", "promotions"), [(PROMOTED, 0), (PROMOTED, 2), (UNTOUCHED, 1), (UNNOTICED, 1), (REFUSED, 1)]
)
def test_another_number_of_promotions_misses(scenario: Scenario, promotions: int) -> None:
    judged = judge(SHORT, scenario, promotions, ["refused."])
    assert judged.verdict == "missed"
    assert f"{promotions} promotions" in judged.reason


def test_an_outage_that_nobody_should_notice_misses() -> None:
    assert judge(SHORT, UNNOTICED, 0, []).verdict == "missed"


def test_more_loss_than_the_log_may_lack_misses() -> None:
    lagging = SCENARIOS["standby-lags"]
    assert judge(replace(SHORT, rpo_seconds=9.0), lagging, 1, []).verdict == "met"
    judged = judge(replace(SHORT, rpo_seconds=61.0), lagging, 1, [])
    assert (judged.verdict, "61.0 s" in judged.reason) == ("missed", True)


def test_a_refusal_that_did_not_come_misses() -> None:
    assert judge(NO_SERVICE, REFUSED, 0, []).verdict == "missed"


def test_a_measurement_that_failed_stays_one() -> None:
    lost = Measurement("not measured", "The probe itself failed: x.", None, None, None, 0, None)
    assert judge(lost, PROMOTED, 1, []).verdict == "not measured"


def test_every_scenario_says_what_happens_and_what_comes_of_it() -> None:
    for name, scenario in SCENARIOS.items():
        assert scenario.name == name
        assert scenario.description.endswith(".")
        assert len(scenario.description) <= 110


@pytest.mark.parametrize("plan", [FAILOVER_PLAN, REWIND_PLAN])
def test_the_plan_that_a_drill_rehearses_by_default_is_there(plan: str) -> None:
    assert plan_of(ROOT / "docs" / plan).sha256
