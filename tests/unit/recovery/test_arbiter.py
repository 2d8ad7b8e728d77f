from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recovery import override, rds
from recovery.arbiter import (
    BUSY_STATUSES,
    LOST_STATUSES,
    SIGNALS_NEEDED,
    Situation,
    confirms_loss,
    decide,
    fresh,
    lost,
    serves_others,
    trust_seconds,
    waiting_limit,
)
from recovery.objectives import Detection, Objectives
from recovery.observation import Observation, PrimaryView, StandbyView
from recovery.override import Override
from recovery.pause import Pause
from recovery.rds import Event, MemberStatus
from recovery.roles import Roles
from recovery.table import RecoveryTable
from tests.examples import up_to

NOW = 1_800_000_000.0
ROLES = Roles(3, "one", "two", "2027-01-15T08:00:00.000Z")


def seen(
    witness: str,
    *,
    primary: bool = False,
    failures: int = 5,
    since: float = 10.0,
    lag: float | None = 0.0,
    standby: bool = True,
    age: float = 1.0,
    epoch: int = 3,
    committed: float | None = None,
) -> Observation:
    return Observation(
        witness=witness,
        at=NOW - age,
        epoch=epoch,
        primary=PrimaryView(primary),
        standby=StandbyView(
            standby, None, lag if standby else None, committed_at=None if committed is None else NOW - committed
        ),
        failures=0 if primary else failures,
        first_failure_at=None if primary else NOW - since,
    )


BOTH_BLIND = (seen("a"), seen("c"))
ACCEPTED = Override("duty officer", "the standby is all that is left", frozenset({"lag"}))
AVAILABLE = MemberStatus("available", None, True)
REPLICA = MemberStatus("available", "one", True)


def situation(**changes: object) -> Situation:
    base = Situation(
        now=NOW,
        epoch=3,
        started_at=NOW - 5,
        roles=ROLES,
        observations=BOTH_BLIND,
        primary=MemberStatus("failed", None, True),
        standby=REPLICA,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "status",
    ["failed", "storage-full", "incompatible-network", "inaccessible-encryption-credentials-recoverable", "absent"],
)
def test_a_primary_that_cannot_come_back_is_replaced_without_grace(status: str) -> None:
    decision = decide(situation(primary=MemberStatus(status)))
    assert decision.action == "promote"
    assert status in decision.reason
    assert (decision.primary, decision.standby, decision.epoch, decision.primary_status) == ("one", "two", 3, status)


def test_one_witness_and_rds_are_enough_when_an_az_is_gone_with_its_witness() -> None:
    assert decide(situation(observations=(seen("a", age=300), seen("c")))).action == "promote"


def test_rds_says_failed_by_its_event_before_its_status() -> None:
    failed = Event(NOW - 3, "one", "DB instance put into failed state.", ("failure",))
    assert decide(situation(primary=AVAILABLE, events=(failed,))).action == "promote"
    old = replace(failed, at=NOW - 3000)
    assert decide(situation(primary=AVAILABLE, events=(old,))).action == "wait"
    elsewhere = replace(failed, member="two")
    assert decide(situation(primary=AVAILABLE, events=(elsewhere,))).action == "wait"


@pytest.mark.parametrize("primary", [AVAILABLE, MemberStatus("rebooting"), MemberStatus("unknown")])
def test_rds_gets_its_grace_to_fail_over_by_itself(primary: MemberStatus) -> None:
    early = decide(situation(primary=primary))
    assert early.action == "wait"
    assert "10 s of 150 s" in early.reason
    late = (seen("a", since=153), seen("c", since=151))
    assert decide(situation(primary=primary, observations=late)).action == "promote"


def test_the_grace_counts_from_the_witness_that_lost_the_primary_last() -> None:
    """One witness may have been cut off from it for hours when RDS begins to fail over."""
    for_an_hour = (seen("a", since=3600), seen("c", since=10))
    assert decide(situation(primary=AVAILABLE, observations=for_an_hour)).action == "wait"
    assert decide(situation(primary=AVAILABLE, observations=(seen("a", since=3600), seen("c", since=151)))).action == (
        "promote"
    )


def test_a_failure_that_rds_reported_does_not_cut_its_own_failover_short() -> None:
    failed = Event(NOW - 9, "one", "DB instance failure.", ("failure",))
    started = Event(NOW - 8, "one", "Multi-AZ instance failover started.", ("failover",))
    assert decide(situation(primary=AVAILABLE, events=(failed,))).action == "promote"
    assert decide(situation(primary=AVAILABLE, events=(failed, started))).action == "wait"
    assert decide(situation(events=(failed, started))).action == "promote", "its status is its last word"


def test_a_pause_refuses_automatic_action_until_it_is_over_or_an_operator_acts() -> None:
    pause = Pause("restore test", NOW + 600, "duty officer")
    decision = decide(situation(paused=pause))
    assert decision.action == "refuse"
    assert decision.reason == "duty officer paused automatic action for another 600 s: restore test."
    assert decide(situation(paused=replace(pause, until=NOW))).action == "promote"
    assert decide(situation(paused=pause, override=ACCEPTED)).action == "promote"
    healthy = (seen("a", primary=True), seen("c", primary=True))
    assert decide(situation(paused=pause, observations=healthy)).action == "stand_by"


@pytest.mark.parametrize(("lag", "said"), [(3700.0, "lags 3700.0 s, of an RPO of 3600 s"), (None, "an unknown time")])
def test_an_operator_may_accept_what_is_lost_by_lag(lag: float | None, said: str) -> None:
    behind = situation(observations=(seen("a", lag=lag), seen("c", lag=lag)))
    assert decide(behind).action in ("refuse", "wait")
    decision = decide(replace(behind, override=ACCEPTED))
    assert decision.action == "promote"
    assert said in decision.reason
    assert "duty officer accepts (the standby is all that is left)" in decision.reason
    assert decide(replace(behind, override=replace(ACCEPTED, accepts=frozenset({"fence"})))).action != "promote"


def test_an_override_is_no_second_signal() -> None:
    alone = situation(primary=AVAILABLE, observations=(seen("a"),), override=ACCEPTED)
    assert decide(alone).action == "wait"
    assert decide(replace(alone, started_at=NOW - 400)).action == "refuse"


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"accepts": ["lag"], "reason": "because"}, "does not say who accepts it and why"),
        ({"accepts": ["lag"], "by": "me", "reason": " "}, "does not say who accepts it and why"),
        ({"accepts": ["lag", "signals"], "by": "me", "reason": "because"}, "accepts signals"),
    ],
)
def test_an_override_says_who_accepts_what_and_why(given: dict[str, object], wrong: str) -> None:
    with pytest.raises(override.OverrideMalformed, match=wrong):
        override.parse(given)


@pytest.mark.parametrize("given", [None, {}, {"accepts": []}, {"by": "me", "accepts": []}])
def test_nothing_accepted_is_no_override(given: dict[str, object] | None) -> None:
    assert override.parse(given) is None


def test_an_override_that_was_ordered_holds_for_its_time(table: RecoveryTable) -> None:
    assert override.active(table, NOW) is None
    ordered = override.order(table, ["fence"], "it is unplugged", "duty officer", 600, NOW)
    assert override.active(table, NOW + 599) == ordered
    assert override.active(table, NOW + 600) is None


def test_an_override_is_of_one_epoch_and_used_up_by_its_promotion(table: RecoveryTable) -> None:
    override.order(table, ["lag"], "nothing else is left", "duty officer", 600, NOW, epoch=4)
    assert override.active(table, NOW, epoch=4) is not None
    assert override.active(table, NOW, epoch=5) is None
    override.order(table, ["lag"], "of any epoch", "duty officer", 600, NOW)
    assert override.active(table, NOW, epoch=5) is not None


def test_an_override_may_be_withdrawn(table: RecoveryTable) -> None:
    assert not override.withdraw(table, NOW)
    override.order(table, ["lag"], "nothing else is left", "duty officer", 600, NOW, epoch=4)
    assert override.withdraw(table, NOW + 1)
    assert override.active(table, NOW + 1) is None
    assert not override.withdraw(table, NOW + 1)


@pytest.mark.parametrize(
    ("accepts", "seconds", "wrong"),
    [([], 600, "accepts nothing"), (["lag"], 0, "An override of 0 s"), (["lag"], 90000, "90000 s is refused")],
)
def test_an_order_that_nobody_could_mean_is_refused(
    table: RecoveryTable, accepts: list[str], seconds: float, wrong: str
) -> None:
    with pytest.raises(override.OverrideMalformed, match=wrong):
        override.order(table, accepts, "because", "me", seconds, NOW)
    assert table.get(override.OVERRIDE) is None


def test_a_decision_carries_what_is_accepted() -> None:
    assert decide(situation(override=ACCEPTED)).override == {
        "by": "duty officer",
        "reason": "the standby is all that is left",
        "accepts": ["lag"],
    }
    assert decide(situation()).override is None


def test_one_thing_accepted_may_be_given_without_a_list() -> None:
    found = override.parse({"by": "me", "reason": "because", "accepts": "fence"})
    assert found == Override("me", "because", frozenset({"fence"}))


def test_a_failover_under_way_is_named() -> None:
    started = Event(NOW - 9, "one", "Multi-AZ instance failover started.", ("failover",))
    ended = Event(NOW - 2, "one", "Multi-AZ instance failover completed.", ("failover",))
    assert "is failing over" in decide(situation(primary=AVAILABLE, events=(started,))).reason
    assert "may still" in decide(situation(primary=AVAILABLE, events=(started, ended))).reason


def test_a_primary_that_answers_again_is_left_alone() -> None:
    both = (seen("a", primary=True), seen("c", primary=True))
    assert decide(situation(observations=both)).action == "stand_by"
    assert decide(situation(observations=(both[0], seen("c", age=60)))).action == "stand_by"


def test_witnesses_that_disagree_are_waited_for_but_not_for_ever() -> None:
    split = (seen("a"), seen("c", primary=True))
    assert decide(situation(observations=split)).action == "wait"
    split = (seen("a", since=160), seen("c", primary=True))
    assert decide(situation(observations=split)).action == "stand_by"


@pytest.mark.parametrize(
    "observations",
    [
        (seen("a"),),
        (seen("a"), seen("c", age=60)),
        (seen("a"), seen("c", failures=2)),
        (seen("a"), seen("c", standby=False)),
        (seen("a"), seen("c", epoch=2)),
        (seen("a"), seen("c", age=-60)),
    ],
)
def test_one_signal_is_not_enough(observations: tuple[Observation, ...]) -> None:
    assert decide(situation(primary=AVAILABLE, observations=observations)).action == "wait"
    decision = decide(situation(primary=AVAILABLE, observations=observations, started_at=NOW - 400))
    assert decision.action == "refuse"
    assert "1 of 2 signals" in decision.reason


def test_nobody_observing_is_refused_in_the_end() -> None:
    assert decide(situation(observations=())).action == "wait"
    assert decide(situation(observations=(), started_at=NOW - 400)).action == "refuse"
    assert "none" in decide(situation(observations=(), primary=AVAILABLE)).reason


def test_a_standby_beyond_the_rpo_is_refused_at_once() -> None:
    decision = decide(situation(observations=(seen("a", lag=3700), seen("c"))))
    assert decision.action == "refuse"
    assert "3700 s behind, beyond the RPO of 3600 s" in decision.reason


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"standby": MemberStatus("backing-up", "one")}, "backing-up"),
        ({"standby": MemberStatus("unknown")}, "unknown"),
        ({"observations": (seen("a", lag=None), seen("c", lag=None))}, "lag"),
    ],
)
def test_what_hinders_the_standby_for_a_while_is_waited_for(changes: dict[str, object], word: str) -> None:
    decision = decide(situation(**changes))
    assert decision.action == "wait"
    assert word in decision.reason
    assert decide(situation(**changes, started_at=NOW - 400)).action == "refuse"


@pytest.mark.parametrize(
    "standby", [MemberStatus("failed", "one"), MemberStatus("absent"), MemberStatus("available", "another")]
)
def test_a_standby_that_can_never_take_over_is_refused_at_once(standby: MemberStatus) -> None:
    assert decide(situation(standby=standby)).action == "refuse"


def test_a_promotion_that_was_cut_short_goes_on() -> None:
    assert decide(situation(standby=MemberStatus("available"))).action == "promote"


def test_without_a_standby_the_multi_az_copy_is_forced_once_after_the_grace() -> None:
    blind = (seen("a", since=160), seen("c", since=160))
    hindered = situation(primary=AVAILABLE, standby=MemberStatus("failed", "one"), observations=blind)
    assert decide(hindered).action == "force"
    assert decide(replace(hindered, observations=BOTH_BLIND)).action == "wait"
    assert decide(replace(hindered, forced=True)).action == "wait"
    assert decide(replace(hindered, forced=True, started_at=NOW - 400)).action == "refuse"
    assert decide(replace(hindered, primary=MemberStatus("available"))).action == "refuse"


def test_witnesses_that_are_cut_off_while_clients_go_on_committing_are_not_believed() -> None:
    blind = (seen("a", since=200, committed=1), seen("c", since=200))
    decision = decide(situation(primary=AVAILABLE, observations=blind))
    assert decision.action == "wait"
    assert "199 s after the first failed probe" in decision.reason
    assert decide(situation(primary=AVAILABLE, observations=blind, started_at=NOW - 400)).action == "stand_by"
    assert decide(situation(observations=blind)).action == "promote", "RDS itself says that it is lost"


@pytest.mark.parametrize("committed", [20, 199, 201])
def test_commits_from_before_the_loss_or_of_a_while_ago_prove_nothing(committed: float) -> None:
    blind = (seen("a", since=200, committed=committed), seen("c", since=200))
    assert decide(situation(primary=AVAILABLE, observations=blind)).action == "promote"


def test_the_loss_of_both_is_refused_at_once_though_no_witness_can_tell_it_from_its_own_blindness() -> None:
    nothing = tuple(seen(name, standby=False) for name in "ac")
    both = situation(observations=nothing, standby=MemberStatus("failed", "one"))
    decision = decide(both)
    assert decision.action == "refuse"
    assert "restore to a point in time" in decision.reason
    assert decide(replace(both, standby=REPLICA)).action == "wait"


@pytest.mark.parametrize("holder", ["", "another"])
def test_an_incident_without_the_lease_does_nothing(holder: str) -> None:
    decision = decide(situation(holder=holder))
    assert decision.action == "stand_by"
    assert (holder or "nobody") in decision.reason


def test_an_incident_of_an_earlier_epoch_is_settled() -> None:
    decision = decide(situation(epoch=2))
    assert decision.action == "stand_by"
    assert "epoch 3" in decision.reason


def test_the_inputs_say_which_observations_counted() -> None:
    inputs = decide(situation(observations=(seen("a"), seen("c", age=60)))).inputs
    assert [each["fresh"] for each in inputs["observations"]] == [True, False]
    assert inputs["rto_seconds" if "rto_seconds" in inputs else "settings"]["rto_seconds"] == 900.0


# -- over the whole input space ---------------------------------------------------------------------------------------

OTHER_STATUSES = ("available", "rebooting", "backing-up", "unknown", "incompatible-restore", "modifying")
STATUSES = [*sorted(LOST_STATUSES), *OTHER_STATUSES]
NONSENSE = (float("nan"), float("inf"), float("-inf"))
moments = st.floats(NOW - 4000, NOW + 100)
observations = st.builds(
    Observation,
    witness=st.sampled_from(["a", "c"]),
    at=st.one_of(st.floats(NOW - 20, NOW + 10), moments),
    epoch=st.sampled_from([2, 3, 3, 3]),
    primary=st.builds(PrimaryView, st.booleans()),
    standby=st.builds(
        StandbyView,
        st.booleans(),
        st.none(),
        st.one_of(st.none(), st.floats(0, 7200), st.sampled_from(NONSENSE)),
        committed_at=st.one_of(st.none(), st.floats(NOW - 20, NOW), moments, st.sampled_from(NONSENSE)),
    ),
    failures=st.integers(0, 10),
    first_failure_at=st.one_of(st.none(), moments, st.sampled_from(NONSENSE)),
)
statuses = st.builds(
    MemberStatus,
    st.one_of(st.sampled_from(STATUSES), st.text(max_size=12)),
    st.sampled_from([None, "one", "other"]),
    st.booleans(),
)
events = st.builds(
    Event,
    moments,
    st.sampled_from(["one", "two"]),
    st.sampled_from(["Multi-AZ instance failover started.", "Multi-AZ instance failover completed.", "x"]),
    st.sampled_from([(), ("failover",), ("failure",)]),
)
situations = st.builds(
    Situation,
    now=st.just(NOW),
    epoch=st.sampled_from([2, 3, 3, 3]),
    started_at=moments,
    roles=st.just(ROLES),
    observations=st.lists(observations, max_size=2, unique_by=lambda each: each.witness).map(tuple),
    primary=statuses,
    standby=statuses,
    events=st.lists(events, max_size=3).map(tuple),
    forced=st.booleans(),
    holder=st.sampled_from([None, None, None, "", "another"]),
    paused=st.one_of(st.none(), st.builds(Pause, st.just("drill"), moments, st.just("me"))),
    override=st.one_of(
        st.none(), st.builds(Override, st.just("me"), st.just("why"), st.frozensets(st.sampled_from(["lag", "fence"])))
    ),
    detection=st.builds(Detection, multi_az_grace=st.floats(0, 1200), failure_threshold=st.integers(1, 5)),
    objectives=st.builds(Objectives, st.floats(60, 1800), st.floats(1, 7200)),
)


@settings(max_examples=up_to(1000))
@given(situations)
def test_every_situation_is_decided_within_the_rules(case: Situation) -> None:
    decision = decide(case)
    assert decision.action in ("stand_by", "wait", "force", "promote", "refuse")
    assert decision.reason.endswith(".")
    counted = fresh(case)
    if decision.action in ("promote", "force"):
        blind = [each for each in counted if confirms_loss(each, case.detection)]
        failed = any(event.member == "one" and event.failure for event in case.events)
        assert len(blind) + (lost(case.primary.status) or failed) >= SIGNALS_NEEDED
        assert blind, "RDS alone never decides"
        assert not any(each.primary.reachable for each in counted)
        assert case.epoch == case.roles.epoch
        assert case.holder is None
        if not (lost(case.primary.status) or failed):
            assert serves_others(counted, case) is None
        assert case.override or not case.paused or case.paused.until <= case.now
    if decision.action == "promote":
        lags = [each.standby.lag_seconds for each in counted if each.standby.lag_seconds is not None]
        if case.override is None or "lag" not in case.override.accepts:
            assert lags
            assert all(lag <= case.objectives.rpo_seconds for lag in lags)
        elapsed = case.now - max(
            [each.first_failure_at for each in counted if each.first_failure_at is not None] or [case.started_at]
        )
        over = case.now - case.started_at >= waiting_limit(case.detection, case.objectives)
        if elapsed < case.detection.multi_az_grace and not over and not lost(case.primary.status):
            # Within the grace: only on RDS's own word that it failed, and not while it does something about it
            assert any(event.member == "one" and event.failure for event in case.events)
            assert case.primary.status not in (*BUSY_STATUSES, "unknown")
            latest = [each for each in case.events if each.member == "one" and "failover" in each.categories]
            known = [each for each in latest if each.failover_started or each.failover_ended]
            recent = [each for each in known if each.at >= case.started_at - case.detection.worst_case_seconds - 60]
            assert not recent or not recent[-1].failover_started
        assert case.standby.status in ("available", "storage-optimization")
    if decision.action == "force":
        assert not case.forced
        assert case.primary.status == "available"
        assert case.primary.multi_az
    if case.now - case.started_at >= case.objectives.rto_seconds:
        assert decision.action != "wait"
    assert waiting_limit(case.detection, case.objectives) <= case.objectives.rto_seconds
    assert decide(case) == decision


@settings(max_examples=up_to(300))
@given(situations, st.floats(0, 4))
def test_a_clock_that_is_off_within_the_tolerance_does_not_hide_a_healthy_primary(case: Situation, skew: float) -> None:
    healthy = tuple(seen(name, primary=True, age=trust_seconds(case.detection) * 0.5 + skew) for name in "ac")
    assert decide(replace(case, observations=healthy)).action == "stand_by"


def test_statuses_that_rds_recovers_from_are_not_lost() -> None:
    assert not any(lost(status) for status in ("available", "rebooting", "backing-up", rds.UNKNOWN))
