import json
import re
from typing import Any

import pytest

from deployment.cdk import ROOT
from drills.scenarios import SCENARIOS
from recovery.arbiter import waiting_limit
from stacks.alarms import DESCRIPTION_LENGTH, LONGEST_RUNS, MINUTES_OF_WAITING, Alarm, Watched, alarms, composites
from stacks.dashboard import body
from stacks.instance_class import GIB, InstanceClass, of
from stacks.names import FUNCTIONS, Names
from stacks.settings import INSTANCE_CLASSES
from tests.unit.stacks.conftest import SUFFIX, Resource, System, settings


def alarm(system: System, name: str) -> Resource:
    (found,) = [
        each
        for each in system.of("AWS::CloudWatch::Alarm")
        if each.properties["AlarmName"] == f"citizens-{name}-{SUFFIX}"
    ]
    return found


def test_the_runbook_that_an_alarm_names_is_there(system: System) -> None:
    told = [
        json.dumps(each.properties["AlarmDescription"])
        for kind in ("Alarm", "CompositeAlarm")
        for each in system.of(f"AWS::CloudWatch::{kind}")
    ]
    named = [re.findall(r"docs/runbooks/[a-z-]+\.md", text) for text in told]
    assert {len(each) for each in named} == {1}
    assert [path for (path,) in named if not (ROOT / path).is_file()] == []


def test_every_alarm_tells_the_topic_when_it_starts_and_when_it_ends(system: System) -> None:
    alarms = [*system.of("AWS::CloudWatch::Alarm"), *system.of("AWS::CloudWatch::CompositeAlarm")]
    assert len(alarms) > 30
    for each in alarms:
        assert each.properties["AlarmActions"] == each.properties["OKActions"]
        assert len(each.properties["AlarmActions"]) == 1


def test_every_alarm_says_how_urgent_it_is_what_it_means_and_what_to_do(system: System) -> None:
    for each in [*system.of("AWS::CloudWatch::Alarm"), *system.of("AWS::CloudWatch::CompositeAlarm")]:
        description = json.dumps(each.properties["AlarmDescription"])
        found = re.fullmatch(
            r".*?(Critical|Warning): (.{20,}?)\. What to do: (.{20,})\. Runbook: docs/runbooks/[a-z-]+\.md.*",
            description,
        )
        assert found, f"{each.logical_id}: {description}"
        assert len(description) <= DESCRIPTION_LENGTH


def test_no_two_alarms_share_a_name_and_what_a_log_is_measured_for_has_an_alarm(system: System) -> None:
    alarms = [each.properties for each in system.of("AWS::CloudWatch::Alarm")]
    assert len({each["AlarmName"] for each in alarms}) == len(alarms)
    watched = {(each["Namespace"], each["MetricName"]) for each in alarms}
    for each in system.of("AWS::Logs::MetricFilter"):
        (transformation,) = each.properties["MetricTransformations"]
        assert (transformation["MetricNamespace"], transformation["MetricName"]) in watched


def test_credentials_are_watched_for_a_failed_rotation_an_overdue_one_and_refused_passwords(system: System) -> None:
    overdue = alarm(system, "rotation-overdue").properties
    assert (overdue["Threshold"], overdue["TreatMissingData"]) == (31, "breaching")
    assert alarm(system, "rotation-failed").properties["Threshold"] == 0
    refused = alarm(system, "superseded-password").properties
    assert (refused["Threshold"], refused["DatapointsToAlarm"], refused["EvaluationPeriods"]) == (0, 2, 12)
    assert refused["Period"] * refused["EvaluationPeriods"] == 3600


def by_name(drill_days: int | None = None, **changed: object) -> dict[str, Alarm]:
    watched = Watched(Names(SUFFIX), settings(**changed), "machine", "queue", drill_days=drill_days)
    return {each.name: each for each in alarms(watched)}


def test_the_thresholds_of_the_credentials_alarms_follow_the_settings() -> None:
    found = by_name(rotationDays=7, refusedSignIns=5)
    assert found["rotation-overdue"].threshold == 8
    assert "every 7" in found["rotation-overdue"].description
    assert found["superseded-password"].threshold == 5


def rule(system: System, name: str) -> Resource:
    (found,) = [
        each
        for each in system.of("AWS::CloudWatch::CompositeAlarm")
        if each.properties["AlarmName"] == f"citizens-{name}-{SUFFIX}"
    ]
    return found


def test_the_primary_is_lost_when_both_witnesses_say_so(system: System) -> None:
    lost = rule(system, "primary-lost")
    assert lost.properties["AlarmRule"] == (
        f'ALARM("citizens-primary-unreachable-from-a-{SUFFIX}") AND '
        f'ALARM("citizens-primary-unreachable-from-c-{SUFFIX}")'
    )
    assert len(lost.body["DependsOn"]) == 2


def test_the_alarms_that_a_drill_awaits_are_there(system: System) -> None:
    made = {
        each.properties["AlarmName"]
        for kind in ("Alarm", "CompositeAlarm")
        for each in system.of(f"AWS::CloudWatch::{kind}")
    }
    awaited = {
        f"citizens-{name}-{SUFFIX}"
        for scenario in SCENARIOS.values()
        for name in (*scenario.telling_alarms, *scenario.possible_alarms)
    }
    assert awaited - made == set()


def test_composite_alarms_are_made_after_all_that_they_look_at_and_refer_to_nothing_else(system: System) -> None:
    known = {each.properties["AlarmName"]: each.logical_id for each in system.of("AWS::CloudWatch::Alarm")}
    names = {each.name for each in composites(Watched(Names(SUFFIX), settings(), "machine", "queue"))}
    assert names == {"primary-lost", "incident", "recovery-at-risk"}
    for name in names:
        found = rule(system, name)
        children = re.findall(r'ALARM\("([^"]+)"\)', found.properties["AlarmRule"])
        assert {known[child] for child in children} == set(found.body["DependsOn"])


def test_recovery_is_at_risk_by_any_one_thing_that_keeps_the_standby_from_taking_over(system: System) -> None:
    found = rule(system, "recovery-at-risk").properties["AlarmRule"]
    for name in ("takeover-hindered", "redundancy-lost", "standby-lag-from-a", "standby-lag-from-c"):
        assert f'(ALARM("citizens-{name}-{SUFFIX}"))' in found
    # One witness that does not reach the standby is that zone's trouble: the other's word is enough for the arbiter
    assert f'ALARM("citizens-standby-unreachable-from-a-{SUFFIX}") AND ' in found


def test_a_backup_of_the_standby_is_waited_for_as_long_as_the_arbiter_waits() -> None:
    chosen = settings()
    assert waiting_limit(chosen.detection, chosen.objectives) == MINUTES_OF_WAITING * 60


def test_the_objectives_decide_how_far_behind_and_for_how_long_is_too_much() -> None:
    usual, short = by_name(), by_name(rpoSeconds=1800)
    for name, share in (("standby-lag-from-a", 0.5), ("log-lag", 0.5), ("backups-missing", 0.5)):
        assert usual[name].threshold == 3600 * share
        assert short[name].threshold == 1800 * share
    for found, minutes in ((usual, 60), (short, 30)):
        assert found["redundancy-lost"].period * found["redundancy-lost"].periods == minutes * 60
        assert f"for {minutes} minutes" in found["redundancy-lost"].meaning


def test_a_recovery_point_is_overdue_when_the_plan_should_have_made_the_next_one(system: System) -> None:
    """The longest that the deployed plan leaves between two, and not a period of hours more than that."""
    (plan,) = system.of("AWS::Backup::BackupPlan")
    (rule,) = plan.properties["BackupPlan"]["BackupPlanRule"]
    assert re.fullmatch(r"cron\(0 \d+ \* \* \? \*\)", rule["ScheduleExpression"]), "once a day"
    hours = 24 + (rule["StartWindowMinutes"] + rule["CompletionWindowMinutes"]) / 60
    found = alarm(system, "backups-overdue").properties
    # The hour in which the newest was made counts as a whole one
    assert hours < found["Period"] * found["EvaluationPeriods"] / 3600 <= hours + 1
    # CloudWatch's limit for periods of an hour and more
    assert found["Period"] * found["EvaluationPeriods"] <= 7 * 86_400
    assert (found["Threshold"], found["ComparisonOperator"]) == (1, "LessThanThreshold")
    assert found["TreatMissingData"] == "breaching"
    (vault,) = system.of("AWS::Backup::BackupVault")
    assert found["Dimensions"] == [{"Name": "BackupVaultName", "Value": vault.properties["BackupVaultName"]}]
    assert f"over {hours:g} hours" in json.dumps(found["AlarmDescription"])


def test_the_instance_class_decides_how_many_connections_and_credits_are_too_many_or_few(system: System) -> None:
    group = system.of("AWS::RDS::DBParameterGroup")[0].properties["Parameters"]
    assert int(group["max_connections"]) == of("db.t4g.medium").max_connections == 360
    assert by_name()["connections-1"].threshold == 288
    # Two processors at full load for a quarter of an hour
    credits = by_name()["credits-1"]
    assert (credits.threshold, credits.below) == (30, True)
    assert credits.period * credits.periods >= 30 / 24 * 3600, "a new instance has earned them by then"
    large = by_name(instanceClass="db.r8g.48xlarge")
    assert "credits-1" not in large
    assert large["connections-1"].threshold == 4000


@pytest.mark.parametrize(
    ("name", "has"),
    [
        ("db.t3.micro", InstanceClass(2, 1, 12)),
        ("db.m5.large", InstanceClass(2, 8)),
        ("db.m6gd.16xlarge", InstanceClass(64, 256)),
        ("db.r7g.xlarge", InstanceClass(4, 32)),
        ("db.m8g.48xlarge", InstanceClass(192, 768)),
    ],
)
def test_a_class_has_the_processors_and_the_memory_that_aws_lists(name: str, has: InstanceClass) -> None:
    assert of(name) == has


def test_every_class_that_may_be_set_is_known_and_leaves_rds_its_share_of_memory() -> None:
    for name in INSTANCE_CLASSES:
        found = of(name)
        assert 80 < found.max_connections <= found.memory_gib * GIB / 9_531_392


def test_drills_are_missed_only_where_they_are_scheduled() -> None:
    yearly, monthly = by_name()["drill-overdue"], by_name(drill_days=30)["drill-overdue"]
    assert (yearly.threshold, yearly.missing) == (365, "notBreaching")
    assert (monthly.threshold, monthly.missing) == (32, "breaching")
    assert monthly.metric.dimensions == {"Suffix": SUFFIX}


def test_silence_of_witnesses_and_archive_is_a_fault_and_of_errors_is_not(system: System) -> None:
    for name in ("primary-unreachable-from-a", "standby-unreachable-from-c", "log-lag"):
        assert alarm(system, name).properties["TreatMissingData"] == "breaching"
    for name in ("machine-failed", "dead-letters", "rotation-errors", "cpu-1"):
        assert alarm(system, name).properties["TreatMissingData"] == "notBreaching"


def test_every_function_and_every_way_the_machine_can_end_badly_has_an_alarm(system: System) -> None:
    for name in FUNCTIONS:
        for what, metric in (("errors", "Errors"), ("throttles", "Throttles")):
            found = alarm(system, f"{name}-{what}").properties
            assert (found["Namespace"], found["MetricName"]) == ("AWS/Lambda", metric)
    for end in ("failed", "timedout", "aborted"):
        assert alarm(system, f"machine-{end}").properties["Namespace"] == "AWS/States"


def test_what_is_invoked_now_and_then_has_no_second_failure_to_wait_for(system: System) -> None:
    for name in FUNCTIONS:
        often = name in ("witness-a", "witness-c", "archive", "posture")
        assert alarm(system, f"{name}-errors").properties["EvaluationPeriods"] == (3 if often else 1)


@pytest.mark.parametrize("function", LONGEST_RUNS)
def test_where_one_runs_at_a_time_it_may_keep_the_next_out_as_long_as_it_may_run(system: System, function: str) -> None:
    names = {each.properties["FunctionName"]: each.properties for each in system.of("AWS::Lambda::Function")}
    timeout = names[f"citizens-{function}-{SUFFIX}"]["Timeout"]
    found = alarm(system, f"{function}-throttles").properties
    assert timeout < found["Period"] * found["EvaluationPeriods"] <= timeout + 120


def test_a_gap_in_the_log_is_an_alarm_at_once(system: System) -> None:
    properties = alarm(system, "log-gap").properties
    assert (properties["MetricName"], properties["Threshold"], properties["EvaluationPeriods"]) == ("LogGaps", 0, 1)


def test_lag_alarms_at_half_the_objective(system: System) -> None:
    for name in ("standby-lag-from-a", "standby-lag-from-c", "log-lag"):
        assert alarm(system, name).properties["Threshold"] == 1800


def test_both_members_are_watched_for_what_stops_a_primary(system: System) -> None:
    for number in (1, 2):
        for what in ("free-storage", "cpu", "memory", "connections", "credits", "slot-lag", "transaction-logs"):
            dimensions = alarm(system, f"{what}-{number}").properties["Dimensions"]
            assert dimensions == [{"Name": "DBInstanceIdentifier", "Value": f"citizens-{number}-{SUFFIX}"}]


def widgets(system: System) -> list[dict[str, Any]]:
    (found,) = system.of("AWS::CloudWatch::Dashboard")
    _, parts = found.properties["DashboardBody"]["Fn::Join"]
    text = "".join(part if isinstance(part, str) else "X" for part in parts)
    return list(json.loads(text)["widgets"])


def test_the_dashboard_begins_with_the_objectives_and_shows_roles_lag_log_incidents_and_all_alarms(
    system: System,
) -> None:
    shown = widgets(system)
    assert "Recovery time objective 900 s, recovery point objective 3600 s" in shown[0]["properties"]["markdown"]
    titles = [each["properties"].get("title", "") for each in shown]
    assert titles[1:5] == [
        "RPO now (s): at most 3600",
        "RTO predicted now (s): at most 900",
        "Days since a drill passed, one is held every 30",
        "The standby could take over (1: yes)",
    ]
    for title in ("Roles (2 primary, 1 standby, 0 neither)", "Standby lag (s)", "Transaction log lag (s)"):
        assert title in titles
    for title in ("Primary reachable", "Failover machine", "Function throttles", "CPU credits", "All alarms"):
        assert title in titles
    alarms_shown = {
        arn.rpartition(":")[2] for each in shown if each["type"] == "alarm" for arn in each["properties"]["alarms"]
    }
    made = [*system.of("AWS::CloudWatch::Alarm"), *system.of("AWS::CloudWatch::CompositeAlarm")]
    assert alarms_shown == {each.properties["AlarmName"] for each in made}


def test_no_two_widgets_of_the_dashboard_lie_upon_each_other_or_leave_its_columns(system: System) -> None:
    taken: set[tuple[int, int]] = set()
    for each in widgets(system):
        cells = {
            (x, y)
            for x in range(each["x"], each["x"] + each["width"])
            for y in range(each["y"], each["y"] + each["height"])
        }
        assert not cells & taken
        assert all(x < 24 for x, _ in cells)
        taken |= cells
    assert len(taken) == 24 * (max(y for _, y in taken) + 1), "and none leaves a hole"


def test_the_lines_of_the_dashboard_are_where_the_alarms_go_off(system: System) -> None:
    lines = {
        each["properties"]["title"]: {
            line["value"] for line in each["properties"].get("annotations", {}).get("horizontal", ())
        }
        for each in widgets(system)
        if each["type"] == "metric"
    }
    for title, name in (
        ("Standby lag (s)", "standby-lag-from-a"),
        ("Connections", "connections-1"),
        ("Free storage (bytes)", "free-storage-1"),
        ("Age of the password (days)", "rotation-overdue"),
        ("Transaction log lag (s)", "log-lag"),
    ):
        assert alarm(system, name).properties["Threshold"] in lines[title]


def test_every_widget_of_a_metric_says_what_it_shows_and_in_which_unit(system: System) -> None:
    for each in widgets(system):
        if each["type"] == "metric":
            properties = each["properties"]
            assert properties["region"] == "eu-central-2"
            assert all(isinstance(line[-1], dict) and line[-1]["label"] for line in properties["metrics"])
            namespaces = {line[0] for line in properties["metrics"]}
            assert len(namespaces) == 1


def test_without_the_log_or_credits_the_dashboard_shows_nothing_that_is_not_there() -> None:
    watched = Watched(Names(SUFFIX), settings(transactionLog=False, instanceClass="db.m8g.large"), "machine", "queue")
    titles = [each["properties"].get("title") for each in body(watched, "eu-central-2", "1")["widgets"]]
    assert "CPU credits" not in titles
    assert "Replica lag as RDS sees it (s)" in titles
