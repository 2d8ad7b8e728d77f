"""What would happen if the primary were lost now, asked of the arbiter's own rule."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from recovery.arbiter import Situation
from recovery.observation import Observation, PrimaryView, StandbyView
from recovery.pause import Pause
from recovery.prediction import data_at_risk, if_lost_now, standby_lag
from recovery.rds import MemberStatus
from recovery.roles import Roles

NOW = 1_800_000_000.0
ROLES = Roles(3, "one", "two", "2026-11-22T10:00:00.000Z")


def seen(witness: str, **changes: object) -> Observation:
    found = Observation(witness, NOW - 1, 3, PrimaryView(True), StandbyView(True, None, 0.5, 10))
    return replace(found, **changes)  # type: ignore[arg-type]


HEALTHY = Situation(
    now=NOW,
    epoch=3,
    started_at=NOW,
    roles=ROLES,
    observations=(seen("a"), seen("c")),
    primary=MemberStatus("available", None, True),
    standby=MemberStatus("available", "one", True),
)


def test_a_healthy_pair_would_fail_over() -> None:
    assert if_lost_now(HEALTHY).recovers


def test_one_silent_witness_does_not_stop_it_for_rds_is_the_second_signal() -> None:
    assert if_lost_now(replace(HEALTHY, observations=(seen("a"),))).recovers


def test_without_any_fresh_witness_nothing_would_be_promoted() -> None:
    stale = tuple(replace(each, at=NOW - 120) for each in HEALTHY.observations)
    assert not if_lost_now(replace(HEALTHY, observations=stale)).recovers


def test_an_incident_that_runs_now_does_not_change_what_a_loss_would_bring() -> None:
    assert if_lost_now(replace(HEALTHY, holder="somebody", forced=True)).recovers


def test_what_hinders_a_promotion_is_the_reason() -> None:
    unprotected = replace(HEALTHY, roles=replace(ROLES, protected=False))
    paused = replace(HEALTHY, paused=Pause("patching", NOW + 60, "kim"))
    backing_up = replace(HEALTHY, standby=MemberStatus("backing-up", "one", True))
    assert "has not become a standby again" in if_lost_now(unprotected).reason
    assert "patching" in if_lost_now(paused).reason
    assert "backing-up" in if_lost_now(backing_up).reason
    assert not any(if_lost_now(each).recovers for each in (unprotected, paused, backing_up))


STATUSES = st.sampled_from(["available", "failed", "backing-up", "unknown", "absent", "stopped", "storage-full"])


@given(
    status=STATUSES,
    lags=st.lists(st.none() | st.floats(0, 1e5), min_size=2, max_size=2),
    ages=st.lists(st.floats(-100, 100), min_size=2, max_size=2),
    reachable=st.booleans(),
    protected=st.booleans(),
)
def test_a_promise_of_recovery_always_has_a_reachable_standby_within_the_objective(
    status: str, lags: list[float | None], ages: list[float], reachable: bool, protected: bool
) -> None:
    observations = tuple(
        seen(name, at=NOW - age, standby=StandbyView(reachable, None, lag, 10))
        for name, lag, age in zip("ac", lags, ages, strict=True)
    )
    situation = replace(
        HEALTHY,
        observations=observations,
        standby=MemberStatus(status, "one", True),
        roles=replace(ROLES, protected=protected),
    )
    if if_lost_now(situation).recovers:
        lag = standby_lag(situation)
        assert protected
        assert reachable
        assert status == "available"
        assert lag is not None
        assert lag <= situation.objectives.rpo_seconds


def test_what_is_missing_is_what_no_copy_has() -> None:
    assert data_at_risk((5.0, 0.5)) == 0.5
    assert data_at_risk((5.0, None)) == 5.0
    assert data_at_risk((None, None)) is None
