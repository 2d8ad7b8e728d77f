"""The whole system in one screen: ten nested stacks, each built from those before it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aws_cdk import App, CfnOutput, Environment, Stack, Tags
from aws_cdk import aws_s3_assets as assets
from constructs import Construct

from stacks import function_package, policy_packs
from stacks.database import Database
from stacks.drills import Drills
from stacks.evidence import Evidence
from stacks.failover import Failover
from stacks.names import DATABASE, DATABASE_PORT, Names
from stacks.network import Network
from stacks.observability import Observability
from stacks.operations import Operations
from stacks.promised import promised
from stacks.security import Security
from stacks.settings import Settings
from stacks.storage import Storage
from stacks.transaction_log import TransactionLog


class DisasterRecovery(Stack):
    """The parent stack `citizens-dr-<suffix>`. `root` is the repository, from which the functions are packaged."""

    def __init__(self, scope: Construct, *, settings: Settings, root: Path) -> None:
        names = Names(settings.environment_suffix)
        super().__init__(
            scope,
            names.parent_stack,
            # No account: the same templates deploy into any, and nothing is looked up
            env=Environment(region=settings.region),
            description="Disaster recovery of the citizens database (RPO 1 h, RTO 15 min)",
            tags=settings.tags,
            termination_protection=settings.protect,
            analytics_reporting=False,
        )
        package = function_package.build(root, root / "build" / "functions")
        code = assets.Asset(self, "Functions", path=str(package.folder))
        where = {"bucket": code.s3_bucket_name, "key": code.s3_object_key}

        network = Network(self, "Network", settings=settings).props
        security = Security(self, "Security", settings=settings, network=network, **where).props
        storage = Storage(self, "Storage", settings=settings, network=network, security=security).props
        database = Database(self, "Database", settings=settings, network=network, security=security).props
        log = TransactionLog(
            self, "TransactionLog", settings=settings, security=security, storage=storage, database=database
        ).props
        failover = Failover(
            self,
            "Failover",
            settings=settings,
            network=network,
            security=security,
            storage=storage,
            database=database,
            transaction_log=log,
        ).props
        operations = Operations(
            self,
            "Operations",
            settings=settings,
            network=network,
            security=security,
            storage=storage,
            database=database,
            failover=failover,
        ).props
        drills = Drills(
            self,
            "Drills",
            settings=settings,
            network=network,
            security=security,
            storage=storage,
            database=database,
            transaction_log=log,
        ).props
        evidence = Evidence(
            self,
            "Evidence",
            settings=settings,
            security=security,
            database=database,
            machines=[failover.state_machine_arn, *operations.machines.values(), drills.machine_arn],
        )
        observability = Observability(
            self,
            "Observability",
            settings=settings,
            network=network,
            security=security,
            database=database,
            failover=failover,
            operations=operations,
            drills=drills,
        ).props

        members = database.members
        self._outputs(
            {
                "EnvironmentSuffix": settings.environment_suffix,
                "Region": settings.region,
                "WriterUri": _uri(members.hosts, "read-write"),
                "ReaderUri": _uri(members.hosts, "prefer-standby"),
                "Member1Endpoint": members.hosts[0],
                "Member2Endpoint": members.hosts[1],
                "Member1Identifier": members.identifiers[0],
                "Member2Identifier": members.identifiers[1],
                "Member1LogGroupName": database.log_groups[0],
                "Member2LogGroupName": database.log_groups[1],
                "SecretArn": members.secret_arn,
                "SecretName": settings.secret_name,
                "FailoverStateMachineArn": failover.state_machine_arn,
                "FailoverLogGroupName": failover.log_group_name,
                "ReprotectStateMachineArn": operations.reprotect_machine_arn,
                "SwitchoverStateMachineArn": operations.switchover_machine_arn,
                "DrillStateMachineArn": drills.machine_arn,
                "AlertTopicArn": security.alert_topic_arn,
                "FileSystemId": storage.file_system_id,
                "AccessPointId": storage.access_point_id,
                "RecoveryTableName": storage.table_name,
                "EvidenceBucketName": evidence.bucket_name,
                "VpcId": network.vpc_id,
                "DataKeyArn": security.data_key_arn,
                "BackupVaultName": storage.vault_name,
                "DashboardName": observability.dashboard_name,
                "FlowLogGroupName": observability.flow_log_group_name,
                "RotationFunctionName": database.rotation.name,
                "WitnessAFunctionName": failover.functions["witness-a"].name,
                "WitnessCFunctionName": failover.functions["witness-c"].name,
                **({"ArchiveFunctionName": log.archive.name} if log.archive else {}),
                **({"RewindFunctionName": log.rewind.name} if log.rewind else {}),
            }
        )

    def _outputs(self, values: dict[str, str]) -> None:
        for name, value in values.items():
            CfnOutput(self, name, value=value)


def synthesise(settings: Settings, root: Path, context: Mapping[str, Any], output: Path | None = None) -> Path:
    """Write the cloud assembly to `output` (the CLI's folder when none is given). Returns where it is.

    `context` holds the CDK's feature flags, which the CLI hands over and a run by hand reads from cdk.json. Raises
    RuntimeError when a policy pack has a finding that is not acknowledged; the findings are printed. Raises
    ObjectiveMissed or Unbounded when the templates do not promise the objectives (`recovery.promise`).
    """
    app = App(context=context, outdir=None if output is None else str(output))
    DisasterRecovery(app, settings=settings, root=root)
    for name, value in settings.tags.items():
        Tags.of(app).add(name, value)
    policy_packs.judge(app)
    assembly = Path(app.synth().directory)
    promised(settings, assembly)
    return assembly


def _uri(hosts: Sequence[str], session: str) -> str:
    """libpq's own way to follow the primary: every member, and which kind is wanted. No user, no password."""
    both = ",".join(f"{host}:{DATABASE_PORT}" for host in hosts)
    return f"postgresql://{both}/{DATABASE}?target_session_attrs={session}&sslmode=verify-full"
