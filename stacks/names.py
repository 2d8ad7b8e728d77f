"""Every physical name of a deployment, in one place; each carries the environment's suffix.

Names are fixed rather than generated because functions, alarms, operators and the pre-created log groups must
know them before the resource exists, and because a member deleted and created again keeps its identifier.
"""

from dataclasses import dataclass

APPLICATION = "citizens"
DATABASE = "citizens"
DATABASE_PORT = 5432
METRICS_NAMESPACE = "CitizensRecovery"
# Of a drill's throw-away copies; its value is the environment's suffix.
DRILL_TAG = "citizens:drill"

FUNCTIONS = (
    "witness-a",
    "witness-c",
    "arbiter",
    "probe",
    "open-log",
    "roll-forward",
    "cutover",
    "verify",
    "archive",
    "rewind",
    "log-care",
    "rotation",
    "reprotect",
    "switchover",
    "posture",
    "drill",
    "evidence",
)
# Those that are not deployed when the transaction log is turned off.
LOG_FUNCTIONS = ("open-log", "roll-forward", "rewind", "archive")


def deployed_functions(transaction_log: bool) -> tuple[str, ...]:
    """The functions of a deployment with the transaction log or without it."""
    return tuple(name for name in FUNCTIONS if transaction_log or name not in LOG_FUNCTIONS)


@dataclass(frozen=True)
class Names:
    """The names of one deployment; `suffix` is the validated environment suffix."""

    suffix: str

    def of(self, part: str) -> str:
        """`citizens-<part>-<suffix>`."""
        return f"{APPLICATION}-{part}-{self.suffix}"

    @property
    def parent_stack(self) -> str:
        """The parent stack."""
        return self.of("dr")

    @property
    def plain(self) -> str:
        """`citizens-<suffix>`, for the things of which there is only one."""
        return f"{APPLICATION}-{self.suffix}"

    @property
    def members(self) -> tuple[str, str]:
        """The two DB instance identifiers. Neither is "the primary": roles alternate."""
        return self.of("1"), self.of("2")

    @property
    def restored(self) -> str:
        """The DB instance that an operator restores to a point in time; outside the stacks, one at a time."""
        return self.of("restored")

    @property
    def recovery_table(self) -> str:
        """The DynamoDB table of roles, observations, lease and incidents."""
        return self.of("recovery")

    def evidence_bucket(self, account: str) -> str:
        """The bucket of exported evidence; names of buckets are the world's, so it carries the account."""
        return f"{APPLICATION}-evidence-{account}-{self.suffix}"

    @property
    def state_machine(self) -> str:
        """The failover machine."""
        return self.of("failover")

    @property
    def reprotect_machine(self) -> str:
        """The machine that makes the lost standby again."""
        return self.of("reprotect-machine")

    @property
    def switchover_machine(self) -> str:
        """The machine that changes the roles as planned."""
        return self.of("switchover-machine")

    @property
    def drill_machine(self) -> str:
        """The machine that holds drills, and deletes what a killed one has left."""
        return self.of("drill-machine")

    @property
    def drill_copies(self) -> str:
        """What the DB instance identifier of a drill's throw-away copy begins with; a hyphen and its moment follow."""
        return self.of("drill")

    @property
    def alert_topic(self) -> str:
        """The SNS topic of every alarm."""
        return self.of("alerts")

    @property
    def file_system(self) -> str:
        """The creation name of the file system that holds the transaction log."""
        return self.of("log")

    @property
    def failover_log_group(self) -> str:
        """The machine's log group."""
        return self.machine_log_group(self.state_machine)

    @staticmethod
    def machine_log_group(machine: str) -> str:
        """A state machine's log group."""
        # Step Functions adds a group under /aws/vendedlogs/ to its resource policy by prefix, so many deployments fit
        return f"/aws/vendedlogs/states/{machine}"

    @property
    def flow_log_group(self) -> str:
        """The VPC flow logs' group."""
        return f"/aws/vpc/flow-logs/{self.plain}"

    def function_log_group(self, function: str) -> str:
        """A function's log group; `function` is one of FUNCTIONS."""
        return f"/aws/lambda/{self.of(function)}"

    @staticmethod
    def member_log_group(member: str, log: str) -> str:
        """`log` is `postgresql` or `upgrade`; RDS fixes this form."""
        return f"/aws/rds/instance/{member}/{log}"
