"""The report of a drill or an incident as one HTML page, in the order of a Contingency Plan Test Report (CP-4; the
contingency plan template's Appendix G): no network, no script, light and dark, wide, narrow and on paper.

`page` renders a document: the content of a drill's `report.json`, or what `of_record` makes of a record of the recovery
table. What a document lacks is said to be missing; nothing is made up.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from recovery import drill_document
from recovery.clock import seconds
from recovery.report_plot import plot

Document = Mapping[str, Any]

GOOD = ("met", "promoted", "stood_by", "protected", "passed", "succeeded")
BAD = ("missed", "failed", "lost")
# Drawn, because not every font has the characters
SIGNS: Mapping[str, str] = {
    "good": "M3 8.5 6.5 12 13 4.5",
    "bad": "M4 4 12 12M12 4 4 12",
    "unsure": "M8 3v6M8 12v1.2",
}
WIDE, NARROW = 960, 350
STYLE = Path(__file__).with_name("report.css").read_text(encoding="utf-8")

CONTROLS: Mapping[str, str] = {
    "CP-2": "Contingency plan: the procedure that ran, by its hash",
    "CP-4": "Contingency plan testing: this report, its deviations and corrective actions",
    "CP-10": "System recovery and reconstitution: recovery to a known state within the objectives",
    "CP-10(2)": "Transaction recovery: the loss account, and what the transaction log added",
    "IR-4": "Incident handling: detection, decision and containment in the timeline",
    "AU-10": "Non-repudiation: the record is sealed in a chain of hashes",
    "SI-4": "System monitoring: the alarms that fired and those that did not",
}
"""NIST SP 800-53 Rev. 5 controls that a report is evidence for; it shows implementation and claims no authorization."""

_MEASURED = ("rto_seconds", "rpo_seconds")
_KNOWN = frozenset(
    (
        *("outcome", "verdict", "reason", "kind", "started_at", "ended_at", "timeline", "account", "decision"),
        *("execution", "epoch", "expires_at", "scenario"),
    )
)


def of_record(identity: str, record: Mapping[str, Any], seal: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A document from a record of the recovery table (`incident#…`, `operation#…`, `drill#…`).

    `seal`: {"number", "sha256", "previous", "sealed_at"} of its entry in the chain of evidence. No client was watched,
    so there is no RTO as clients see it: what the table knows is when the machine began and ended.
    """
    family, _, name = identity.partition("#")
    kind = str(record.get("kind") or ("failover" if family == "incident" else family))
    account = _decoded(record.get("account"))
    decision = _decoded(record.get("decision"))
    steps = [step for step in _listed(record.get("timeline")) if isinstance(step, Mapping)]
    return {
        "title": f"{family.capitalize()} {name}",
        "id": identity,
        "kind": kind,
        "scope": f"{kind} of epoch {record.get('epoch', 'unknown')}",
        "started_at": str(record.get("started_at", "")),
        "ended_at": str(record.get("ended_at", "")),
        "verdict": str(record.get("verdict") or record.get("outcome") or "unknown"),
        "reason": str(record.get("reason", "")),
        "timeline": [
            {"at": str(step.get("at", "")), "source": "state machine", "event": str(step.get("event", ""))}
            for step in steps
        ],
        "before": decision if isinstance(decision, Mapping) else {},
        "loss_account": account if isinstance(account, Mapping) else {},
        "participants": [{"role": "state machine", "who": str(record.get("execution") or "unknown")}],
        "facts": {key: value for key, value in record.items() if key not in _KNOWN and key != "id"},
        "controls": list(CONTROLS),
        **(drill_document.described(record) if family == "drill" else {}),
        "seal": dict(seal) if seal else None,
    }


def page(document: Document) -> str:
    """The page: HTML 5, complete, UTF-8."""
    title = str(document.get("title") or "Report")
    sections = [
        _section("What clients saw", _plots(document)),
        _section("Rounds", _rounds(document["rounds"])) if document.get("rounds") else "",
        _section("Objectives and their basis", _objectives(document)),
        _section("Before the fault", _facts(document.get("before"), "The state before the fault was not recorded.")),
        _section("Timeline", _timeline(document)),
        _section("Loss account", _loss(document)),
        _section("Alarms", _alarms(document)),
        _section("Deviations from what was expected", _deviations(document)),
        _section("Corrective actions", _actions(document)),
        _section("Restoration", _list(document.get("restoration"), "Restoration was not recorded.")),
        _section("Scope and participants", _scope(document)),
        _section("Preflight", _preflight(document)),
        _section("Further facts", _facts(document.get("facts"), "")) if document.get("facts") else "",
        _section("Controls", _controls(document)),
        _section("Provenance", _provenance(document)),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"{_head(document, title)}\n{''.join(section for section in sections if section)}"
        f"</main>\n</body>\n</html>\n"
    )


# The first screen ----------------------------------------------------------------------------------------------------


def _head(document: Document, title: str) -> str:
    verdict = str(document.get("verdict") or "unknown")
    tone = "good" if verdict in GOOD else "bad" if verdict in BAD else "unsure"
    objectives = document.get("objectives") or {}
    tiles = [
        _tile(
            "Recovery time (RTO)",
            _measured(document.get("rto_seconds"), document.get("rto_resolution_seconds")),
            document.get("rto_seconds"),
            objectives.get("rto_seconds"),
        ),
        _tile(
            "Data lost (RPO)",
            _measured(document.get("rpo_seconds")),
            document.get("rpo_seconds"),
            objectives.get("rpo_seconds"),
        ),
    ]
    acknowledged, missing = document.get("transactions_acknowledged"), document.get("transactions_missing")
    if acknowledged is not None:
        found = "unknown" if missing is None else f"{missing:,}"
        tiles.append(_tile("Acknowledged transactions missing", found, note=f"of {acknowledged:,} acknowledged"))
    elif document.get("started_at") and document.get("ended_at"):
        tiles.append(_tile("Took from start to end", _between(document["started_at"], document["ended_at"])))
    when = " – ".join(filter(None, (str(document.get("started_at") or ""), str(document.get("ended_at") or ""))))
    return (
        f"<header><p class=kind>{escape(str(document.get('kind') or 'report'))} · {escape(when)}</p>"
        f"<h1>{escape(title)}</h1>"
        f'<p class="verdict {tone}"><svg class=sign viewBox="0 0 16 16" aria-hidden="true">'
        f'<path d="{SIGNS[tone]}"/></svg>'
        f"<strong>{escape(verdict.replace('_', ' '))}</strong> <span>{escape(str(document.get('reason') or ''))}</span>"
        f"</p><div class=tiles>{''.join(tiles)}</div></header>"
    )


def _tile(name: str, value: str, measured: float | None = None, objective: float | None = None, note: str = "") -> str:
    meter = ""
    if objective:
        note = f"objective {_span(objective)}"
        if measured is not None:
            share = min(measured / objective, 1.0) * 100
            tone = "good" if measured <= objective else "bad"
            meter = (
                f'<dd class=meter role=img aria-label="{measured / objective:.1%} of the objective">'
                f'<span class={tone} style="width:{max(share, 0.8) if measured else 0:.1f}%"></span></dd>'
            )
    return (
        f"<dl class=tile><dt>{escape(name)}</dt><dd class=value>{escape(value)}</dd>{meter}"
        f"{f'<dd class=note>{escape(note)}</dd>' if note else ''}</dl>"
    )


def _measured(value: float | None, resolution: float | None = None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.1f} s" + (f" ± {resolution:.1f} s" if resolution is not None else "")


def _span(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 and seconds % 60 == 0 else f"{seconds:g} s"


def _between(begun: str, ended: str) -> str:
    try:
        return f"{seconds(ended) - seconds(begun):.1f} s"
    except ValueError:
        return "unknown"


# Sections ------------------------------------------------------------------------------------------------------------


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>\n"


def _plots(document: Document) -> str:
    series = document.get("series")
    wide = plot(series, WIDE) if series else ""
    if not series or not wide:
        return _nothing("No client was watched: there is no series to plot.")
    clients = series.get("clients") or []
    rows = [
        (
            f"{each['at']:.1f}",
            each["acknowledged"],
            each["failed"],
            *("–" if each[key] is None else f"{each[key]:.0f}" for key in ("median_ms", "longest_ms")),
        )
        for each in clients
    ]
    figures = _table(("s after the fault", "acknowledged", "failed", "median ms", "longest ms"), rows, numbers=True)
    return (
        f"<figure><div class=wide>{wide}</div><div class=narrow>{plot(series, NARROW)}</div>"
        "<figcaption>Seconds since the fault (red line); shaded: no service, until the first transaction that was "
        "begun after the outage was seen is acknowledged (green line).</figcaption></figure>"
        f"<details><summary>The figures behind the plot</summary>{figures}</details>"
    )


def _rounds(rounds: Sequence[Mapping[str, Any]]) -> str:
    return _table([name.replace("_", " ") for name in rounds[0]], [list(each.values()) for each in rounds])


def _objectives(document: Document) -> str:
    objectives = document.get("objectives") or {}
    if not any(document.get(name) is not None or objectives.get(name) is not None for name in _MEASURED):
        return _nothing("No client was watched: recovery time and lost data as clients see them are not known.")
    return _table(
        ("objective", "limit", "measured", "how it was measured"),
        [
            (
                "RTO",
                _limit(objectives.get("rto_seconds")),
                _measured(document.get("rto_seconds"), document.get("rto_resolution_seconds")),
                document.get("rto_basis") or "not recorded",
            ),
            (
                "RPO",
                _limit(objectives.get("rpo_seconds")),
                _measured(document.get("rpo_seconds")),
                document.get("rpo_basis") or "not recorded",
            ),
            ("Rows", _wanted(document), _rows(document), document.get("rows_basis") or "not recorded"),
        ],
    )


def _limit(objective: float | None) -> str:
    return "none: it is shown" if objective is None else _span(objective)


def _wanted(document: Document) -> str:
    return "all acknowledged" if document.get("rows") is None else "all that was read or changed"


def _rows(document: Document) -> str:
    if (said := document.get("rows")) is not None:
        return str(said)
    acknowledged, missing = document.get("transactions_acknowledged"), document.get("transactions_missing")
    if acknowledged is None or missing is None:
        return "not verified"
    return f"{acknowledged - missing:,} of {acknowledged:,} found again"


def _timeline(document: Document) -> str:
    entries = document.get("timeline") or []
    if not entries:
        return _nothing("There is no timeline.")
    rows = [(_clock(entry["at"]), entry["source"], entry["event"]) for entry in entries]
    return _table(("UTC", "source", "event"), rows)


def _clock(at: str) -> str:
    """The time of day of an ISO time; the date is in the page's head."""
    return at.partition("T")[2].replace("+00:00", "").removesuffix("Z") or at


def _loss(document: Document) -> str:
    lost = document.get("lost") or []
    body = _facts(document.get("loss_account"), "The machine kept no account.")
    if lost:
        body += "<p>Acknowledged transactions that are missing, by their number:</p>"
        body += f"<p class=mono>{escape(', '.join(str(each) for each in lost))}</p>"
    return body


def _alarms(document: Document) -> str:
    alarms = document.get("alarms")
    if not alarms:
        return _nothing("Alarms were not watched." if alarms is None else "No alarm fired, and none had to.")
    rows = [
        (each["name"], _tagged(each["state"]), _clock(str(each.get("at") or "–")), each.get("note") or "")
        for each in alarms
    ]
    return _table(("alarm", "what it did", "at (UTC)", "note"), rows)


def _deviations(document: Document) -> str:
    found = document.get("deviations")
    if found is None:
        return _nothing("Nobody has compared this with what was expected.")
    return _list(found, "None: everything came as it was expected.")


def _actions(document: Document) -> str:
    actions = [
        (each.get("what", ""), each.get("owner", ""), each.get("due", ""))
        for each in document.get("corrective_actions") or []
    ]
    blank = [("", "", "")] * (0 if actions else 3)
    return _table(("action", "owner", "due"), [*actions, *blank], style="fill")


def _scope(document: Document) -> str:
    people = [(each["role"], each["who"]) for each in document.get("participants") or []]
    body = f"<p>{escape(str(document.get('scope') or 'not recorded'))}</p>"
    return body + (_table(("role", "who"), people) if people else "")


def _preflight(document: Document) -> str:
    verdicts = document.get("preflight")
    if not verdicts:
        return _nothing("No preflight belongs to this record.")
    return _table(
        ("check", "verdict", "found"),
        [(each["check"], _tagged(str(each["verdict"])), each["found"]) for each in verdicts],
    )


def _controls(document: Document) -> str:
    rows = [(each, CONTROLS.get(each, "")) for each in document.get("controls") or []]
    return _table(("NIST SP 800-53", "what this page shows of it"), rows) if rows else _nothing("None named.")


def _provenance(document: Document) -> str:
    plan, seal = document.get("plan") or {}, document.get("seal") or {}
    facts = {
        "id": document.get("id"),
        "environment": document.get("suffix"),
        "plan": plan.get("name"),
        "plan SHA-256": plan.get("sha256"),
        "commit": document.get("commit"),
        "templates SHA-256": document.get("template_sha256"),
        "sealed as entry": seal.get("number"),
        "sealed at": seal.get("sealed_at"),
        "entry SHA-256": seal.get("sha256"),
        "previous SHA-256": seal.get("previous"),
    }
    return _facts({name: value for name, value in facts.items() if value is not None}, "Not recorded.")


# Parts ---------------------------------------------------------------------------------------------------------------


class _Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def _tagged(state: str) -> _Markup:
    tone = {"fired": "good", "ok": "good", "failed to fire": "bad", "failed": "bad"}.get(state, "unsure")
    return _Markup(f'<span class="tag {tone}">{escape(state)}</span>')


def _cell(value: object) -> str:
    return value if isinstance(value, _Markup) else escape(_text(value))


def _text(value: object) -> str:
    match value:
        case None:
            return "unknown"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3f}".rstrip("0").rstrip(".")
        case Mapping() | list() | tuple():
            return json.dumps(value, ensure_ascii=False, default=str)
        case _:
            return str(value)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: bool = False, style: str = "") -> str:
    body = "".join(
        "<tr>"
        + "".join(f'<td data-head="{escape(name)}">{_cell(cell)}</td>' for name, cell in zip(head, row, strict=True))
        + "</tr>"
        for row in rows
    )
    headings = "".join(f"<th scope=col>{escape(name)}</th>" for name in head)
    return (
        f'<table class="{"numbers" if numbers else "records"} {style}"><thead><tr>{headings}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _facts(facts: object, otherwise: str) -> str:
    if not isinstance(facts, Mapping) or not facts:
        return _nothing(otherwise) if otherwise else ""
    return f"<dl class=facts>{''.join(_fact(str(name), value) for name, value in facts.items())}</dl>"


def _fact(name: str, value: object) -> str:
    return f"<div><dt>{escape(name.replace('_', ' '))}</dt><dd>{_cell(value)}</dd></div>"


def _list(items: Iterable[object] | None, otherwise: str) -> str:
    found = list(items or ())
    return f"<ul>{''.join(f'<li>{_cell(item)}</li>' for item in found)}</ul>" if found else _nothing(otherwise)


def _nothing(text: str) -> str:
    return f"<p class=nothing>{escape(text)}</p>"


def _decoded(value: object) -> object:
    """JSON in a field of the table; text that is none stays what it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _listed(value: object) -> list[Any]:
    found = _decoded(value)
    return found if isinstance(found, list) else []
