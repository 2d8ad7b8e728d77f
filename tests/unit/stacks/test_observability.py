import json
import re

from stacks.alarms import DESCRIPTION_LENGTH, Watched, alarms
from stacks.names import FUNCTIONS, Names
from tests.unit.stacks.conftest import SUFFIX, Resource, System, settings


def alarm(system: System, name: str) -> Resource:
    (found,) = [
        each
        for each in system.of("AWS::CloudWatch::Alarm")
        if each.properties["AlarmName"] == f"citizens-{name}-{SUFFIX}"
    ]
    return found


def test_every_alarm_tells_the_topic_when_it_starts_and_when_it_ends(system: System) -> None:
    alarms = [*system.of("AWS::CloudWatch::Alarm"), *system.of("AWS::CloudWatch::CompositeAlarm")]
    assert len(alarms) > 30
    for each in alarms:
        assert each.properties["AlarmActions"] == each.properties["OKActions"]
        assert len(each.properties["AlarmActions"]) == 1


def test_every_alarm_says_how_urgent_it_is_what_it_means_and_what_to_do(system: System) -> None:
    for each in [*system.of("AWS::CloudWatch::Alarm"), *system.of("AWS::CloudWatch::CompositeAlarm")]:
        description = json.dumps(each.properties["AlarmDescription"])
        found = re.fullmatch(r".*?(Critical|Warning): (.{20,}?)\. What to do: (.{20,})\..*", description)
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


def test_the_thresholds_of_the_credentials_alarms_follow_the_settings() -> None:
    by_name = {
        each.name: each
        for each in alarms(Watched(Names(SUFFIX), settings(rotationDays=7, refusedSignIns=5), "machine", "queue"))
    }
    assert by_name["rotation-overdue"].threshold == 8
    assert "every 7" in by_name["rotation-overdue"].description
    assert by_name["superseded-password"].threshold == 5


def test_the_primary_is_lost_when_both_witnesses_say_so(system: System) -> None:
    (composite,) = system.of("AWS::CloudWatch::CompositeAlarm")
    assert composite.properties["AlarmRule"] == (
        f'ALARM("citizens-primary-unreachable-from-a-{SUFFIX}") AND '
        f'ALARM("citizens-primary-unreachable-from-c-{SUFFIX}")'
    )
    assert len(composite.body["DependsOn"]) == 2


def test_silence_of_witnesses_and_archive_is_a_fault_and_of_errors_is_not(system: System) -> None:
    for name in ("primary-unreachable-from-a", "standby-unreachable-from-c", "log-lag"):
        assert alarm(system, name).properties["TreatMissingData"] == "breaching"
    for name in ("machine-failed", "dead-letters", "rotation-errors", "cpu-1"):
        assert alarm(system, name).properties["TreatMissingData"] == "notBreaching"


def test_every_function_and_every_way_the_machine_can_end_badly_has_an_alarm(system: System) -> None:
    for name in FUNCTIONS:
        assert alarm(system, f"{name}-errors").properties["Namespace"] == "AWS/Lambda"
    for end in ("failed", "timedout", "aborted"):
        assert alarm(system, f"machine-{end}").properties["Namespace"] == "AWS/States"


def test_a_gap_in_the_log_is_an_alarm_at_once(system: System) -> None:
    properties = alarm(system, "log-gap").properties
    assert (properties["MetricName"], properties["Threshold"], properties["EvaluationPeriods"]) == ("LogGaps", 0, 1)


def test_lag_alarms_at_half_the_objective(system: System) -> None:
    for name in ("standby-lag-from-a", "standby-lag-from-c", "log-lag"):
        assert alarm(system, name).properties["Threshold"] == 1800


def test_both_members_are_watched_for_what_stops_a_primary(system: System) -> None:
    for number in (1, 2):
        for what in ("free-storage", "cpu", "memory", "connections", "slot-lag", "transaction-logs"):
            dimensions = alarm(system, f"{what}-{number}").properties["Dimensions"]
            assert dimensions == [{"Name": "DBInstanceIdentifier", "Value": f"citizens-{number}-{SUFFIX}"}]


def test_the_dashboard_shows_reachability_lag_and_the_machine(system: System) -> None:
    (dashboard,) = system.of("AWS::CloudWatch::Dashboard")
    body = json.dumps(dashboard.properties["DashboardBody"])
    for title in ("Primary reachable", "Standby lag", "Transaction log lag", "Failover machine"):
        assert title in body
