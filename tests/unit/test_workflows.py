"""The pipelines hold few permissions, run nothing that can change under them, and take turns on one environment."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployment.branch import KEPT
from deployment.branch_secret import MARK

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
BIN = Path(sys.executable).parent
PINNED = re.compile(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
READS_AND_SIGNS_IN = {"contents": "read", "id-token": "write"}

Json = dict[str, Any]


def workflow(name: str) -> Json:
    # `on` is a boolean in the YAML that PyYAML reads
    content = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8"))
    return {**content, "on": content[True]}


def jobs() -> Iterator[tuple[str, Json]]:
    for path in WORKFLOWS:
        for name, job in workflow(path.stem)["jobs"].items():
            yield f"{path.stem}.{name}", job


def steps() -> Iterator[tuple[str, Json]]:
    for name, job in jobs():
        for step in job.get("steps", []):
            yield name, step


def steps_of(file: str, job: str) -> list[Json]:
    return list(workflow(file)["jobs"][job]["steps"])


def position(of: list[Json], what: str) -> int:
    return next(index for index, step in enumerate(of) if what in str(step.get("run", step.get("uses"))))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_to_a_commit_and_says_its_version(path: Path) -> None:
    used = [
        line.strip().removeprefix("- ") for line in path.read_text(encoding="utf-8").splitlines() if "uses:" in line
    ]
    assert used
    assert not [line for line in used if not PINNED.fullmatch(line) and "uses: ./.github/workflows/" not in line]


def test_one_action_has_one_version_everywhere() -> None:
    used = {step["uses"] for _, step in steps() if "uses" in step}
    assert len(used) == len({name.partition("@")[0] for name in used})


def test_nobody_has_a_permission_without_asking_and_only_what_signs_in_asks_for_more_than_reading() -> None:
    assert all(workflow(path.stem)["permissions"] == {} for path in WORKFLOWS)
    asked = {name: job["permissions"] for name, job in jobs()}
    signs_in = {name for name, step in steps() if "configure-aws-credentials" in step.get("uses", "")}
    calls = {name for name, job in jobs() if "uses" in job}
    assert {name for name, wanted in asked.items() if wanted == READS_AND_SIGNS_IN} == signs_in | calls
    assert all(wanted in ({"contents": "read"}, READS_AND_SIGNS_IN) for wanted in asked.values())


def test_credentials_are_short_lived_and_no_secret_is_used() -> None:
    for path in WORKFLOWS:
        text = path.read_text(encoding="utf-8")
        assert "secrets." not in text
        assert "aws-access-key-id" not in text
    for _, step in steps():
        if "configure-aws-credentials" in step.get("uses", ""):
            assert step["with"]["role-to-assume"] == "${{ vars.DEPLOY_ROLE_ARN }}"
            assert step["with"].get("role-duration-seconds", 3600) <= 7200


def test_what_signs_in_does_so_from_a_github_environment_that_the_role_can_demand() -> None:
    for name, step in steps():
        if "configure-aws-credentials" in step.get("uses", ""):
            assert dict(jobs())[name]["environment"] in ("${{ matrix.environment }}", "dev")


def test_a_checkout_leaves_no_token_behind() -> None:
    checkouts = [step for _, step in steps() if "actions/checkout" in step.get("uses", "")]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_no_event_runs_a_strangers_code_with_our_rights() -> None:
    for path in WORKFLOWS:
        assert not {"pull_request_target", "workflow_run", "issue_comment"} & set(workflow(path.stem)["on"])
    condition = workflow("environments")["jobs"]["plan"]["if"]
    assert "github.event.pull_request.head.repo.full_name == github.repository" in condition


def test_no_script_holds_an_expression_that_somebody_outside_could_fill() -> None:
    assert not [step["run"] for _, step in steps() if "${{" in step.get("run", "")]


def test_every_job_ends_by_itself() -> None:
    assert all(0 < job["timeout-minutes"] <= 110 for _, job in jobs() if "steps" in job)


def test_a_job_ends_before_its_credentials_do() -> None:
    for name, step in steps():
        if "configure-aws-credentials" in step.get("uses", ""):
            seconds = step["with"].get("role-duration-seconds", 3600)
            assert dict(jobs())[name]["timeout-minutes"] * 60 < seconds


def test_deploying_and_destroying_one_suffix_take_turns_and_neither_is_cancelled() -> None:
    deploy, destroy = workflow("environments")["jobs"]["deploy"], workflow("destroy")["jobs"]["destroy"]
    assert deploy["concurrency"] == destroy["concurrency"]
    assert "${{ matrix.suffix }}" in deploy["concurrency"]["group"]
    assert deploy["concurrency"]["cancel-in-progress"] is False


def test_only_the_checks_are_cancelled_for_a_newer_commit() -> None:
    cancelled = [path.stem for path in WORKFLOWS if "cancel-in-progress: true" in path.read_text(encoding="utf-8")]
    assert cancelled == ["checks"]


def test_what_a_push_deploys_the_branchs_end_and_the_sweep_destroy() -> None:
    on = workflow("environments")["on"]
    assert "push" in on
    assert "delete" in on
    assert on["pull_request"]["types"] == ["closed"]
    for file in ("environments", "sweep"):
        assert workflow(file)["jobs"]["destroy"]["uses"] == "./.github/workflows/destroy.yml"
    assert position(steps_of("destroy", "destroy"), "deployment destroy-branch") > 0


def test_a_branch_has_its_secret_before_it_deploys_and_kept_environments_bring_the_agencys() -> None:
    deploy = steps_of("environments", "deploy")
    assert position(deploy, "provide-secret") < position(deploy, "make deploy")
    assert deploy[position(deploy, "provide-secret")]["if"] == "${{ !matrix.kept }}"


def test_what_was_deployed_is_tested_with_the_certificate_authority_of_the_region() -> None:
    deploy = steps_of("environments", "deploy")
    tested = deploy[position(deploy, "make integration-aws")]
    assert position(deploy, "make deploy") < position(deploy, "make integration-aws")
    bundle = tested["env"]["PGSSLROOTCERT"].removeprefix("${{ github.workspace }}/")
    assert "BEGIN CERTIFICATE" in (ROOT / bundle).read_text(encoding="utf-8")


def test_a_sweep_lists_unless_it_is_told_to_destroy() -> None:
    sweep = workflow("sweep")
    assert sweep["on"]["workflow_dispatch"]["inputs"]["destroy"]["default"] is False
    assert "(inputs.destroy || vars.SWEEP == 'destroy')" in sweep["jobs"]["destroy"]["if"]


def test_without_a_runner_for_deploys_nothing_asks_the_account() -> None:
    for file, job in (("environments", "plan"), ("sweep", "find")):
        assert "vars.DEPLOY_RUNNER != ''" in workflow(file)["jobs"][job]["if"]


def test_checks_run_for_every_push_and_pull_request_on_the_oldest_and_the_newest_python() -> None:
    checks = workflow("checks")
    assert checks["on"] == {"push": None, "pull_request": None}
    assert checks["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.14"]
    assert any(step.get("run") == "make test" for step in steps_of("checks", "test"))


def test_every_command_of_a_pipeline_is_one_that_the_project_has() -> None:
    scripts = "\n".join(step["run"] for _, step in steps() if "run" in step)
    targets = set(re.findall(r"\bmake ([a-z-]+)", scripts))
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert targets
    assert targets <= known
    usage = subprocess.run(
        [sys.executable, "-m", "deployment", "--help"], capture_output=True, text=True, cwd=ROOT, check=True
    ).stdout
    commands = set(re.findall(r"-m deployment ([a-z-]+)", scripts))
    assert commands == {"provide-secret", "destroy-branch", "abandoned"}
    assert all(re.search(rf"\b{command}\b", usage) for command in commands)


def test_dependencies_of_every_kind_are_updated_once_they_have_proved_themselves() -> None:
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text(encoding="utf-8"))["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"pip", "npm", "github-actions"}
    assert all(update["cooldown"]["default-days"] >= 7 for update in updates)


@pytest.mark.parametrize(
    ("sound", "faulty", "finding"),
    [
        ("github.event_name == 'push'", "github.event_nam == 'push'", "is not defined"),
        ("vars.DEPLOY_RUNNER", "vars.DEPLOY_RUNER", "DEPLOY_RUNER"),
        ('echo "$COMMAND=$targets"', "echo $COMMAND=$targets", "SC2086"),
        ("needs: plan", "needs: plane", "plane"),
    ],
)
def test_actionlint_finds_a_slip(sound: str, faulty: str, finding: str, tmp_path: Path) -> None:
    text = (ROOT / ".github" / "workflows" / "environments.yml").read_text(encoding="utf-8")
    assert sound in text
    bad = tmp_path / "environments.yml"
    bad.write_text(text.replace(sound, faulty), encoding="utf-8")
    done = subprocess.run(
        [
            str(BIN / "actionlint"),
            *("-config-file", str(ROOT / ".github" / "actionlint.yaml")),
            *("-shellcheck", str(BIN / "shellcheck"), str(bad)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert finding in done.stdout


@pytest.mark.parametrize(
    ("sound", "faulty", "finding"),
    [
        ("persist-credentials: false", "persist-credentials: true", "artipacked"),
        ("@9c091bb21b7c1c1d1991bb908d89e4e9dddfe3e0 # v7.0.0", "@v7", "unpinned-uses"),
        ("permissions: {}", "permissions: write-all", "excessive-permissions"),
        ('--branch="$BRANCH"', '--branch="${{ github.head_ref }}"', "template-injection"),
    ],
)
def test_zizmor_finds_a_risk(sound: str, faulty: str, finding: str, tmp_path: Path) -> None:
    text = (ROOT / ".github" / "workflows" / "environments.yml").read_text(encoding="utf-8")
    assert sound in text
    bad = tmp_path / "environments.yml"
    bad.write_text(text.replace(sound, faulty), encoding="utf-8")
    done = subprocess.run(
        [
            str(BIN / "zizmor"),
            *("--quiet", "--offline", "--persona=auditor", "--config", str(ROOT / ".github" / "zizmor.yml"), str(bad)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert finding in done.stdout + done.stderr


def policies() -> list[Json]:
    blocks = re.findall(r"```json\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(encoding="utf-8"), re.DOTALL)
    return [json.loads(block) for block in blocks]


def test_only_one_github_environment_of_the_repository_can_become_the_documented_role() -> None:
    trust = policies()[0]["Statement"]
    assert len(trust) == 1
    assert trust[0]["Action"] == "sts:AssumeRoleWithWebIdentity"
    claims = trust[0]["Condition"]
    assert set(claims) == {"StringEquals"}
    subject = claims["StringEquals"]["token.actions.githubusercontent.com:sub"]
    assert subject.endswith(":environment:dev")
    assert "*" not in subject


def actions(statement: Json) -> list[str]:
    action = statement["Action"]
    return [action] if isinstance(action, str) else list(action)


def test_the_documented_role_changes_nothing_but_secrets_of_branches() -> None:
    allowed = [statement for statement in policies()[1]["Statement"] if statement["Effect"] == "Allow"]
    changes = {
        action: statement
        for statement in allowed
        for action in actions(statement)
        if not re.fullmatch(r"[a-z0-9-]+:(Describe|List|Get)\w*\*?", action)
    }
    becomes = changes.pop("sts:AssumeRole")
    assert all(":role/cdk-hnb659fds-" in role for role in becomes["Resource"])
    assert set(changes) == {f"secretsmanager:{verb}" for verb in ("CreateSecret", "TagResource", "DeleteSecret")}
    for statement in changes.values():
        assert statement["Resource"].endswith(":secret:citizens/*/database-??????")
        assert [key.partition("/")[2] for key in statement["Condition"]["Null"]] == [MARK]
        assert set(statement["Condition"]["Null"].values()) == {"false"}


def test_the_documented_role_cannot_mark_the_secret_of_a_kept_environment() -> None:
    denied = [statement for statement in policies()[1]["Statement"] if statement["Effect"] == "Deny"]
    assert len(denied) == 1
    assert {resource.split("/")[1] for resource in denied[0]["Resource"]} == KEPT
    assert "secretsmanager:TagResource" in actions(denied[0])


def test_the_variables_that_the_workflows_read_are_those_that_are_documented() -> None:
    read = {name for path in WORKFLOWS for name in re.findall(r"vars\.([A-Z_]+)", path.read_text(encoding="utf-8"))}
    documented = set(
        re.findall(r"^\| `([A-Z_]+)`", (ROOT / "docs" / "ci.md").read_text(encoding="utf-8"), re.MULTILINE)
    )
    known = yaml.safe_load((ROOT / ".github" / "actionlint.yaml").read_text(encoding="utf-8"))["config-variables"]
    assert read == documented == set(known)
