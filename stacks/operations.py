"""Operations: what brings the pair back after a failover, and what an operator may have done to it."""

from collections.abc import Mapping
from dataclasses import dataclass

from aws_cdk import aws_stepfunctions as sfn
from constructs import Construct

from stacks import reprotect_machine, switchover_machine
from stacks.database import DatabaseProps
from stacks.failover import FailoverProps
from stacks.function import FunctionSpec, function, use_table
from stacks.nested import CitizensStack
from stacks.network import NetworkProps
from stacks.operation_machine import operation_machine
from stacks.permissions import allow, without_resources
from stacks.security import SecurityProps
from stacks.settings import Settings
from stacks.storage import StorageProps

PLANNED = ("dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem")


@dataclass(frozen=True)
class OperationsProps:
    """The machines by their ARNs."""

    reprotect_machine_arn: str
    switchover_machine_arn: str

    @property
    def machines(self) -> Mapping[str, str]:
        """The machines' ARNs by the operation."""
        return {"reprotect": self.reprotect_machine_arn, "switchover": self.switchover_machine_arn}


class Operations(CitizensStack):
    """Reprotect and switchover."""

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
        failover: FailoverProps,
    ) -> None:
        super().__init__(scope, construct_id, settings=settings)
        self._security = security
        self._storage = storage
        self._database = database
        self._groups = dict(zip(self.names.members, network.member_group_ids, strict=True))
        self._ingress = network.member_ingress
        reprotect = self._reprotect()
        switchover = self._switchover(failover, reprotect.ref)
        self.props = OperationsProps(reprotect_machine_arn=reprotect.ref, switchover_machine_arn=switchover.ref)

    @property
    def _group_arns(self) -> list[str]:
        return [self.arn("ec2", f"security-group/{group_id}") for group_id in self._groups.values()]

    def _reprotect(self) -> sfn.CfnStateMachine:
        platform, settings = self._security.platform, self.settings
        plan = function(
            self,
            FunctionSpec(
                name="reprotect",
                module="reprotect",
                purpose="Chooses the next step from a primary alone to a pair",
                timeout=15,
                concurrency=2,
                environment={
                    "MEMBERS": self._database.members.as_json(),
                    "PROBE_INTERVAL_SECONDS": f"{settings.probe_interval_seconds:g}",
                    "PROBE_TIMEOUT_SECONDS": f"{settings.probe_timeout_seconds:g}",
                },
                statements=[
                    *use_table(self, platform, PLANNED),
                    allow(("rds:DescribeDBInstances",), self.member_arns),
                ],
            ),
            platform,
        )
        replicas = dict(zip(self.names.members, self._database.replicas, strict=True))
        references = reprotect_machine.ReprotectReferences(
            plan_arn=plan.arn,
            topic_arn=self._security.alert_topic_arn,
            table_name=self._storage.table_name,
            suffix=settings.environment_suffix,
            created={name: replica.created for name, replica in replicas.items()},
            wanted={name: replica.wanted for name, replica in replicas.items()},
            groups=self._groups,
            ingress=self._ingress,
            keep_automated_backups=settings.protect,
        )
        members = list(self.member_arns)
        snapshots = [self.arn("rds", f"snapshot:{member}-fenced-*") for member in self.names.members]
        group_of_parameters, subnets = (self.arn("rds", f"{kind}:{self.names.plain}") for kind in ("pg", "subgrp"))
        return operation_machine(
            self,
            "Reprotect",
            self.names.reprotect_machine,
            "Reprotect machine: delete the old member, make it again, let it in",
            reprotect_machine.definition(references),
            security=self._security,
            functions=[plan.arn],
            statements=[
                allow(("rds:DeleteDBInstance", "rds:ModifyDBInstance", "rds:AddTagsToResource"), members),
                allow(("rds:CreateDBInstanceReadReplica",), [*members, group_of_parameters, subnets]),
                allow(("rds:CreateDBSnapshot", "rds:AddTagsToResource"), [*members, *snapshots]),
                allow(
                    ("iam:PassRole",),
                    [self._database.monitoring_role_arn],
                    {"StringEquals": {"iam:PassedToService": "monitoring.rds.amazonaws.com"}},
                ),
                allow(
                    ("kms:CreateGrant", "kms:DescribeKey"),
                    [self._security.data_key_arn],
                    {"StringEquals": {"kms:ViaService": f"rds.{self.region}.amazonaws.com"}},
                ),
                without_resources(("ec2:DescribeSecurityGroupRules",)),
                allow(("ec2:AuthorizeSecurityGroupIngress",), self._group_arns),
            ],
            patterns=dict.fromkeys(snapshots, "A snapshot is named after the change of roles whose primary it keeps"),
        )

    def _switchover(self, failover: FailoverProps, reprotect_machine_arn: str) -> sfn.CfnStateMachine:
        platform, settings = self._security.platform, self.settings
        asked = function(
            self,
            FunctionSpec(
                name="switchover",
                module="switchover",
                purpose="Tells whether a switchover may begin, and whether the standby has caught up",
                timeout=15,
                concurrency=2,
                environment={
                    "MEMBERS": self._database.members.as_json(),
                    "PROBE_INTERVAL_SECONDS": f"{settings.probe_interval_seconds:g}",
                    "PROBE_TIMEOUT_SECONDS": f"{settings.probe_timeout_seconds:g}",
                },
                # Whether it replays and up to where is all that is asked of the standby
                database_user="citizens_probe",
                statements=[
                    *use_table(self, platform, ("dynamodb:GetItem", "dynamodb:PutItem")),
                    allow(("rds:DescribeDBInstances",), self.member_arns),
                ],
            ),
            platform,
        )
        references = switchover_machine.SwitchoverReferences(
            failover=failover.references,
            switchover_arn=asked.arn,
            reprotect_machine_arn=reprotect_machine_arn,
            ingress=self._ingress,
        )
        return operation_machine(
            self,
            "Switchover",
            self.names.switchover_machine,
            "Switchover machine: keep out, catch up, promote, cut over",
            switchover_machine.definition(references),
            security=self._security,
            functions=[asked.arn, *failover.references.invoked_by_a_switchover],
            statements=[
                without_resources(("ec2:DescribeSecurityGroupRules",)),
                allow(("ec2:AuthorizeSecurityGroupIngress", "ec2:RevokeSecurityGroupIngress"), self._group_arns),
                allow(
                    ("rds:DescribeDBInstances", "rds:PromoteReadReplica", "rds:RebootDBInstance"),
                    list(self.member_arns),
                ),
                allow(("states:StartExecution",), [reprotect_machine_arn]),
            ],
        )
