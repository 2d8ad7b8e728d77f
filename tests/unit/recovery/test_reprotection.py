"""What the next step to a pair is, over every state that the members can be found in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery.incident import Lease
from recovery.observation import Observation, PrimaryView, StandbyView
from recovery.pause import Pause
from recovery.rds import ABSENT, UNKNOWN
from recovery.reprotection import (
    BEYOND_SNAPSHOTS,
    BROKEN_REPLICA,
    SNAPSHOT_TRIES,
    Instance,
    Plan,
    Situation,
    plan,
)
from recovery.roles import Roles

NOW = 1_800_000_000.0
OLD, NEW = "citizens-1-unit", "citizens-2-unit"
WANTED = {"BackupRetentionPeriod": 35, "PreferredBackupWindow": "01:00-01:30"}
SEEN = Observation("a", NOW - 1, 2, PrimaryView(True), StandbyView(True, lag_seconds=0.5))
REPLICA = Instance("available", NEW, False, WANTED)
AFTER_FAILOVER = Situation(
    now=NOW,
    epoch=2,
    roles=Roles(2, NEW, OLD, "2027-01-15T08:00:00.123Z", protected=False),
    lease=None,
    pause=None,
    observations=(SEEN, replace(SEEN, witness="c")),
    primary=Instance("available"),
    standby=Instance("available"),
    wanted=WANTED,
)


def found(standby: Instance, **changed: Any) -> Plan:
    return plan(replace(AFTER_FAILOVER, standby=standby, **changed))


def test_from_the_old_primary_to_a_standby_step_by_step() -> None:
    steps = [
        found(Instance("available")),
        found(Instance("deleting")),
        found(Instance(ABSENT)),
        found(Instance("creating", NEW)),
        found(Instance("available", NEW, False, {"BackupRetentionPeriod": 0, "PreferredBackupWindow": "01:00-01:30"})),
        found(REPLICA),
        found(REPLICA, lifted=True),
    ]
    assert [step.action for step in steps] == [
        *("delete", "wait", "create", "wait", "modify", "lift_fence", "protected"),
    ]
    assert steps[0].snapshot == "citizens-1-unit-fenced-1-20270115080000"
    assert steps[4].settings == {"BackupRetentionPeriod": 35}


@pytest.mark.parametrize("status", sorted(BEYOND_SNAPSHOTS))
def test_what_rds_can_take_no_snapshot_of_is_deleted_without_one(status: str) -> None:
    step = found(Instance(status))
    assert (step.action, step.snapshot) == ("delete", None)


def test_a_planned_change_of_roles_leaves_nothing_to_keep() -> None:
    step = found(Instance("available"), forensics=False)
    assert (step.action, step.snapshot) == ("delete", None)


def test_a_full_instance_is_kept_as_a_snapshot_unless_rds_refuses_again_and_again() -> None:
    steps = [found(Instance("storage-full"), refusals=times) for times in range(SNAPSHOT_TRIES + 1)]
    assert [step.action for step in steps] == ["delete"] * (SNAPSHOT_TRIES + 1)
    assert [step.snapshot is None for step in steps] == [False] * SNAPSHOT_TRIES + [True]
    patient = found(Instance("available"), refusals=SNAPSHOT_TRIES * 10)
    assert patient.snapshot is not None, "what can be kept is kept"


def test_deletion_protection_is_lifted_before_the_deletion() -> None:
    step = found(Instance("available", deletion_protection=True))
    assert (step.action, step.settings) == ("modify", {"DeletionProtection": False})


@pytest.mark.parametrize("status", sorted(BROKEN_REPLICA))
def test_a_replica_that_is_broken_is_made_again(status: str) -> None:
    assert found(Instance(status, NEW)).action == "delete"
    assert found(Instance(status, NEW)).snapshot is None, "RDS refuses a final snapshot of a replica"


def test_a_second_final_snapshot_has_a_name_of_its_own() -> None:
    first, second = found(Instance("available")), found(Instance("available"), deletions=1)
    assert first.snapshot != second.snapshot


def test_a_standby_that_was_one_is_first_written_down_as_none() -> None:
    roles = replace(AFTER_FAILOVER.roles, protected=True)
    assert found(Instance("failed", NEW), roles=roles).action == "unprotect"
    assert found(Instance(ABSENT), roles=roles).action == "unprotect"
    assert found(REPLICA, roles=roles, lifted=True).action == "protected"


def test_only_a_standby_that_every_fresh_witness_sees_replicate_is_one() -> None:
    blind = replace(SEEN, witness="c", standby=StandbyView(False, "no answer"))
    promoted = replace(SEEN, witness="c", standby=StandbyView(True, "It has been promoted already.", 0.0))
    behind = replace(SEEN, witness="c", standby=StandbyView(True, lag_seconds=31.0))
    for other in (blind, promoted, behind):
        assert found(REPLICA, lifted=True, observations=(SEEN, other)).action == "wait"
    stale = replace(blind, at=NOW - 60)
    assert found(REPLICA, lifted=True, observations=(SEEN, stale)).action == "protected"


def test_a_person_reprotects_in_a_pause_but_nothing_else_does() -> None:
    pause = Pause("maintenance", NOW + 60, "operator")
    assert found(Instance(ABSENT), pause=pause).action == "create"
    held = found(Instance(ABSENT), pause=pause, automatic=True)
    assert held.action == "wait", "and goes on when the pause is over"
    assert "maintenance" in held.reason


STATUSES = [
    *(
        "available",
        "deleting",
        "creating",
        "backing-up",
        "rebooting",
        "modifying",
        "stopped",
        "starting",
        "maintenance",
    ),
    *(ABSENT, UNKNOWN, *sorted(BROKEN_REPLICA)),
]
instances = st.builds(
    Instance,
    st.sampled_from(STATUSES),
    st.sampled_from([None, OLD, NEW, "another"]),
    st.booleans(),
    st.sampled_from([{}, WANTED]),
)
views = st.builds(
    Observation,
    st.sampled_from(["a", "c"]),
    st.floats(NOW - 120, NOW + 5),
    st.sampled_from([1, 2]),
    st.builds(PrimaryView, st.booleans(), st.sampled_from([None, "refused"])),
    st.builds(StandbyView, st.booleans(), st.sampled_from([None, "promoted"]), st.none() | st.floats(0, 100)),
)
situations = st.builds(
    Situation,
    now=st.just(NOW),
    epoch=st.sampled_from([1, 2]),
    roles=st.builds(Roles, st.just(2), st.just(NEW), st.just(OLD), st.just("2027-01-15T08:00:00Z"), st.booleans()),
    lease=st.none() | st.builds(Lease, st.just(2), st.just("i"), st.floats(NOW - 7200, NOW), st.just("a")),
    pause=st.none() | st.builds(Pause, st.just("why"), st.just(NOW + 60), st.just("who")),
    observations=st.lists(views, max_size=2).map(tuple),
    primary=instances,
    standby=instances,
    wanted=st.just(WANTED),
    lifted=st.booleans(),
    automatic=st.booleans(),
    forensics=st.booleans(),
    deletions=st.integers(0, 2),
    refusals=st.integers(0, 5),
)
ACTS = ("delete", "create", "modify", "lift_fence")


@given(situations)
def test_whatever_is_found_there_is_a_next_step_with_a_reason(situation: Situation) -> None:
    step = plan(situation)
    assert step.reason.endswith((".", "!"))
    assert (step.primary, step.standby) == (NEW, OLD)


@given(situations)
def test_nothing_is_deleted_or_made_without_a_primary_that_a_witness_writes_to(situation: Situation) -> None:
    if plan(situation).action in ACTS:
        assert situation.primary.replica_of is None
        assert any(seen.primary.reachable and seen.epoch == 2 for seen in situation.observations)


@given(situations)
def test_nothing_is_deleted_while_the_arbiter_may_promote_it_or_an_incident_runs(situation: Situation) -> None:
    if plan(situation).action == "delete":
        assert not situation.roles.protected
        assert situation.lease is None or not situation.lease.held(situation.now)
        assert situation.epoch == situation.roles.epoch


@given(situations)
def test_a_fence_is_lifted_only_of_a_replica_of_the_primary(situation: Situation) -> None:
    if plan(situation).action in ("lift_fence", "protected"):
        assert situation.standby.replica_of == situation.roles.primary
        assert situation.standby.status == "available"


@given(situations)
def test_data_that_only_the_old_primary_has_are_kept_whenever_rds_can(situation: Situation) -> None:
    step = plan(situation)
    if step.action == "delete" and situation.forensics and situation.standby.replica_of is None:
        full = situation.standby.status == "storage-full" and situation.refusals >= SNAPSHOT_TRIES
        assert step.snapshot is not None or situation.standby.status in BEYOND_SNAPSHOTS or full
    if step.action == "delete" and situation.standby.replica_of is not None:
        assert step.snapshot is None
