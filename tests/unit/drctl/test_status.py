"""What the answers come to: unknown is never taken for well, and what is bad is said in a sentence."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drctl import display
from drctl.asking import Answer
from drctl.sources import InstanceView, LogView, MachinesView, SecretView, SettingsView, SqlView, TableView
from drctl.status import Status, Verdict, status
from recovery.incident import Lease
from recovery.objectives import Detection, Objectives
from recovery.observation import Observation, PrimaryView, StandbyView
from recovery.pause import Pause
from recovery.rds import MemberStatus
from recovery.roles import Roles

NOW = 1_800_000_000.0
ONE, TWO = "citizens-1-dev", "citizens-2-dev"
ROLES = Roles(1, ONE, TWO, "2026-11-22T10:00:00.000Z")


def seen(witness: str, *, primary: bool = True, age: float = 1.0, lag: float | None = 0.2) -> Observation:
    return Observation(
        witness,
        NOW - age,
        1,
        PrimaryView(primary),
        StandbyView(True, None, lag, 10),
        0 if primary else 5,
        None if primary else NOW - 12,
    )


TABLE = TableView(ROLES, (seen("a"), seen("c")), None, None, None, None)
WELL: Mapping[str, Any] = {
    "recovery table": TABLE,
    "RDS": {
        ONE: InstanceView(MemberStatus("available", None, True), "eu-central-2a", "eu-central-2c", NOW - 300),
        TWO: InstanceView(MemberStatus("available", ONE, True), "eu-central-2c", "eu-central-2a"),
    },
    "RDS events": {ONE: (), TWO: ()},
    "EC2": {ONE: 2, TWO: 2},
    "CloudWatch": LogView(0.5, 100, "OK", 3600, 0),
    "alarms": (),
    "secret": SecretView(86_400.0, 29 * 86_400.0, "one.example"),
    "machines": MachinesView(()),
    "settings": SettingsView(Detection(), Objectives()),
    ONE: SqlView(True, "0/2"),
    TWO: SqlView(False, "0/2"),
}
HOSTS = {ONE: "one.example", TWO: "two.example"}


def of(**changes: Any) -> Status:
    """The status when everything is well but for the sources given; an Answer stands for trouble."""
    values = {**WELL, **{name.replace("_", " "): value for name, value in changes.items()}}
    answers = {name: value if isinstance(value, Answer) else Answer(value) for name, value in values.items()}
    return status("dev", answers, NOW, HOSTS)


def risk(found: Status) -> str:
    return " | ".join(found.risks)


def table(**changes: Any) -> TableView:
    return dataclasses.replace(TABLE, **changes)


def test_a_pair_that_could_fail_over_now_is_well() -> None:
    found = of()
    assert (found.verdict, found.risks, found.unseen) == (Verdict.WELL, (), {})
    assert found.forecast is not None
    assert found.forecast.action == "promote"
    assert found.forecast.missing_if_lost == 0.2, "the standby is ahead of the log"
    assert found.forecast.missing_if_both_lost == 0.5, "a restore is rolled forward along the log"


@given(st.sets(st.sampled_from(sorted(WELL))))
def test_whatever_is_silent_there_is_a_status_and_it_is_never_called_well(silent: set[str]) -> None:
    answers = {
        name: Answer(trouble="no answer within 3.5 s") if name in silent else Answer(value)
        for name, value in WELL.items()
    }
    found = status("dev", answers, NOW, HOSTS)
    # The members' own word is a second opinion: from outside their network nobody has it
    assert (found.verdict is Verdict.WELL) == (not silent - {ONE, TWO})
    assert found.verdict is not Verdict.DOWN, "silence is no sign that the database is down"
    assert set(found.unseen) == silent - {ONE, TWO}
    json.dumps(found.as_json())
    assert display.rendered(found)


def test_a_primary_that_no_witness_writes_to_is_down() -> None:
    found = of(
        recovery_table=table(observations=(seen("a", primary=False), seen("c", primary=False))),
        **{ONE: Answer(trouble="it did not answer within 2.0 s.")},
    )
    assert found.verdict is Verdict.DOWN
    assert found.risks[0] == "No witness writes to the primary (a, c cannot)"


def test_a_primary_that_takes_our_own_write_is_not_down_though_both_witnesses_are_cut_off() -> None:
    found = of(recovery_table=table(observations=(seen("a", primary=False), seen("c", primary=False))))
    assert found.verdict is not Verdict.DOWN


def test_a_lost_primary_is_down_by_the_word_of_rds_when_both_witnesses_are_silent() -> None:
    lost = {**WELL["RDS"], ONE: InstanceView(MemberStatus("failed"))}
    found = of(recovery_table=table(observations=()), RDS=lost, **{ONE: Answer(trouble="refused")})
    assert found.verdict is Verdict.DOWN
    assert f"{ONE} is failed" in risk(found)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"recovery_table": table(roles=None, observations=())}, "There are no roles yet"),
        ({"recovery_table": table(observations=(seen("a"),))}, "Witness c is silent"),
        ({"recovery_table": table(observations=(seen("a"), seen("c", age=60)))}, "Witness c is silent"),
        (
            {"recovery_table": table(roles=dataclasses.replace(ROLES, protected=False))},
            "the standby would not take over: refuse",
        ),
        ({"recovery_table": table(pause=Pause("patching", NOW + 600, "kim"))}, "kim paused automatic action"),
        ({"recovery_table": table(observations=(seen("a", lag=4000.0), seen("c", lag=4000.0)))}, "beyond the RPO"),
        ({"recovery_table": table(observations=(seen("a", lag=None), seen("c", lag=None)))}, "knows the lag"),
        ({"EC2": {ONE: 0, TWO: 2}}, f"{ONE}, the primary, is fenced"),
        ({"EC2": {ONE: 2, TWO: 0}}, f"{TWO}, the standby, is fenced"),
        ({"CloudWatch": LogView(0.5, 100, "FAILURE", 10, 0)}, "verdict is FAILURE"),
        ({"CloudWatch": LogView(0.5, 100, "OK", 10, 2)}, "2 gaps"),
        ({"CloudWatch": LogView(2000.0, 100, "OK", 10, 0)}, "2000 s behind"),
        ({"secret": SecretView(32 * 86_400.0, None, "one.example")}, "32 days old"),
        ({"secret": SecretView(86_400.0, None, "two.example")}, "The secret leads to two.example"),
        ({"alarms": ("log-gap",)}, "Alarms: log-gap"),
        ({TWO: SqlView(True, "0/3")}, "Both members take writes"),
        (
            {"RDS": {**WELL["RDS"], TWO: InstanceView(MemberStatus("available", ONE, True), "eu-central-2a")}},
            "Both members are in eu-central-2a",
        ),
        (
            {"RDS": {**WELL["RDS"], TWO: InstanceView(MemberStatus("storage-full", ONE, True), "eu-central-2c")}},
            f"{TWO} is storage-full",
        ),
    ],
)
def test_what_is_at_risk_is_said_in_a_sentence(changes: Mapping[str, Any], sentence: str) -> None:
    found = of(**changes)
    assert found.verdict is Verdict.AT_RISK
    assert sentence in risk(found)


def test_an_old_member_that_waits_to_be_made_again_is_fenced_by_right() -> None:
    unprotected = table(roles=dataclasses.replace(ROLES, protected=False))
    assert "is fenced" not in risk(of(recovery_table=unprotected, EC2={ONE: 2, TWO: 0}))


def test_during_an_incident_a_secret_that_lags_behind_the_roles_is_no_risk() -> None:
    lease = Lease(1, "x", NOW - 5, "a")
    found = of(recovery_table=table(lease=lease), secret=SecretView(1.0, None, "two.example"))
    assert "The secret leads to" not in risk(found)
    assert "incident 1-x holds the lease" in found.running[0]
