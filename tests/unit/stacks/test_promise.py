"""What `make synth` promises: over the synthesised machine, with the default settings and with others."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import app
from functions import archive as archive_function
from functions import clients
from recovery import promise, worst_case
from recovery.arbiter import ACTING_SECONDS, waiting_limit
from recovery.objectives import Detection, LogKeeping, Objectives
from recovery.promise import ObjectiveMissed, Promise, detected, prove
from recovery.transaction_log import archive
from recovery.worst_case import Unbounded
from stacks import failover_machine
from stacks.names import Names
from stacks.promised import promised
from tests.unit.stacks.conftest import SUFFIX, System, settings
from tests.unit.stacks.test_failover import REFERENCES

TARGET_SECONDS = 720.0
DETECTION, OBJECTIVES = Detection(), Objectives()


@pytest.fixture(scope="module")
def machine(system: System) -> dict[str, Any]:
    """The definition as it stands in the template."""
    return promise.from_templates(system.templates.values(), Names(SUFFIX).state_machine)


@pytest.fixture(scope="module")
def proved(system: System) -> Promise:
    return promised(settings(), system.folder)


def test_the_worst_case_is_within_720_seconds_with_480_for_the_promotion(proved: Promise) -> None:
    assert proved.path.seconds <= TARGET_SECONDS
    assert sum(part.seconds for part in proved.path.parts) == pytest.approx(proved.path.seconds)
    assert 480.0 in [part.seconds for part in proved.path.parts]
    assert any("decideBy" in part.name for part in proved.path.parts)


def test_the_grace_counts_from_the_first_failed_probe(machine: dict[str, Any]) -> None:
    longer = replace(DETECTION, failure_threshold=1)
    assert prove(machine, longer, OBJECTIVES).path.seconds == prove(machine, DETECTION, OBJECTIVES).path.seconds


def test_detection_is_within_20_seconds(proved: Promise) -> None:
    assert proved.detection <= 20
    assert proved.detection == detected(DETECTION) == 3 * 3 + 2 + 8


def test_the_log_is_within_a_minute(proved: Promise) -> None:
    assert proved.log_lag <= 60


def test_the_logs_bound_is_made_of_what_the_archive_does() -> None:
    assert LogKeeping() == LogKeeping(
        60, archive_function.WORK_SECONDS, archive.PAUSE_SECONDS, archive_function.SIGN_IN_SECONDS,
        archive.STATEMENT_SECONDS,
    )  # fmt: skip


def test_a_log_that_falls_behind_for_longer_is_refused(machine: dict[str, Any]) -> None:
    with pytest.raises(ObjectiveMissed, match="may be 69 s behind, more than 60 s: a pause of 4 s, 25 s between two"):
        prove(machine, DETECTION, OBJECTIVES, LogKeeping(work=35))


def test_starting_the_machine_is_four_calls_that_are_answered_at_once() -> None:
    assert promise.STARTING_SECONDS == 4 * clients.READ_SECONDS


def test_the_machine_records_its_outcome_before_it_is_cut_off(machine: dict[str, Any], proved: Promise) -> None:
    assert proved.ends < machine["TimeoutSeconds"] < 3600
    with pytest.raises(Unbounded, match="its outcome would be lost"):
        prove({**machine, "TimeoutSeconds": proved.ends}, DETECTION, OBJECTIVES)


def test_what_the_arbiter_keeps_back_of_the_rto_is_enough_to_act(machine: dict[str, Any]) -> None:
    """Waiting as long as it may for a standby that is hindered, it still decides in time."""
    latest = DETECTION.first_failure_seconds + waiting_limit(DETECTION, OBJECTIVES)
    states = machine["States"]
    deciding = 2 * worst_case.budget("Observe", states["Observe"]) + worst_case.budget("Pause", states["Pause"])
    assert latest + deciding + promise.remaining(machine, "FindIngress") < OBJECTIVES.rto_seconds
    assert promise.remaining(machine, "FindIngress") < ACTING_SECONDS


def test_the_definition_in_the_template_is_the_table(machine: dict[str, Any]) -> None:
    table = {name: state["Type"] for name, state in machine["States"].items()}
    assert {name for name, kind in table.items() if kind in ("Task", "Wait")} == set(failover_machine.BUDGETS)
    groups = machine["States"]["Begin"]["Assign"]["groups"]
    assert len(set(groups.values())) == 2, "tokens stay apart"


def test_the_report_names_the_bound_and_every_part_of_the_path(proved: Promise) -> None:
    first, *rest = str(proved).splitlines()
    assert first == f"worst-case RTO: {proved.path.seconds:g} s (objective 900 s)"
    for part, line in zip(proved.path.parts, rest, strict=False):
        assert part.name in line
        assert line.endswith(f" {part.seconds:g} s")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"multiAzGraceSeconds": 400}, "The worst-case RTO is 970 s, which is not below the objective of 900 s."),
        ({"rtoSeconds": 600}, "not below the objective of 600 s. The path that is too long: detection 19 s, loop of"),
        ({"probeIntervalSeconds": 10}, "Detection may take 40 s, more than 20 s: 3 rounds of 10 s"),
        ({"probeTimeoutSeconds": 8}, "Detection may take"),
        ({"failureThreshold": 9}, "Detection may take 37 s, more than 20 s: 9 rounds of 3 s"),
    ],
)
def test_a_setting_that_breaks_the_promise_is_refused(changed: dict[str, Any], said: str) -> None:
    chosen = settings(**changed)
    references = replace(REFERENCES, grace_seconds=chosen.multi_az_grace_seconds, rto_seconds=chosen.rto_seconds)
    with pytest.raises(ObjectiveMissed) as refused:
        prove(failover_machine.definition(references), chosen.detection, chosen.objectives)
    assert said in str(refused.value)


def test_a_broken_promise_fails_the_synthesis_with_one_sentence_and_no_traceback(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "app.py"],
        cwd=app.ROOT,
        env={"PATH": "/usr/bin:/bin", "ENV_SUFFIX": "unit", "FAILURE_THRESHOLD": "9", "CDK_OUTDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "Detection may take 37 s, more than 20 s" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_template_without_the_machine_promises_nothing(system: System) -> None:
    with pytest.raises(Unbounded, match="No template holds the state machine another"):
        promise.from_templates(system.templates.values(), "another")


@hypothesis_settings(max_examples=60)
@given(
    st.integers(0, 600),
    st.floats(0.2, 30),
    st.floats(0.2, 10),
    st.integers(1, 20),
    st.integers(60, 900),
)
def test_whatever_the_settings_a_promise_is_kept_or_refused(
    grace: int, interval: float, timeout: float, threshold: int, rto: int
) -> None:
    detection = Detection(interval, timeout, threshold, grace)
    references = replace(REFERENCES, grace_seconds=grace, rto_seconds=rto)
    definition = failover_machine.definition(references)
    try:
        found = prove(definition, detection, Objectives(rto_seconds=rto))
    except ObjectiveMissed:
        return
    assert found.detection <= 20
    assert found.path.seconds < rto
    assert found.path.seconds >= grace + 480
