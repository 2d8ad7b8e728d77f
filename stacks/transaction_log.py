"""TransactionLog: the functions that archive the logical transaction log, open it for a new epoch, roll it forward,
read it for people, and look after it.

With the setting `transaction_log` off only the last is deployed: what was kept is still verified, and expires.
"""

from dataclasses import dataclass

from aws_cdk import aws_iam as iam
from constructs import Construct

from stacks import schedule
from stacks.database import DatabaseProps
from stacks.function import DeployedFunction, FunctionSpec, function, put_metrics, read_secret, use_table
from stacks.nested import CitizensStack
from stacks.permissions import allow
from stacks.security import SecurityProps
from stacks.settings import Settings
from stacks.storage import StorageProps

LOG_PATH = "/mnt/transaction-log"
# A whole processor: it compresses, or digests, while data arrives.
PROCESSOR_MIB = 1769
CARE_HOURS = 12


@dataclass(frozen=True)
class TransactionLogProps:
    """The functions; only the care when the log is turned off."""

    archive: DeployedFunction | None
    open_log: DeployedFunction | None
    roll_forward: DeployedFunction | None
    rewind: DeployedFunction | None
    care: DeployedFunction


class TransactionLog(CitizensStack):
    """Archive, open-log, roll-forward, rewind, and the care of the files."""

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        settings: Settings,
        security: SecurityProps,
        storage: StorageProps,
        database: DatabaseProps,
    ) -> None:
        super().__init__(scope, construct_id, settings=settings)
        self._platform = security.platform
        self._storage = storage
        self._secret_arn = database.members.secret_arn
        self._members = {"MEMBERS": database.members.as_json()}
        kept = settings.transaction_log
        self.props = TransactionLogProps(
            self._archive() if kept else None,
            self._open_log() if kept else None,
            self._roll_forward() if kept else None,
            self._rewind() if kept else None,
            self._care(),
        )

    def _archive(self) -> DeployedFunction:
        archive = function(
            self,
            FunctionSpec(
                name="archive",
                module="archive",
                purpose="Appends the primary's logical transaction log to the file system",
                # A run works for a minute; the rest is for a transaction that takes longer to read
                timeout=900,
                memory=PROCESSOR_MIB,
                # One writer: segments are a chain
                concurrency=1,
                environment={**self._members, "LOG_PATH": LOG_PATH, "RPO_SECONDS": str(self.settings.rpo_seconds)},
                access_point_arn=self._storage.access_point_arn,
                mount_path=LOG_PATH,
                database_user="citizens_log",
                statements=[*use_table(self, self._platform), put_metrics(), self._use_files()],
            ),
            self._platform,
        )
        schedule.every_minute(self, archive, self._platform, schedule.group(self, "archive"))
        return archive

    def _open_log(self) -> DeployedFunction:
        return function(
            self,
            FunctionSpec(
                name="open-log",
                module="open_log",
                purpose="Opens the transaction log of a new epoch before anything is written in it",
                timeout=15,
                # The machine asks anew before an attempt that hangs has ended
                concurrency=2,
                environment=self._members,
                database_user="citizens_log",
                statements=use_table(self, self._platform, ("dynamodb:GetItem", "dynamodb:PutItem")),
            ),
            self._platform,
        )

    def _care(self) -> DeployedFunction:
        care = function(
            self,
            FunctionSpec(
                name="log-care",
                module="log_care",
                purpose="Verifies the transaction log's files and removes those that are old and not needed",
                timeout=900,
                memory=PROCESSOR_MIB,
                environment={
                    **self._members,
                    "LOG_PATH": LOG_PATH,
                    "LOG_KEPT_DAYS": str(self.settings.log_kept_days),
                },
                access_point_arn=self._storage.access_point_arn,
                mount_path=LOG_PATH,
                statements=[
                    allow(("rds:DescribeDBInstances",), self.member_arns),
                    put_metrics(),
                    self._use_files(),
                ],
            ),
            self._platform,
        )
        schedule.every(
            self,
            care,
            self._platform,
            schedule.group(self, "log-care", "CareSchedules"),
            minutes=CARE_HOURS * 60,
            payload="{}",
        )
        return care

    def _use_files(self, *actions: str) -> iam.PolicyStatement:
        return allow(
            actions or ("elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"),
            [self._storage.file_system_arn],
            {"StringEquals": {"elasticfilesystem:AccessPointArn": self._storage.access_point_arn}},
        )

    def _roll_forward(self) -> DeployedFunction:
        return function(
            self,
            FunctionSpec(
                name="roll-forward",
                module="roll_forward",
                purpose="Applies to a promoted member what the transaction log holds beyond it",
                timeout=45,
                # The machine asks anew before a long run has ended, and waits for it at the database's lock
                concurrency=2,
                # It takes a batch apart while the database applies the one before
                memory=PROCESSOR_MIB,
                environment={**self._members, "LOG_PATH": LOG_PATH},
                access_point_arn=self._storage.access_point_arn,
                mount_path=LOG_PATH,
                statements=[*read_secret(self, self._secret_arn), self._use_files()],
            ),
            self._platform,
        )

    def _rewind(self) -> DeployedFunction:
        return function(
            self,
            FunctionSpec(
                name="rewind",
                module="rewind",
                purpose="Lists the transaction log's transactions and rolls a restored instance forward, when asked to",
                timeout=900,
                memory=PROCESSOR_MIB,
                environment={**self._members, "LOG_PATH": LOG_PATH},
                access_point_arn=self._storage.access_point_arn,
                mount_path=LOG_PATH,
                # No ClientWrite: the mount is read-only
                statements=[*read_secret(self, self._secret_arn), self._use_files("elasticfilesystem:ClientMount")],
            ),
            self._platform,
        )
