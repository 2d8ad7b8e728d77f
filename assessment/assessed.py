"""The assessment: every control of the baseline, with what the system does for it or the word that it is the agency's.

Put together from the synthesised templates, the settings, the acknowledgements and the newest evidence; the OSCAL
component definition and the page to read are two writings of this.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from assessment import acknowledgements, baseline
from assessment.acknowledgements import Acknowledgement
from assessment.baseline import Control
from assessment.config_rules import RULES, Rule
from assessment.evidence import Evidence
from assessment.implementations import IMPLEMENTATIONS, Implementation
from recovery.promise import Promise
from stacks.settings import Settings
from stacks.templates import PARENT, Resource, System

DISCLAIMER = (
    "This says which controls the system implements and where the agency's part begins. It is no authorization and "
    "claims none: that is the authorizing official's decision about the agency's whole system."
)
RULE_TEST = "tests/unit/stacks/test_fedramp_moderate.py::test_the_templates_meet"
SYSTEM, SHARED, AGENCY, UNMET = "system", "shared", "agency", "rule not met"
STATUSES: Mapping[str, str] = {
    SYSTEM: "the system implements it",
    SHARED: "the system implements its part, the agency has one too",
    UNMET: "as shared, but with these settings a Config rule is not met",
    AGENCY: "the agency's: nothing here implements it",
}


@dataclass(frozen=True)
class Judged:
    """A Config rule and what in the templates violates it; nothing when it is met."""

    rule: Rule
    violations: tuple[str, ...]

    @property
    def test(self) -> str:
        """The node id of the test that judges the same."""
        return f"{RULE_TEST}[{self.rule.id}]"


@dataclass(frozen=True)
class Row:
    """One control of the baseline. `missing` names kinds of evidence that nobody has made yet."""

    control: Control
    implementation: Implementation | None = None
    statement: str = ""
    resources: tuple[Resource, ...] = ()
    rules: tuple[Judged, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    missing: tuple[str, ...] = ()
    acknowledgements: tuple[Acknowledgement, ...] = ()

    @property
    def status(self) -> str:
        """One of STATUSES."""
        if self.implementation is None:
            return AGENCY
        if any(each.violations for each in self.rules):
            return UNMET
        return SHARED if self.implementation.agency else SYSTEM

    @property
    def tests(self) -> tuple[str, ...]:
        """The node ids of the tests that show it, those of the Config rules last."""
        own = () if self.implementation is None else self.implementation.tests
        return (*(f"tests/{each}" for each in own), *(each.test for each in self.rules))


@dataclass(frozen=True)
class Assessment:
    """All of it. `template_sha256` and `commit` say which templates and which version of the code."""

    settings: Settings
    template_sha256: str
    commit: str
    rows: tuple[Row, ...]
    acknowledgements: tuple[Acknowledgement, ...]

    def of(self, *statuses: str) -> tuple[Row, ...]:
        """The rows with one of these statuses."""
        return tuple(row for row in self.rows if row.status in statuses)


def assess(
    system: System,
    settings: Settings,
    promise: Promise,
    evidence: Mapping[str, Evidence],
    *,
    parent: str,
    template_sha256: str,
    commit: str,
) -> Assessment:
    """Assess the templates of `parent`. Raises FileNotFoundError when their assembly has no metadata."""
    acknowledged = acknowledgements.read(system, parent)
    judged = tuple(Judged(rule, tuple(rule.violations(system))) for rule in RULES)
    told = facts(system, settings, promise, template_sha256)
    implemented = {
        control: each for each in IMPLEMENTATIONS if each.when(settings) for control in baseline.named(each.control)
    }
    rows = []
    for control in baseline.controls():
        implementation = implemented.get(control.id)
        if implementation is None:
            rows.append(Row(control))
            continue
        rules = tuple(each for each in judged if control.id in baseline.named(each.rule.controls))
        found = [each for selector in implementation.resources for each in selector(system)]
        found += [each for one in rules for kind in one.rule.kinds for each in system.of(kind)]
        resources = tuple({(each.stack, each.logical_id): each for each in found}.values())
        paths = [each.construct_path.removeprefix(f"{parent}/") for each in resources]
        rows.append(
            Row(
                control,
                implementation,
                implementation.statement.format_map(told),
                resources,
                rules,
                tuple(evidence[kind] for kind in implementation.evidence if kind in evidence),
                tuple(kind for kind in implementation.evidence if kind not in evidence),
                tuple(each for each in acknowledged if any(each.covers(path) for path in paths)),
            )
        )
    return Assessment(settings, template_sha256, commit, tuple(rows), acknowledged)


def facts(system: System, settings: Settings, promise: Promise, template_sha256: str) -> dict[str, Any]:
    """What statements are filled in with: every setting under its name, and what the templates and the proof say."""
    deployed = [each for each in system.all if each.stack != PARENT]
    count = {kind: len(system.of(f"AWS::{kind}")) for kind in {each.type.removeprefix("AWS::") for each in deployed}}
    days = [
        rule["Lifecycle"]["DeleteAfterDays"]
        for plan in system.of("AWS::Backup::BackupPlan")
        for rule in plan.properties["BackupPlan"]["BackupPlanRule"]
    ]
    locked = all("LockConfiguration" in vault.properties for vault in system.of("AWS::Backup::BackupVault"))
    subscriptions = len(system.of("AWS::SNS::Subscription")) + sum(
        len(topic.properties.get("Subscription", ())) for topic in system.of("AWS::SNS::Topic")
    )
    log = settings.transaction_log
    return {
        **settings.model_dump(),
        "application_cidrs": ", ".join(settings.application_cidrs),
        "zones": " and ".join(settings.availability_zones),
        "template_sha256": template_sha256,
        "resources": len(deployed),
        "types": len(count),
        "roles": count["IAM::Role"],
        "keys": count["KMS::Key"],
        "alarms": count["CloudWatch::Alarm"] + count.get("CloudWatch::CompositeAlarm", 0),
        "log_groups": count["Logs::LogGroup"],
        "endpoints": count["EC2::VPCEndpoint"],
        "plan_days": min(days),
        "vault_lock": " that is locked" if locked else "",
        "subscriptions": f"{subscriptions or 'no'} subscription{'s' if subscriptions > 1 else ''} of its own",
        "secret_key": " with the agency's own key" if settings.secret_key_arn else " with Secrets Manager's key",
        "deletion_protection": "on" if settings.protect else "off (the setting protect)",
        "reprotect": "made again by itself" if settings.auto_reprotect else "made again when `make reprotect` is given",
        "drills": f"every {settings.drill_days} days" if settings.drill_days else "when somebody asks for it",
        "worst_rto": promise.path.seconds,
        "detection": promise.detection,
        "log_behind": f", with the log at most {promise.log_lag:g} s behind" if log else "",
        "log_steps": "open the log, roll forward, " if log else "",
        "log_kept": " Committed row changes are also kept as a logical transaction log for at least "
        f"{settings.log_kept_days} days; silence of the archive and damage of the log raise alarms."
        if log
        else "",
    }
