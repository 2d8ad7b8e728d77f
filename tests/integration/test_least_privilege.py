"""A sample of the proof that each permission is needed; `make least-privilege` goes through all of them.

Only roles whose functions no schedule invokes are tried here, in a system that other tests go on using.
"""

from __future__ import annotations

import pytest

from privilege.exercises import EXERCISES
from privilege.granted import Grant, Role
from privilege.mutation import Trial, to_show
from privilege.report import compare
from privilege.site import Site
from tests.integration.conftest import Deployed
from tests.integration.test_commands import run

pytestmark = pytest.mark.breaks_the_machine

# Of each role one action, together of every service that these functions call.
SAMPLE = {
    "citizens-probe": "logs:PutLogEvents",
    "citizens-arbiter": "rds:DescribeEvents",
    "citizens-verify": "dynamodb:GetItem",
    "citizens-open-log": "dynamodb:PutItem",
    "citizens-rotation": "secretsmanager:GetRandomPassword",
}


@pytest.fixture(scope="module")
def trial(deployed: Deployed) -> Trial:
    def sampled(grant: Grant) -> bool:
        return SAMPLE.get(grant.short) == grant.action

    found = Trial(Site(deployed.account, deployed.outputs), print, sampled)
    roles = {role.short: role for role in found.site.roles()}
    for exercise in EXERCISES:
        if exercise.role in SAMPLE:
            found.try_exercise(roles[exercise.role], exercise)
    return found


@pytest.fixture(scope="module")
def roles(trial: Trial) -> tuple[Role, ...]:
    return trial.site.roles()


def test_a_wrong_setting_stops_it_before_anything_starts() -> None:
    done = run("privilege", environment={"REGION": "us-east-1"})
    assert done.returncode == 1
    assert "The region 'us-east-1' is refused" in done.stderr
    assert "Traceback" not in done.stderr


def test_with_the_deployed_policies_every_exercise_of_the_sample_passes(trial: Trial) -> None:
    assert trial.broken == []
    assert trial.denied == {}


@pytest.mark.parametrize("role", SAMPLE)
def test_an_exercise_fails_without_any_one_permission_that_it_uses(trial: Trial, role: str) -> None:
    (verdict,) = [each for each in trial.verdicts if each.grant.short == role]
    assert verdict.grant.action == SAMPLE[role]
    assert verdict.sign, f"{verdict.exercise} passes without {verdict.grant}"


def test_the_policies_are_put_back_as_they_were_deployed(trial: Trial, roles: tuple[Role, ...]) -> None:
    granted = {(grant.short, grant.action) for role in roles for grant in role.grants}
    assert set(SAMPLE.items()) <= granted


def test_each_function_of_the_sample_uses_everything_it_may(trial: Trial, roles: tuple[Role, ...]) -> None:
    tried = [role for role in roles if role.short in SAMPLE]
    report = compare(tried, trial.site.suffix, trial.site.usage(), trial.verdicts)
    assert [problem for problem in report.problems if "never did" in problem] == []


def test_every_deployed_role_has_an_exercise_or_is_excused_altogether(roles: tuple[Role, ...]) -> None:
    exercised = {exercise.role for exercise in EXERCISES}
    assert [role.name for role in roles if to_show(role) and role.short not in exercised] == []
    assert exercised <= {role.short for role in roles}
