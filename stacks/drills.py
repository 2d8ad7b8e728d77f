"""Drills: that a replica is promoted and a backup restored as promised is shown on a throw-away copy, every month.

What they make stands outside the templates. Its names follow one pattern, on which alone the machine's role may create
and delete: of a fixed length, so that none is another environment's (`citizens-drill-a-…`, `citizens-drill-a-b-…`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aws_cdk import aws_events as events
from constructs import Construct

from stacks import drill_machine, schedule
from stacks.database import DatabaseProps
from stacks.failover_machine import PROMOTION_SECONDS
from stacks.function import DeployedFunction, FunctionSpec, function, put_metrics, use_table
from stacks.names import DATABASE_PORT, DRILL_TAG
from stacks.nested import CitizensStack
from stacks.network import NetworkProps
from stacks.operation_machine import operation_machine
from stacks.permissions import allow, confined_service, identity, without_resources
from stacks.security import SecurityProps
from stacks.settings import Settings
from stacks.storage import StorageProps
from stacks.transaction_log import TransactionLogProps

# As a standby has them; without its Multi-AZ copy, monitoring and exported logs, which cost and would leave traces.
AS_A_MEMBER = (
    "AutoMinorVersionUpgrade",
    "DbInstanceClass",
    "DbParameterGroupName",
    "EnableIAMDatabaseAuthentication",
    "MaxAllocatedStorage",
    "PubliclyAccessible",
    "StorageType",
)
# Other than these ended by themselves and cleaned up.
KILLED = ("ABORTED", "TIMED_OUT")
MOMENT = "?" * 14


@dataclass(frozen=True)
class DrillsProps:
    """The machine by its ARN."""

    machine_arn: str


class Drills(CitizensStack):
    """The drill function, the drill machine, its nightly schedule, and the rule that sweeps after a killed one."""

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
        self._database = database
        self._storage = storage
        self._machine_arn = self.arn("states", f"stateMachine:{self.names.drill_machine}")
        asked = self._function()
        rewind = transaction_log.rewind
        machine = self._machine(network, asked, rewind)
        schedule.every_night(
            self,
            "Drill",
            self.names.drill_machine,
            machine,
            security.platform,
            '{"ask": "due", "by": "the schedule"}',
        )
        self._sweep_after_a_killed_execution(machine)
        self.props = DrillsProps(machine_arn=machine)

    def _function(self) -> DeployedFunction:
        settings, platform = self.settings, self._security.platform
        executions = self.arn("states", f"execution:{self.names.drill_machine}:*")
        instances = self.arn("rds", "db:*")
        return function(
            self,
            FunctionSpec(
                name="drill",
                module="drill",
                purpose="Tells whether a drill may begin and go on, looks at its copy, and keeps its record",
                timeout=35,
                concurrency=2,
                environment={
                    "MEMBERS": self._database.members.as_json(),
                    "DRILL_PREFIX": self.names.drill_copies,
                    "DRILL_TAG": DRILL_TAG,
                    "DRILL_DAYS": str(settings.drill_days),
                    "PROMOTION_SECONDS": str(PROMOTION_SECONDS),
                    "RTO_SECONDS": str(settings.rto_seconds),
                    "RPO_SECONDS": str(settings.rpo_seconds),
                    "TRANSACTION_LOG": "on" if settings.transaction_log else "off",
                },
                database_user="citizens_drill",
                statements=[
                    *use_table(self, platform, ("dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem")),
                    allow(("rds:DescribeDBInstances",), [instances]),
                    allow(("states:DescribeExecution",), [executions]),
                    put_metrics(),
                    without_resources(("cloudwatch:DescribeAlarms",)),
                ],
                patterns={
                    instances: "What a killed drill has left is found by listing; RDS lists all instances or one",
                    executions: "A scheduled execution is named by the scheduler",
                },
            ),
            platform,
        )

    def _machine(self, network: NetworkProps, asked: DeployedFunction, rewind: DeployedFunction | None) -> str:
        # A copy is named after the moment of its drill: 14 characters, which no member's name and no other suffix fits
        copies = self.arn("rds", f"db:{self.names.drill_copies}-{MOMENT}")
        members = list(self.member_arns)
        parameters, subnets = (self.arn("rds", f"{kind}:{self.names.plain}") for kind in ("pg", "subgrp"))
        major = self.settings.engine_version.split(".")[0]
        options = self.arn("rds", f"og:default:postgres-{major}")
        machine = operation_machine(
            self,
            "Drill",
            self.names.drill_machine,
            "Drill machine: make a throw-away copy, recover it, verify, delete",
            drill_machine.definition(
                drill_machine.DrillReferences(
                    drill_arn=asked.arn,
                    rewind_arn=rewind.arn if rewind else None,
                    topic_arn=self._security.alert_topic_arn,
                    table_name=self._storage.table_name,
                    suffix=self.settings.environment_suffix,
                    prefix=self.names.drill_copies,
                    replica=self._copy(network),
                    restored={**self._copy(network), "DbSubnetGroupName": self.names.plain},
                )
            ),
            security=self._security,
            functions=[asked.arn, *([rewind.arn] if rewind else [])],
            table_actions=("dynamodb:DeleteItem",),
            statements=[
                allow(
                    ("rds:AddTagsToResource", "rds:DeleteDBInstance", "rds:DescribeDBInstances"),
                    [copies],
                ),
                allow(("rds:PromoteReadReplica",), [copies]),
                # RDS asks for the source as well as for the copy
                allow(
                    ("rds:CreateDBInstanceReadReplica", "rds:RestoreDBInstanceToPointInTime"),
                    [copies, *members, parameters, subnets, options],
                ),
                allow(
                    ("kms:CreateGrant", "kms:DescribeKey"),
                    [self._security.data_key_arn],
                    {"StringEquals": {"kms:ViaService": f"rds.{self.region}.amazonaws.com"}},
                ),
            ],
        )
        return machine.ref

    def _copy(self, network: NetworkProps) -> Mapping[str, Any]:
        """What a copy is made with, of the same properties as the members', so that they cannot differ."""
        member = self._database.replicas[0].created
        tags = {**self.settings.tags, DRILL_TAG: self.settings.environment_suffix}
        return {
            **{name: member[name] for name in AS_A_MEMBER},
            "VpcSecurityGroupIds": [network.drill_group_id],
            "MultiAZ": False,
            "DeletionProtection": False,
            "CopyTagsToSnapshot": True,
            "Port": DATABASE_PORT,
            "Tags": [{"Key": key, "Value": value} for key, value in sorted(tags.items())],
        }

    def _sweep_after_a_killed_execution(self, machine_arn: str) -> None:
        name = self.names.of("drill-killed")
        who = identity(
            self,
            "DrillKilled",
            name=name,
            description="EventBridge: sweep after a drill whose execution was stopped",
            principal=confined_service("events.amazonaws.com", self.account, self.arn("events", f"rule/{name}")),
            statements=[allow(("states:StartExecution",), [machine_arn])],
        )
        rule = events.CfnRule(
            self,
            "DrillKilled",
            name=name,
            description="Sweeps, and keeps a record, after a drill whose execution was stopped or ran out of time",
            event_pattern={
                "source": ["aws.states"],
                "detail-type": ["Step Functions Execution Status Change"],
                "detail": {"stateMachineArn": [self._machine_arn], "status": list(KILLED)},
            },
            targets=[
                events.CfnRule.TargetProperty(
                    arn=machine_arn,
                    id="sweep",
                    role_arn=who.arn,
                    input='{"ask": "sweep", "by": "the end of a killed execution"}',
                )
            ],
        )
        who.before(rule)
