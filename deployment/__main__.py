"""`python -m deployment`: synthesise, check, deploy and destroy, on AWS or in the local cloud; `drctl` operates what is
deployed. The only place of this program that reads the environment."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from deployment import branch, branch_secret, local, outputs, preflight, work_tree
from deployment.account import Account
from deployment.cdk import Cdk
from deployment.configuration import configured
from deployment.destruction import Destruction, confirm
from deployment.lint import check_templates
from deployment.problem import Problem
from stacks.promised import promised
from stacks.settings import Settings, SettingsError


@dataclass(frozen=True)
class Command:
    """What was asked for on the command line."""

    suffix: str
    is_local: bool
    state: Path
    environment: Mapping[str, str]
    default_branch: str = "main"
    as_json: bool = False
    yes_destroy: str | None = None

    def target(self) -> Mapping[str, str]:
        """The environment of the place to deploy to."""
        return local.environment_of(self.state, self.environment) if self.is_local else self.environment


def synth(command: Command) -> None:
    """Synthesise the templates of a suffix, judged by the policy packs and by cfn-lint."""
    chosen = settings(command)
    cdk = Cdk(command.suffix, command.environment)
    cdk.synth()
    check_templates(cdk.assembly, chosen.region)
    print(promised(chosen, cdk.assembly))
    print(f"Synthesised into {cdk.assembly.relative_to(Path.cwd())}")


def check(command: Command) -> None:
    """Check what an account must have before a deploy of a suffix. Raises Problem when a check failed."""
    chosen = settings(command)
    cdk = Cdk(command.suffix, command.target())
    cdk.synth()
    verdicts = preflight.run(preflight.Subject(Account(command.target()), chosen, cdk))
    print(preflight.as_json(verdicts) if command.as_json else preflight.as_text(verdicts))
    if preflight.has_failed(verdicts):
        raise Problem("A check failed: a deploy would not succeed.")


def deploy(command: Command) -> None:
    """Check the account, deploy a suffix and write its flat outputs."""
    chosen = settings(command)
    environment = command.target()
    if command.is_local:
        local.play_agency(environment, command.suffix)
    cdk = Cdk(command.suffix, environment)
    cdk.synth()
    if not command.is_local:
        # Seconds that a rehearsal need not spend: the same templates pass in the tests
        check_templates(cdk.assembly, chosen.region)
    verdicts = preflight.run(preflight.Subject(Account(environment), chosen, cdk))
    if preflight.has_failed(verdicts):
        raise Problem(f"{preflight.as_text(verdicts)}\nA check failed: nothing was deployed.")
    print(preflight.as_text(verdicts))
    started = time.monotonic()
    flat = cdk.deploy()
    outputs.write(flat, command.suffix)
    work_tree.write_down(Account(environment), flat["RecoveryTableName"], cdk)
    if command.is_local:
        print("The local cloud accepts these properties without honouring them:")
        print(*(f"  {feature}" for feature in local.not_honoured(environment)), sep="\n")
    print(
        f"Deployed {command.suffix} in {time.monotonic() - started:.1f} s; outputs in "
        f"{outputs.FLAT_OUTPUTS.relative_to(Path.cwd())}"
    )


def destroy(command: Command) -> None:
    """Destroy a suffix until nothing of it is left, and forget its outputs. Raises Problem when something is left."""
    chosen = settings(command)
    environment = command.target()
    cdk = Cdk(command.suffix, environment)
    destruction = Destruction(Account(environment), cdk, protect=chosen.protect, announce=_say)
    if destruction.is_protected:
        confirm(command.suffix, destruction.shields, command.yes_destroy, input)
    cdk.synth()
    outcome = destruction.run()
    outputs.forget(command.suffix)
    if outcome.kept:
        print("Kept, because the environment was protected:", *(f"  {each}" for each in outcome.kept), sep="\n")
    if outcome.left:
        left = "\n".join(f"  {each}" for each in outcome.left)
        raise Problem(f"Left of {command.suffix}:\n{left}\nRemove it by hand, or run the same command again.")
    print(f"Destroyed {command.suffix}: nothing {'else ' if outcome.kept else ''}is left")


def _say(line: str) -> None:
    print(line, flush=True)


def provide_secret(command: Command) -> None:
    """Make the secret that the environment of a branch needs before its first deploy."""
    name = settings(command).secret_name
    made = branch_secret.provide(Account(command.target()), name, command.suffix)
    print(f"Made the secret {name}" if made else f"The secret {name} is there already")


def destroy_branch(command: Command) -> None:
    """Destroy the environment of a branch, then its secret; whatever was not made for a branch is left alone."""
    name, account = settings(command).secret_name, Account(command.target())
    if not branch_secret.is_made_for(account, name, command.suffix):
        print(f"There is no secret {name} that was made for a branch: {command.suffix} is left alone")
        return
    destroy(command)
    branch_secret.withdraw(account, name, command.suffix)
    print(f"Deleted the secret {name}")


def abandoned(command: Command) -> None:
    """Read the names of all branches from standard input and print the environments of those that are gone."""
    branches = frozenset(line.strip() for line in sys.stdin if line.strip())
    print(branch.matrix(branch_secret.abandoned(Account(command.target()), branches, command.default_branch)))


def local_up(command: Command) -> None:
    """Start the local cloud and make it look like the agency's account before the first deploy."""
    local.up(command.state, command.environment)
    environment = local.environment_of(command.state, command.environment)
    local.bootstrap(environment, command.state / "bootstrap.log")
    print(
        f"The local cloud is up at {environment['AWS_ENDPOINT_URL']}; its environment is in "
        f"{command.state / 'environment'}"
    )


def local_down(command: Command) -> None:
    """Stop the local cloud."""
    local.down(command.state, command.environment)
    print("The local cloud is down")


def settings(command: Command) -> Settings:
    """The validated settings of a suffix; raises SettingsError with one sentence per problem."""
    return configured({"environmentSuffix": command.suffix} if command.suffix else {})


COMMANDS: Mapping[str, Callable[[Command], None]] = {
    "synth": synth,
    "preflight": check,
    "deploy": deploy,
    "destroy": destroy,
    "provide-secret": provide_secret,
    "destroy-branch": destroy_branch,
    "abandoned": abandoned,
    "local-up": local_up,
    "local-down": local_down,
}


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Run one command; 0 when it worked, 1 with one clear sentence when it could not, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m deployment", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--suffix", default="", help="environment suffix, part of every resource's name")
    parser.add_argument("--local", action="store_true", help="deploy into the local cloud instead of AWS")
    parser.add_argument("--state", type=Path, default=local.DEFAULT_STATE, help="folder of the local cloud")
    parser.add_argument("--json", action="store_true", help="preflight: print JSON")
    parser.add_argument("--yes-destroy", metavar="SUFFIX", help="destroy: the suffix again, instead of typing it")
    parser.add_argument("--default-branch", default="main", help="the branch that a list of branches must contain")
    chosen = parser.parse_args(arguments)
    command = Command(
        suffix=chosen.suffix,
        is_local=chosen.local,
        state=chosen.state.resolve(),
        environment=environment,
        default_branch=chosen.default_branch,
        as_json=chosen.json,
        yes_destroy=chosen.yes_destroy,
    )
    try:
        COMMANDS[chosen.command](command)
    except (Problem, SettingsError) as problem:
        print(problem, file=sys.stderr)
        return 1
    except ClientError as error:
        print(f"AWS refused {error.operation_name}: {error.response['Error'].get('Message', error)}", file=sys.stderr)
        return 1
    except BotoCoreError as error:
        print(f"AWS could not be asked: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; run the same command again to go on.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Also where the caller ignores them: a command in the background, a pipeline that is cancelled.
        signal.signal(each, signal.default_int_handler)
    sys.exit(main(sys.argv[1:], os.environ))
