import fnmatch
import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import pytest

from stacks.names import FUNCTIONS
from tests.unit.stacks.conftest import SUFFIX, System

COMMON = {"SUFFIX", "RECOVERY_TABLE", "SECRET_ID", "MEMBERS", "DATABASE", "METRICS_NAMESPACE"}


def functions(system: System) -> dict[str, dict[str, Any]]:
    return {
        each.properties["FunctionName"].removeprefix("citizens-").removesuffix(f"-{SUFFIX}"): each.properties
        for each in system.of("AWS::Lambda::Function")
    }


def test_the_functions_are_those_of_the_design_and_no_other(system: System) -> None:
    assert set(functions(system)) == set(FUNCTIONS)


def test_every_function_is_private_bounded_and_keeps_what_fails(system: System) -> None:
    for name, properties in functions(system).items():
        assert properties["VpcConfig"]["SubnetIds"]
        assert "DeadLetterConfig" in properties
        assert properties["ReservedConcurrentExecutions"] in (1, 2, 3, 4)
        assert properties["Timeout"] <= (900 if name in ("archive", "log-care", "rewind") else 150)
        assert properties["Runtime"] == "python3.14"
        assert "LogGroup" in properties["LoggingConfig"]


def test_every_function_has_the_common_environment(system: System) -> None:
    for name, properties in functions(system).items():
        assert set(properties["Environment"]["Variables"]) >= COMMON, name


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_handler_that_is_deployed_exists(system: System, function: str) -> None:
    module, attribute = functions(system)[function]["Handler"].rsplit(".", 1)
    assert callable(getattr(import_module(module), attribute))


def test_each_witness_is_pinned_to_one_zone_and_the_others_are_not(system: System) -> None:
    subnets = {name: properties["VpcConfig"]["SubnetIds"] for name, properties in functions(system).items()}
    assert len(subnets["witness-a"]) == len(subnets["witness-c"]) == 1
    assert subnets["witness-a"] != subnets["witness-c"]
    assert all(len(ids) == 2 for name, ids in subnets.items() if not name.startswith("witness"))


def test_only_the_functions_of_the_log_mount_the_file_system_and_the_archive_is_alone(system: System) -> None:
    mounting = {name for name, properties in functions(system).items() if "FileSystemConfigs" in properties}
    assert mounting == {"archive", "roll-forward", "rewind", "log-care"}
    writing = {
        policy.properties["ManagedPolicyName"]
        for policy in system.of("AWS::IAM::ManagedPolicy")
        if any(
            allows(each, "elasticfilesystem:ClientWrite") for each in policy.properties["PolicyDocument"]["Statement"]
        )
    }
    assert writing == {f"citizens-{name}-{SUFFIX}" for name in ("archive", "roll-forward", "log-care")}
    for name in mounting:
        found = functions(system)[name]
        assert found["Environment"]["Variables"]["LOG_PATH"] == found["FileSystemConfigs"][0]["LocalMountPath"]
        assert name in ("rewind", "roll-forward") or found["ReservedConcurrentExecutions"] == 1


def test_a_function_exists_only_while_its_permissions_do(system: System) -> None:
    for each in system.of("AWS::Lambda::Function"):
        assert f"{each.logical_id}Policy" in each.body["DependsOn"]


def test_witnesses_archive_preparation_and_drills_run_by_schedules_under_roles_of_their_own(system: System) -> None:
    schedules = {
        each.properties["Name"]: each.properties
        for each in system.of("AWS::Scheduler::Schedule")
        if each.stack != "Network"
    }
    assert {name: each["ScheduleExpression"] for name, each in schedules.items()} == {
        f"citizens-witness-a-{SUFFIX}": "rate(1 minute)",
        f"citizens-witness-c-{SUFFIX}": "rate(1 minute)",
        f"citizens-archive-{SUFFIX}": "rate(1 minute)",
        f"citizens-log-care-{SUFFIX}": "rate(720 minutes)",
        f"citizens-rotation-{SUFFIX}": "rate(5 minutes)",
        f"citizens-evidence-{SUFFIX}": "rate(15 minutes)",
        f"citizens-drill-machine-{SUFFIX}": "cron(30 2 * * ? *)",
        f"citizens-posture-{SUFFIX}": "rate(1 minute)",
    }
    assert json.loads(schedules[f"citizens-rotation-{SUFFIX}"]["Target"]["Input"]) == {
        "Step": "prepareDatabase",
        "time": "<aws.scheduler.scheduled-time>",
    }
    assert len({str(each["Target"]["RoleArn"]) for each in schedules.values()}) == 8
    for each in schedules.values():
        assert each["FlexibleTimeWindow"] == {"Mode": "OFF"}
        assert "DeadLetterConfig" in each["Target"]


USERS = {
    "witness-a": "citizens_witness",
    "witness-c": "citizens_witness",
    "probe": "citizens_probe",
    "archive": "citizens_log",
    "open-log": "citizens_log",
    "roll-forward": "citizens_roll_forward",
    "rewind": "citizens_roll_forward",
    "verify": "citizens_verify",
    "switchover": "citizens_probe",
    "drill": "citizens_drill",
}


def test_each_function_signs_in_as_its_own_user(system: System) -> None:
    allowed: dict[str, list[str]] = {}
    for policy in system.of("AWS::IAM::ManagedPolicy"):
        name = policy.properties["ManagedPolicyName"].removeprefix("citizens-").removesuffix(f"-{SUFFIX}")
        for statement in policy.properties["PolicyDocument"]["Statement"]:
            if statement["Action"] == "rds-db:connect":
                allowed.setdefault(name, []).append(json.dumps(statement["Resource"]).rpartition("dbuser:")[2][:-4])
    assert allowed == {name: [f"*/{user}"] for name, user in USERS.items()}
    for each in system.of("AWS::Lambda::Function"):
        name = each.properties["FunctionName"].removeprefix("citizens-").removesuffix(f"-{SUFFIX}")
        assert each.properties["Environment"]["Variables"].get("DATABASE_USER") == USERS.get(name)


# What gives the password away, or lets somebody set another.
OF_THE_SECRET = ("GetSecretValue", "BatchGetSecretValue", "PutSecretValue", "UpdateSecret", "UpdateSecretVersionStage")


def allows(statement: Mapping[str, Any], action: str) -> bool:
    """Whether a statement allows the action on anything, by name or by a pattern."""
    actions = statement.get("Action", [])
    patterns = [actions] if isinstance(actions, str) else actions
    return statement["Effect"] == "Allow" and (
        "NotAction" in statement or any(fnmatch.fnmatch(action.lower(), pattern.lower()) for pattern in patterns)
    )


def test_only_rotations_role_may_read_or_change_the_secret(system: System) -> None:
    """Every other function signs in by IAM, as a database user of its own."""
    assert not system.of("AWS::IAM::Policy")
    assert not system.of("AWS::IAM::UserPolicy")
    assert not system.of("AWS::SecretsManager::ResourcePolicy")
    for role in system.of("AWS::IAM::Role"):
        assert not role.properties.get("Policies")
        assert not [arn for arn in role.properties.get("ManagedPolicyArns", []) if "aws:policy" in json.dumps(arn)]
    may: dict[str, set[str]] = {}
    for policy in system.of("AWS::IAM::ManagedPolicy"):
        for statement in policy.properties["PolicyDocument"]["Statement"]:
            found = {action for action in OF_THE_SECRET if allows(statement, f"secretsmanager:{action}")}
            if found:
                may.setdefault(policy.properties["ManagedPolicyName"], set()).update(found)
    assert may.keys() == {f"citizens-rotation-{SUFFIX}"}
    for policy in system.of("AWS::IAM::ManagedPolicy"):
        if policy.properties["ManagedPolicyName"] not in may:
            continue
        (user,) = policy.properties["Roles"]
        role = system.the("AWS::IAM::Role", user["Ref"])
        assert role.properties["AssumeRolePolicyDocument"]["Statement"][0]["Principal"] == {
            "Service": "lambda.amazonaws.com"
        }
        users = [
            each.properties["FunctionName"]
            for each in system.of("AWS::Lambda::Function")
            if user["Ref"] in json.dumps(each.properties["Role"])
        ]
        assert users == [policy.properties["ManagedPolicyName"]]
