from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recovery import arbiter
from recovery.incident import LEASE_SECONDS, SWITCHOVER, Lease
from recovery.objectives import Detection
from recovery.observation import Observation, PrimaryView, StandbyView
from recovery.posture import DAY_SECONDS, NEITHER, PRIMARY, STANDBY, Posture
from recovery.prediction import if_lost_now
from recovery.rds import ABSENT, UNKNOWN, MemberFacts, MemberStatus
from recovery.roles import Roles
from tests.unit.recovery.test_arbiter import NOW, REPLICA, situation

ROLES = Roles(3, "one", "two", "2027-01-15T08:00:00.000Z")
WELL = (
    Observation("a", NOW - 1, 3, PrimaryView(True), StandbyView(True, None, 0.4), sequence=1),
    Observation("c", NOW - 2, 3, PrimaryView(True), StandbyView(True, None, 1.5), sequence=1),
)
ALONE = MemberStatus("available", None, True)


def facts(status: MemberStatus, zone: str | None = "a", restorable: float | None = 200.0) -> MemberFacts:
    return MemberFacts(status, zone, None if restorable is None else NOW - restorable, NOW + 300 * DAY_SECONDS)


def posture(**changes: object) -> Posture:
    base = Posture(
        situation=situation(primary=ALONE, standby=REPLICA, observations=WELL),
        facts={"one": facts(ALONE), "two": facts(REPLICA, "c", None)},
        lease=None,
        promised_rto=720,
        authority_until=NOW + 5000 * DAY_SECONDS,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def values(found: Posture) -> dict[str, float]:
    return {".".join((each.name, *each.dimensions.values())): each.value for each in found.measurements()}


def test_a_healthy_pair_is_ready_within_the_proved_bound_and_the_worse_witness_tells_the_lag() -> None:
    assert values(posture()) == {
        "TakeoverPossible": 1,
        "PredictedRtoSeconds": 720,
        "PredictedRpoSeconds": 1.5,
        "Protected": 1,
        "IncidentRunning": 0,
        "SameZone": 0,
        "RestorableAgeSeconds": 200,
        "CertificateDays": 300,
        "AuthorityDays": 5000,
        "MemberRole.one": PRIMARY,
        "MemberRole.two": STANDBY,
    }


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"standby": replace(REPLICA, status="backing-up")}, "backing-up"),
        ({"standby": MemberStatus(ABSENT)}, "lost both"),
        ({"roles": replace(ROLES, protected=False)}, "has not become a standby again"),
        ({"observations": tuple(replace(each, standby=StandbyView(False, "no")) for each in WELL)}, "signal"),
        ({"observations": tuple(replace(each, at=NOW - 600) for each in WELL)}, "signal"),
        ({"observations": tuple(replace(each, standby=StandbyView(True, None, 4000.0)) for each in WELL)}, "behind"),
    ],
)
def test_what_keeps_the_standby_from_taking_over_leaves_no_predicted_time_and_the_backups_age(
    changes: dict[str, object], why: str
) -> None:
    found = posture(situation=replace(posture().situation, **changes))  # type: ignore[arg-type]
    measured = values(found)
    assert measured["TakeoverPossible"] == 0
    assert "PredictedRtoSeconds" not in measured
    assert measured["PredictedRpoSeconds"] == measured["RestorableAgeSeconds"] == 200
    assert why in found.prediction.reason


def test_there_is_a_standby_only_when_the_record_and_rds_agree() -> None:
    def protected(standby: MemberStatus, recorded: bool = True) -> bool | None:
        changed = replace(posture().situation, standby=standby, roles=replace(ROLES, protected=recorded))
        return posture(situation=changed).protected

    assert protected(REPLICA) is True
    assert protected(REPLICA, recorded=False) is False
    assert protected(replace(REPLICA, replica_of=None)) is False
    assert protected(replace(REPLICA, status="failed")) is False
    assert protected(MemberStatus(UNKNOWN)) is None


def test_a_member_that_is_no_standby_has_no_role() -> None:
    changed = replace(posture().situation, roles=replace(ROLES, protected=False))
    assert values(posture(situation=changed))["MemberRole.two"] == NEITHER


def test_what_rds_does_not_tell_is_not_measured() -> None:
    silent = {name: MemberFacts(MemberStatus(UNKNOWN)) for name in ("one", "two")}
    measured = values(posture(facts=silent, authority_until=None))
    assert not measured.keys() & {"SameZone", "RestorableAgeSeconds", "CertificateDays", "AuthorityDays"}


def test_the_zones_are_the_same_only_when_both_are_known_and_equal() -> None:
    for second, same in (("a", 1.0), ("c", 0.0)):
        assert values(posture(facts={"one": facts(ALONE), "two": facts(REPLICA, second)}))["SameZone"] == same


def test_the_certificate_that_ends_first_counts() -> None:
    short = replace(facts(REPLICA), certificate_until=NOW + 20 * DAY_SECONDS)
    assert values(posture(facts={"one": facts(ALONE), "two": short}))["CertificateDays"] == 20


def test_an_incident_holds_the_lease_for_an_hour_and_a_switchover_is_none() -> None:
    lease = Lease(3, "20270115T080000Z-abcd", NOW - 5, "a")
    assert posture(lease=lease).incident_running
    assert not posture(lease=replace(lease, witness=SWITCHOVER)).incident_running
    assert not posture(lease=replace(lease, taken_at=NOW - LEASE_SECONDS)).incident_running


STATUSES = st.sampled_from(
    [REPLICA, ALONE, MemberStatus(ABSENT), MemberStatus(UNKNOWN), MemberStatus("backing-up", "one")]
)
LAGS = st.none() | st.floats(min_value=0) | st.just(math.nan)


@given(
    st.lists(st.tuples(st.sampled_from("ac"), st.booleans(), st.booleans(), LAGS, st.floats(-20, 900)), max_size=3),
    STATUSES,
    st.booleans(),
)
def test_whatever_is_seen_it_is_measured_and_agrees_with_what_the_arbiter_would_do(
    seen: list[tuple[str, bool, bool, float | None, float]], standby: MemberStatus, protected: bool
) -> None:
    observations = tuple(
        Observation(name, NOW - age, 3, PrimaryView(primary), StandbyView(reads, None, lag if reads else None))
        for name, primary, reads, lag, age in seen
    )
    found = posture(
        situation=replace(
            posture().situation,
            observations=observations,
            standby=standby,
            roles=replace(ROLES, protected=protected),
        )
    )
    measured = values(found)
    assert measured["TakeoverPossible"] in (0, 1)
    assert (measured["TakeoverPossible"] == 1) == ("PredictedRtoSeconds" in measured)
    assert all(not math.isnan(value) and not math.isinf(value) for value in measured.values())
    if measured["TakeoverPossible"]:
        assert protected
        assert standby.status in arbiter.CAPABLE_STATUSES
        assert measured["PredictedRpoSeconds"] <= found.situation.objectives.rpo_seconds
    assert if_lost_now(found.situation).recovers == bool(measured["TakeoverPossible"])


def test_the_prediction_invents_a_loss_and_nothing_else() -> None:
    healthy = posture().situation
    assert if_lost_now(healthy).action == "promote"
    assert arbiter.decide(healthy).action == "stand_by"
    assert healthy.observations == WELL
    assert Detection() == healthy.detection
