"""`python -m deployment`: synthesise, check, deploy, operate and destroy, on AWS or in the local cloud. The only
place of this program that reads the environment."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from deployment import branch, branch_secret, evidence, local, outputs, preflight
from deployment.account import Account
from deployment.cdk import Cdk
from deployment.configuration import configured
from deployment.destruction import Destruction, confirm
from deployment.exercises import Exercises
from deployment.lint import check_templates
from deployment.operations import Operations
from deployment.operations import confirm as confirm_operation
from deployment.problem import Problem
from deployment.restoration import Restoration, Target
from recovery import clock, history
from stacks.promised import promised
from stacks.settings import Settings, SettingsError

SHOWN = 50
"""Transactions after a restore's stop that a person is shown."""
PROTECTION_SECONDS = 12 * 3600.0
OVERRIDE_MINUTES = 60.0
"""As long as an operator's word holds when it does not say how long."""


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
    yes: str | None = None
    reason: str = ""
    minutes: float | None = None
    accepts: frozenset[str] = frozenset()
    withdraw: bool = False
    steps: bool = False
    since: str | None = None
    before: str | None = None
    before_transaction: str | None = None
    to_time: str | None = None
    verify: bool = False
    download: Path | None = None
    kind: str = ""
    abort: bool = False

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


def show_log(command: Command) -> None:
    """List the transactions of the log between two times, for a person who looks for the one that did harm."""
    since, before = (_time(text) for text in (command.since, command.before))
    found, more = Restoration(Account(command.target()), command.suffix, _say).transactions(since, before)
    if command.as_json:
        print(json.dumps({"transactions": found, "more": more}, indent=2, ensure_ascii=False))
        return
    _show_transactions(found, more)


def restore(command: Command) -> None:
    """Restore beside the members to just before a transaction, or to a time, and list what the log holds after it."""
    if bool(command.before_transaction) == bool(command.to_time):
        raise Problem("Say where to stop: --before-transaction EPOCH:X/Y, as `log` shows it, or --to-time.")
    until = _time(command.to_time)
    target = Target(command.before_transaction, None if until is None else clock.seconds(until))
    announce = _say if not command.as_json else _say_aside
    outcome = Restoration(Account(command.target()), command.suffix, announce).run(target)
    if command.as_json:
        print(json.dumps(outcome.as_json(), indent=2, ensure_ascii=False))
        return
    print(
        f"{outcome.identifier} holds everything {target}: restored to {outcome.restored_to}, then "
        f"{outcome.account['transactions']} transactions of the log\n"
        f"It answers at {outcome.endpoint}; members and clients are as they were. The log holds after it:"
    )
    _show_transactions(outcome.after[:SHOWN], outcome.more)
    if len(outcome.after) > SHOWN:
        print(
            f"of {len(outcome.after)}; `log --since {outcome.after[0]['committed_at']}` lists them all, as does --json"
        )


def _show_transactions(found: Sequence[Mapping[str, Any]], more: bool) -> None:
    for each in found:
        print(each["text"])
    print(f"{len(found)} transactions{', and more: narrow the times' if more else ''}")


def _time(text: str | None) -> str | None:
    """A time from the command line as ISO 8601 in UTC; Problem when it is none."""
    if text is None:
        return None
    try:
        return clock.iso(clock.seconds(text if text.endswith("Z") or "+" in text else f"{text}Z"))
    except ValueError:
        raise Problem(f"{text!r} is not a time; write it in UTC, as 2026-11-22T10:20:30.") from None


def _say_aside(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


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


def reprotect(command: Command) -> None:
    """Make the lost standby of a suffix again, after a look at what that would do first."""
    chosen = operations(command)
    preview, deletes = chosen.preview_of_reprotect()
    print(preview)
    if deletes:
        confirm_operation("The old member is deleted and made again.", command.suffix, command.yes, input, "reprotect")
    print(f"Outcome: {chosen.follow(chosen.reprotect())}")


def switch_over(command: Command) -> None:
    """Change the roles of a suffix as planned, and wait until there is a standby again."""
    chosen = operations(command)
    confirm_operation(chosen.preview_of_switchover(), command.suffix, command.yes, input, "switchover")
    started = chosen.switchover()
    print(f"Outcome: {chosen.follow(started)}; the old primary is being made again as a replica", flush=True)
    chosen.await_protection(started.epoch + 1, PROTECTION_SECONDS)
    print("There is a standby again")


def exercise(command: Command) -> None:
    """Hold a drill of a suffix, sweep what a killed one has left, or end the one that runs."""
    settings(command)
    chosen = Exercises(Account(command.target()), command.suffix, _say)
    if command.abort:
        done = chosen.follow(chosen.abort(command.reason))
        print(f"The drill {done.identity} is ended: {done.reason}")
        return
    confirm_operation(chosen.preview(command.kind), command.suffix, command.yes, input, "exercise")
    if command.kind == "sweep":
        chosen.sweep()
        print("Nothing of a drill is left")
        return
    print(f"Outcome: {(done := chosen.run(command.kind)).outcome}. {done.reason}")


def pause(command: Command) -> None:
    """Stop automatic action of a suffix for a while, never observation."""
    if command.minutes is None:
        raise Problem("A pause needs an end: give --minutes, for example --minutes 30.")
    print(f"The system is {operations(command).pause(command.reason, command.minutes * 60)}")


def resume(command: Command) -> None:
    """Let a suffix act automatically again."""
    print("The system acts again" if operations(command).resume() else "The system was not paused")


def accept_loss(command: Command) -> None:
    """Let a failover of a suffix happen although something may be lost, for a while, or withdraw that."""
    chosen = operations(command)
    if command.withdraw:
        print("Nothing is accepted any more" if chosen.withdraw_override() else "Nothing was accepted")
        return
    order = (command.accepts, command.reason, 60 * (OVERRIDE_MINUTES if command.minutes is None else command.minutes))
    confirm_operation(chosen.preview_of_override(*order), command.suffix, command.yes, input, "override")
    found = chosen.override(*order)
    print(f"{found.by} accepts {' and '.join(sorted(found.accepts))} until {clock.iso(found.until)}: {found.reason}")


def show_history(command: Command) -> None:
    """Print every incident and operation of a suffix, newest first."""
    entries = operations(command).history()
    print(history.as_json(entries) if command.as_json else history.as_text(entries, steps=command.steps))


def show_evidence(command: Command) -> int:
    """List the sealed records of a suffix and fetch them, or look whether any was changed: 0 OK, 1 a warning, 2 a
    change, or that it could not be told."""
    settings(command)
    room = evidence.EvidenceRoom(Account(command.target()), command.suffix)
    if command.verify:
        verification = room.verify()
        as_text, as_json = evidence.verification_as_text, evidence.verification_as_json
        print(as_json(verification) if command.as_json else as_text(verification))
        return verification.exit_code
    found = evidence.listed(room.entries(), room.receipts())
    print(json.dumps(found, indent=2, ensure_ascii=False) if command.as_json else evidence.as_text(found))
    if command.download is not None:
        fetched = list(room.download(command.download))
        _say_aside(f"{len(fetched)} objects are in {command.download}")
    return 0


def operations(command: Command) -> Operations:
    """The operations of a suffix."""
    settings(command)
    return Operations(Account(command.target()), command.suffix, _say)


def settings(command: Command) -> Settings:
    """The validated settings of a suffix; raises SettingsError with one sentence per problem."""
    return configured({"environmentSuffix": command.suffix} if command.suffix else {})


COMMANDS: Mapping[str, Callable[[Command], int | None]] = {
    "synth": synth,
    "preflight": check,
    "deploy": deploy,
    "destroy": destroy,
    "log": show_log,
    "restore": restore,
    "provide-secret": provide_secret,
    "destroy-branch": destroy_branch,
    "abandoned": abandoned,
    "reprotect": reprotect,
    "switchover": switch_over,
    "exercise": exercise,
    "pause": pause,
    "resume": resume,
    "override": accept_loss,
    "history": show_history,
    "evidence": show_evidence,
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
    parser.add_argument("--json", action="store_true", help="preflight, history, log, restore: print JSON")
    parser.add_argument("--yes-destroy", metavar="SUFFIX", help="destroy: the suffix again, instead of typing it")
    parser.add_argument("--yes", metavar="SUFFIX", help="operations: the suffix again, instead of typing it")
    parser.add_argument("--reason", default="", help="pause, override, exercise --abort: why")
    parser.add_argument("--kind", default="", help="exercise: replica, restore, switchover, or sweep")
    parser.add_argument("--abort", action="store_true", help="exercise: end the drill that runs, which cleans up")
    parser.add_argument("--minutes", type=float, help="pause, override: for how long")
    parser.add_argument("--accepts", default="", help="override: what may be lost, lag or fence or both (lag,fence)")
    parser.add_argument("--withdraw", action="store_true", help="override: accept nothing any more")
    parser.add_argument("--steps", action="store_true", help="history: each entry's timeline too")
    parser.add_argument("--verify", action="store_true", help="evidence: look whether any of it was changed")
    parser.add_argument("--download", type=Path, metavar="FOLDER", help="evidence: fetch it into this folder")
    parser.add_argument("--default-branch", default="main", help="the branch that a list of branches must contain")
    parser.add_argument("--since", metavar="TIME", help="log: transactions from this time on (UTC)")
    parser.add_argument("--before", metavar="TIME", help="log: transactions before this time (UTC)")
    parser.add_argument(
        "--before-transaction", metavar="EPOCH:X/Y", help="restore: stop before the one committed there"
    )
    parser.add_argument("--to-time", metavar="TIME", help="restore: stop at this time (UTC)")
    chosen = parser.parse_args(arguments)
    command = Command(
        suffix=chosen.suffix,
        is_local=chosen.local,
        state=chosen.state.resolve(),
        environment=environment,
        default_branch=chosen.default_branch,
        as_json=chosen.json,
        yes_destroy=chosen.yes_destroy,
        yes=chosen.yes,
        reason=chosen.reason,
        minutes=chosen.minutes,
        accepts=frozenset(filter(None, (each.strip() for each in chosen.accepts.split(",")))),
        withdraw=chosen.withdraw,
        steps=chosen.steps,
        since=chosen.since,
        before=chosen.before,
        before_transaction=chosen.before_transaction,
        to_time=chosen.to_time,
        verify=chosen.verify,
        download=chosen.download,
        kind=chosen.kind,
        abort=chosen.abort,
    )
    # A verification that could not be made is no mere warning
    trouble = 2 if command.verify else 1
    try:
        return COMMANDS[chosen.command](command) or 0
    except (Problem, SettingsError) as problem:
        print(problem, file=sys.stderr)
        return trouble
    except ClientError as error:
        print(f"AWS refused {error.operation_name}: {error.response['Error'].get('Message', error)}", file=sys.stderr)
        return trouble
    except BotoCoreError as error:
        print(f"AWS could not be asked: {error}", file=sys.stderr)
        return trouble
    except KeyboardInterrupt:
        print("Interrupted; run the same command again to go on.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Also where the caller ignores them: a command in the background, a pipeline that is cancelled.
        signal.signal(each, signal.default_int_handler)
    sys.exit(main(sys.argv[1:], os.environ))
