"""The commands. Each says first what it would do and what may be lost, asks for the suffix where something is changed
for good, and ends with one of the exit codes of `EXIT_CODES`.

--outputs, --suffix, --local, --state and --json may stand before or after the command.
"""

from __future__ import annotations

import dataclasses
import getpass
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.live import Live

from deployment import evidence, local, preflight
from deployment.cdk import ROOT, Cdk
from deployment.configuration import configured
from deployment.exercises import Exercises
from deployment.operations import Operations, confirm
from deployment.problem import Problem
from deployment.restoration import Restoration, Target
from drctl import display, failover, looking
from drctl.asking import Answer, ask
from drctl.log import RemoteLog
from drctl.place import Place, locate
from drctl.sources import Sources
from drctl.status import Status, Verdict
from drctl.status import status as status_of
from recovery import clock, history
from stacks.settings import SettingsError

EXIT_CODES = (
    "Exit codes: 0 done, or all is well; 1 refused, failed, or not possible (one sentence says why); 2 wrong usage; "
    "3 at risk, or a WARNING; 4 the database takes no writes, or a FAILURE; 5 nothing bad was seen, but not everything "
    "could be seen; 130 interrupted."
)
ANSWER_SECONDS = 3.5
"""All sources together, so that a whole `status` takes less than 5 s."""
PROTECTION_SECONDS = 12 * 3600.0
OVERRIDE_MINUTES = 60.0
"""As long as an operator's word holds when it does not say how long."""
SHOWN = 50
"""Transactions after a restore's stop that a person is shown."""
VERDICTS = {"OK": 0, "WARNING": 3, "FAILURE": 4}
COMMON = {"--json": 0, "--local": 0, "--outputs": 1, "--suffix": 1, "--state": 1}
"""Options of the program that may follow a command too, and how many words each takes."""

app = typer.Typer(
    help="Disaster recovery of the citizens database, by hand. Start with `status`.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
log_app = typer.Typer(help="The transaction log, by the functions that mount it.", no_args_is_help=True)
app.add_typer(log_app, name="log")

Yes = Annotated[str | None, typer.Option("--yes", metavar="SUFFIX", help="The suffix, instead of typing it.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for whoever finds it.")]
Accepts = Annotated[
    list[str] | None,
    typer.Option("--accept", metavar="lag|fence", help="What may be lost: `lag` data beyond the RPO, `fence` writes "
                 "of an old primary that could not be fenced."),
]  # fmt: skip
Minutes = Annotated[float | None, typer.Option("--minutes", help="For how long.")]


@dataclass
class Run:
    """One run of the program: what it was told, and where it prints."""

    environment: Mapping[str, str]
    outputs: Path | None = None
    suffix: str | None = None
    is_local: bool = False
    state: Path = local.DEFAULT_STATE
    as_json: bool = False

    @property
    def place(self) -> Place:
        """The environment that is meant. Raises Problem."""
        return locate(
            self.environment, path=self.outputs, suffix=self.suffix, is_local=self.is_local, state=self.state.resolve()
        )

    def operations(self, place: Place) -> Operations:
        """The operations of an environment."""
        return Operations(place.account, place.suffix, self.say)

    def say(self, line: str) -> None:
        """Progress: beside the result when that is for a program."""
        print(line, file=sys.stderr if self.as_json else sys.stdout, flush=True)

    def result(self, value: Any, text: str) -> None:
        """The result, in the form that was asked for."""
        print(json.dumps(value, indent=2, ensure_ascii=False) if self.as_json else text, flush=True)

    def ask(self, prompt: str) -> str:
        """A line from the terminal; the question never mixes with a result."""
        print(prompt, file=sys.stderr, end="", flush=True)
        return input()

    def confirm(self, what: str, place: Place, yes: str | None, command: str) -> None:
        """Raise Problem unless the suffix is typed or given."""
        if yes is not None:
            self.say(what)
        confirm(what, place.suffix, yes, self.ask, command)


def run_of(context: typer.Context) -> Run:
    """The run that a command belongs to."""
    run: Run = context.obj
    return run


def with_common_first(arguments: Sequence[str]) -> list[str]:
    """The arguments with the program's own options before the command, wherever they stood."""
    first: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        name, separator, _ = word.partition("=")
        if word == "--":
            return [*first, *rest, word, *words]
        if name not in COMMON:
            rest.append(word)
            continue
        first.append(word)
        first += [following for _ in range(0 if separator else COMMON[name]) for following in [next(words, None)]
                  if following is not None]  # fmt: skip
    return [*first, *rest]


@app.callback()
def common(
    context: typer.Context,
    outputs: Annotated[
        Path | None, typer.Option("--outputs", help="Flat outputs of a deploy (cfn-outputs/flat-outputs.json).")
    ] = None,
    suffix: Annotated[str | None, typer.Option("--suffix", help="The environment's suffix, where several are.")] = None,
    is_local: Annotated[bool, typer.Option("--local", help="In the local cloud (outputs tell by themselves).")] = False,
    state: Annotated[
        Path, typer.Option("--state", show_default=False, help="Folder of the local cloud.")
    ] = local.DEFAULT_STATE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Disaster recovery of the citizens database, by hand. Start with `status`."""
    context.obj = Run(context.obj, outputs, suffix, is_local, state, as_json)


# What is so -----------------------------------------------------------------------------------------------------------


def look(place: Place) -> tuple[dict[str, Answer], float]:
    """All sources at once, and when (epoch seconds)."""
    return ask(Sources(place, ca_file(place)).all(), ANSWER_SECONDS), time.time()


def ca_file(place: Place) -> str:
    """The bundle that the members' certificates are checked with: libpq's own variable, else the region's."""
    return place.account.environment.get("PGSSLROOTCERT") or str(ROOT / "functions" / "rds-ca-eu-central-2.pem")


@app.command()
def status(
    context: typer.Context,
    watch: Annotated[
        float | None, typer.Option("--watch", metavar="SECONDS", min=1, help="Again and again, so far apart.")
    ] = None,
) -> int:
    """Roles, lag, log, fences, password, what would happen on a loss, what is at risk. Answers within 5 s."""
    run = run_of(context)
    place = run.place
    console = Console(highlight=False, soft_wrap=True)

    def now() -> Status:
        answers, at = look(place)
        hosts = {member: endpoint.host for member, endpoint in place.endpoints.items()}
        return status_of(place.suffix, answers, at, hosts)

    found = now()
    if watch is None or run.as_json or not console.is_terminal:
        while True:
            if run.as_json:
                print(json.dumps(found.as_json(), indent=None if watch else 2, ensure_ascii=False), flush=True)
            else:
                display.show(console, found)
            if watch is None:
                return int(found.verdict)
            time.sleep(watch)
            found = now()
    with Live(display.rendered(found), console=console, auto_refresh=False, screen=True) as screen:
        while True:
            time.sleep(watch)
            screen.update(display.rendered(now()), refresh=True)


@app.command("history")
def show_history(
    context: typer.Context,
    steps: Annotated[bool, typer.Option("--steps", help="Each entry's timeline too.")] = False,
) -> int:
    """Incidents and operations, newest first."""
    run = run_of(context)
    entries = run.operations(run.place).history()
    print(history.as_json(entries) if run.as_json else history.as_text(entries, steps=steps))
    return 0


@app.command("preflight")
def check(context: typer.Context) -> int:
    """What the account must have before a deploy of this environment."""
    run = run_of(context)
    place = run.place
    chosen = configured({"environmentSuffix": place.suffix})
    cdk = Cdk(place.suffix, place.account.environment)
    cdk.synth()
    verdicts = preflight.run(preflight.Subject(place.account, chosen, cdk))
    print(preflight.as_json(verdicts) if run.as_json else preflight.as_text(verdicts))
    if preflight.has_failed(verdicts):
        raise Problem("A check failed: a deploy would not succeed.")
    return 0


@app.command("alarms")
def show_alarms(
    context: typer.Context, every: Annotated[bool, typer.Option("--all", help="Those that are quiet too.")] = False
) -> int:
    """Alarms that are on, with what each means and what to do."""
    run = run_of(context)
    found = looking.alarms(run.place, also_quiet=every)
    run.result(found.as_json(), found.as_text("No alarm is on."))
    return int(Verdict.AT_RISK) if any(row[1] == "ALARM" for row in found.rows) else 0


@app.command("logs")
def show_function_log(
    context: typer.Context,
    function: Annotated[str, typer.Argument(help="For example archive, rotation, witness-a.")],
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, help="So far back.")] = 15,
    words: Annotated[str, typer.Option("--words", help="Only lines that hold these words.")] = "",
) -> int:
    """The newest lines of a function's log."""
    run = run_of(context)
    found = looking.function_log(run.place, function, minutes, words)
    run.result(found.as_json(), found.as_text(f"Nothing in the last {minutes:g} minutes."))
    return 0


@app.command("events")
def show_events(context: typer.Context) -> int:
    """What RDS says has happened to the members in the last hour."""
    run = run_of(context)
    found = looking.events(run.place)
    run.result(found.as_json(), found.as_text("RDS tells of no event in the last hour."))
    return 0


@app.command("letters")
def show_dead_letters(context: typer.Context) -> int:
    """Invocations that were given up; they stay where they are."""
    run = run_of(context)
    found = looking.dead_letters(run.place)
    run.result(found.as_json(), found.as_text("There are no dead letters."))
    return int(Verdict.AT_RISK) if found.rows else 0


_LOOKS = "; ".join(f"`{name}`: {what}" for name, (what, _) in looking.QUESTIONS.items())


@app.command("look", help=f"Ask the primary itself, from where it can be reached. {_LOOKS}.")
def look_at_primary(
    context: typer.Context, question: Annotated[str, typer.Argument(help=" | ".join(looking.QUESTIONS))]
) -> int:
    """Ask the primary itself."""
    run = run_of(context)
    place = run.place
    found = looking.on_primary(place, question, ca_file(place))
    run.result(found.as_json(), found.as_text("There are none."))
    return 0


# What may be ordered --------------------------------------------------------------------------------------------------


@app.command("failover")
def fail_over(
    context: typer.Context,
    accepts: Accepts = None,
    reason: Reason = "",
    minutes: Annotated[float, typer.Option("--minutes", help="For how long it is accepted.")] = 60,
    dry_run: DryRun = False,
    yes: Yes = None,
) -> int:
    """Start the failover machine now, as a witness does; the arbiter decides as ever, with what you accept."""
    run = run_of(context)
    place = run.place
    answers, at = look(place)
    found = failover.preview(answers, at, accepts or (), getpass.getuser(), reason)
    if dry_run:
        run.result(found.as_json(), found.as_text())
        return 0 if found.may_start else 1
    if not found.may_start:
        run.say(found.as_text())
        raise Problem(
            f"Nothing was started: the arbiter would {found.decision.action.replace('_', ' ')}. A primary that works "
            "is replaced by `drctl switchover`; what may be lost is accepted by --accept."
        )
    run.confirm(found.as_text(), place, yes, "failover")
    operations = run.operations(place)
    if accepts:
        operations.override(accepts, reason, minutes * 60)
    started = operations.failover(found.since)
    outcome = operations.follow(started)
    run.result({"outcome": outcome, "execution": started.execution_arn}, f"Outcome: {outcome}")
    return 0


@app.command()
def switchover(context: typer.Context, dry_run: DryRun = False, yes: Yes = None) -> int:
    """Change the roles as planned, losing nothing, and wait until there is a standby again."""
    run = run_of(context)
    place = run.place
    operations = run.operations(place)
    preview = operations.preview_of_switchover()
    if dry_run:
        run.result({"preview": preview}, preview)
        return 0
    run.confirm(preview, place, yes, "switchover")
    started = operations.switchover()
    outcome = operations.follow(started)
    run.say(f"Outcome: {outcome}; the old primary is being made again as a replica")
    operations.await_protection(started.epoch + 1, PROTECTION_SECONDS)
    run.result({"outcome": outcome, "protected": True}, "There is a standby again")
    return 0


@app.command()
def reprotect(context: typer.Context, dry_run: DryRun = False, yes: Yes = None) -> int:
    """Make the lost standby again."""
    run = run_of(context)
    place = run.place
    operations = run.operations(place)
    preview, deletes = operations.preview_of_reprotect()
    if dry_run:
        run.result({"preview": preview, "deletes": deletes}, preview)
        return 0
    if deletes:
        run.confirm(f"{preview}\nThe old member is deleted and made again.", place, yes, "reprotect")
    else:
        run.say(preview)
    outcome = operations.follow(operations.reprotect())
    run.result({"outcome": outcome}, f"Outcome: {outcome}")
    return 0


@app.command("lift-fence")
def lift_fence(context: typer.Context, dry_run: DryRun = False, yes: Yes = None) -> int:
    """Let applications in again to a primary that a failover has fenced and nobody has replaced."""
    run = run_of(context)
    place = run.place
    operations = run.operations(place)
    preview, missing = operations.preview_of_lifting()
    if dry_run or not missing:
        run.result({"preview": preview, "missing": missing}, preview)
        return 0
    run.confirm(preview, place, yes, "lift-fence")
    operations.lift_fence()
    run.result({"let_in": missing}, "Applications reach it again; they connect by themselves")
    return 0


@app.command()
def pause(context: typer.Context, minutes: Minutes = None, reason: Reason = "") -> int:
    """Stop automatic action for a while, never observation; it ends by itself."""
    run = run_of(context)
    if minutes is None:
        raise Problem("A pause needs an end: give --minutes, for example --minutes 30.")
    begun = run.operations(run.place).pause(reason, minutes * 60)
    run.result(dataclasses.asdict(begun), f"The system is {begun}")
    return 0


@app.command()
def resume(context: typer.Context) -> int:
    """Let the system act automatically again."""
    run = run_of(context)
    resumed = run.operations(run.place).resume()
    run.result({"resumed": resumed}, "The system acts again" if resumed else "The system was not paused")
    return 0


@app.command()
def override(
    context: typer.Context,
    accepts: Accepts = None,
    reason: Reason = "",
    minutes: Annotated[float, typer.Option("--minutes", help="For how long it is accepted.")] = OVERRIDE_MINUTES,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Accept nothing any more.")] = False,
    yes: Yes = None,
) -> int:
    """Accept beforehand that a failover may lose something: it is written down, and ends by itself."""
    run = run_of(context)
    place = run.place
    operations = run.operations(place)
    if withdraw:
        withdrawn = operations.withdraw_override()
        run.result({"withdrawn": withdrawn}, "Nothing is accepted any more" if withdrawn else "Nothing was accepted")
        return 0
    accepted = frozenset(accepts or ())
    run.confirm(operations.preview_of_override(accepted, reason, minutes * 60), place, yes, "override")
    ordered = operations.override(accepted, reason, minutes * 60)
    until = clock.iso(ordered.until)
    run.result(
        {"by": ordered.by, "reason": ordered.reason, "accepts": sorted(ordered.accepts), "until": until},
        f"{ordered.by} accepts {', '.join(sorted(ordered.accepts))} until {until}: {ordered.reason}",
    )
    return 0


@app.command("evidence")
def show_evidence(
    context: typer.Context,
    verify: Annotated[bool, typer.Option("--verify", help="Look whether any of it was changed.")] = False,
    download: Annotated[Path | None, typer.Option("--download", help="Fetch the exports into this folder.")] = None,
) -> int:
    """List the sealed records of incidents, operations and drills, fetch them, or find what was changed."""
    run = run_of(context)
    try:
        place = run.place
        room = evidence.EvidenceRoom(place.account, place.suffix)
        if verify:
            found = room.verify()
            run.result(dataclasses.asdict(found), evidence.verification_as_text(found))
            return VERDICTS[found.verdict]
        listed = evidence.listed(room.entries(), room.receipts())
        run.result(listed, evidence.as_text(listed))
        if download is not None:
            fetched = list(room.download(download))
            print(f"{len(fetched)} objects are in {download}", file=sys.stderr)
    except (Problem, SettingsError, ClientError, BotoCoreError) as trouble:
        if not verify:
            raise
        # A verification that could not be made is no mere warning
        print(trouble, file=sys.stderr)
        return 5
    return 0


@app.command()
def rotate(context: typer.Context) -> int:
    """Rotate the password now; Secrets Manager does it in the background."""
    run = run_of(context)
    looking.rotate(run.place)
    run.result({"requested": True}, "A rotation was requested; `drctl status` shows when the password is new")
    return 0


@app.command()
def drill(
    context: typer.Context,
    scenario: Annotated[str, typer.Argument(help="What is lost; `list` shows what can be.")] = "primary-lost",
) -> int:
    """Lose something on purpose in a local cloud of its own, and measure the recovery."""
    done = subprocess.run(
        [sys.executable, "-m", "drills", "--scenario", scenario],
        cwd=ROOT,
        env=dict(run_of(context).environment),
        check=False,
    )
    return done.returncode


@app.command()
def exercise(
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="replica, restore, switchover, or sweep")] = "",
    abort: Annotated[bool, typer.Option("--abort", help="End the drill that runs, which cleans up.")] = False,
    reason: Reason = "",
    yes: Yes = None,
) -> int:
    """Hold a drill on AWS, on a throw-away copy; sweep what a killed one has left; or end the one that runs."""
    run = run_of(context)
    place = run.place
    exercises = Exercises(place.account, place.suffix, run.say)
    if abort:
        done = exercises.follow(exercises.abort(reason))
        run.result(dataclasses.asdict(done), f"The drill {done.identity} is ended: {done.reason}")
        return 0
    run.confirm(exercises.preview(kind), place, yes, f"exercise {kind}")
    if kind == "sweep":
        exercises.sweep()
        run.result({"swept": True}, "Nothing of a drill is left")
        return 0
    done = exercises.run(kind)
    run.result(dataclasses.asdict(done), f"Outcome: {done.outcome}. {done.reason}")
    return 0


@app.command()
def restore(
    context: typer.Context,
    before_transaction: Annotated[
        str | None,
        typer.Option("--before-transaction", metavar="EPOCH:X/Y", help="Stop before the one that commits there."),
    ] = None,
    to_time: Annotated[str | None, typer.Option("--to-time", metavar="TIME", help="Stop at this time (UTC).")] = None,
) -> int:
    """Restore beside the members, roll the log forward to the stop, and list what the log holds after it."""
    run = run_of(context)
    if bool(before_transaction) == bool(to_time):
        raise Problem("Say where to stop: --before-transaction EPOCH:X/Y, as `log list` shows it, or --to-time.")
    until = _time(to_time)
    target = Target(before_transaction, None if until is None else clock.seconds(until))
    place = run.place
    outcome = Restoration(place.account, place.suffix, run.say).run(target)
    if run.as_json:
        print(json.dumps(outcome.as_json(), indent=2, ensure_ascii=False))
        return 0
    print(
        f"{outcome.identifier} holds everything {target}: restored to {outcome.restored_to}, then "
        f"{outcome.account['transactions']} transactions of the log\n"
        f"It answers at {outcome.endpoint}; members and clients are as they were. The log holds after it:"
    )
    _show_transactions(outcome.after[:SHOWN], outcome.more)
    if len(outcome.after) > SHOWN:
        since = outcome.after[0]["committed_at"]
        print(f"of {len(outcome.after)}; `drctl log list --since {since}` lists them all, as does --json")
    return 0


# The log --------------------------------------------------------------------------------------------------------------


@log_app.command("status")
def log_status(context: typer.Context) -> int:
    """How far behind the log is, where it ends, its newest verdict, and what holds it."""
    run = run_of(context)
    place = run.place
    remote, sources = RemoteLog(place), Sources(place, ca_file(place))
    answers = ask({"CloudWatch": sources.log, "end": remote.ends, "holds": remote.holds}, 30.0)
    found = answers["CloudWatch"].value
    holds = (answers["holds"].value or {}).get("holds", [])
    unseen = {name: each.trouble for name, each in answers.items() if each.trouble}
    metrics = {} if found is None else dataclasses.asdict(found)
    lines = [f"ends at    {answers['end'].value or 'unknown'}"]
    if found is not None:
        lines += [
            f"behind     {'unknown' if found.lag_seconds is None else f'{found.lag_seconds:.1f} s'}",
            f"verdict    {found.verdict or 'not verified yet'}",
            f"gaps       {'unknown' if found.gaps is None else f'{found.gaps:.0f}'}",
        ]
    lines += [f"hold       {each['name']} since {each['since']}: {each['reason']}" for each in holds] or [
        "holds      none"
    ]
    lines += [f"not seen   {name}: {trouble}" for name, trouble in unseen.items()]
    run.result({**metrics, "ends": answers["end"].value, "holds": holds, "unseen": unseen}, "\n".join(lines))
    if found is not None and found.verdict is not None and VERDICTS[found.verdict]:
        return VERDICTS[found.verdict]
    return int(Verdict.UNSEEN) if unseen else 0


@log_app.command("list")
def log_list(
    context: typer.Context,
    since: Annotated[str | None, typer.Option("--since", metavar="TIME", help="From this time on (UTC).")] = None,
    before: Annotated[str | None, typer.Option("--before", metavar="TIME", help="Before this time (UTC).")] = None,
) -> int:
    """The log's transactions, for a person who looks for the one that did harm."""
    run = run_of(context)
    times = _time(since), _time(before)
    place = run.place
    found, more = Restoration(place.account, place.suffix, run.say).transactions(*times)
    if run.as_json:
        print(json.dumps({"transactions": found, "more": more}, indent=2, ensure_ascii=False))
    else:
        _show_transactions(found, more)
    return 0


@log_app.command("verify")
def log_verify(context: typer.Context) -> int:
    """Read and check every file of the log now (what has expired and nobody needs is removed, as twice a day)."""
    run = run_of(context)
    found = RemoteLog(run.place).verify()
    told = "".join(
        f"\n{each['verdict']:8} {each['kind']:8} {each['where']}  {each['text']}" for each in found.get("told", ())
    )
    run.result(dict(found), f"{found['verdict']}: {found['findings']} findings{told}")
    return VERDICTS[str(found["verdict"])]


@log_app.command("roll-forward")
def log_roll_forward(
    context: typer.Context,
    host: Annotated[str, typer.Option("--host", help="The restored instance's endpoint, never a member's.")],
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 5432,
    before_transaction: Annotated[
        str | None,
        typer.Option("--before-transaction", metavar="EPOCH:X/Y", help="Stop before the one that commits there."),
    ] = None,
    to_time: Annotated[str | None, typer.Option("--to-time", metavar="TIME", help="Stop at this time (UTC).")] = None,
    dry_run: DryRun = False,
) -> int:
    """Roll an instance that was restored by hand forward along the log."""
    run = run_of(context)
    until = _time(to_time)
    if bool(before_transaction) == bool(until):
        raise Problem("Say where to stop: --before-transaction EPOCH:X/Y, as `log list` shows it, or --to-time.")
    stop = {"before": before_transaction} if before_transaction else {"until": str(until)}
    account = RemoteLog(run.place).roll_forward(host, port, stop, dry_run=dry_run)
    done = "Would apply" if dry_run else "Applied"
    run.result(dict(account), f"{done} {account['transactions']} transactions; {host} stands at {account['reached']}")
    return 0


@log_app.command("hold")
def log_hold(
    context: typer.Context,
    name: Annotated[str, typer.Option("--name", help="Of the hold, for its release.")],
    reason: Reason = "",
) -> int:
    """Let nothing of the log expire until the hold is released."""
    return _held(run_of(context), RemoteLog(run_of(context).place).hold(name, reason))


@log_app.command("release")
def log_release(
    context: typer.Context, name: Annotated[str, typer.Option("--name", help="Of the hold.")], yes: Yes = None
) -> int:
    """Take a hold away: what is old enough then expires."""
    run = run_of(context)
    place = run.place
    run.confirm(f"What only the hold {name} keeps of {place.suffix}'s log expires then.", place, yes, "log release")
    return _held(run, RemoteLog(place).release(name))


def _held(run: Run, answer: Mapping[str, Any]) -> int:
    holds = answer["holds"]
    text = "\n".join(f"held: {each['name']}, since {each['since']}: {each['reason']}" for each in holds)
    run.result(dict(answer), text or "nothing is held")
    return 0


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
