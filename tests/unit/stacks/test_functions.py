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
        assert properties["ReservedConcurrentExecutions"] in (1, 2)
        assert properties["Timeout"] <= (900 if name == "archive" else 90)
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


def test_only_the_archive_mounts_the_file_system_and_it_writes_alone(system: System) -> None:
    mounting = {name for name, properties in functions(system).items() if "FileSystemConfigs" in properties}
    assert mounting == {"archive"}
    archive = functions(system)["archive"]
    assert archive["ReservedConcurrentExecutions"] == 1
    assert archive["Environment"]["Variables"]["LOG_PATH"] == archive["FileSystemConfigs"][0]["LocalMountPath"]


def test_a_function_exists_only_while_its_permissions_do(system: System) -> None:
    for each in system.of("AWS::Lambda::Function"):
        assert f"{each.logical_id}Policy" in each.body["DependsOn"]


def test_witnesses_and_archive_run_every_minute_under_roles_of_their_own(system: System) -> None:
    schedules = system.of("AWS::Scheduler::Schedule")
    assert {each.properties["Name"] for each in schedules} == {
        f"citizens-{name}-{SUFFIX}" for name in ("witness-a", "witness-c", "archive")
    }
    assert len({str(each.properties["Target"]["RoleArn"]) for each in schedules}) == 3
    for each in schedules:
        assert each.properties["ScheduleExpression"] == "rate(1 minute)"
        assert each.properties["FlexibleTimeWindow"] == {"Mode": "OFF"}
        assert "DeadLetterConfig" in each.properties["Target"]
