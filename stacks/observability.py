"""Observability: flow logs, the alarms of `stacks.alarms` with what they measure in logs, and the dashboard."""

from collections.abc import Mapping
from dataclasses import dataclass

from aws_cdk import Stack
from aws_cdk import aws_cloudwatch as cloudwatch
from aws_cdk import aws_ec2 as ec2
from aws_cdk import aws_iam as iam
from aws_cdk import aws_logs as logs
from constructs import Construct

from recovery import promise
from stacks import dashboard, schedule
from stacks.alarms import Alarm, Composite, Filter, Watched, alarms, composites, filters
from stacks.database import DatabaseProps
from stacks.drills import DrillsProps
from stacks.failover import FailoverProps
from stacks.failover_machine import definition
from stacks.function import FunctionSpec, function, put_metrics, use_table
from stacks.nested import CitizensStack
from stacks.network import NetworkProps
from stacks.operations import OperationsProps
from stacks.permissions import allow, identity
from stacks.security import SecurityProps
from stacks.settings import Settings


@dataclass(frozen=True)
class ObservabilityProps:
    """The dashboard and the flow log group by name."""

    dashboard_name: str
    flow_log_group_name: str


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
        drills: DrillsProps,
    ) -> None:
        super().__init__(scope, construct_id, settings=settings)
        self._topic_arn = security.alert_topic_arn
        flow_logs = self._flow_logs(network, security)
        watched = Watched(
            names=self.names,
            settings=settings,
            state_machine_arn=failover.state_machine_arn,
            dead_letters_name=security.dead_letters_name,
            operations={**operations.machines, "drill": drills.machine_arn},
            drill_days=settings.drill_days or None,
        )
        for each in filters(watched, database.log_groups):
            self._filter(each, watched.filtered_namespace)
        made = {alarm.name: self._alarm(alarm) for alarm in alarms(watched)}
        for composite in composites(watched):
            self._composite(composite, made)
        self._posture(security, database, failover)
        shown = self._dashboard(watched)
        self.props = ObservabilityProps(dashboard_name=shown.ref, flow_log_group_name=flow_logs)

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

    def _posture(self, security: SecurityProps, database: DatabaseProps, failover: FailoverProps) -> None:
        """Measures what no service publishes; reads only, and signs in to no database."""
        settings = self.settings
        promised = promise.prove(definition(failover.references), settings.detection, settings.objectives)
        posture = function(
            self,
            FunctionSpec(
                name="posture",
                module="posture",
                purpose="Measures how ready the system is for a loss",
                # Four rounds of a client that hangs
                timeout=30,
                environment={
                    "MEMBERS": database.members.as_json(),
                    "FAILURE_THRESHOLD": str(settings.failure_threshold),
                    "PROBE_INTERVAL_SECONDS": f"{settings.probe_interval_seconds:g}",
                    "PROBE_TIMEOUT_SECONDS": f"{settings.probe_timeout_seconds:g}",
                    "MULTI_AZ_GRACE_SECONDS": str(settings.multi_az_grace_seconds),
                    "RTO_SECONDS": str(settings.rto_seconds),
                    "RPO_SECONDS": str(settings.rpo_seconds),
                    "PROMISED_RTO_SECONDS": f"{promised.path.seconds:g}",
                },
                statements=[
                    *use_table(self, security.platform),
                    allow(("rds:DescribeDBInstances",), self.member_arns),
                    put_metrics(),
                ],
            ),
            security.platform,
        )
        schedule.every_minute(self, posture, security.platform, schedule.group(self, "posture"))

    def _composite(self, each: Composite, made: Mapping[str, cloudwatch.CfnAlarm]) -> None:
        children = [made[name] for name in each.children]
        groups = [" AND ".join(f'ALARM("{self.names.of(name)}")' for name in group) for group in each.rule]
        composite = cloudwatch.CfnCompositeAlarm(
            self,
            each.construct_id,
            alarm_name=self.names.of(each.name),
            alarm_description=each.description,
            alarm_rule=groups[0] if len(groups) == 1 else " OR ".join(f"({group})" for group in groups),
            alarm_actions=[self._topic_arn],
            ok_actions=[self._topic_arn],
        )
        for alarm in children:
            composite.add_resource_dependency(alarm)

    def _filter(self, each: Filter, namespace: str) -> None:
        logs.CfnMetricFilter(
            self,
            each.construct_id,
            filter_name=self.names.of(each.name),
            log_group_name=each.log_group,
            filter_pattern=each.pattern,
            metric_transformations=[
                logs.CfnMetricFilter.MetricTransformationProperty(
                    metric_namespace=namespace, metric_name=each.metric, metric_value=each.value
                )
            ],
        )

    def _alarm(self, alarm: Alarm) -> cloudwatch.CfnAlarm:
        return cloudwatch.CfnAlarm(
            self,
            alarm.construct_id,
            alarm_name=self.names.of(alarm.name),
            alarm_description=alarm.description,
            namespace=alarm.metric.namespace,
            metric_name=alarm.metric.name,
            dimensions=[
                cloudwatch.CfnAlarm.DimensionProperty(name=name, value=value)
                for name, value in alarm.metric.dimensions.items()
            ]
            or None,
            statistic=alarm.metric.statistic,
            period=alarm.period,
            evaluation_periods=alarm.periods,
            datapoints_to_alarm=alarm.datapoints or alarm.periods,
            threshold=alarm.threshold,
            comparison_operator="LessThanThreshold" if alarm.below else "GreaterThanThreshold",
            treat_missing_data=alarm.missing,
            alarm_actions=[self._topic_arn],
            ok_actions=[self._topic_arn],
        )

    def _dashboard(self, watched: Watched) -> cloudwatch.CfnDashboard:
        return cloudwatch.CfnDashboard(
            self,
            "Dashboard",
            dashboard_name=self.names.plain,
            dashboard_body=Stack.of(self).to_json_string(dashboard.body(watched, self.region, self.account)),
        )
