"""What an operator may set: typed, bounded, checked before CDK starts.

Values come from `cdk.json`'s context (camelCase), overridden by environment variables (the field's name in upper
case; the suffix is `ENV_SUFFIX`). Lists are given as JSON or separated by commas.
"""

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AliasChoices, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from recovery.objectives import Detection, Objectives

REGION = "eu-central-2"
ZONES = tuple(f"{REGION}{letter}" for letter in "abc")
REHEARSED_MAJOR = "18"

_SIZES_OF_GENERATION_8 = ("large", "xlarge", "2xlarge", "4xlarge", "8xlarge", "12xlarge", "16xlarge", "24xlarge")
_SIZES = tuple(size for size in _SIZES_OF_GENERATION_8 if size != "24xlarge")
# What RDS offers for PostgreSQL in the region. A test compares it with cfn-lint's data, too slow to load here.
SIZES_OF_FAMILY: Mapping[str, tuple[str, ...]] = {
    "t3": ("micro", "small", "medium", "large", "xlarge", "2xlarge"),
    "t4g": ("micro", "small", "medium", "large", "xlarge", "2xlarge"),
    "m5": _SIZES_OF_GENERATION_8,
    "m6g": _SIZES,
    "m6gd": _SIZES,
    "m7g": _SIZES,
    "m8g": (*_SIZES_OF_GENERATION_8, "48xlarge"),
    "r5": _SIZES_OF_GENERATION_8,
    "r6g": _SIZES,
    "r6gd": _SIZES,
    "r7g": _SIZES,
    "r8g": (*_SIZES_OF_GENERATION_8, "48xlarge"),
}
INSTANCE_CLASSES = frozenset(f"db.{family}.{size}" for family, sizes in SIZES_OF_FAMILY.items() for size in sizes)

# The only retentions CloudWatch Logs accepts, in days.
LOG_RETENTIONS = (
    *(1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096),
    *(1827, 2192, 2557, 2922, 3288, 3653),
)
# AWS Config's rule cw-loggroup-retention-period-check in its pack for FedRAMP Moderate, days.
PROTECTED_LOG_RETENTION = 365

_SUFFIX = re.compile(r"[a-z0-9](?:-?[a-z0-9])*")
_SECRET_NAME = re.compile(r"[A-Za-z0-9/_+=.@-]{1,512}")
_LOOKS_LIKE_PARTIAL_ARN = re.compile(r".*-[A-Za-z0-9]{6}")
_KEY_ARN = re.compile(
    rf"arn:aws:kms:{REGION}:\d{{12}}:key/[0-9a-f-]{{36}}|arn:aws:kms:{REGION}:\d{{12}}:key/mrk-[0-9a-f]{{32}}"
)
_EMAIL = re.compile(r"[^@\s,]+@[^@\s,.]+(\.[^@\s,.]+)+")
_TAG_VALUE = re.compile(r"[\w .:/=+@-]{1,256}")
_ENGINE_VERSION = re.compile(r"\d{1,2}\.\d{1,2}")

Texts = Annotated[tuple[str, ...], NoDecode]


class SettingsError(Exception):
    """Settings that cannot be deployed; `sentences` holds one for each problem."""

    def __init__(self, sentences: tuple[str, ...]) -> None:
        super().__init__("\n".join(sentences))
        self.sentences = sentences


class Settings(BaseSettings):
    """All settings of one deployment. Raises pydantic's ValidationError; `load` turns that into sentences."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True)

    environment_suffix: str = Field(
        validation_alias=AliasChoices("ENV_SUFFIX", "environment_suffix"),
        description="Tells deployments in one account apart; part of every name: 1-20 of a-z, 0-9 and single hyphens",
    )
    region: str = Field(default=REGION, description="AWS region; only eu-central-2 is allowed")
    availability_zones: Texts = Field(
        default=(f"{REGION}a", f"{REGION}c"), description="The two availability zones of the region to use"
    )
    secret_name: str = Field(
        default="citizens/{suffix}/database",
        validate_default=True,
        description="Name of the agency's existing secret (JSON: username, password), {suffix} replaced: one for each "
        "environment, since a secret names one host and a rotation changes the password of one database",
    )
    secret_key_arn: str | None = Field(
        default=None, description="ARN of the customer-managed key of that secret; none when it uses aws/secretsmanager"
    )
    password_length: int = Field(default=32, ge=16, le=128, description="Characters of a rotated password")
    password_excluded: str = Field(
        default="'\\", description="Characters that a rotated password must not hold, beside those that RDS refuses"
    )
    rotation_days: int = Field(default=30, ge=1, le=30, description="The password is rotated every so many days")
    refused_sign_ins: int = Field(
        default=0, ge=0, le=1000, description="Refused passwords in five minutes that are no alarm even when they go on"
    )
    vpc_cidr: str = Field(default="10.40.0.0/16", description="IPv4 range of the VPC, /16 to /24")
    application_cidrs: Texts = Field(
        default=("10.60.0.0/16",), description="IPv4 ranges from which applications may connect to the database"
    )
    instance_class: str = Field(default="db.t4g.medium", description="DB instance class of both members")
    engine_version: str = Field(default="18.6", description="PostgreSQL version; its major is the one rehearsed")
    allocated_storage: int = Field(default=20, ge=20, le=16384, description="Storage of each member, GiB")
    backup_retention_days: int = Field(default=35, ge=7, le=35, description="RDS automated backups are kept, days")
    transaction_log: bool = Field(
        default=True,
        description="Keep the transaction log; off, its publication, triggers and slot are removed from the database",
    )
    log_kept_days: int = Field(
        default=35,
        ge=1,
        le=3650,
        description="The transaction log is kept at least, days; longer while a backup needs it",
    )
    protect: bool = Field(
        default=False, description="Deletion protection, final snapshots, kept data, vault lock: on for production"
    )
    alarm_email: str | None = Field(default=None, description="Address that receives every alarm, if any")
    log_retention_days: int = Field(default=365, description="Logs are kept, days; a value CloudWatch Logs accepts")
    probe_interval_seconds: float = Field(default=2, ge=0.2, le=30, description="Between two probes of a witness, s")
    probe_timeout_seconds: float = Field(default=2, ge=0.2, le=10, description="A probe is given up after, s")
    failure_threshold: int = Field(default=3, ge=1, le=20, description="Consecutive failed probes that make a loss")
    multi_az_grace_seconds: int = Field(
        default=150, ge=0, le=600, description="How long RDS may fail over by itself before the standby is promoted, s"
    )
    auto_reprotect: bool = Field(
        default=True, description="Make the standby again by itself after a failover; else `make reprotect` does"
    )
    drill_days: int = Field(
        default=30,
        ge=0,
        le=365,
        description="Every so many days a throw-away replica is promoted, and a backup restored, as a drill; "
        "0: only when asked for",
    )
    rto_seconds: int = Field(default=900, ge=60, le=900, description="Recovery time objective, s")
    rpo_seconds: int = Field(default=3600, ge=60, le=3600, description="Recovery point objective, s")
    project: str = Field(default="citizens-disaster-recovery", description="Tag Project")
    owner: str = Field(default="civil-registry", description="Tag Owner")
    data_classification: str = Field(default="confidential-pii", description="Tag DataClassification")
    compliance: str = Field(default="fedramp-moderate", description="Tag Compliance")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment variables win over the context, and nothing else is read."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    @field_validator("availability_zones", "application_cidrs", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(part.strip(' "') for part in value.strip("[] ").split(",") if part.strip(' "'))

    @field_validator("environment_suffix")
    @classmethod
    def _check_suffix(cls, value: str) -> str:
        if len(value) > 20 or not _SUFFIX.fullmatch(value):
            raise ValueError(
                f"The environment suffix {value!r} is malformed: use 1 to 20 lower-case letters, digits and single "
                "hyphens, with no hyphen at either end."
            )
        return value

    @field_validator("region")
    @classmethod
    def _check_region(cls, value: str) -> str:
        if value != REGION:
            raise ValueError(f"The region {value!r} is refused: everything is deployed in {REGION}.")
        return value

    @field_validator("availability_zones")
    @classmethod
    def _check_zones(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) != 2 or len(set(value)) != 2 or not set(value) <= set(ZONES):
            raise ValueError(
                f"The availability zones {', '.join(value) or '(none)'} are refused: name two different ones of "
                f"{', '.join(ZONES)}."
            )
        return value

    @field_validator("secret_name")
    @classmethod
    def _check_secret_name(cls, value: str, info: ValidationInfo) -> str:
        value = value.replace("{suffix}", info.data.get("environment_suffix", "{suffix}"))
        if "{suffix}" in value:
            return value  # the suffix itself is wrong, and that is what will be said
        if not _SECRET_NAME.fullmatch(value) or value.startswith("/"):
            raise ValueError(
                f"The secret name {value!r} is malformed: give the name, not the ARN, of 1 to 512 letters, digits and "
                "/_+=.@-, not starting with a slash."
            )
        if _LOOKS_LIKE_PARTIAL_ARN.fullmatch(value):
            # Secrets Manager would read the name as an ARN's end, and a policy for it would match another secret
            raise ValueError(f"The secret name {value!r} ends like an ARN (a hyphen and six characters): rename it.")
        return value

    @field_validator("secret_key_arn")
    @classmethod
    def _check_key(cls, value: str | None) -> str | None:
        if value is not None and not _KEY_ARN.fullmatch(value):
            raise ValueError(f"The secret's key {value!r} is malformed: give the ARN of a KMS key in {REGION}.")
        return value

    @field_validator("vpc_cidr")
    @classmethod
    def _check_vpc_cidr(cls, value: str) -> str:
        network = _network(value, "VPC")
        if not 16 <= network.prefixlen <= 24:
            raise ValueError(f"The VPC's range {value!r} is refused: a VPC here is between /16 and /24.")
        return value

    @field_validator("application_cidrs")
    @classmethod
    def _check_application_cidrs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("No application range is given: name at least one from which applications may connect.")
        for cidr in value:
            if _network(cidr, "application").prefixlen < 8:
                raise ValueError(f"The application range {cidr!r} is refused: it is wider than a /8.")
        return value

    @field_validator("instance_class")
    @classmethod
    def _check_instance_class(cls, value: str) -> str:
        if value not in INSTANCE_CLASSES:
            raise ValueError(
                f"The instance class {value!r} is not one that {REGION} offers for PostgreSQL: use db.<family>.<size> "
                f"of the families {', '.join(SIZES_OF_FAMILY)}."
            )
        return value

    @field_validator("engine_version")
    @classmethod
    def _check_engine_version(cls, value: str) -> str:
        if not _ENGINE_VERSION.fullmatch(value):
            raise ValueError(f"The engine version {value!r} is malformed: give major.minor, for example 18.6.")
        if value.split(".")[0] != REHEARSED_MAJOR:
            raise ValueError(
                f"The engine version {value!r} is refused: recovery is rehearsed with PostgreSQL {REHEARSED_MAJOR}, "
                "and another major version may behave differently."
            )
        return value

    @field_validator("alarm_email")
    @classmethod
    def _check_email(cls, value: str | None) -> str | None:
        if value is not None and not _EMAIL.fullmatch(value):
            raise ValueError(f"The alarm address {value!r} is malformed: give one e-mail address.")
        return value

    @field_validator("log_retention_days")
    @classmethod
    def _check_retention(cls, value: int) -> int:
        if value not in LOG_RETENTIONS:
            raise ValueError(
                f"The log retention {value} is not one CloudWatch Logs accepts: use one of "
                f"{', '.join(map(str, LOG_RETENTIONS))} days."
            )
        return value

    @field_validator("project", "owner", "data_classification", "compliance")
    @classmethod
    def _check_tag(cls, value: str) -> str:
        if not _TAG_VALUE.fullmatch(value):
            raise ValueError(
                f"The tag value {value!r} is malformed: use 1 to 256 letters, digits, spaces and _.:/=+-@."
            )
        return value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        vpc = ipaddress.ip_network(self.vpc_cidr)
        for cidr in self.application_cidrs:
            if vpc.overlaps(ipaddress.ip_network(cidr)):
                raise ValueError(f"The application range {cidr} overlaps the VPC's own range {self.vpc_cidr}.")
        if self.protect and self.log_retention_days < PROTECTED_LOG_RETENTION:
            raise ValueError(
                f"The log retention {self.log_retention_days} is too short for a protected environment: FedRAMP "
                f"Moderate (AU-11) wants {PROTECTED_LOG_RETENTION} days or more."
            )
        return self

    @property
    def detection(self) -> Detection:
        """How a loss is noticed; that it is noticed in time is proved when the templates are there."""
        return Detection(
            probe_interval=self.probe_interval_seconds,
            probe_timeout=self.probe_timeout_seconds,
            failure_threshold=self.failure_threshold,
            multi_az_grace=self.multi_az_grace_seconds,
        )

    @property
    def objectives(self) -> Objectives:
        """What was promised."""
        return Objectives(rto_seconds=self.rto_seconds, rpo_seconds=self.rpo_seconds)

    @property
    def tags(self) -> dict[str, str]:
        """The tags of every resource."""
        return {
            "Project": self.project,
            "Environment": self.environment_suffix,
            "Owner": self.owner,
            "DataClassification": self.data_classification,
            "Compliance": self.compliance,
            "ManagedBy": "aws-cdk",
        }


def load(context: Mapping[str, Any]) -> Settings:
    """Settings from a CDK context (camelCase keys; unknown keys are the CDK's own) and the environment.

    Raises SettingsError with one sentence for each problem.
    """
    try:
        return Settings(
            **{field: context[key] for field in Settings.model_fields if (key := context_key(field)) in context}
        )
    except ValidationError as error:
        raise SettingsError(tuple(_sentence(problem) for problem in error.errors())) from None


def variable(field: str) -> str:
    """The environment variable of a setting."""
    alias = Settings.model_fields[field].validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else field.upper()


def context_key(field: str) -> str:
    """The key of a setting in `cdk.json`'s context."""
    first, *rest = field.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _sentence(problem: Any) -> str:
    field = str(problem["loc"][0]) if problem["loc"] else ""
    if field in ("ENV_SUFFIX", "environment_suffix") and problem["type"] == "missing":
        return "The environment suffix is missing: set ENV_SUFFIX, for example `make deploy ENV_SUFFIX=dev`."
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    wanted = problem["msg"].removeprefix("Input should be ")
    return f"The setting {field} is {problem['input']!r}, but should be {wanted}."


def _network(value: str, whose: str) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(value)
    except ValueError:
        raise ValueError(
            f"The {whose} range {value!r} is malformed: give an IPv4 network such as 10.60.0.0/16, host bits zero."
        ) from None
