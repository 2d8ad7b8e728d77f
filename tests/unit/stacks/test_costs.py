"""What is billed, counted from the templates: the page is current, and nothing that is deployed is forgotten."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

import app
from assessment import costs
from stacks.templates import System
from tests.unit.stacks.conftest import settings


def test_the_page_in_the_docs_is_current(system: System) -> None:
    current = (app.ROOT / "docs" / "costs.md").read_text(encoding="utf-8")
    assert costs.page(system, settings()) == current, "run `make costs`"


def test_every_type_that_is_deployed_is_counted_or_known_to_be_free(system: System) -> None:
    assert costs.uncounted(system) == []


def test_a_type_that_nobody_thought_of_is_told(system: System) -> None:
    more = System(system.folder, copy.deepcopy(system.templates))
    more.templates["Network"]["Resources"]["Gateway"] = {"Type": "AWS::EC2::NatGateway", "Properties": {}}
    assert costs.uncounted(more) == ["EC2::NatGateway"]
    assert "not counted above: EC2::NatGateway." in costs.page(more, settings())


def test_counts_follow_the_templates(system: System) -> None:
    def counts(of: System) -> dict[tuple[str, str], str]:
        return {(each.service, each.unit): each.count for each in costs.billed(of)}

    assert counts(system)["RDS", "Multi-AZ instance hours, db.t4g.medium"] == "1,460"
    assert counts(system)["VPC", "interface endpoint hours"] == "5,840"
    assert counts(system)["KMS", "customer-managed keys"] == "3"
    changed = System(system.folder, copy.deepcopy(system.templates))
    changed.of("AWS::RDS::DBInstance")[1].properties.update(MultiAZ=False, DBInstanceClass="db.r7g.large")
    del changed.templates["Network"]["Resources"]["RdsEndpoint"]
    assert counts(changed)["RDS", "Multi-AZ instance hours, db.t4g.medium"] == "730"
    assert counts(changed)["RDS", "Single-AZ instance hours, db.r7g.large"] == "730"
    assert counts(changed)["VPC", "interface endpoint hours"] == "4,380"


@pytest.mark.parametrize(
    ("schedule", "runs"),
    [
        ("rate(1 minute)", 43_800),
        ("rate(1 day)", 730 / 24),
        ("rate(12 hours)", 730 / 12),
        ("cron(0 3 * * ? *)", 730 / 24),
        ("cron(0/15 * * * ? *)", 4 * 730),
        ("cron(0 3 1 * ? *)", 1),
        ("cron(0 3 1,15 * ? *)", 2),
        ("cron(0 3 L * ? *)", 1),
        ("cron(0 3 1 1,7 ? *)", 1 / 6),
        ("cron(0 3 ? * MON *)", 730 / 24 / 7),
        ("cron(0 8-17 ? * 2-6 *)", 730 / 24 * 5 / 7 * 10),
        ("at(2026-11-25T04:00:00)", 1),
    ],
)
def test_a_schedule_runs_so_often_in_a_month(schedule: str, runs: float) -> None:
    assert costs.per_month(schedule) == pytest.approx(runs)


@given(minutes=st.integers(1, 10_000))
def test_a_rate_is_the_minutes_of_a_month_shared_out(minutes: int) -> None:
    assert costs.per_month(f"rate({minutes} minutes)") * minutes == pytest.approx(730 * 60)
