"""A Status for people: a screen that is read from the top, the worst first, in words that need no colour."""

from __future__ import annotations

import io
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from drctl.status import DAY_SECONDS, Forecast, Member, Status, Verdict, Witness

_COLOURS = {Verdict.WELL: "green", Verdict.AT_RISK: "yellow", Verdict.DOWN: "red", Verdict.UNSEEN: "yellow"}
WIDE = 1000
_WELL = {True: "yes", False: "NO", None: "?"}


def show(console: Console, status: Status) -> None:
    """Print it; where no person sees it, lines as long as they are."""
    if console.is_terminal:
        console.print(rendered(status))
        return
    wide = Console(highlight=False, width=WIDE, color_system=None, file=io.StringIO())
    wide.print(rendered(status))
    print(*(line.rstrip() for line in wide.file.getvalue().splitlines()), sep="\n", flush=True)  # type: ignore[attr-defined]


def rendered(status: Status) -> RenderableType:
    """The screen."""
    head = Text.assemble(
        (f"citizens-{status.suffix}", "bold"), "  ", (status.verdict.words, f"bold {_COLOURS[status.verdict]}")
    )
    head.append(f"  {status.at}", "dim")
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="cyan", no_wrap=True)
    rows.add_column()
    for name, text in _rows(status):
        rows.add_row(name, text)
    return Group(head, rows)


def _rows(status: Status) -> Iterator[tuple[str, Text]]:
    for number, risk in enumerate(status.risks):
        yield "" if number else "at risk", Text(risk, "red" if status.verdict is Verdict.DOWN else "yellow")
    if status.epoch is not None:
        pair = "protected" if status.protected else "NOT protected"
        yield "roles", Text(f"epoch {status.epoch} since {status.since}, {pair}")
    # The primary first, whatever its name
    for member in sorted(status.members, key=lambda each: (each.role != "primary", each.identifier)):
        yield member.role, _member(member)
    for witness in status.witnesses:
        yield f"witness {witness.name}", _witness(witness)
    yield "log", _log(status)
    if status.password_age is not None:
        due = status.password_rotates_in
        rotates = "" if due is None else f", rotates in {max(0.0, due) / DAY_SECONDS:.1f} days"
        yield "password", Text(f"{status.password_age / DAY_SECONDS:.1f} days old{rotates}")
    if status.forecast is not None:
        yield "if lost now", _forecast(status.forecast)
        yield "if both lost", _both_lost(status.forecast)
    for number, each in enumerate(status.running or ("nothing",)):
        yield "" if number else "running", Text(each)
    yield "alarms", Text("unknown" if status.alarms is None else ", ".join(status.alarms) or "none")
    for number, (source, trouble) in enumerate(status.unseen.items()):
        yield "" if number else "not seen", Text(f"{source}: {trouble}", "yellow")


def _member(member: Member) -> Text:
    zone = member.zone or "zone unknown"
    copy = f" (copy in {member.copy_zone})" if member.copy_zone else ""
    text = Text(f"{member.identifier}  {member.status}  {zone}{copy}")
    text.append({True: "  FENCED", False: "  let in", None: "  fence unknown"}[member.fenced])
    if member.takes_writes is not None:
        text.append(f"  {'takes writes' if member.takes_writes else 'replays'}, at {member.lsn}")
    elif member.unreachable:
        text.append(f"  (not asked itself: {member.unreachable})", "dim")
    return text


def _witness(witness: Witness) -> Text:
    lag = "lag unknown"
    if witness.lag_seconds is not None:
        lag = f"lag {witness.lag_seconds:.1f} s" + (
            "" if witness.lag_bytes is None else f", {witness.lag_bytes:,} bytes"
        )
    stale = "" if witness.fresh else "  TOO OLD"
    return Text(
        f"{witness.age:.0f} s ago{stale}: writes to the primary {_WELL[witness.primary]}, reads the standby "
        f"{_WELL[witness.standby]}, {lag}"
    )


def _log(status: Status) -> Text:
    log = status.log
    behind = "lag unknown" if log.lag_seconds is None else f"{log.lag_seconds:.1f} s behind"
    size = "" if log.lag_bytes is None else f" ({log.lag_bytes:,.0f} bytes)"
    verdict = "not verified yet" if log.verdict is None else f"{log.verdict} {(log.verdict_age or 0) / 3600:.1f} h ago"
    gaps = "" if log.gaps is None else f", gaps: {log.gaps:.0f}"
    return Text(f"{behind}{size}, {verdict}{gaps}")


def _forecast(forecast: Forecast) -> Text:
    if forecast.action != "promote":
        return Text(f"no recovery by itself: {forecast.action}", "red")
    back = "in an unknown time" if forecast.back_within is None else f"within {forecast.back_within:.0f} s at the worst"
    missing = "unknown" if forecast.missing_if_lost is None else f"{forecast.missing_if_lost:.1f} s"
    return Text(
        f"the standby takes over, back {back} (objective {forecast.rto:.0f} s); data missing: {missing} "
        f"(objective {forecast.rpo:.0f} s)"
    )


def _both_lost(forecast: Forecast) -> Text:
    if forecast.missing_if_both_lost is None:
        return Text("no backup to restore from is known", "red")
    return Text(f"restored by people and rolled forward; data missing: {forecast.missing_if_both_lost:.1f} s")
