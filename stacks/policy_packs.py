"""The policy packs that judge every synthesis, and how a finding that has to stay is acknowledged.

cdk-nag's AwsSolutions and NIST 800-53 R5 look at every resource of the parent and of the nested stacks. A finding that
nobody acknowledged stops the synthesis, warnings too. An acknowledgement stands beside the construct it is for, names
one finding and says why that finding is right to stay there; a test fails when the finding is gone.
"""

from aws_cdk import Acknowledgment, App, Stack, Validations
from cdk_nag import AwsSolutionsChecks, NagPack, NIST80053R5Checks
from constructs import Construct

NIST = "NIST.800.53.R5"


def packs(app: App) -> tuple[NagPack, ...]:
    """The packs that judge the app."""
    return AwsSolutionsChecks(app), NIST80053R5Checks(app)


def judge(app: App) -> None:
    """Make the app's synthesis fail with RuntimeError on a finding that is not acknowledged, and print it."""
    Validations.of(app).add_plugins(*packs(app))


def acknowledge(construct: Construct, rules: str | tuple[str, ...], reason: str) -> None:
    """Let the findings `rules` on this construct (and below it) stay, for this reason."""
    for rule in (rules,) if isinstance(rules, str) else rules:
        Validations.of(construct).acknowledge(Acknowledgment(id=rule, reason=reason))


def wildcard(construct: Construct, arn: str = "*") -> str:
    """The name of the finding that a policy's resource `arn` holds a wildcard."""
    return f"AwsSolutions-IAM5[Resource::{arn.replace(Stack.of(construct).account, '<AWS::AccountId>')}]"
