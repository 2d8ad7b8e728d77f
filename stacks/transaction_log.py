"""TransactionLog: functions that archive the logical transaction log, open it for a new epoch, read and apply it."""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class TransactionLogProps:
    """Its functions."""

    archive: DeployedFunction
    open_log: DeployedFunction
    roll_forward: DeployedFunction
    rewind: DeployedFunction


class TransactionLog(CitizensStack):
    """Archive, open-log, roll-forward and rewind."""

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
        platform = security.platform
        members = {"MEMBERS": database.members.as_json()}
        use_files = allow(
            ("elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"),
            [storage.file_system_arn],
            {"StringEquals": {"elasticfilesystem:AccessPointArn": storage.access_point_arn}},
        )
        archive = function(
            self,
            FunctionSpec(
                name="archive",
                module="archive",
                purpose="Appends the primary's logical transaction log to the file system",
                # A run works for a minute; the rest is for a transaction that takes longer to read. A whole processor
                # (which is what this much memory brings) compresses while the messages arrive.
                timeout=900,
                memory=1769,
                # One writer: segments are a chain
                concurrency=1,
                environment={**members, "LOG_PATH": LOG_PATH, "RPO_SECONDS": str(settings.rpo_seconds)},
                access_point_arn=storage.access_point_arn,
                mount_path=LOG_PATH,
                database_user="citizens_log",
                statements=[
                    *use_table(self, platform),
                    put_metrics(),
                    use_files,
                ],
            ),
            platform,
        )
        open_log = function(
            self,
            FunctionSpec(
                name="open-log",
                module="open_log",
                purpose="Opens the transaction log of a new epoch before anything is written in it",
                timeout=30,
                environment=members,
                database_user="citizens_log",
                statements=use_table(self, platform, ("dynamodb:GetItem", "dynamodb:PutItem")),
            ),
            platform,
        )
        roll_forward = function(
            self,
            FunctionSpec(
                name="roll-forward",
                module="roll_forward",
                purpose="Applies to a promoted member what the transaction log holds beyond it",
                timeout=45,
                # A whole processor: it takes a batch apart while the database applies the one before
                memory=1769,
                environment={**members, "LOG_PATH": LOG_PATH},
                access_point_arn=storage.access_point_arn,
                mount_path=LOG_PATH,
                statements=[*read_secret(self, database.members.secret_arn), use_files],
            ),
            platform,
        )
        rewind = function(
            self,
            FunctionSpec(
                name="rewind",
                module="rewind",
                purpose="Lists the transaction log's transactions and rolls a restored instance forward, when asked to",
                timeout=900,
                memory=1769,
                environment={**members, "LOG_PATH": LOG_PATH},
                access_point_arn=storage.access_point_arn,
                mount_path=LOG_PATH,
                statements=[
                    *read_secret(self, database.members.secret_arn),
                    # No ClientWrite: the mount is read-only
                    allow(
                        ("elasticfilesystem:ClientMount",),
                        [storage.file_system_arn],
                        {"StringEquals": {"elasticfilesystem:AccessPointArn": storage.access_point_arn}},
                    ),
                ],
            ),
            platform,
        )
        schedule.every_minute(self, archive, platform, schedule.group(self, "archive"))
        self.props = TransactionLogProps(archive, open_log, roll_forward, rewind)
