"""What this system does for which control: the statement, where to find what does it, which tests show it, which
evidence is made, and what stays the agency's.

A statement is written for its control and filled in with what the settings and the templates say (`facts`). Resources
are found by rules over the templates. A control that is not here, and every part that a row leaves to the agency, is
the agency's: `docs/compliance.md`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from stacks.settings import Settings
from stacks.templates import Resource, Selector, System


def of(*kinds: str, named: str = "*", where: Callable[[Resource], bool] = lambda _: True) -> Selector:
    """The resources of these types (`RDS::DBInstance`) whose logical id matches and which are as asked."""

    def found(system: System) -> list[Resource]:
        return [
            each
            for kind in kinds
            for each in system.of(f"AWS::{kind}")
            if fnmatchcase(each.logical_id, named) and where(each)
        ]

    return found


@dataclass(frozen=True)
class Implementation:
    """A control as far as the system implements it. `agency` is what it leaves to the agency (empty: nothing).

    `tests` are node ids below `tests/`; `evidence` names what `assessment.evidence` finds; `when` tells for which
    settings it holds.
    """

    control: str
    statement: str
    resources: tuple[Selector, ...]
    tests: tuple[str, ...]
    evidence: tuple[str, ...] = ()
    agency: str = ""
    when: Callable[[Settings], bool] = lambda _: True


def with_log(settings: Settings) -> bool:
    """Whether the transaction log is kept."""
    return settings.transaction_log


MEMBERS = of("RDS::DBInstance")
PARAMETERS = of("RDS::DBParameterGroup")
FUNCTIONS = of("Lambda::Function")
ROLES, POLICIES = of("IAM::Role"), of("IAM::ManagedPolicy")
KEYS = of("KMS::Key")
LOG_GROUPS = of("Logs::LogGroup")
ALARMS = of("CloudWatch::Alarm", "CloudWatch::CompositeAlarm")
FLOW_LOG = of("EC2::FlowLog")
GROUPS = of("EC2::SecurityGroup", "EC2::SecurityGroupIngress", "EC2::SecurityGroupEgress")
ENDPOINTS = of("EC2::VPCEndpoint")
SUBNETS = of("EC2::Subnet")
FILES = of("EFS::FileSystem")
TABLE = of("DynamoDB::Table")
BACKUP = of("Backup::BackupPlan", "Backup::BackupSelection", "Backup::BackupVault")
TOPIC = of("SNS::Topic")
QUEUE = of("SQS::Queue")
MACHINES = of("StepFunctions::StateMachine")
FAILOVER_MACHINE = of("StepFunctions::StateMachine", named="Machine")
ROTATION = of("SecretsManager::RotationSchedule", "SecretsManager::SecretTargetAttachment")
ROTATION_FUNCTION = of("Lambda::Function", named="Rotation")
WITNESSES = of("Lambda::Function", "Scheduler::Schedule", named="Witness*")
LOG_FUNCTIONS = of("Lambda::Function", where=lambda each: each.stack == "TransactionLog")
DRILLS = of("StepFunctions::StateMachine", "Lambda::Function", "Scheduler::Schedule", named="Drill*")
POSTURE = of("Lambda::Function", "Scheduler::Schedule", named="Posture*")
LOG_CARE = of("Lambda::Function", "Scheduler::Schedule", named="LogCare*")
EVIDENCE = of(
    *("S3::Bucket", "S3::BucketPolicy", "Lambda::Function", "Scheduler::Schedule", "Events::Rule"),
    where=lambda each: each.stack == "Evidence",
)
MOUNTS = of("EFS::MountTarget", "EFS::AccessPoint")
NETWORK_ALARMS = of("CloudWatch::Alarm", named="PrimaryUnreachable*")
CREDENTIAL_ALARMS = of("CloudWatch::Alarm", named="Rotation*")

STACKS = "unit/stacks/test_"
WORKFLOW = "integration/test_workflow.py::test_"
PREPARATION = "unit/recovery/test_preparation.py::test_"
ROTATING = "unit/recovery/test_secret_and_rotation.py::test_"
PIPELINES = "unit/test_workflows.py::test_"

IMPLEMENTATIONS: tuple[Implementation, ...] = (
    Implementation(
        "AC-2",
        "Every part of the system acts under an account of its own: {roles} IAM roles, each with one customer-managed "
        "policy of the same name, and a database role for each function that signs in. Those database roles have no "
        "password; they sign in by IAM authentication with tokens that are valid for 15 minutes. Roles that were lost "
        "or changed are put right, and rights that somebody added are taken away, every five minutes.",
        (ROLES, POLICIES),
        (
            f"{STACKS}templates.py::test_functions_machine_and_schedules_have_a_role_each",
            f"{STACKS}functions.py::test_each_function_signs_in_as_its_own_user",
            f"{PREPARATION}no_role_has_a_password_and_none_can_be_used",
            f"{PREPARATION}what_was_lost_or_changed_comes_back_and_what_was_added_goes",
        ),
        ("least-privilege",),
        "Accounts of people and of applications: their approval, review, transfer and removal, and who may use the "
        "secret of the database's main user.",
    ),
    Implementation(
        "AC-2(4)",
        "Both members log every connection, disconnection and refused sign-in, and their logs are exported to "
        "encrypted groups. Refused sign-ins beyond {refused_sign_ins} in five minutes raise an alarm when "
        "they go on.",
        (MEMBERS, PARAMETERS, of("Logs::MetricFilter"), of("CloudWatch::Alarm", named="SupersededPassword")),
        (
            f"{STACKS}database.py::test_the_parameters_force_tls_log_connections_and_bound_a_stuck_slot",
            f"{WORKFLOW}a_password_that_was_superseded_is_an_alarm_when_it_is_used_again_and_again",
        ),
        agency="CloudTrail for the account, which logs changes of IAM roles, and an audit of DDL by people "
        "(pgaudit is not loaded).",
    ),
    Implementation(
        "AC-3",
        "Access is decided by IAM policies without wildcard actions, by resource policies of queue, topic, file system "
        "and keys, by security groups, and in the database by roles with the rights of one job. Only "
        "rotation's role may read or change the secret.",
        (POLICIES, KEYS, GROUPS, of("SNS::TopicPolicy", "SQS::QueuePolicy"), FILES),
        (
            f"{STACKS}templates.py::test_no_permission_has_a_wildcard_action",
            f"{STACKS}functions.py::test_only_rotations_role_may_read_or_change_the_secret",
            f"{PREPARATION}each_role_may_do_its_own_job_and_not_another_ones",
            "integration/test_least_privilege.py::test_an_exercise_fails_without_any_one_permission_that_it_uses",
        ),
        ("least-privilege",),
        "What applications and people may do with the data: their database roles and rights.",
    ),
    Implementation(
        "AC-4",
        "The VPC ({vpc_cidr}) has no internet gateway, no NAT and no peering. A member takes connections on port 5432 "
        "only from the application ranges ({application_cidrs}) and from the system's functions; functions reach AWS "
        "through {endpoints} endpoints whose policies allow only what is called. The default security group is closed "
        "every day. A failover takes the ingress of the lost member away before anything is promoted.",
        (of("EC2::VPC"), GROUPS, ENDPOINTS, of("Scheduler::Schedule", named="CloseDefaultGroup*")),
        (
            f"{STACKS}network.py::test_a_member_lets_in_only_applications_and_functions_on_the_database_port",
            f"{STACKS}network.py::test_no_group_lets_the_world_in_or_everything_out",
            f"{STACKS}network.py::test_functions_reach_aws_by_private_endpoints_that_allow_only_what_they_call",
            f"{STACKS}failover.py::test_a_lost_primary_is_fenced_before_the_standby_is_promoted",
            f"{WORKFLOW}the_default_group_of_the_vpc_lets_nothing_in_or_out",
        ),
        ("drill",),
        "The way from the application ranges to the VPC, and what applications let out.",
    ),
    Implementation(
        "AC-5",
        "Duties are apart: who administers the keys cannot decrypt with them, each "
        "function has the rights of its own step, and a pipeline's role is bound to one environment.",
        (KEYS, ROLES, POLICIES),
        (
            f"{STACKS}security.py::test_administrators_manage_keys_but_cannot_decrypt",
            f"{STACKS}templates.py::test_functions_machine_and_schedules_have_a_role_each",
            f"{PIPELINES}only_one_github_environment_of_the_repository_can_become_the_documented_role",
        ),
        agency="Which person holds which duty.",
    ),
    Implementation(
        "AC-6",
        "No role has an inline policy, an AWS managed policy or a wildcard action; a wildcard resource stands only "
        "where its reason is written. Each action is taken away once and work must fail without it; what cannot be "
        "shown in the local cloud is excused by name and reason.",
        (ROLES, POLICIES),
        (
            f"{STACKS}templates.py::test_no_role_has_an_inline_or_an_aws_managed_policy",
            f"{STACKS}templates.py::test_a_wildcard_resource_is_only_where_the_reason_is_written",
            f"{STACKS}templates.py::test_every_excuse_for_an_unused_permission_is_granted_to_somebody",
            "integration/test_least_privilege.py::test_each_function_of_the_sample_uses_everything_it_may",
        ),
        ("least-privilege",),
        "The privileges of people, of the deploying role and of the database's main user.",
    ),
    Implementation(
        "AC-6(10)",
        "A database role of a function can do its own job and no other's, and has no right beyond it. Rotation alone "
        "signs in as the main user, whose password it changes; that user is no superuser on RDS.",
        (FUNCTIONS, POLICIES),
        (
            f"{PREPARATION}no_role_may_do_more_than_its_job",
            f"{PREPARATION}each_role_may_do_its_own_job_and_not_another_ones",
        ),
        ("least-privilege",),
        "The same for people and applications.",
    ),
    Implementation(
        "AU-2",
        "Logged are: connections, disconnections, refused sign-ins, lock waits and slow statements of both members; "
        "all accepted and rejected traffic of the VPC; every event of the state machines with its data; every run of "
        "every function.",
        (PARAMETERS, MEMBERS, FLOW_LOG, MACHINES, LOG_GROUPS),
        (
            f"{STACKS}logging.py::test_both_logs_of_both_members_have_their_group_before_the_member_writes",
            f"{STACKS}logging.py::test_the_machine_logs_every_event_with_its_data",
            f"{STACKS}logging.py::test_accepted_and_rejected_traffic_is_logged",
            f"{STACKS}logging.py::test_every_function_logs_into_a_group_of_its_own",
        ),
        agency="Events of applications, of people's work in the database (pgaudit) and of the account (CloudTrail).",
    ),
    Implementation(
        "AU-3",
        "Records of functions are JSON objects: the event, when (UTC) and what belongs to it. An incident's record "
        "holds the decision with the numbers it was made from and a timeline with the source of each stamp. RDS's "
        "and the flow log's records have their own fields for the same.",
        (LOG_GROUPS, TABLE),
        (
            f"{STACKS}failover.py::test_the_record_holds_outcome_decision_and_timeline",
            "unit/recovery/test_arbiter.py::test_the_inputs_say_which_observations_counted",
            f"{WORKFLOW}the_incident_is_recorded_and_its_lease_released",
        ),
        ("drill",),
        "The content of applications' records.",
    ),
    Implementation(
        "AU-6",
        "{alarms} alarms evaluate logs and metrics all the time; each says how urgent it is, what it means and what "
        "to do, and tells the alert topic when it begins and when it ends.",
        (ALARMS, TOPIC, of("Logs::MetricFilter")),
        (
            f"{STACKS}observability.py::test_every_alarm_says_how_urgent_it_is_what_it_means_and_what_to_do",
            f"{STACKS}observability.py::test_every_alarm_tells_the_topic_when_it_starts_and_when_it_ends",
        ),
        agency="People who review the records at least weekly, and report what they find.",
    ),
    Implementation(
        "AU-6(1)",
        "Records are evaluated automatically: metric filters over the members' and the functions' logs feed alarms "
        "for failed and overdue rotations and refused passwords.",
        (of("Logs::MetricFilter"), ALARMS),
        (
            f"{STACKS}observability.py::test_no_two_alarms_share_a_name_and_what_a_log_is_measured_for_has_an_alarm",
            f"{WORKFLOW}no_rotation_runs_during_an_incident_and_an_alarm_says_that_it_failed",
        ),
        agency="The tools of the agency's own reviews.",
    ),
    Implementation(
        "AU-6(3)",
        "Logs of members, functions, machines and network are in one service of one region, in groups whose names "
        "carry the environment, with times in UTC; the dashboard puts reachability, lag and the machine side by side.",
        (LOG_GROUPS, of("CloudWatch::Dashboard")),
        (
            f"{STACKS}observability.py::test_the_dashboard_begins_with_the_objectives_and_shows_roles_lag_log_incidents_and_all_alarms",
            f"{STACKS}templates.py::test_every_physical_name_carries_the_suffix",
        ),
        agency="Correlation with records of other systems.",
    ),
    Implementation(
        "AU-8",
        "Records carry UTC times to the millisecond from the clocks of AWS's services; a decision takes no two clocks "
        "for one: an observation counts by its age within a tolerance.",
        (LOG_GROUPS, TABLE),
        (
            "unit/recovery/test_records.py::test_times_keep_their_milliseconds",
            "unit/recovery/test_arbiter.py::"
            "test_a_clock_that_is_off_within_the_tolerance_does_not_hide_a_healthy_primary",
        ),
    ),
    Implementation(
        "AU-9",
        "Every log group is encrypted with a key that serves log groups alone. A function may write to its own group "
        "and to no other; no role of the system may delete a group, nor create one but the group that enhanced "
        "monitoring shares in an account. What happened (incidents, operations, drills) is sealed in a chain of hashes "
        "and exported to a versioned, encrypted bucket, whose writer may read and delete nothing of it; a change in "
        "chain, table or bucket is found by `make evidence VERIFY=yes`.",
        (LOG_GROUPS, of("KMS::Key", named="Log*"), POLICIES, EVIDENCE),
        (
            "unit/recovery/test_evidence.py::test_any_changed_field_of_any_entry_is_found",
            "unit/recovery/test_evidence.py::test_any_removed_entry_is_found_also_the_last_ones",
            "unit/recovery/test_evidence_store.py::test_a_changed_or_deleted_object_is_found",
            f"{STACKS}evidence.py::test_the_bucket_is_private_encrypted_and_keeps_every_version",
            f"{STACKS}evidence.py::test_the_function_may_write_records_and_read_or_delete_nothing_of_the_bucket",
            f"{STACKS}logging.py::test_a_function_may_write_to_its_own_group_and_to_no_other",
            f"{STACKS}logging.py::test_nobody_may_create_a_group_but_the_one_that_the_account_shares",
            f"{STACKS}security.py::test_the_log_key_serves_our_log_groups_alone",
        ),
        ("least-privilege",),
        "Who of the agency may read or delete logs.",
    ),
    Implementation(
        "AU-11",
        "All {log_groups} log groups keep their records for {log_retention_days} days; a protected environment refuses "
        "less than 365.",
        (LOG_GROUPS,),
        (
            f"{STACKS}logging.py::test_every_group_is_somebodys_encrypted_and_kept_for_a_year_unless_set_otherwise",
            f"{WORKFLOW}every_log_group_has_a_key_and_an_end_of_retention",
        ),
        agency="Longer retention where the agency's records schedule asks for it.",
    ),
    Implementation(
        "AU-12",
        "Each component generates its records from its first moment: log groups exist before what writes to them, and "
        "the parameters that log connections are part of the members' parameter group.",
        (LOG_GROUPS, MEMBERS, PARAMETERS, FLOW_LOG),
        (
            f"{STACKS}database.py::test_log_groups_exist_before_the_members_that_write_them",
            f"{STACKS}logging.py::test_whatever_else_is_deployed_is_known_to_make_no_group",
        ),
        agency="Records of applications.",
    ),
    Implementation(
        "CA-7",
        "Two witnesses, one in each zone, probe both members every {probe_interval_seconds:g} s; what a failover could "
        "promise now is computed each minute; enhanced monitoring and {alarms} alarms watch members, functions, "
        "machines, the log and credentials. Functions have reserved concurrency and a dead-letter queue with an alarm, "
        "so that none fails unseen.",
        (WITNESSES, POSTURE, ALARMS, QUEUE, MEMBERS, FUNCTIONS),
        (
            "unit/recovery/test_posture.py::"
            "test_a_healthy_pair_is_ready_within_the_proved_bound_and_the_worse_witness_tells_the_lag",
            f"{STACKS}observability.py::test_every_function_and_every_way_the_machine_can_end_badly_has_an_alarm",
            f"{STACKS}observability.py::test_silence_of_witnesses_and_archive_is_a_fault_and_of_errors_is_not",
            f"{WORKFLOW}both_witnesses_report_within_two_minutes",
        ),
        ("drill",),
        "The strategy of continuous monitoring, assessments by people, and reports to the authorizing official.",
    ),
    Implementation(
        "CM-2",
        "The configuration is the templates of this version (SHA-256 {template_sha256}), synthesised from code; every "
        "template is kept as a snapshot that a test compares.",
        (of("CloudFormation::Stack"),),
        (
            f"{STACKS}stability.py::test_a_template_is_as_kept",
            f"{STACKS}function_package.py::test_the_same_sources_give_the_same_package",
        ),
        agency="The baseline of everything around this system.",
    ),
    Implementation(
        "CM-2(2)",
        "Deploying is automated and changes nothing that is as described: after failovers, rotations and switchovers "
        "the difference between templates and account is empty.",
        (of("CloudFormation::Stack"),),
        (
            f"{WORKFLOW}deploying_again_changes_nothing",
            f"{WORKFLOW}an_infrastructure_diff_after_every_change_of_roles_is_empty",
        ),
        agency="A look for drift on the account from time to time (`cdk diff`).",
    ),
    Implementation(
        "CM-3(2)",
        "A change is tested before it is deployed: the same templates, functions and machines run in a local cloud "
        "against real PostgreSQL, and pipelines run all checks for every push and pull request.",
        (of("CloudFormation::Stack"),),
        (
            f"{PIPELINES}checks_run_for_every_push_and_pull_request_on_the_oldest_and_the_newest_python",
            "integration/test_environments.py::test_a_changed_setting_updates_its_nested_stack_in_place",
        ),
        ("drill",),
        "Approval of changes, and the test environment in the agency's own account.",
    ),
    Implementation(
        "CM-4",
        "Before a deploy the impact is known: the list of what holds data and of the properties that would replace it "
        "is compared in a test, and `make preflight` says what the account lacks.",
        (MEMBERS, FILES, TABLE, KEYS),
        (
            f"{STACKS}stability.py::test_no_resource_that_holds_data_would_be_replaced",
            f"{STACKS}stability.py::test_everything_that_holds_data_is_on_the_list_with_what_replaces_it",
            "integration/test_preflight.py::test_an_account_that_has_everything_passes_every_check",
        ),
        agency="The analysis of what a change means for privacy and for other systems.",
    ),
    Implementation(
        "CM-6",
        "Settings are typed, bounded and checked before anything starts. Two policy packs (AWS Solutions, NIST 800-53 "
        "R5) judge every synthesis, and a finding that stays is acknowledged beside its construct with the reason; "
        "stale acknowledgements fail a test. The Config rules of FedRAMP Moderate are checked against the templates.",
        (of("CloudFormation::Stack"),),
        (
            f"{STACKS}settings.py::test_a_wrong_value_is_refused_in_one_sentence",
            f"{STACKS}policy_packs.py::test_every_finding_is_acknowledged_on_its_own_construct_and_no_acknowledgement_"
            "is_stale",
            f"{STACKS}fedramp_moderate.py::test_broken_templates_do_not_meet",
        ),
        agency="Approval of the acknowledgements, and settings of everything around this system.",
    ),
    Implementation(
        "CM-7",
        "Functions hold the driver and this system's code alone; they exist only while their permissions do; security "
        "groups open one port to the database; endpoint policies allow only what is called.",
        (FUNCTIONS, ENDPOINTS, GROUPS),
        (
            f"{STACKS}functions.py::test_the_functions_are_those_of_the_design_and_no_other",
            f"{STACKS}function_package.py::test_the_driver_and_our_code_work_without_anything_else",
            f"{STACKS}network.py::test_functions_reach_aws_by_private_endpoints_that_allow_only_what_they_call",
        ),
        agency="Extensions and features that applications use in the database.",
    ),
    Implementation(
        "CM-8",
        "The inventory is the templates: {resources} resources of {types} types with physical names that carry the "
        "environment and six tags (project, environment, owner, data classification, compliance, managed by).",
        (of("CloudFormation::Stack"),),
        (
            f"{STACKS}templates.py::test_everything_that_takes_tags_has_all_six",
            f"{STACKS}templates.py::test_every_physical_name_carries_the_suffix",
        ),
        agency="The inventory of the whole system, and who is accountable for each part.",
    ),
    Implementation(
        "CP-2",
        "The objectives are written down and proved at synthesis: RTO {rto_seconds} s with a worst case of "
        "{worst_rto:g} s, detection within {detection:g} s, RPO {rpo_seconds} s{log_behind}. What happens when is a "
        "table of rehearsed scenarios, and each alarm names the next step.",
        (FAILOVER_MACHINE, of("CloudFormation::Stack")),
        (
            f"{STACKS}promise.py::test_the_worst_case_is_within_720_seconds_with_480_for_the_promotion",
            f"{STACKS}promise.py::test_a_broken_promise_fails_the_synthesis_with_one_sentence_and_no_traceback",
            "unit/drills/test_scenarios.py::test_every_scenario_says_what_happens_and_what_comes_of_it",
        ),
        ("drill", "incidents"),
        "The plan itself: roles of people, contacts, priorities of the mission, its review and distribution.",
    ),
    Implementation(
        "CP-4",
        "In the account a drill promotes a throw-away replica and restores the newest backup {drills}, verifies both "
        "and deletes them; an alarm tells when none has succeeded for too long. In the local cloud `make drill` loses "
        "the primary for good under load and measures the outage at the clients and what is missing; other scenarios "
        "fail other parts. A drill that saw no outage or lost its own probe says `not measured`. Reports hold all "
        "that a Contingency Plan Test Report asks for, with the commit and hashes of templates and plan.",
        (FAILOVER_MACHINE, DRILLS, of("CloudWatch::Alarm", named="Drill*")),
        (
            "integration/test_commands.py::test_a_drill_meets_its_objectives_reports_and_leaves_nothing",
            "integration/test_drills_on_aws.py::"
            "test_the_schedule_holds_the_drill_that_is_due_and_tells_how_long_ago_it_passed",
            "integration/test_drills_on_aws.py::"
            "test_a_switchover_on_command_changes_the_roles_and_is_kept_as_a_drill_too",
            "unit/drills/test_report.py::"
            "test_every_item_of_a_contingency_plan_test_report_is_in_the_record_and_on_the_page",
            "unit/functions/test_drill.py::test_the_record_of_a_drill_tells_all_that_a_test_report_has_to_tell",
            "unit/drills/test_measurement.py::test_no_outage_seen_is_not_measured",
            f"{STACKS}observability.py::test_drills_are_missed_only_where_they_are_scheduled",
            f"{WORKFLOW}the_standby_takes_over_when_the_primary_is_lost",
        ),
        ("drill", "incidents"),
        "A functional exercise of the whole plan at least yearly, with its people, its review and the corrective "
        "actions. The reports cited here are of the local cloud.",
    ),
    Implementation(
        "CP-6",
        "Data is kept in both zones {zones} at once: RDS's synchronous copies, the standby, and the file system of "
        "the transaction log; recovery points are in a vault of their own.",
        (MEMBERS, FILES, MOUNTS, BACKUP),
        (
            f"{STACKS}database.py::test_both_members_are_multi_az_monitored_backed_up_and_private",
            f"{STACKS}storage.py::test_there_is_a_mount_target_in_each_zone_and_an_access_point_that_is_not_root",
            f"{STACKS}storage.py::test_everything_that_holds_data_is_backed_up_daily_for_35_days",
        ),
        agency="Storage outside of {region}, if the agency wants any: everything here is in one region.",
    ),
    Implementation(
        "CP-6(1)",
        "The copies are in availability zones, which AWS builds physically apart, with power and network of their own.",
        (SUBNETS, MOUNTS),
        (
            f"{STACKS}network.py::test_the_vpc_spans_two_zones_and_knows_no_internet",
            f"{STACKS}storage.py::test_there_is_a_mount_target_in_each_zone_and_an_access_point_that_is_not_root",
        ),
        ("drill zone-a-lost", "drill zone-c-lost", "drill shared-zone-lost"),
        "The judgement whether zones of one region are apart enough for the threats of the agency's risk assessment.",
    ),
    Implementation(
        "CP-7",
        "Processing goes on in the other zone: a Multi-AZ failover by RDS within the grace of "
        "{multi_az_grace_seconds} s, or else the standby is promoted; the worst case is {worst_rto:g} s of "
        "{rto_seconds} s. A witness in each zone decides with RDS's own status, so the loss of a zone with its "
        "witness blocks nothing.",
        (MEMBERS, FAILOVER_MACHINE, WITNESSES),
        (
            f"{WORKFLOW}the_standby_takes_over_when_the_primary_is_lost",
            f"{STACKS}functions.py::test_each_witness_is_pinned_to_one_zone_and_the_others_are_not",
            "unit/recovery/test_arbiter.py::test_one_signal_is_not_enough",
        ),
        ("drill", "drill zone-a-lost"),
        "Processing outside of {region}, if the agency wants any, and the applications' own second place.",
    ),
    Implementation(
        "CP-7(1)",
        "Members, functions and endpoints are in the zones {zones}, which AWS builds physically apart.",
        (SUBNETS, MEMBERS, ENDPOINTS),
        (f"{STACKS}network.py::test_the_vpc_spans_two_zones_and_knows_no_internet",),
        ("drill zone-a-lost", "drill zone-c-lost", "drill shared-zone-lost"),
        "The judgement whether zones of one region are apart enough.",
    ),
    Implementation(
        "CP-9",
        "Members have automated backups with point-in-time restore for {backup_retention_days} days; a plan backs "
        "up members, log and recovery table daily and keeps them {plan_days} days in an encrypted "
        "vault{vault_lock}.{log_kept}",
        (MEMBERS, BACKUP, TABLE, FILES),
        (
            f"{STACKS}storage.py::test_everything_that_holds_data_is_backed_up_daily_for_35_days",
            f"{STACKS}storage.py::test_the_recovery_table_is_encrypted_recoverable_and_forgets_what_expired",
            f"{STACKS}transaction_log.py::test_the_backup_plan_takes_the_logs_files_every_day",
        ),
        agency="Backups of documentation and of what is not in this database; a third copy off-line, if asked for.",
    ),
    Implementation(
        "CP-9(1)",
        "A restore is rehearsed, not assumed: in the account a drill restores the newest backup {drills} and rolls it "
        "forward; in the local cloud a dropped table is found in the log and restored by two commands beside the "
        "members, and the content is compared; the log is verified segment by segment.",
        (BACKUP, DRILLS, LOG_CARE),
        (
            "integration/test_drills_on_aws.py::test_the_newest_backup_is_restored_rolled_forward_and_deleted_again",
            "integration/test_restore.py::test_a_dropped_table_is_found_in_the_log_and_restored_by_two_commands",
            "unit/recovery/test_roll_forward_targets.py::test_an_operator_finds_the_transaction_and_stops_before_it",
            "unit/recovery/test_verification_of_the_log.py::test_damage_is_a_failure_with_its_name",
        ),
        ("drill table-dropped",),
        "Reading the drills' results, and restores of applications.",
        when=with_log,
    ),
    Implementation(
        "CP-9(8)",
        "Recovery points, automated backups and the transaction log are encrypted with a customer-managed key.",
        (BACKUP, FILES, MEMBERS, KEYS),
        (
            f"{STACKS}storage.py::test_the_file_system_is_encrypted_and_refuses_plaintext_mounts",
            f"{STACKS}security.py::test_every_key_is_customer_managed_and_rotates",
        ),
    ),
    Implementation(
        "CP-10",
        "Recovery to a known state is automatic: fence, promote, {log_steps}cut over, verify with a "
        "write as an application would, record. It is proved to end within {worst_rto:g} s and to lose no more than "
        "{rpo_seconds} s; beyond that it refuses and says why. The lost member is {reprotect}.",
        (FAILOVER_MACHINE, MACHINES, MEMBERS),
        (
            f"{WORKFLOW}the_standby_takes_over_when_the_primary_is_lost",
            f"{STACKS}failover.py::test_every_path_ends_in_record_then_notify_and_in_nothing_else",
            "unit/recovery/test_arbiter.py::test_every_situation_is_decided_within_the_rules",
            "unit/recovery/test_cutover.py::test_a_recovered_primary_keeps_what_an_application_writes",
            f"{WORKFLOW}the_lost_member_is_made_again_by_itself_as_the_template_describes_it",
        ),
        ("drill", "incidents", "benchmarks"),
        "Recovery of applications, and people's decision where the system refuses.",
    ),
    Implementation(
        "CP-10(2)",
        "Committed transactions that a promoted standby or a restore lacks are taken from the transaction log and "
        "applied, to a position, a time or just before a transaction; the account lists what the standby had, what "
        "the log added and what is known to be missing.",
        (LOG_FUNCTIONS, FILES),
        (
            "unit/recovery/test_roll_forward_targets.py::test_onto_a_promoted_standby_what_it_lacked_and_nothing_else",
            "unit/recovery/test_roll_forward_model.py::test_whatever_was_committed_is_the_same_after_a_roll_forward",
            "unit/recovery/test_transaction_log.py::test_killed_anywhere_nothing_is_lost_or_doubled",
        ),
        ("drill standby-lags", "drill table-dropped", "benchmarks"),
        when=with_log,
    ),
    Implementation(
        "IA-5",
        "The password of the database's main user is the agency's secret, rotated every {rotation_days} days in four "
        "steps that may be killed or repeated anywhere; none runs during an incident. A rotation that failed or is "
        "overdue raises an alarm. Functions other than rotation sign in without a password.",
        (ROTATION, ROTATION_FUNCTION, CREDENTIAL_ALARMS),
        (
            f"{ROTATING}four_steps_change_the_password_and_nothing_else",
            f"{ROTATING}killed_at_any_call_a_rotation_leaves_a_password_that_works_and_the_next_one_ends",
            f"{WORKFLOW}thirty_days_later_the_password_has_changed_by_itself",
            f"{WORKFLOW}a_rotation_that_is_overdue_is_an_alarm_until_it_has_run",
        ),
        ("benchmarks",),
        "Authenticators of people and applications, and the first value of the secret.",
    ),
    Implementation(
        "IA-5(1)",
        "Rotated passwords are {password_length} characters made by Secrets Manager; they are stored as SCRAM-SHA-256 "
        "verifiers, never reach the server in plain, and are sent over verified TLS only. A superseded password that "
        "is used again and again raises an alarm.",
        (ROTATION_FUNCTION, PARAMETERS, of("CloudWatch::Alarm", named="SupersededPassword")),
        (
            f"{ROTATING}the_verifier_is_what_postgresql_would_store",
            f"{ROTATING}the_plain_password_never_reaches_the_server",
            f"{ROTATING}what_rds_would_refuse_is_one_clear_sentence",
            f"{WORKFLOW}a_password_that_was_superseded_is_an_alarm_when_it_is_used_again_and_again",
        ),
        agency="A list of compromised passwords, and passwords of people and applications.",
    ),
    Implementation(
        "IA-5(2)",
        "Servers are authenticated by certificate: every connection checks chain, host and protocol version against "
        "the region's certificate authority, which is shipped with the functions.",
        (MEMBERS, FUNCTIONS),
        (
            "unit/test_verified_connections.py::test_no_connection_of_ours_is_less_than_verified",
            "unit/recovery/test_connection.py::test_a_certificate_of_another_authority_is_refused",
            f"{WORKFLOW}the_certificate_of_one_member_does_not_pass_for_the_other",
        ),
        agency="Certificates of people and of applications.",
    ),
    Implementation(
        "IA-5(6)",
        "The secret is encrypted{secret_key}; only rotation's role may read or change it; neither "
        "logs, outputs nor error messages show it.",
        (POLICIES, ROTATION),
        (
            f"{STACKS}functions.py::test_only_rotations_role_may_read_or_change_the_secret",
            f"{ROTATING}a_secret_shows_no_password",
            "unit/recovery/test_connection.py::test_a_password_is_not_shown",
        ),
        ("least-privilege",),
        "Who of the agency may read the secret.",
    ),
    Implementation(
        "IA-5(7)",
        "No password stands in code, templates, environment or outputs: the template refers to the agency's secret, "
        "and pipelines sign in with credentials that expire.",
        (MEMBERS, FUNCTIONS),
        (
            f"{STACKS}security.py::test_no_secret_is_created",
            f"{PIPELINES}credentials_are_short_lived_and_no_secret_is_used",
        ),
        agency="The same in applications.",
    ),
    Implementation(
        "IR-4",
        "The loss of the primary is handled automatically: suspected after {failure_threshold} failed probes in a "
        "row, acted on when two signals agree, contained by the fence, recovered from by promotion; every incident "
        "is recorded with its decisions. People may pause automatic action or overrule it by name.",
        (FAILOVER_MACHINE, WITNESSES, TOPIC),
        (
            f"{STACKS}failover.py::test_every_failure_is_recorded_told_and_shown_as_a_failed_run",
            f"{STACKS}failover.py::test_an_old_primary_that_still_answers_is_never_replaced",
            f"{WORKFLOW}a_pause_is_known_and_ended_and_the_history_tells_what_has_happened",
        ),
        ("drill",),
        "Handling of security incidents by people, and coordination with the plan.",
    ),
    Implementation(
        "IR-4(1)",
        "Detection, decision, failover and the making of the new standby are automatic; alarms carry the next step.",
        (FAILOVER_MACHINE, MACHINES, ALARMS),
        (
            f"{WORKFLOW}the_standby_takes_over_when_the_primary_is_lost",
            "unit/drills/test_incidents_in_virtual_time.py::test_nothing_forbidden_happens_in_the_sample",
        ),
        ("drill", "incidents"),
        "Support for other kinds of incidents.",
    ),
    Implementation(
        "IR-5",
        "Every incident and operation is kept in the recovery table with its decisions, inputs and timeline; "
        "`make history` lists them. When one has ended it is sealed in the chain of evidence and exported as a report, "
        "as JSON and as a page to read.",
        (TABLE, MACHINES, EVIDENCE),
        (
            "unit/functions/test_evidence.py::test_what_has_ended_is_sealed_in_its_order_and_what_goes_on_is_not",
            f"{STACKS}evidence.py::test_every_end_of_every_machine_starts_it_and_no_machine_knows",
            "integration/test_drills_on_aws.py::test_what_was_exported_of_all_this_can_be_read_and_is_whole",
            f"{WORKFLOW}the_incident_is_recorded_and_its_lease_released",
            "unit/recovery/test_switchover.py::test_the_history_holds_incidents_and_operations_newest_first",
        ),
        ("drill",),
        "Tracking of security incidents of all kinds.",
    ),
    Implementation(
        "IR-6(1)",
        "The machine and every alarm publish to an encrypted topic with {subscriptions}; what RDS reports about the "
        "members goes there too.",
        (TOPIC, of("Events::Rule"), ALARMS),
        (
            f"{STACKS}failover.py::test_what_rds_reports_about_the_members_reaches_the_topic",
            f"{STACKS}observability.py::test_every_alarm_tells_the_topic_when_it_starts_and_when_it_ends",
        ),
        agency="Subscriptions beyond the one address, and reports to US-CERT and to those affected.",
    ),
    Implementation(
        "SA-11",
        "Unit tests, property tests, tests of every template and integration tests in a local cloud with real "
        "PostgreSQL; branch coverage of at least 90 % is required.",
        (of("CloudFormation::Stack"),),
        (
            f"{PIPELINES}checks_run_for_every_push_and_pull_request_on_the_oldest_and_the_newest_python",
            "unit/recovery/test_arbiter.py::test_every_situation_is_decided_within_the_rules",
        ),
        ("drill", "benchmarks"),
        "Acceptance by the agency.",
    ),
    Implementation(
        "SA-11(1)",
        "Static analysis judges each change: ruff with its security rules, mypy in strict mode, cfn-lint over every "
        "template, two cdk-nag packs, actionlint and zizmor over the pipelines.",
        (of("CloudFormation::Stack"),),
        (
            f"{STACKS}templates.py::test_cfn_lint_finds_nothing_in_any_template",
            f"{STACKS}policy_packs.py::test_nothing_is_left_with_every_option_on",
            f"{PIPELINES}zizmor_finds_a_risk",
        ),
    ),
    Implementation(
        "SA-22",
        "A test fails when RDS has deprecated the engine version ({engine_version}) or when Lambda ends support of "
        "the functions' runtime within a year.",
        (MEMBERS, FUNCTIONS),
        (
            f"{STACKS}region.py::test_rds_knows_the_engine_version_and_has_not_deprecated_it",
            f"{STACKS}region.py::test_lambda_supports_the_functions_runtime_for_another_year",
        ),
        agency="Updates when a test or AWS announces an end.",
    ),
    Implementation(
        "SC-5",
        "Both members are Multi-AZ; functions have reserved concurrency of their own, so that none starves another; a "
        "stuck replication slot cannot fill the disk; free storage, connections and memory have alarms. Deletion "
        "protection of the members is {deletion_protection}.",
        (MEMBERS, FUNCTIONS, of("CloudWatch::Alarm", named="*[12]")),
        (
            f"{STACKS}functions.py::test_every_function_is_private_bounded_and_keeps_what_fails",
            f"{STACKS}transaction_log.py::"
            "test_a_slot_holds_back_at_most_a_quarter_of_the_storage_and_alarms_come_well_before",
            f"{STACKS}observability.py::test_both_members_are_watched_for_what_stops_a_primary",
        ),
        agency="Protection of applications and of their way to the database.",
    ),
    Implementation(
        "SC-7",
        "The boundary is the VPC without any way to the internet: members, functions and endpoints are in isolated "
        "subnets, members take connections from {application_cidrs} only, and all traffic is logged.",
        (of("EC2::VPC"), SUBNETS, GROUPS, ENDPOINTS, FLOW_LOG),
        (
            f"{STACKS}network.py::test_the_vpc_spans_two_zones_and_knows_no_internet",
            f"{STACKS}network.py::test_no_group_lets_the_world_in_or_everything_out",
            f"{STACKS}network.py::test_all_traffic_is_logged_into_an_encrypted_group",
        ),
        agency="The boundary of the whole system, and the connection from the application ranges.",
    ),
    Implementation(
        "SC-7(3)",
        "The ways out are {endpoints} endpoints, the way in is one port on two members.",
        (ENDPOINTS, GROUPS),
        (
            f"{STACKS}network.py::test_functions_reach_members_endpoints_and_mounts_and_are_let_in_there",
            f"{STACKS}network.py::test_each_member_has_a_group_of_its_own",
        ),
        agency="Access points of the network around the VPC.",
    ),
    Implementation(
        "SC-7(5)",
        "Security groups deny what no rule allows; egress is listed too, and the default group is empty.",
        (GROUPS, of("Scheduler::Schedule", named="CloseDefaultGroup*")),
        (
            f"{STACKS}network.py::test_no_group_lets_the_world_in_or_everything_out",
            f"{WORKFLOW}the_default_group_of_the_vpc_lets_nothing_in_or_out",
        ),
    ),
    Implementation(
        "SC-8",
        "Everything in transit is TLS: members refuse plaintext (rds.force_ssl), the file system refuses mounts "
        "without it, queue and topic refuse calls without it, and clients verify host and chain.",
        (PARAMETERS, FILES, of("SNS::TopicPolicy", "SQS::QueuePolicy"), MEMBERS),
        (
            f"{WORKFLOW}a_plaintext_connection_is_refused",
            f"{WORKFLOW}a_call_to_the_alert_topic_without_tls_is_refused",
            f"{STACKS}encryption_in_transit.py::test_every_file_system_refuses_mounts_without_tls",
            f"{STACKS}encryption_in_transit.py::test_clients_are_told_to_verify_host_and_chain",
        ),
        agency="sslmode=verify-full in the applications' own connections.",
    ),
    Implementation(
        "SC-8(1)",
        "Confidentiality and integrity in transit are cryptographic: TLS with the region's certificate authority, "
        "for replication and for the functions as for clients.",
        (PARAMETERS, MEMBERS),
        (
            f"{STACKS}encryption_in_transit.py::test_both_members_force_tls_with_an_authority_that_functions_trust",
            "unit/test_verified_connections.py::test_the_functions_context_checks_chain_host_and_protocol",
        ),
        agency="FIPS 140 validated modules at the clients; in {region} only KMS and EFS have FIPS endpoints.",
    ),
    Implementation(
        "SC-12",
        "{keys} customer-managed KMS keys, rotated by AWS each year; administrators cannot decrypt, and no role of the "
        "system may schedule a deletion.",
        (KEYS, of("KMS::Alias")),
        (
            f"{STACKS}security.py::test_every_key_is_customer_managed_and_rotates",
            f"{STACKS}security.py::test_administrators_manage_keys_but_cannot_decrypt",
        ),
        agency="Who administers the keys, and the secret's own key.",
    ),
    Implementation(
        "SC-13",
        "Data at rest is encrypted by AWS KMS (AES-256), data in transit by TLS 1.2 or newer.",
        (KEYS, MEMBERS, FILES, TABLE, QUEUE, TOPIC),
        (
            f"{STACKS}security.py::test_the_data_key_is_used_only_through_the_services_that_hold_data",
            "unit/test_verified_connections.py::test_the_functions_context_checks_chain_host_and_protocol",
        ),
        agency="FIPS 140 validation: of AWS's modules by AWS's documents, of the clients' by the agency; in {region} "
        "only KMS and EFS have FIPS endpoints.",
    ),
    Implementation(
        "SC-28",
        "Everything that holds data is encrypted at rest: members, their backups and replicas, file system, recovery "
        "table, vault, logs, queue and topic.",
        (MEMBERS, FILES, TABLE, BACKUP, LOG_GROUPS, QUEUE, TOPIC),
        (
            f"{STACKS}database.py::test_the_first_is_encrypted_with_our_key_and_signs_in_with_the_agencys_secret",
            f"{STACKS}storage.py::test_the_file_system_is_encrypted_and_refuses_plaintext_mounts",
            f"{STACKS}templates.py::test_every_log_group_has_a_key_a_retention_and_a_name",
        ),
        agency="What applications export.",
    ),
    Implementation(
        "SC-28(1)",
        "The encryption uses customer-managed keys that work only through the services that hold the data.",
        (KEYS, MEMBERS, FILES, TABLE),
        (
            f"{STACKS}security.py::test_the_data_key_is_used_only_through_the_services_that_hold_data",
            f"{STACKS}security.py::test_every_key_is_customer_managed_and_rotates",
        ),
    ),
    Implementation(
        "SI-2",
        "Dependencies of every kind are pinned and proposed for update once they have proved themselves; engine "
        "version and runtime are checked against what AWS supports.",
        (MEMBERS, FUNCTIONS),
        (
            f"{PIPELINES}dependencies_of_every_kind_are_updated_once_they_have_proved_themselves",
            f"{STACKS}region.py::test_rds_knows_the_engine_version_and_has_not_deprecated_it",
        ),
        agency="Installing within the agency's times (minor versions are not updated automatically), and flaws of "
        "applications.",
    ),
    Implementation(
        "SI-4",
        "Monitored are the members (from both zones, every {probe_interval_seconds:g} s), replication, the log, "
        "storage, functions, machines, sign-ins and all network traffic; {alarms} alarms tell the alert topic.",
        (ALARMS, WITNESSES, FLOW_LOG, MEMBERS),
        (
            f"{STACKS}observability.py::test_the_primary_is_lost_when_both_witnesses_say_so",
            f"{STACKS}observability.py::test_credentials_are_watched_for_a_failed_rotation_an_overdue_one_and_refused_"
            "passwords",
            f"{STACKS}network.py::test_all_traffic_is_logged_into_an_encrypted_group",
        ),
        ("drill",),
        "Intrusion detection (GuardDuty, Security Hub), and people who watch.",
    ),
    Implementation(
        "SI-4(4)",
        "The flow log records all accepted and rejected traffic in and out, aggregated by the minute.",
        (FLOW_LOG,),
        (f"{STACKS}logging.py::test_accepted_and_rejected_traffic_is_logged",),
        agency="Criteria for unusual traffic, and their evaluation.",
    ),
    Implementation(
        "SI-4(5)",
        "Alarms are sent to the alert topic, with {subscriptions}, at once; each names its urgency and the next step.",
        (ALARMS, TOPIC),
        (
            f"{STACKS}observability.py::test_every_alarm_says_how_urgent_it_is_what_it_means_and_what_to_do",
            f"{STACKS}security.py::test_whoever_publishes_to_the_topic_may_use_its_key",
        ),
        agency="Who receives them.",
    ),
    Implementation(
        "SI-7",
        "Segments of the transaction log, where one is kept, carry their own SHA-256 and that of the one before, so "
        "that a change, a loss or a hole is found; foreign or broken chains are refused before anything is applied. "
        "Records of incidents, operations and drills are sealed in such a chain too: an entry that was changed, "
        "removed, reordered or written anew is found, in the table and in the exports.",
        (FILES, LOG_FUNCTIONS, EVIDENCE),
        (
            "unit/recovery/test_evidence.py::test_any_changed_field_of_any_entry_is_found",
            "unit/recovery/test_evidence.py::test_entries_in_another_order_are_found",
            "unit/recovery/test_evidence.py::test_a_chain_written_anew_behind_a_change_is_found_by_the_head",
            "unit/recovery/test_evidence_store.py::"
            "test_a_chain_that_was_written_anew_as_a_whole_is_betrayed_by_the_bucket",
            "unit/recovery/test_segment.py::test_a_flipped_bit_is_found",
            "unit/recovery/test_verification_of_the_log.py::test_a_rewritten_newest_segment_is_found",
            "unit/recovery/test_roll_forward_targets.py::test_a_broken_chain_or_a_foreign_log_is_refused",
        ),
        agency="Integrity of applications and of the tools that deploy.",
    ),
    Implementation(
        "SI-7(1)",
        "The whole log is verified twice a day and when asked for; a verdict that is not OK, or a day of silence, "
        "raises an alarm.",
        (LOG_CARE, of("CloudWatch::Alarm", named="LogVerdict")),
        (
            f"{STACKS}transaction_log.py::test_the_log_is_verified_twice_a_day_and_a_day_of_silence_is_a_fault",
            "unit/recovery/test_verification_of_the_log.py::test_a_sound_log_is_ok_and_counted",
        ),
        when=with_log,
    ),
    Implementation(
        "SI-12",
        "Backups are kept {backup_retention_days} days, recovery points {plan_days}, logs {log_retention_days}. "
        "The transaction log is kept at least {log_kept_days} days and as long as the newest backup needs it; a hold "
        "stops its expiry.",
        (BACKUP, LOG_GROUPS, MEMBERS, FILES),
        (
            "unit/recovery/test_retention.py::test_a_hold_keeps_everything_until_the_last_one_is_released",
            f"{STACKS}storage.py::test_everything_that_holds_data_is_backed_up_daily_for_35_days",
            f"{STACKS}logging.py::test_every_group_is_somebodys_encrypted_and_kept_for_a_year_unless_set_otherwise",
        ),
        agency="The retention of the citizens' records themselves.",
    ),
)
