"""Observability: flow logs, alarms and the dashboard.

What missing data means is chosen for each alarm: silence of something that must speak (witness, archive) is a fault;
silence of something that speaks only when it goes wrong (errors, dead letters) is good news.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aws_cdk import Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from constructs import Construct

from stacks.database import DatabaseProps
from stacks.failover import FailoverProps
from stacks.names import FUNCTIONS, METRICS_NAMESPACE
from stacks.nested import CitizensStack
from stacks.network import NetworkProps
from stacks.operations import OperationsProps
from stacks.permissions import allow, identity
from stacks.security import SecurityProps
from stacks.settings import Settings

GIB = 1024**3
MISSING_IS_A_FAULT: Literal["breaching"] = "breaching"
MISSING_IS_GOOD_NEWS: Literal["notBreaching"] = "notBreaching"


@dataclass(frozen=True)
class ObservabilityProps:
    """The dashboard and the flow log group by name."""

    dashboard_name: str
    flow_log_group_name: str


@dataclass(frozen=True)
class Watched:
    """One metric and when it is too much: `periods` of `period` seconds beyond `threshold`, in the metric's unit."""

    construct_id: str
    name: str
    description: str
    namespace: str
    metric: str
    dimensions: dict[str, str]
    statistic: str
    threshold: float
    missing: Literal["breaching", "notBreaching"]
    comparison: str = "GreaterThanThreshold"
    period: int = 60
    periods: int = 3


class Observability(CitizensStack):
    """Flow logs of the VPC, alarms to the topic, one dashboard."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        network: NetworkProps,
        security: SecurityProps,
        database: DatabaseProps,
        failover: FailoverProps,
        operations: OperationsProps,
    ) -> None:
        super().__init__(scope, construct_id, settings=settings)
        self._topic_arn = security.alert_topic_arn
        self._suffix = {"Suffix": settings.environment_suffix}
        flow_logs = self._flow_logs(network, security)
        self._loss_alarms()
        for watched in (
            *self._objectives(),
            *self._machine("failover", "machine", "Machine", failover.state_machine_arn),
            *(
                watched
                for name, arn in operations.machines.items()
                for watched in self._machine(name, f"{name}-machine", f"{name.capitalize()}Machine", arn)
            ),
            *self._functions(),
            *self._dead_letters(security),
            *(alarm for member in database.members.identifiers for alarm in self._member(member)),
        ):
            self._alarm(watched)
        dashboard = self._dashboard(database, failover)
        self.props = ObservabilityProps(dashboard_name=dashboard.ref, flow_log_group_name=flow_logs)

    def _flow_logs(self, network: NetworkProps, security: SecurityProps) -> str:
        group = self.log_group("FlowLogs", self.names.flow_log_group, security.log_key_arn)
        who = identity(
            self,
            "FlowLog",
            name=self.names.of("flow-logs"),
            description="VPC flow logs",
            principal=iam.ServicePrincipal(
                "vpc-flow-logs.amazonaws.com",
                conditions={
                    "StringEquals": {"aws:SourceAccount": self.account},
                    "ArnLike": {"aws:SourceArn": self.arn("ec2", "vpc-flow-log/*")},
                },
            ),
            statements=[
                allow(
                    (
                        "logs:CreateLogStream",
                        "logs:DescribeLogStreams",
                        "logs:PutLogEvents",
                    ),
                    [group.attr_arn],
                )
            ],
        )
        flow_log = ec2.CfnFlowLog(
            self,
            "FlowLog",
            resource_id=network.vpc_id,
            resource_type="VPC",
            traffic_type="ALL",
            log_destination_type="cloud-watch-logs",
            log_group_name=group.ref,
            deliver_logs_permission_arn=who.arn,
            max_aggregation_interval=60,
        )
        who.before(flow_log)
        return group.ref

    def _loss_alarms(self) -> None:
        """The primary is lost when *both* witnesses cannot reach it; one alone is that zone's trouble."""
        blind = []
        for witness in ("a", "c"):
            blind.append(
                self._alarm(
                    Watched(
                        construct_id=f"PrimaryUnreachable{witness.upper()}",
                        name=f"primary-unreachable-from-{witness}",
                        description=f"Witness {witness} cannot write to the primary, or is silent",
                        namespace=METRICS_NAMESPACE,
                        metric="PrimaryReachable",
                        dimensions={**self._suffix, "Witness": witness},
                        statistic="Maximum",
                        threshold=1,
                        comparison="LessThanThreshold",
                        periods=2,
                        missing=MISSING_IS_A_FAULT,
                    )
                )
            )
            self._alarm(
                Watched(
                    construct_id=f"StandbyUnreachable{witness.upper()}",
                    name=f"standby-unreachable-from-{witness}",
                    description=f"Witness {witness} cannot read the standby, or is silent: no failover is possible",
                    namespace=METRICS_NAMESPACE,
                    metric="StandbyReachable",
                    dimensions={**self._suffix, "Witness": witness},
                    statistic="Maximum",
                    threshold=1,
                    comparison="LessThanThreshold",
                    periods=5,
                    missing=MISSING_IS_A_FAULT,
                )
            )
        composite = cloudwatch.CfnCompositeAlarm(
            self,
            "PrimaryLost",
            alarm_name=self.names.of("primary-lost"),
            alarm_description="Both witnesses cannot write to the primary: a failover should be under way",
            alarm_rule=" AND ".join(f'ALARM("{alarm.alarm_name}")' for alarm in blind),
            alarm_actions=[self._topic_arn],
            ok_actions=[self._topic_arn],
        )
        for alarm in blind:
            composite.add_resource_dependency(alarm)

    def _objectives(self) -> Sequence[Watched]:
        """Early: at half the objective there is still time to act."""
        half = self.settings.rpo_seconds / 2
        lags = [
            Watched(
                construct_id=f"StandbyLag{witness.upper()}",
                name=f"standby-lag-from-{witness}",
                description="The standby is behind by half the recovery point objective",
                namespace=METRICS_NAMESPACE,
                metric="StandbyLagSeconds",
                dimensions={**self._suffix, "Witness": witness},
                statistic="Maximum",
                threshold=half,
                # An unreachable standby has no lag and an alarm of its own
                missing=MISSING_IS_GOOD_NEWS,
            )
            for witness in ("a", "c")
        ]
        return [
            *lags,
            Watched(
                construct_id="LogLag",
                name="log-lag",
                description="The archived transaction log is behind by half the recovery point objective, or silent",
                namespace=METRICS_NAMESPACE,
                metric="LogLagSeconds",
                dimensions=self._suffix,
                statistic="Maximum",
                threshold=half,
                periods=5,
                missing=MISSING_IS_A_FAULT,
            ),
            Watched(
                construct_id="LogGap",
                name="log-gap",
                description="The log's slot was lost: the log has a gap that nothing can be rolled forward across; "
                "take a snapshot",
                namespace=METRICS_NAMESPACE,
                metric="LogGaps",
                dimensions=self._suffix,
                statistic="Maximum",
                threshold=0,
                periods=1,
                missing=MISSING_IS_GOOD_NEWS,
            ),
        ]

    @staticmethod
    def _machine(operation: str, name: str, construct_id: str, arn: str) -> Sequence[Watched]:
        return [
            Watched(
                construct_id=f"{construct_id}{what}",
                name=f"{name}-{what.lower()}",
                description=f"A run of the {operation} machine has ended as {what.lower()}",
                namespace="AWS/States",
                metric=f"Executions{what}",
                dimensions={"StateMachineArn": arn},
                statistic="Sum",
                threshold=0,
                periods=1,
                missing=MISSING_IS_GOOD_NEWS,
            )
            for what in ("Failed", "TimedOut", "Aborted")
        ]

    def _functions(self) -> Sequence[Watched]:
        return [
            Watched(
                construct_id="".join(part.capitalize() for part in name.split("-")) + "Errors",
                name=f"{name}-errors",
                description=f"The function {self.names.of(name)} has failed"
                + (": the password may not have been rotated" if name == "rotation" else ""),
                namespace="AWS/Lambda",
                metric="Errors",
                dimensions={"FunctionName": self.names.of(name)},
                statistic="Sum",
                threshold=0,
                # A function that runs every minute may fail once while the database restarts
                periods=1 if name in ("rotation", "cutover", "open-log", "verify") else 3,
                missing=MISSING_IS_GOOD_NEWS,
            )
            for name in FUNCTIONS
        ]

    @staticmethod
    def _dead_letters(security: SecurityProps) -> Sequence[Watched]:
        return [
            Watched(
                construct_id="DeadLetters",
                name="dead-letters",
                description="An invocation was given up: see the dead-letter queue",
                namespace="AWS/SQS",
                metric="ApproximateNumberOfMessagesVisible",
                dimensions={"QueueName": security.dead_letters_name},
                statistic="Maximum",
                threshold=0,
                periods=1,
                missing=MISSING_IS_GOOD_NEWS,
            )
        ]

    def _member(self, member: str) -> Sequence[Watched]:
        number = self.names.members.index(member) + 1
        disk = self.settings.allocated_storage * GIB

        def watched(what: str, metric: str, threshold: float, description: str, **rest: Any) -> Watched:
            return Watched(
                construct_id=f"Member{number}{metric}",
                name=f"{what}-{number}",
                description=f"{member}: {description}",
                namespace="AWS/RDS",
                metric=metric,
                dimensions={"DBInstanceIdentifier": member},
                threshold=threshold,
                # A lost member sends nothing, which the witnesses see sooner and better
                missing=MISSING_IS_GOOD_NEWS,
                **{"statistic": "Average", "periods": 5, **rest},
            )

        return [
            watched(
                "free-storage",
                "FreeStorageSpace",
                disk * 0.15,
                "less than 15 % of the first storage size is free",
                comparison="LessThanThreshold",
                statistic="Minimum",
            ),
            watched("cpu", "CPUUtilization", 85, "the processor is over 85 % busy", periods=10),
            watched("memory", "FreeableMemory", 128 * 1024**2, "128 MiB free", comparison="LessThanThreshold"),
            watched("connections", "DatabaseConnections", 300, "over 300 connections are open", statistic="Maximum"),
            watched(
                "slot-lag",
                "OldestReplicationSlotLag",
                disk * 0.1,
                "a replication slot is behind by a tenth of the disk",
                statistic="Maximum",
            ),
            watched(
                "transaction-logs",
                "TransactionLogsDiskUsage",
                disk * 0.2,
                "transaction logs fill a fifth of the disk",
                statistic="Maximum",
            ),
        ]

    def _alarm(self, watched: Watched) -> cloudwatch.CfnAlarm:
        return cloudwatch.CfnAlarm(
            self,
            watched.construct_id,
            alarm_name=self.names.of(watched.name),
            alarm_description=watched.description,
            namespace=watched.namespace,
            metric_name=watched.metric,
            dimensions=[
                cloudwatch.CfnAlarm.DimensionProperty(name=name, value=value)
                for name, value in watched.dimensions.items()
            ],
            statistic=watched.statistic,
            period=watched.period,
            evaluation_periods=watched.periods,
            datapoints_to_alarm=watched.periods,
            threshold=watched.threshold,
            comparison_operator=watched.comparison,
            treat_missing_data=watched.missing,
            alarm_actions=[self._topic_arn],
            ok_actions=[self._topic_arn],
        )

    def _dashboard(self, database: DatabaseProps, failover: FailoverProps) -> cloudwatch.CfnDashboard:
        members = database.members.identifiers
        widgets = [
            self._graph("Primary reachable", self._by_witness("PrimaryReachable"), 0, 0, "Minimum"),
            self._graph("Standby reachable", self._by_witness("StandbyReachable"), 8, 0, "Minimum"),
            self._graph("Standby lag (s)", self._by_witness("StandbyLagSeconds"), 16, 0, "Maximum"),
            self._graph(
                "Transaction log lag (s)",
                [[METRICS_NAMESPACE, "LogLagSeconds", "Suffix", self.settings.environment_suffix]],
                0,
                6,
                "Maximum",
            ),
            self._graph(
                "Failover machine",
                [
                    ["AWS/States", f"Executions{what}", "StateMachineArn", failover.state_machine_arn]
                    for what in ("Started", "Succeeded", "Failed", "TimedOut")
                ],
                8,
                6,
                "Sum",
            ),
            self._graph(
                "Function errors",
                [["AWS/Lambda", "Errors", "FunctionName", self.names.of(name)] for name in FUNCTIONS],
                16,
                6,
                "Sum",
            ),
            *(
                self._graph(
                    title,
                    [["AWS/RDS", metric, "DBInstanceIdentifier", member] for member in members],
                    8 * (position % 3),
                    12 + 6 * (position // 3),
                    "Maximum",
                )
                for position, (title, metric) in enumerate(
                    (
                        ("Processor (%)", "CPUUtilization"),
                        ("Connections", "DatabaseConnections"),
                        ("Free storage (bytes)", "FreeStorageSpace"),
                        ("Oldest replication slot (bytes)", "OldestReplicationSlotLag"),
                        ("Transaction logs on disk (bytes)", "TransactionLogsDiskUsage"),
                        ("Replica lag as RDS sees it (s)", "ReplicaLag"),
                    )
                )
            ),
        ]
        return cloudwatch.CfnDashboard(
            self,
            "Dashboard",
            dashboard_name=self.names.plain,
            dashboard_body=Stack.of(self).to_json_string({"widgets": widgets}),
        )

    def _by_witness(self, metric: str) -> list[list[str]]:
        return [
            [METRICS_NAMESPACE, metric, "Suffix", self.settings.environment_suffix, "Witness", witness]
            for witness in ("a", "c")
        ]

    def _graph(self, title: str, metrics: list[list[str]], x: int, y: int, statistic: str) -> dict[str, Any]:
        return {
            "type": "metric",
            "x": x,
            "y": y,
            "width": 8,
            "height": 6,
            "properties": {
                "title": title,
                "region": self.region,
                "stat": statistic,
                "period": 60,
                "view": "timeSeries",
                "metrics": metrics,
            },
        }
