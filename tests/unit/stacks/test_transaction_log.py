"""The care of the transaction log as deployed, and the system with the log turned off."""

from __future__ import annotations

import json

import pytest

from recovery.objectives import Objectives
from stacks.names import LOG_FUNCTIONS
from stacks.settings import SettingsError
from tests.unit.stacks.conftest import SUFFIX, System, settings, synthesised
from tests.unit.stacks.test_functions import functions
from tests.unit.stacks.test_observability import alarm


@pytest.fixture(scope="module")
def without_log(tmp_path_factory: pytest.TempPathFactory, system: System) -> System:
    """With the transaction log turned off. The policy packs have judged it, or it would not be here."""
    return synthesised(tmp_path_factory.mktemp("without-log"), transactionLog=False)


def alarms(system: System) -> set[str]:
    return {
        each.properties["AlarmName"].removeprefix("citizens-").removesuffix(f"-{SUFFIX}")
        for each in system.of("AWS::CloudWatch::Alarm")
    }


def machines(system: System) -> str:
    """The definitions of all machines."""
    return json.dumps([each.properties["DefinitionString"] for each in system.of("AWS::StepFunctions::StateMachine")])


def test_turned_off_nothing_archives_or_opens_the_log_and_all_else_is_deployed(
    system: System, without_log: System
) -> None:
    assert set(functions(system)) - set(functions(without_log)) == set(LOG_FUNCTIONS)
    schedules = {each.properties["Name"] for each in without_log.of("AWS::Scheduler::Schedule")}
    assert f"citizens-archive-{SUFFIX}" not in schedules
    assert {f"citizens-log-care-{SUFFIX}", f"citizens-rotation-{SUFFIX}"} <= schedules


def test_turned_off_the_machine_goes_from_the_promotion_to_the_secret(system: System, without_log: System) -> None:
    assert "OpenLog" in machines(system)
    assert "OpenLog" not in machines(without_log)
    assert "PointSecret" in machines(without_log)
    assert "open-log" not in json.dumps(without_log.templates["Failover"])


def test_turned_off_only_the_alarms_that_need_a_running_log_are_gone(system: System, without_log: System) -> None:
    assert alarms(system) - alarms(without_log) == {
        *("log-lag", "log-lag-bytes", "log-gap"),
        *(f"{name}-{what}" for name in LOG_FUNCTIONS for what in ("errors", "throttles")),
    }
    assert alarms(without_log) <= alarms(system)


def test_the_rotation_function_is_told_whether_there_is_a_log(system: System, without_log: System) -> None:
    for which, told in ((system, "on"), (without_log, "off")):
        assert functions(which)["rotation"]["Environment"]["Variables"]["TRANSACTION_LOG"] == told


def test_turned_off_the_files_and_their_backup_stay(system: System, without_log: System) -> None:
    for kind in ("AWS::EFS::FileSystem", "AWS::Backup::BackupPlan", "AWS::Backup::BackupSelection"):
        assert [each.logical_id for each in without_log.of(kind)] == [each.logical_id for each in system.of(kind)]


def test_old_segments_move_to_infrequent_access_and_stay_there_though_they_are_verified(system: System) -> None:
    (files,) = system.of("AWS::EFS::FileSystem")
    assert files.properties["LifecyclePolicies"] == [{"TransitionToIA": "AFTER_30_DAYS"}]


def test_the_backup_plan_takes_the_logs_files_every_day(system: System) -> None:
    (files,) = system.of("AWS::EFS::FileSystem")
    (selection,) = system.of("AWS::Backup::BackupSelection")
    assert {"Fn::GetAtt": [files.logical_id, "Arn"]} in selection.properties["BackupSelection"]["Resources"]
    (plan,) = system.of("AWS::Backup::BackupPlan")
    (rule,) = plan.properties["BackupPlan"]["BackupPlanRule"]
    assert rule["ScheduleExpression"] == "cron(0 3 * * ? *)"


def test_the_log_is_verified_twice_a_day_and_a_day_of_silence_is_a_fault(system: System) -> None:
    (found,) = [
        each.properties
        for each in system.of("AWS::Scheduler::Schedule")
        if each.properties["Name"] == f"citizens-log-care-{SUFFIX}"
    ]
    assert found["ScheduleExpression"] == "rate(720 minutes)"
    verdict = alarm(system, "log-verdict").properties
    assert (verdict["MetricName"], verdict["Threshold"], verdict["Period"]) == ("LogVerdict", 1, 86_400)
    assert verdict["TreatMissingData"] == "breaching"


def test_a_slot_holds_back_at_most_a_quarter_of_the_storage_and_alarms_come_well_before(system: System) -> None:
    (group,) = system.of("AWS::RDS::DBParameterGroup")
    limit = int(group.properties["Parameters"]["max_slot_wal_keep_size"]) * 1024**2
    storage = settings().allocated_storage * 1024**3
    assert limit == storage / 4
    assert alarm(system, "log-lag-bytes").properties["Threshold"] == limit / 2
    assert alarm(system, "slot-lag-1").properties["Threshold"] < limit
    assert alarm(system, "log-lag").properties["Threshold"] < Objectives().rpo_seconds


def test_the_slots_share_follows_the_storage(tmp_path_factory: pytest.TempPathFactory) -> None:
    larger = synthesised(tmp_path_factory.mktemp("larger"), allocatedStorage=400, logKeptDays=90)
    (group,) = larger.of("AWS::RDS::DBParameterGroup")
    assert group.properties["Parameters"]["max_slot_wal_keep_size"] == str(100 * 1024)
    assert functions(larger)["log-care"]["Environment"]["Variables"]["LOG_KEPT_DAYS"] == "90"


@pytest.mark.parametrize(("name", "value"), [("transactionLog", "perhaps"), ("logKeptDays", 0)])
def test_a_setting_of_the_log_that_is_wrong_is_one_sentence(name: str, value: object) -> None:
    with pytest.raises(SettingsError) as refused:
        settings(**{name: value})
    assert len(refused.value.sentences) == 1
