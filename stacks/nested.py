"""What every nested stack shares: the settings, the names and the removal policy that follows from `protect`."""

from aws_cdk import CfnResource, NestedStack, RemovalPolicy
from aws_cdk import aws_logs as logs
from constructs import Construct

from stacks.names import Names
from stacks.settings import Settings


class CitizensStack(NestedStack):
    """A nested stack of this system."""

    def __init__(self, scope: Construct, construct_id: str, *, settings: Settings) -> None:
        super().__init__(
            scope, construct_id, description=f"{construct_id} of the citizens database's disaster recovery"
        )
        self.settings = settings
        self.names = Names(settings.environment_suffix)

    @property
    def removal(self) -> RemovalPolicy:
        """What happens to data when the stack goes: kept when protected, else gone with it."""
        return RemovalPolicy.RETAIN if self.settings.protect else RemovalPolicy.DESTROY

    def arn(self, service: str, resource: str) -> str:
        """The ARN of a resource of this account and region, known before it exists because its name is fixed."""
        return f"arn:{self.partition}:{service}:{self.region}:{self.account}:{resource}"

    @property
    def member_arns(self) -> tuple[str, str]:
        """The ARNs of both members, in their order."""
        first, second = self.names.members
        return self.arn("rds", f"db:{first}"), self.arn("rds", f"db:{second}")

    @property
    def recovery_table_arn(self) -> str:
        """The ARN of the recovery table."""
        return self.arn("dynamodb", f"table/{self.names.recovery_table}")

    def keep_or_destroy(self, resource: CfnResource) -> None:
        """Give a resource that holds data the removal policy of this deployment."""
        resource.apply_removal_policy(self.removal)

    def log_group(self, construct_id: str, name: str, key_arn: str) -> logs.CfnLogGroup:
        """An encrypted log group with the settings' retention, made by us before a service makes one without."""
        group = logs.CfnLogGroup(
            self,
            construct_id,
            log_group_name=name,
            kms_key_id=key_arn,
            retention_in_days=self.settings.log_retention_days,
        )
        self.keep_or_destroy(group)
        return group
