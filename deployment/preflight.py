"""What an account must have before a deploy: each check with a verdict, what was found and what to do.

Nothing is created or changed. What the caller may not ask is a warning that says so, not a failure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from botocore.exceptions import BotoCoreError, ClientError

from deployment import agency_secret, remains
from deployment.account import GLOBAL_REGION, Account
from deployment.cdk import Cdk, stack_name
from stacks.names import Names
from stacks.settings import REGION, Settings

OK, WARNING, FAILED = "ok", "warning", "failed"
DENIED = ("AccessDenied", "AccessDeniedException", "AuthorizationError", "UnauthorizedOperation")
BOOTSTRAP_PARAMETER = "/cdk-bootstrap/hnb659fds/version"
# Lambda refuses a reservation that leaves fewer than this to functions without one (docs: Reserved concurrency).
UNRESERVED_CONCURRENCY = 100
VPCS_PER_REGION = "L-F678F1CE"
DB_INSTANCES = "L-7B6409FD"
MEMBERS = 2
# Data that a protected destroy keeps under names that do not stand in the way of a new deploy.
OUT_OF_THE_WAY = ("DB snapshot", "automated backup", "table backup", "recovery point", "key")


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check. `todo` is empty when there is nothing to do."""

    check: str
    verdict: str
    found: str
    todo: str = ""


@dataclass(frozen=True)
class Subject:
    """What is checked: an account, for the settings and the synthesised assembly of one suffix."""

    account: Account
    settings: Settings
    cdk: Cdk

    @property
    def suffix(self) -> str:
        """The environment suffix."""
        return self.settings.environment_suffix

    def stack_status(self) -> str | None:
        """The status of this suffix's stack, None without one."""
        try:
            stacks = self.account.client("cloudformation").describe_stacks(StackName=stack_name(self.suffix))["Stacks"]
        except ClientError as error:
            if error.response["Error"]["Code"] == "ValidationError":
                return None
            raise
        alive = [str(stack["StackStatus"]) for stack in stacks if stack["StackStatus"] != "DELETE_COMPLETE"]
        return alive[0] if alive else None


Check = Callable[[Subject], Iterable[Verdict]]


def run(subject: Subject) -> list[Verdict]:
    """Every check in order. Without credentials, or in a region that is not enabled, the others have no answer."""
    verdicts: list[Verdict] = []
    for name, gate in GATES.items():
        verdicts += _asked(name, gate, subject)
        if any(verdict.verdict == FAILED for verdict in verdicts):
            return verdicts
    for name, check in CHECKS.items():
        verdicts += _asked(name, check, subject)
    return verdicts


def has_failed(verdicts: Sequence[Verdict]) -> bool:
    """Whether a deploy must not begin."""
    return any(verdict.verdict == FAILED for verdict in verdicts)


def as_text(verdicts: Sequence[Verdict]) -> str:
    """A table for a person: a line each, and below it what to do."""
    width = max(len(verdict.check) for verdict in verdicts)
    lines = []
    for verdict in verdicts:
        lines.append(f"{verdict.verdict:<8} {verdict.check:<{width}}  {verdict.found}")
        if verdict.todo:
            lines.append(f"{'':<8} {'':<{width}}  → {verdict.todo}")
    return "\n".join(lines)


def as_json(verdicts: Sequence[Verdict]) -> str:
    """`{"verdict": …, "checks": [{"check", "verdict", "found", "todo"}, …]}`."""
    overall = FAILED if has_failed(verdicts) else OK
    return json.dumps({"verdict": overall, "checks": [asdict(each) for each in verdicts]}, indent=2, ensure_ascii=False)


def _asked(name: str, check: Check, subject: Subject) -> list[Verdict]:
    try:
        return list(check(subject))
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        action = error.operation_name
        if code in DENIED:
            return [Verdict(name, WARNING, f"could not be asked: {code} for {action}", f"allow {action} to see it")]
        return [Verdict(name, WARNING, f"could not be asked: {code} for {action}: {message}", "look at it by hand")]
    except BotoCoreError as error:
        return [Verdict(name, WARNING, f"could not be asked: {error}", "look at it by hand")]


# Checks ---------------------------------------------------------------------------------------------------------------


def _credentials(subject: Subject) -> Iterable[Verdict]:
    try:
        # A region that is not enabled refuses every credential, so the question goes to one that always is
        caller = subject.account.client("sts", GLOBAL_REGION).get_caller_identity()
    except (ClientError, BotoCoreError) as error:
        reason = error.response["Error"]["Code"] if isinstance(error, ClientError) else str(error).rstrip(".")
        yield Verdict(
            "credentials", FAILED, f"none that AWS accepts ({reason})", "sign in, for example `aws sso login`"
        )
        return
    wanted = subject.account.environment.get("CDK_DEFAULT_ACCOUNT")
    if wanted and wanted != caller["Account"]:
        yield Verdict(
            "credentials",
            FAILED,
            f"those of account {caller['Account']}, but CDK_DEFAULT_ACCOUNT is {wanted}",
            "sign in to the right account, or correct the variable",
        )
        return
    yield Verdict("credentials", OK, f"account {caller['Account']} as {caller['Arn'].rpartition(':')[2]}")


def _region(subject: Subject) -> Iterable[Verdict]:
    status = subject.account.client("account", GLOBAL_REGION).get_region_opt_status(RegionName=REGION)[
        "RegionOptStatus"
    ]
    if status in ("ENABLED", "ENABLED_BY_DEFAULT"):
        yield Verdict("region", OK, f"{REGION} is enabled")
    else:
        enable = f"enable it (`aws account enable-region --region-name {REGION}`); that takes minutes to hours"
        yield Verdict("region", FAILED, f"{REGION} is {status.lower()}", enable)


def _bootstrap(subject: Subject) -> Iterable[Verdict]:
    needed = subject.cdk.required_bootstrap()
    todo = f"run `cdk bootstrap aws://<account>/{REGION}` (README: On a real account)"
    try:
        value = subject.account.client("ssm").get_parameter(Name=BOOTSTRAP_PARAMETER)["Parameter"]["Value"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "ParameterNotFound":
            raise
        yield Verdict("bootstrap", FAILED, f"{REGION} is not bootstrapped for CDK", todo)
        return
    if int(value) < needed:
        yield Verdict("bootstrap", FAILED, f"version {value}, but {needed} is needed", todo)
    else:
        yield Verdict("bootstrap", OK, f"version {value}, at least {needed} is needed")


def _secret(subject: Subject) -> Iterable[Verdict]:
    wrong = agency_secret.findings(subject.account, subject.settings)
    if not wrong:
        yield Verdict("secret", OK, f"{subject.settings.secret_name} is well-formed and its key usable")
    yield from (Verdict("secret", FAILED, finding.found, finding.todo) for finding in wrong)


def _names(subject: Subject) -> Iterable[Verdict]:
    status, stack = subject.stack_status(), stack_name(subject.suffix)
    if status is not None:
        if status.endswith("_IN_PROGRESS") and status != "REVIEW_IN_PROGRESS":
            yield Verdict("names", FAILED, f"{stack} is {status}", "wait until the other command is done")
        elif status in ("DELETE_FAILED", "ROLLBACK_FAILED", "ROLLBACK_COMPLETE", "CREATE_FAILED"):
            yield Verdict("names", FAILED, f"{stack} is {status}", f"run `make destroy ENV_SUFFIX={subject.suffix}`")
        elif status == "UPDATE_ROLLBACK_FAILED":
            todo = f"run `aws cloudformation continue-update-rollback --stack-name {stack}`"
            yield Verdict("names", FAILED, f"{stack} is {status}", todo)
        else:
            yield Verdict("names", OK, f"{stack} is {status}: this deploy updates it")
        return
    seen = remains.survey(subject.account, subject.suffix)
    blocking = [str(each) for each in seen.found if each.kind not in OUT_OF_THE_WAY]
    kept = [str(each) for each in seen.found if each.kind in OUT_OF_THE_WAY]
    if blocking:
        yield Verdict(
            "names",
            FAILED,
            f"{len(blocking)} left over without a stack: {_some(blocking)}",
            f"run `make destroy ENV_SUFFIX={subject.suffix}`, delete by hand what it lists, or take another suffix",
        )
    elif kept:
        yield Verdict("names", WARNING, f"free, but data of an earlier environment is there: {_some(kept)}")
    else:
        yield Verdict("names", OK, f"none is taken by an earlier {subject.suffix}")
    if seen.unasked:
        yield Verdict("names", WARNING, f"could not be asked for: {', '.join(seen.unasked)}", "allow listing them")


def _restored(subject: Subject) -> Iterable[Verdict]:
    """An instance that an operator restored is outside the stack, so nothing but a destroy takes it away."""
    if subject.stack_status() is None:
        return  # then it is among the names that are taken
    rds, identifier = subject.account.client("rds"), Names(subject.suffix).restored
    try:
        (instance,) = rds.describe_db_instances(DBInstanceIdentifier=identifier)["DBInstances"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "DBInstanceNotFound":
            raise
        return
    yield Verdict(
        "restored instance",
        WARNING,
        f"{identifier} is {instance['DBInstanceStatus']}, outside the stack",
        "delete it when nobody needs it any more; `make destroy` deletes it too",
    )


def _engine(subject: Subject) -> Iterable[Verdict]:
    rds, version, wanted = (
        subject.account.client("rds"),
        subject.settings.engine_version,
        subject.settings.instance_class,
    )
    major = version.partition(".")[0]
    offered = [
        each["EngineVersion"]
        for page in remains.pages(rds, "describe_db_engine_versions", Engine="postgres")
        for each in page["DBEngineVersions"]
        if each["EngineVersion"].partition(".")[0] == major and each.get("Status", "available") == "available"
    ]
    if version not in offered:
        todo = f"set ENGINE_VERSION to one of {', '.join(offered)}" if offered else "take another major version"
        yield Verdict("engine", FAILED, f"RDS does not offer PostgreSQL {version} any more", todo)
        return
    options = [
        option
        for page in remains.pages(
            rds,
            "describe_orderable_db_instance_options",
            Engine="postgres",
            EngineVersion=version,
            DBInstanceClass=wanted,
            Vpc=True,
        )
        for option in page["OrderableDBInstanceOptions"]
        if option.get("StorageType") == "gp3" and option.get("MultiAZCapable") and option.get("ReadReplicaCapable")
    ]
    zones = {zone["Name"] for option in options for zone in option["AvailabilityZones"]}
    missing = [zone for zone in subject.settings.availability_zones if zone not in zones]
    if missing:
        found = f"{wanted} with PostgreSQL {version}, Multi-AZ and gp3 is not offered in {', '.join(missing)}"
        yield Verdict("engine", FAILED, found, "set INSTANCE_CLASS to another class")
    else:
        yield Verdict("engine", OK, f"PostgreSQL {version} on {wanted} is offered in both zones")


def _vpcs(subject: Subject) -> Iterable[Verdict]:
    used = sum(len(page["Vpcs"]) for page in remains.pages(subject.account.client("ec2"), "describe_vpcs"))
    yield from _quota(subject, "VPCs", "vpc", VPCS_PER_REGION, used, 1)


def _instances(subject: Subject) -> Iterable[Verdict]:
    rds = subject.account.client("rds")
    used = sum(len(page["DBInstances"]) for page in remains.pages(rds, "describe_db_instances"))
    yield from _quota(subject, "DB instances", "rds", DB_INSTANCES, used, MEMBERS)


def _quota(subject: Subject, what: str, service: str, code: str, used: int, needed: int) -> Iterable[Verdict]:
    quotas = subject.account.client("service-quotas")
    try:
        limit = quotas.get_service_quota(ServiceCode=service, QuotaCode=code)["Quota"]["Value"]
    except quotas.exceptions.NoSuchResourceException:
        limit = quotas.get_aws_default_service_quota(ServiceCode=service, QuotaCode=code)["Quota"]["Value"]
    needed = 0 if subject.stack_status() is not None else needed
    yield quota_verdict(what, used=used, needed=needed, limit=int(limit))


def quota_verdict(what: str, *, used: int, needed: int, limit: int) -> Verdict:
    """Whether `needed` more fit beside the `used` ones below the account's `limit`."""
    found = f"{used} of {limit} are used, {needed} more needed"
    if used + needed <= limit:
        return Verdict(what, OK, found)
    return Verdict(what, FAILED, found, f"ask for a higher quota (Service Quotas, {what}), or remove unused ones")


def _concurrency(subject: Subject) -> Iterable[Verdict]:
    functions = subject.cdk.resources("AWS::Lambda::Function")
    needed = sum(int(each.get("ReservedConcurrentExecutions", 0)) for each in functions)
    client = subject.account.client("lambda")
    limits = client.get_account_settings()["AccountLimit"]
    free = int(limits["UnreservedConcurrentExecutions"])
    if subject.stack_status() is not None:
        yield Verdict("concurrency", OK, f"reserved by the deployed functions, {free} are unreserved")
        return
    found = f"{needed} to be reserved of {free} unreserved, of which {UNRESERVED_CONCURRENCY} must stay"
    if free - needed >= UNRESERVED_CONCURRENCY:
        yield Verdict("concurrency", OK, found)
    else:
        todo = "ask for a higher quota (Service Quotas, Lambda, Concurrent executions)"
        yield Verdict("concurrency", FAILED, found, todo)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


# Without the first two no other question has an answer.
GATES: Mapping[str, Check] = {"credentials": _credentials, "region": _region}
CHECKS: Mapping[str, Check] = {
    "bootstrap": _bootstrap,
    "secret": _secret,
    "names": _names,
    "restored instance": _restored,
    "engine": _engine,
    "VPCs": _vpcs,
    "DB instances": _instances,
    "concurrency": _concurrency,
}
