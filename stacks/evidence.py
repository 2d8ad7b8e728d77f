"""Evidence: a function that seals every record and exports it to a bucket in which nothing changes without a trace."""

import json
from collections.abc import Sequence

from aws_cdk import aws_events as events
from aws_cdk import aws_iam as iam
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_s3 as s3
from constructs import Construct

from stacks import schedule
from stacks.database import DatabaseProps
from stacks.function import DeployedFunction, FunctionSpec, function, use_table
from stacks.nested import CitizensStack
from stacks.permissions import allow, use_key
from stacks.policy_packs import NIST, acknowledge
from stacks.security import SecurityProps
from stacks.settings import Settings

KEPT_DAYS = 3 * 365
"""Three yearly assessments. With `protect` no version can be deleted before."""
CATCH_UP_MINUTES = 15
ENDED = ("SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED")


class Evidence(CitizensStack):
    """The bucket, the function, and what starts it. `machines`: the ARNs of those whose every end is followed."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        security: SecurityProps,
        database: DatabaseProps,
        machines: Sequence[str],
    ) -> None:
        super().__init__(scope, construct_id, settings=settings)
        self._security = security
        bucket = self._bucket()
        sealing = self._function(database, bucket)
        schedules = schedule.group(self, "evidence")
        schedule.every(self, sealing, security.platform, schedules, minutes=CATCH_UP_MINUTES, payload="{}")
        self._after_machines(sealing, machines)
        self.bucket_name = bucket.ref

    def _bucket(self) -> s3.CfnBucket:
        name = self.names.evidence_bucket(self.account)
        bucket = s3.CfnBucket(
            self,
            "Bucket",
            bucket_name=name,
            bucket_encryption=s3.CfnBucket.BucketEncryptionProperty(
                server_side_encryption_configuration=[
                    s3.CfnBucket.ServerSideEncryptionRuleProperty(
                        bucket_key_enabled=True,
                        server_side_encryption_by_default=s3.CfnBucket.ServerSideEncryptionByDefaultProperty(
                            sse_algorithm="aws:kms", kms_master_key_id=self._security.data_key_arn
                        ),
                    )
                ]
            ),
            versioning_configuration=s3.CfnBucket.VersioningConfigurationProperty(status="Enabled"),
            public_access_block_configuration=s3.CfnBucket.PublicAccessBlockConfigurationProperty(
                block_public_acls=True, block_public_policy=True, ignore_public_acls=True, restrict_public_buckets=True
            ),
            ownership_controls=s3.CfnBucket.OwnershipControlsProperty(
                rules=[s3.CfnBucket.OwnershipControlsRuleProperty(object_ownership="BucketOwnerEnforced")]
            ),
            # Enabled later, it would replace the bucket; it locks nothing without a retention
            object_lock_enabled=True,
            object_lock_configuration=s3.CfnBucket.ObjectLockConfigurationProperty(
                object_lock_enabled="Enabled",
                rule=s3.CfnBucket.ObjectLockRuleProperty(
                    default_retention=s3.CfnBucket.DefaultRetentionProperty(mode="COMPLIANCE", days=KEPT_DAYS)
                )
                if self.settings.protect
                else None,
            ),
            lifecycle_configuration=s3.CfnBucket.LifecycleConfigurationProperty(
                rules=[
                    # What is current stays; what was replaced or deleted can be looked at as long as it may matter
                    s3.CfnBucket.RuleProperty(
                        id="superseded",
                        status="Enabled",
                        noncurrent_version_expiration=s3.CfnBucket.NoncurrentVersionExpirationProperty(
                            noncurrent_days=KEPT_DAYS
                        ),
                        abort_incomplete_multipart_upload=s3.CfnBucket.AbortIncompleteMultipartUploadProperty(
                            days_after_initiation=7
                        ),
                    )
                ]
            ),
        )
        self.keep_or_destroy(bucket)
        acknowledge(
            bucket,
            ("AwsSolutions-S1", f"{NIST}-S3BucketLoggingEnabled"),
            "One function writes here, and its log names every object with its SHA-256; what anybody else changes, "
            "`evidence --verify` finds and the versions show. A bucket for access logs would need one itself; who "
            "reads is for the account's CloudTrail data events",
        )
        acknowledge(
            bucket,
            f"{NIST}-S3BucketReplicationEnabled",
            "Nothing may leave eu-central-2; the recovery table holds the same records, and has backups of its own",
        )
        policy = iam.PolicyDocument(
            statements=[
                iam.PolicyStatement(
                    sid="OnlyOverTls",
                    effect=iam.Effect.DENY,
                    actions=["s3:*"],
                    principals=[iam.AnyPrincipal()],
                    resources=[bucket.attr_arn, f"{bucket.attr_arn}/*"],
                    conditions={"Bool": {"aws:SecureTransport": "false"}},
                )
            ]
        )
        s3.CfnBucketPolicy(self, "BucketPolicy", bucket=bucket.ref, policy_document=policy)
        return bucket

    def _function(self, database: DatabaseProps, bucket: s3.CfnBucket) -> DeployedFunction:
        platform = self._security.platform
        records = f"arn:{self.partition}:s3:::{self.names.evidence_bucket(self.account)}/records/*"
        spec = FunctionSpec(
            name="evidence",
            module="evidence",
            purpose="Seals the records of incidents, operations and drills, and exports them",
            timeout=120,
            environment={"MEMBERS": database.members.as_json(), "EVIDENCE_BUCKET": bucket.ref},
            statements=[
                *use_table(self, platform, ("dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:Scan")),
                allow(("s3:PutObject",), [records]),
                use_key(self._security.data_key_arn, "s3", self.region),
            ],
            patterns={records: "An object is named after the record that it holds"},
        )
        return function(self, spec, platform)

    def _after_machines(self, sealing: DeployedFunction, machines: Sequence[str]) -> None:
        """Best effort, and soon: the machines know nothing of it, so it can neither delay nor fail them."""
        rule = events.CfnRule(
            self,
            "MachineEnded",
            name=self.names.of("machine-ended"),
            description="Seals the record of an execution that has ended",
            event_pattern={
                "source": ["aws.states"],
                "detail-type": ["Step Functions Execution Status Change"],
                "detail": {"stateMachineArn": list(machines), "status": list(ENDED)},
            },
            targets=[
                events.CfnRule.TargetProperty(
                    arn=sealing.arn,
                    id="evidence",
                    input=json.dumps({"because": "a machine has ended"}),
                )
            ],
        )
        lambda_.CfnPermission(
            self,
            "MayBeInvoked",
            action="lambda:InvokeFunction",
            function_name=sealing.resource.ref,
            principal="events.amazonaws.com",
            source_account=self.account,
            source_arn=rule.attr_arn,
        )
