"""Granted against used, on a policy small enough to see through."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from privilege import report
from privilege.granted import Grant, Policy, Role, short_name
from privilege.mutation import Verdict
from privilege.report import compare, show
from privilege.used import Usage, parse
from stacks.unused_permissions import Unused

ARN = "arn:aws:iam::111122223333:policy/citizens-probe-dev"
DOCUMENT: dict[str, Any] = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": ["dynamodb:GetItem", "dynamodb:PutItem"], "Resource": ["one", "two"]},
        {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "key"},
        {"Effect": "Deny", "Action": "dynamodb:DeleteItem", "Resource": "*"},
    ],
}
POLICY = Policy(ARN, DOCUMENT)
ROLE = Role("citizens-probe-dev", "citizens-probe", (POLICY,))
GET, PUT, DECRYPT = ROLE.grants


@pytest.fixture(autouse=True)
def _excused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the key is excused."""
    excuse = Unused("citizens-*", ("kms:Decrypt",), "not encrypted here", "a page")
    monkeypatch.setattr(report, "UNUSED", (excuse,))
    monkeypatch.setattr(report, "reason", lambda role, action: excuse if excuse.covers(role, action) else None)


def used(*entries: tuple[str, int, str], refused: Sequence[str] = ()) -> Usage:
    allowed = [
        {"action": action, "resource": on, "allowed": True, "policy": ARN, "statement": index, "count": 3}
        for action, index, on in entries
    ]
    denied = [
        {"action": action, "resource": "x", "allowed": False, "policy": "", "statement": -1, "count": 1}
        for action in refused
    ]
    return parse({"roles": {"citizens-probe-dev": [*allowed, *denied], "somebody-elses": allowed}}, "dev")


def shown(*grants: Grant, sign: str | None = "it failed") -> list[Verdict]:
    return [Verdict(grant, "the probe reaches the primary", sign, 0.1) for grant in grants]


BOTH = used(("dynamodb:GetItem", 0, "one"), ("dynamodb:PutItem", 0, "one"), ("dynamodb:PutItem", 0, "two"))


def test_what_is_used_and_shown_to_be_needed_is_no_problem() -> None:
    found = compare([ROLE], "dev", BOTH, shown(GET, PUT))
    assert found.problems == ()
    assert [(row.action, row.used, row.used_resources, row.resources) for row in found.rows] == [
        ("dynamodb:GetItem", 3, 1, 2),
        ("dynamodb:PutItem", 6, 2, 2),
        ("kms:Decrypt", 0, 0, 1),
    ]


def test_what_is_granted_and_never_used_is_a_problem() -> None:
    (problem,) = compare([ROLE], "dev", used(("dynamodb:GetItem", 0, "one")), shown(GET, PUT)).problems
    assert "citizens-probe may dynamodb:PutItem (statement 0) and never did" in problem


def test_what_is_used_by_another_statement_only_is_unused() -> None:
    found = compare(
        [ROLE], "dev", used(("dynamodb:GetItem", 0, "one"), ("dynamodb:PutItem", 1, "one")), shown(GET, PUT)
    )
    assert [problem for problem in found.problems if "PutItem (statement 0) and never did" in problem]


def test_what_is_refused_is_a_problem() -> None:
    usage = used(refused=["sns:Publish"])
    usage.add(BOTH)
    (problem,) = compare([ROLE], "dev", usage, shown(GET, PUT)).problems
    assert "citizens-probe was refused sns:Publish on x 1 times" in problem


def test_an_exercise_that_passes_without_an_action_is_a_problem() -> None:
    (problem,) = compare([ROLE], "dev", BOTH, [*shown(GET), *shown(PUT, sign=None)]).problems
    assert "dynamodb:PutItem" in problem
    assert "not needed, or not shown" in problem


def test_an_action_that_nothing_was_tried_without_is_a_problem() -> None:
    (problem,) = compare([ROLE], "dev", BOTH, shown(GET)).problems
    assert "no exercise was tried without it" in problem


def test_an_excuse_for_what_is_used_after_all_is_a_problem() -> None:
    usage = used(("kms:Decrypt", 1, "key"))
    usage.add(BOTH)
    (problem,) = compare([ROLE], "dev", usage, shown(GET, PUT)).problems
    assert "take it off the list" in problem


def test_an_excuse_for_what_nobody_may_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "UNUSED", (Unused("citizens-*", ("kms:Sign",), "never", "a page"),))
    (problem,) = compare([ROLE], "dev", BOTH, shown(GET, PUT)).problems
    assert "excuses kms:Sign of citizens-*, which nobody may" in problem


def test_taking_an_action_away_leaves_everything_else() -> None:
    changed = POLICY.without(GET)["Statement"]
    assert changed[0]["Action"] == ["dynamodb:PutItem"]
    assert changed[1:] == DOCUMENT["Statement"][1:]
    assert DOCUMENT["Statement"][0]["Action"] == ["dynamodb:GetItem", "dynamodb:PutItem"]


def test_a_statement_goes_with_its_last_action() -> None:
    assert POLICY.without(DECRYPT)["Statement"] == [DOCUMENT["Statement"][0], DOCUMENT["Statement"][2]]


def test_a_policys_last_action_is_denied_because_iam_takes_no_empty_document() -> None:
    alone = Policy(ARN, {**DOCUMENT, "Statement": [DOCUMENT["Statement"][1]]})
    (grant,) = alone.grants(ROLE.name, ROLE.short)
    changed = Policy(ARN, alone.without(grant))
    assert changed.document["Statement"] == [{"Effect": "Deny", "Action": "kms:Decrypt", "Resource": "key"}]
    assert not list(changed.grants(ROLE.name, ROLE.short))


def test_a_role_has_one_name_in_every_environment() -> None:
    assert short_name("citizens-archive-dev-schedule", "dev") == "citizens-archive-schedule"
    assert short_name("citizens-archive-dev", "dev") == "citizens-archive"
    assert short_name("cdk-deploy-role", "dev") == "cdk-deploy-role"


def test_the_report_can_be_read_and_says_what_is_not_evaluated(tmp_path: Path) -> None:
    found = compare([ROLE], "dev", BOTH, shown(GET))
    text = StringIO()
    show(found, Console(file=text, width=200))
    assert "the probe reaches the primary: fails" in text.getvalue()
    assert "not shown" in text.getvalue()
    assert "does not evaluate the use of KMS keys" in text.getvalue()
    assert '"problems"' in found.write(tmp_path / "reports" / "least-privilege.json").read_text(encoding="utf-8")
