"""When a person may let a fenced primary in again: never while somebody else takes writes, or is about to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from recovery.fence import hindrance
from recovery.rds import ABSENT, MemberStatus
from recovery.reprotection import BROKEN_REPLICA
from recovery.roles import Roles

PRIMARY, STANDBY = "citizens-1-dev", "citizens-2-dev"
ROLES = Roles(3, PRIMARY, STANDBY, "2026-11-25T10:00:00Z")
AVAILABLE = MemberStatus("available")
REPLICA = MemberStatus("available", PRIMARY)

statuses = st.sampled_from(
    ["available", "modifying", "rebooting", "backing-up", "failed", "stopped", ABSENT, "unknown", "storage-full"]
)
members = st.builds(MemberStatus, statuses, st.sampled_from([None, PRIMARY, "another"]))


def test_a_primary_is_let_in_beside_its_replica_or_when_there_is_no_other_member() -> None:
    assert hindrance(ROLES, AVAILABLE, REPLICA, ()) is None
    assert hindrance(ROLES, AVAILABLE, MemberStatus(ABSENT), ()) is None
    assert hindrance(ROLES, AVAILABLE, MemberStatus("failed", PRIMARY), ()) is None


def test_a_promoted_standby_keeps_the_old_primary_out() -> None:
    for promoted in (AVAILABLE, MemberStatus("failed")):
        assert "it may take writes" in str(hindrance(ROLES, AVAILABLE, promoted, ()))


def test_a_standby_that_rds_is_at_work_on_may_be_in_promotion() -> None:
    assert "wait until RDS has finished" in str(hindrance(ROLES, AVAILABLE, MemberStatus("modifying", PRIMARY), ()))


@given(members, members, st.sets(st.sampled_from(["citizens-failover-dev 3-x", "citizens-switchover-dev 3-y"])))
def test_nobody_is_let_in_while_another_takes_writes_or_may_soon(
    primary: MemberStatus, standby: MemberStatus, running: set[str]
) -> None:
    if hindrance(ROLES, primary, standby, running) is None:
        assert not running
        assert primary.status == "available"
        replicates = standby.replica_of == PRIMARY and standby.status in {"available"} | BROKEN_REPLICA
        assert replicates or standby.status == ABSENT
