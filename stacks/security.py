"""Security: the customer-managed keys, the alert topic and the dead letters.

Three keys, because their users differ: `data` is used by services on behalf of this account, `logs` by CloudWatch
Logs alone, `alerts` by the services that publish alarms. No key policy has a wildcard action, and the account's
administrators may manage the keys without being able to decrypt with them.
"""

from dataclasses import dataclass
from typing import Any

from aws_cdk import Duration
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from aws_cdk import aws_sqs as sqs
from constructs import Construct

from stacks.function import Platform
from stacks.nested import CitizensStack
from stacks.network import NetworkProps
from stacks.policy_packs import acknowledge
from stacks.settings import Settings

ADMINISTRATION = (
    "kms:CancelKeyDeletion",
    "kms:CreateAlias",
    "kms:DeleteAlias",
    "kms:DescribeKey",
    "kms:DisableKey",
    "kms:DisableKeyRotation",
    "kms:EnableKey",
    "kms:EnableKeyRotation",
    "kms:GetKeyPolicy",
    "kms:GetKeyRotationStatus",
    "kms:ListGrants",
    "kms:ListKeyPolicies",
    "kms:ListKeyRotations",
    "kms:ListResourceTags",
    "kms:PutKeyPolicy",
    "kms:RevokeGrant",
    "kms:RotateKeyOnDemand",
    "kms:ScheduleKeyDeletion",
    "kms:TagResource",
    "kms:UntagResource",
    "kms:UpdateAlias",
    "kms:UpdateKeyDescription",
)
USE = (
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:Encrypt",
    "kms:GenerateDataKey",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
)
SERVICES_WITH_DATA = ("rds", "elasticfilesystem", "dynamodb", "backup", "sqs")
KEY_DELETION_DAYS = 7


@dataclass(frozen=True)
class SecurityProps:
    """Keys, topic and queue by ARN, and what functions stand on."""

    data_key_arn: str
    log_key_arn: str
    alert_key_arn: str
    alert_topic_arn: str
    dead_letters_arn: str
    dead_letters_name: str
    platform: Platform


class Security(CitizensStack):
    """Keys, topic and queue."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        network: NetworkProps,
        bucket: str,
        key: str,
    ) -> None:
        super().__init__(scope, construct_id, settings=settings)
        data = self._key("DataKey", "data", "database, files, tables and backups", self._services_use())
        log = self._key("LogKey", "logs", "log groups", self._logs_use())
        alert = self._key("AlertKey", "alerts", "alert topic", self._publishers_use())
        topic = self._topic(alert)
        queue = self._dead_letters(data)
        platform = Platform(
            bucket=bucket,
            key=key,
            subnet_ids=network.subnet_ids,
            group_id=network.function_group_id,
            data_key_arn=data.attr_arn,
            log_key_arn=log.attr_arn,
            dead_letters_arn=queue.attr_arn,
        )
        self.props = SecurityProps(
            data_key_arn=data.attr_arn,
            log_key_arn=log.attr_arn,
            alert_key_arn=alert.attr_arn,
            alert_topic_arn=topic.ref,
            dead_letters_arn=queue.attr_arn,
            dead_letters_name=queue.attr_queue_name,
            platform=platform,
        )

    def _key(self, construct_id: str, name: str, what: str, use: list[iam.PolicyStatement]) -> kms.CfnKey:
        administration = iam.PolicyStatement(
            sid="AdministerWithoutUse",
            actions=list(ADMINISTRATION),
            principals=[iam.AccountRootPrincipal()],
            resources=["*"],
        )
        key = kms.CfnKey(
            self,
            construct_id,
            description=f"Encrypts the {what} of {self.names.plain}",
            enable_key_rotation=True,
            pending_window_in_days=KEY_DELETION_DAYS,
            key_policy=iam.PolicyDocument(statements=[administration, *use]),
        )
        self.keep_or_destroy(key)
        kms.CfnAlias(self, f"{construct_id}Alias", alias_name=f"alias/{self.names.of(name)}", target_key_id=key.ref)
        return key

    def _services_use(self) -> list[iam.PolicyStatement]:
        """Principals of this account whom their own policies allow it, and only through the services that hold data."""
        through = [f"{service}.{self.region}.amazonaws.com" for service in SERVICES_WITH_DATA]
        here: dict[str, Any] = {"kms:ViaService": through, "kms:CallerAccount": self.account}
        return [
            iam.PolicyStatement(
                sid="UseThroughServices",
                actions=list(USE),
                principals=[iam.AccountRootPrincipal()],
                resources=["*"],
                conditions={"StringEquals": here},
            ),
            iam.PolicyStatement(
                sid="GrantToServices",
                actions=["kms:CreateGrant"],
                principals=[iam.AccountRootPrincipal()],
                resources=["*"],
                conditions={"StringEquals": here, "Bool": {"kms:GrantIsForAWSResource": "true"}},
            ),
        ]

    def _logs_use(self) -> list[iam.PolicyStatement]:
        first, second = self.names.members
        groups = [
            self.names.function_log_group("*"),
            self.names.failover_log_group,
            self.names.machine_log_group(self.names.reprotect_machine),
            self.names.machine_log_group(self.names.switchover_machine),
            self.names.machine_log_group(self.names.drill_machine),
            self.names.flow_log_group,
            self.names.member_log_group(first, "*"),
            self.names.member_log_group(second, "*"),
        ]
        return [
            iam.PolicyStatement(
                sid="UseByLogGroups",
                actions=list(USE),
                principals=[iam.ServicePrincipal(f"logs.{self.region}.amazonaws.com")],
                resources=["*"],
                conditions={
                    "ArnLike": {
                        "kms:EncryptionContext:aws:logs:arn": [
                            self.arn("logs", f"log-group:{group}") for group in groups
                        ]
                    }
                },
            )
        ]

    def _publishers_use(self) -> list[iam.PolicyStatement]:
        return [
            iam.PolicyStatement(
                sid="UseByAlarms",
                actions=["kms:Decrypt", "kms:GenerateDataKey"],
                principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                resources=["*"],
                conditions={"StringEquals": {"aws:SourceAccount": self.account}},
            ),
            iam.PolicyStatement(
                # EventBridge gives no source account or ARN when it encrypts for a topic: a condition would shut it out
                sid="UseByRules",
                actions=["kms:Decrypt", "kms:GenerateDataKey"],
                principals=[iam.ServicePrincipal("events.amazonaws.com")],
                resources=["*"],
            ),
            iam.PolicyStatement(
                sid="UseThroughTopic",
                actions=["kms:Decrypt", "kms:GenerateDataKey"],
                principals=[iam.AccountRootPrincipal()],
                resources=["*"],
                conditions={
                    "StringEquals": {
                        "kms:ViaService": f"sns.{self.region}.amazonaws.com",
                        "kms:CallerAccount": self.account,
                    }
                },
            ),
        ]

    def _topic(self, key: kms.CfnKey) -> sns.CfnTopic:
        topic = sns.CfnTopic(
            self,
            "AlertTopic",
            topic_name=self.names.alert_topic,
            display_name=f"Citizens database {self.settings.environment_suffix}",
            kms_master_key_id=key.attr_arn,
        )
        sns.CfnTopicPolicy(
            self,
            "AlertTopicPolicy",
            topics=[topic.ref],
            policy_document=iam.PolicyDocument(
                statements=[
                    iam.PolicyStatement(
                        sid="OnlyOverTls",
                        effect=iam.Effect.DENY,
                        actions=["sns:Publish"],
                        principals=[iam.AnyPrincipal()],
                        resources=[topic.ref],
                        conditions={"Bool": {"aws:SecureTransport": "false"}},
                    ),
                    iam.PolicyStatement(
                        sid="PublishAlarms",
                        actions=["sns:Publish"],
                        principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                        resources=[topic.ref],
                        conditions={
                            "ArnLike": {"aws:SourceArn": self.arn("cloudwatch", f"alarm:{self.names.of('*')}")},
                            "StringEquals": {"aws:SourceAccount": self.account},
                        },
                    ),
                    iam.PolicyStatement(
                        sid="PublishDatabaseEvents",
                        actions=["sns:Publish"],
                        principals=[iam.ServicePrincipal("events.amazonaws.com")],
                        resources=[topic.ref],
                        conditions={
                            "ArnEquals": {
                                "aws:SourceArn": self.arn("events", f"rule/{self.names.of('database-events')}")
                            }
                        },
                    ),
                ]
            ),
        )
        if self.settings.alarm_email is not None:
            sns.CfnSubscription(
                self, "AlarmEmail", topic_arn=topic.ref, protocol="email", endpoint=self.settings.alarm_email
            )
        return topic

    def _dead_letters(self, key: kms.CfnKey) -> sqs.CfnQueue:
        queue = sqs.CfnQueue(
            self,
            "DeadLetters",
            queue_name=self.names.of("dead-letters"),
            kms_master_key_id=key.attr_arn,
            message_retention_period=int(Duration.days(14).to_seconds()),
        )
        self.keep_or_destroy(queue)
        acknowledge(
            queue,
            "AwsSolutions-SQS3",
            "This is the dead-letter queue itself, of the functions and schedules; nothing consumes it but people, and "
            "an alarm tells them. The rule knows dead-letter queues of queues only",
        )
        sqs.CfnQueuePolicy(
            self,
            "DeadLettersPolicy",
            queues=[queue.ref],
            policy_document=iam.PolicyDocument(
                statements=[
                    iam.PolicyStatement(
                        sid="OnlyOverTls",
                        effect=iam.Effect.DENY,
                        actions=["sqs:*"],
                        principals=[iam.AnyPrincipal()],
                        resources=[queue.attr_arn],
                        conditions={"Bool": {"aws:SecureTransport": "false"}},
                    )
                ]
            ),
        )
        return queue
