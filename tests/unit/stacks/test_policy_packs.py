"""The policy packs over the whole app: nothing unacknowledged, and no acknowledgement without its finding."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import app
from stacks import policy_packs
from stacks.database import DELETION_PROTECTION
from tests.unit.stacks.conftest import SUFFIX, context, settings

Finding = tuple[str, str]


def findings(**changed: Any) -> set[Finding]:
    """What the packs find, by path of the construct below the parent stack and rule."""
    from aws_cdk import App

    from stacks.disaster_recovery import DisasterRecovery

    cloud = App(context=context(**changed))
    DisasterRecovery(cloud, settings=settings(**changed), root=app.ROOT)
    return {
        (str(found.construct_path).removeprefix(f"citizens-dr-{SUFFIX}/"), violation.rule_name)
        for pack in policy_packs.packs(cloud)
        for violation in pack.validate_scope(cloud).violations
        for found in violation.violating_resources
    }


class Acknowledged:
    """Keeps the acknowledgements that the stacks make, and keeps them from the packs."""

    def __init__(self) -> None:
        self.reasons: dict[Finding, str] = {}

    def note(self, construct: Any, rules: str | tuple[str, ...], reason: str) -> None:
        for rule in (rules,) if isinstance(rules, str) else rules:
            self.reasons[construct.node.path.removeprefix(f"citizens-dr-{SUFFIX}/"), rule] = reason


@pytest.fixture(scope="module")
def acknowledged() -> dict[bool, tuple[dict[Finding, str], set[Finding]]]:
    """By `protect`: each acknowledged finding with its reason, and what the packs find when nothing is."""
    found = {}
    for protect in (False, True):
        noted = Acknowledged()
        with pytest.MonkeyPatch.context() as patch:
            for module in ("database", "network", "permissions", "security"):
                patch.setattr(f"stacks.{module}.acknowledge", noted.note)
            raw = findings(protect=protect)
        found[protect] = (noted.reasons, raw)
    return found


@pytest.mark.parametrize("protect", [True, False])
def test_every_finding_is_acknowledged_on_its_own_construct_and_no_acknowledgement_is_stale(
    acknowledged: dict[bool, tuple[dict[Finding, str], set[Finding]]], protect: bool
) -> None:
    reasons, raw = acknowledged[protect]
    assert len(raw) > 20
    assert raw == set(reasons)


def test_nothing_is_left_with_every_option_on() -> None:
    key = "arn:aws:kms:eu-central-2:111122223333:key/00000000-0000-0000-0000-000000000000"
    assert findings(protect=True, alarmEmail="duty@agency.example", secretKeyArn=key) == set()


def test_without_protect_only_deletion_protection_differs(
    acknowledged: dict[bool, tuple[dict[Finding, str], set[Finding]]],
) -> None:
    (_, unprotected), (_, protected) = acknowledged[False], acknowledged[True]
    family = {(f"Database/Member{number}", rule) for number in (1, 2) for rule in DELETION_PROTECTION}
    assert unprotected - protected == family
    assert protected <= unprotected


def test_each_reason_is_a_sentence_of_its_own(
    acknowledged: dict[bool, tuple[dict[Finding, str], set[Finding]]],
) -> None:
    reasons, _ = acknowledged[False]
    assert min(map(len, reasons.values())) > 40
    shared: dict[str, set[str]] = {}
    for (path, _), reason in reasons.items():
        shared.setdefault(reason, set()).add(path)
    # Only alike things share a reason: both members, both witnesses, functions that just attach to the VPC.
    for paths in shared.values():
        assert len({path.split("/")[1].rstrip("12AC") for path in paths}) == 1 or all(
            path.endswith("Policy") for path in paths
        )


def test_a_finding_that_nobody_acknowledged_stops_the_synthesis_and_is_named(tmp_path: Path) -> None:
    program = (
        "import sys, app; from stacks import security; security.acknowledge = lambda *_: None; sys.exit(app.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=app.ROOT,
        env={**os.environ, "ENV_SUFFIX": "unit", "CDK_OUTDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "AwsSolutions-SQS3" in done.stderr
    assert "Security/DeadLetters" in done.stderr
    assert "The policy packs refuse the templates: correct each finding printed here" in done.stderr
