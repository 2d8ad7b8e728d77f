"""Failover: the witnesses that observe, the functions that decide and act, and the machine that orders them."""

from dataclasses import dataclass

from aws_cdk import Stack
from aws_cdk import aws_events as events
from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from stacks import schedule
from stacks.database import DatabaseProps
from stacks.failover_machine import MachineReferences, definition
from stacks.function import DeployedFunction, FunctionSpec, function, put_metrics, use_table
from stacks.names import FUNCTIONS
from stacks.nested import CitizensStack
from stacks.network import NetworkProps
from stacks.permissions import allow, confined_service, identity, use_key, without_resources
from stacks.security import SecurityProps
from stacks.settings import Settings
from stacks.storage import StorageProps
from stacks.transaction_log import TransactionLogProps

DELIVER_LOGS = (
    "logs:CreateLogDelivery",
    "logs:GetLogDelivery",
    "logs:UpdateLogDelivery",
    "logs:DeleteLogDelivery",
    "logs:ListLogDeliveries",
    "logs:PutResourcePolicy",
    "logs:DescribeResourcePolicies",
    "logs:DescribeLogGroups",
)
TRACE = (
    "xray:PutTraceSegments",
    "xray:PutTelemetryRecords",
    "xray:GetSamplingRules",
    "xray:GetSamplingTargets",
)
# The RDS event categories that tell about a member's life; the others are about backups and configuration.
EVENT_CATEGORIES = (
    "availability",
    "deletion",
    "failover",
    "failure",
    "low storage",
    "maintenance",
    "notification",
    "read replica",
    "recovery",
)


@dataclass(frozen=True)
class FailoverProps:
    """The machine, its log group, and every function of this stack by the name it has in `stacks.names`."""

    state_machine_arn: str
    log_group_name: str
    functions: dict[str, DeployedFunction]
    references: MachineReferences


class Failover(CitizensStack):
    """Witnesses, arbiter, machine and the rule for RDS's own events."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        network: NetworkProps,
        security: SecurityProps,
        storage: StorageProps,
        database: DatabaseProps,
        transaction_log: TransactionLogProps,
    ) -> None:
        super().__init__(scope, construct_id, settings=settings)
        self._security = security
        self._platform = security.platform
        self._members = database.members
        self._machine_arn = self.arn("states", f"stateMachine:{self.names.state_machine}")
        workers = {
            "arbiter": self._arbiter(),
            "probe": self._probe(),
            "cutover": self._cutover(),
            "verify": self._verify(),
        }
        groups = dict(zip(self.names.members, network.member_group_ids, strict=True))
        references = MachineReferences(
            arbiter_arn=workers["arbiter"].arn,
            probe_arn=workers["probe"].arn,
            rotation_arn=database.rotation.arn,
            open_log_arn=transaction_log.open_log.arn if transaction_log.open_log else None,
            roll_forward_arn=transaction_log.roll_forward.arn if transaction_log.roll_forward else None,
            cutover_arn=workers["cutover"].arn,
            verify_arn=workers["verify"].arn,
            topic_arn=security.alert_topic_arn,
            table_name=storage.table_name,
            member_groups=groups,
            backup_retention_days=settings.backup_retention_days,
            suffix=settings.environment_suffix,
            grace_seconds=settings.multi_az_grace_seconds,
            rto_seconds=settings.rto_seconds,
            # Made after this stack, and known by its name
            reprotect_arn=self.arn("states", f"stateMachine:{self.names.reprotect_machine}")
            if settings.auto_reprotect
            else None,
        )
        machine, log_group_name = self._machine(references)
        schedules = schedule.group(self, "witness")
        witnesses = {
            name: self._witness(name, subnet_id)
            for name, subnet_id in zip(FUNCTIONS[:2], network.subnet_ids, strict=True)
        }
        for witness in witnesses.values():
            # A witness without its machine could only fail
            witness.resource.add_resource_dependency(machine)
            schedule.every_minute(self, witness, self._platform, schedules)
        self._database_events()
        self.props = FailoverProps(
            state_machine_arn=machine.ref,
            log_group_name=log_group_name,
            functions={**witnesses, **workers},
            references=references,
        )

    def _witness(self, name: str, subnet_id: str) -> DeployedFunction:
        settings = self.settings
        letter = name[-1]
        executions = [
            self.arn("states", f"execution:{machine}:*")
            for machine in (self.names.state_machine, self.names.switchover_machine)
        ]
        spec = FunctionSpec(
            name=name,
            module="witness",
            purpose=f"Probes both members from one availability zone (witness {letter})",
            timeout=150,
            # One minute's run may end after the next two have begun
            concurrency=3,
            database_user="citizens_witness",
            # Pinned to one zone: its blindness is that zone's
            subnet_ids=[subnet_id],
            environment={
                "MEMBERS": self._members.as_json(),
                "STATE_MACHINE_ARN": self._machine_arn,
                "SWITCHOVER_MACHINE_ARN": self.arn("states", f"stateMachine:{self.names.switchover_machine}"),
                "WITNESS": letter,
                "PROBE_INTERVAL_SECONDS": f"{settings.probe_interval_seconds:g}",
                "PROBE_TIMEOUT_SECONDS": f"{settings.probe_timeout_seconds:g}",
                "FAILURE_THRESHOLD": str(settings.failure_threshold),
                **self._objectives(),
            },
            statements=[
                *use_table(self, self._platform, ("dynamodb:GetItem", "dynamodb:PutItem")),
                allow(("states:StartExecution",), [self._machine_arn]),
                allow(("states:DescribeExecution",), executions),
                put_metrics(),
            ],
            patterns=dict.fromkeys(
                executions, "An execution is named after the epoch and incident that it is started for"
            ),
        )
        return function(self, spec, self._platform)

    def _objectives(self) -> dict[str, str]:
        return {
            "MULTI_AZ_GRACE_SECONDS": str(self.settings.multi_az_grace_seconds),
            "RTO_SECONDS": str(self.settings.rto_seconds),
            "RPO_SECONDS": str(self.settings.rpo_seconds),
        }

    def _arbiter(self) -> DeployedFunction:
        spec = FunctionSpec(
            name="arbiter",
            module="arbiter",
            purpose="Decides from the witnesses' observations and RDS's own status",
            timeout=12,
            concurrency=2,
            environment={
                "MEMBERS": self._members.as_json(),
                "FAILURE_THRESHOLD": str(self.settings.failure_threshold),
                "PROBE_INTERVAL_SECONDS": f"{self.settings.probe_interval_seconds:g}",
                "PROBE_TIMEOUT_SECONDS": f"{self.settings.probe_timeout_seconds:g}",
                **self._objectives(),
            },
            statements=[
                *use_table(self, self._platform),
                allow(("rds:DescribeDBInstances",), self.member_arns),
                without_resources(("rds:DescribeEvents",)),
            ],
        )
        return function(self, spec, self._platform)

    def _probe(self) -> DeployedFunction:
        spec = FunctionSpec(
            name="probe",
            module="probe",
            purpose="Tells whether a member answers and whether it is in recovery",
            timeout=12,
            concurrency=2,
            environment={
                "MEMBERS": self._members.as_json(),
                "PROBE_TIMEOUT_SECONDS": f"{self.settings.probe_timeout_seconds:g}",
            },
            database_user="citizens_probe",
            statements=[],
        )
        return function(self, spec, self._platform)

    def _cutover(self) -> DeployedFunction:
        spec = FunctionSpec(
            name="cutover",
            module="cutover",
            purpose="Points the role record at the new primary",
            timeout=15,
            # The machine asks anew before an attempt that hangs has ended
            concurrency=2,
            environment={"MEMBERS": self._members.as_json()},
            statements=use_table(self, self._platform, ("dynamodb:GetItem", "dynamodb:UpdateItem")),
        )
        return function(self, spec, self._platform)

    def _verify(self) -> DeployedFunction:
        spec = FunctionSpec(
            name="verify",
            module="verify",
            purpose="Writes to the new primary and reads back over another connection",
            timeout=15,
            # The machine asks anew before an attempt that hangs has ended
            concurrency=2,
            environment={"MEMBERS": self._members.as_json()},
            database_user="citizens_verify",
            statements=use_table(self, self._platform),
        )
        return function(self, spec, self._platform)

    def _machine(self, references: MachineReferences) -> tuple[sfn.CfnStateMachine, str]:
        logs = self.log_group("MachineLogs", self.names.failover_log_group, self._security.log_key_arn)
        groups = [self.arn("ec2", f"security-group/{group_id}") for group_id in references.member_groups.values()]
        who = identity(
            self,
            "Machine",
            name=self.names.state_machine,
            description="Failover machine: fence, promote, cut over, record",
            principal=confined_service("states.amazonaws.com", self.account, self._machine_arn),
            statements=[
                allow(
                    ("lambda:InvokeFunction",),
                    [
                        references.arbiter_arn,
                        references.probe_arn,
                        references.rotation_arn,
                        *([references.open_log_arn] if references.open_log_arn else []),
                        *([references.roll_forward_arn] if references.roll_forward_arn else []),
                        references.cutover_arn,
                        references.verify_arn,
                    ],
                ),
                without_resources(("ec2:DescribeSecurityGroupRules",)),
                allow(("ec2:RevokeSecurityGroupIngress",), groups),
                allow(("rds:DescribeDBInstances", "rds:PromoteReadReplica", "rds:RebootDBInstance"), self.member_arns),
                allow(("dynamodb:DeleteItem", "dynamodb:UpdateItem"), [self.recovery_table_arn]),
                use_key(self._security.data_key_arn, "dynamodb", self.region),
                *(
                    [allow(("states:StartExecution",), [references.reprotect_arn])]
                    if references.reprotect_arn is not None
                    else []
                ),
                allow(("sns:Publish",), [references.topic_arn]),
                use_key(self._security.alert_key_arn, "sns", self.region),
                without_resources(DELIVER_LOGS),
                without_resources(TRACE),
            ],
        )
        machine = sfn.CfnStateMachine(
            self,
            "Machine",
            state_machine_name=self.names.state_machine,
            state_machine_type="STANDARD",
            role_arn=who.arn,
            definition_string=Stack.of(self).to_json_string(definition(references)),
            logging_configuration=sfn.CfnStateMachine.LoggingConfigurationProperty(
                level="ALL",
                include_execution_data=True,
                destinations=[
                    sfn.CfnStateMachine.LogDestinationProperty(
                        cloud_watch_logs_log_group=sfn.CfnStateMachine.CloudWatchLogsLogGroupProperty(
                            log_group_arn=logs.attr_arn
                        )
                    )
                ],
            ),
            tracing_configuration=sfn.CfnStateMachine.TracingConfigurationProperty(enabled=True),
        )
        who.before(machine)
        return machine, logs.ref

    def _database_events(self) -> None:
        """RDS tells what it does to the members; best effort, so nothing depends on it, but people should see it."""
        events.CfnRule(
            self,
            "DatabaseEvents",
            name=self.names.of("database-events"),
            description="What RDS reports about both members",
            event_pattern={
                "source": ["aws.rds"],
                "detail-type": ["RDS DB Instance Event"],
                "detail": {"SourceArn": list(self.member_arns), "EventCategories": list(EVENT_CATEGORIES)},
            },
            targets=[events.CfnRule.TargetProperty(arn=self._security.alert_topic_arn, id="alerts")],
        )
