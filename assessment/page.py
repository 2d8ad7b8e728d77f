"""The compliance report: the assessment as one page to read, print and filter, without any network.

Everything that comes from templates, settings and reports is escaped. Status is told by words; colours repeat them.
"""

from collections.abc import Callable, Iterable, Sequence
from html import escape
from importlib import resources
from typing import Any

from assessment import baseline
from assessment.assessed import AGENCY, DISCLAIMER, SHARED, STATUSES, SYSTEM, UNMET, Assessment, Row
from assessment.evidence import Evidence, command
from stacks.templates import Resource

_COLUMNS = ("Control", "Status", "What implements it", "Resources", "Shown by")
_SHOWN = 3
"""So many resources of a type are named at once; the others unfold."""


def page(assessment: Assessment) -> str:
    """The whole page."""
    settings = assessment.settings
    title = f"Compliance of the citizens' database's disaster recovery: {settings.environment_suffix}"
    numbers = {each: number for number, each in enumerate(assessment.acknowledgements, 1)}

    def row(each: Row) -> str:
        acknowledged = [numbers[one] for one in each.acknowledgements]
        return _row(each, acknowledged)

    evidence = {one.path: one for each in assessment.rows for one in each.evidence}
    missing = dict.fromkeys(kind for each in assessment.rows for kind in each.missing)
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>\n{_asset('page.css')}</style></head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1>\n{_introduction(assessment)}</header>\n"
        f"<main>\n{_filters(assessment)}"
        f"{_table('Controls', 'controls', _COLUMNS, map(row, assessment.rows))}"
        f"{_acknowledgements(assessment)}{_evidence(evidence.values(), missing)}"
        f"</main>\n<script>\n{_asset('page.js')}</script>\n</body></html>\n"
    )


def _asset(name: str) -> str:
    return resources.files("assessment").joinpath(name).read_text(encoding="utf-8")


def _introduction(assessment: Assessment) -> str:
    counts = "".join(
        f"<li><strong>{len(assessment.of(status))}</strong> {_status(status)} {escape(meaning)}</li>"
        for status, meaning in STATUSES.items()
    )
    told = (
        ("Region", assessment.settings.region),
        ("Protected", "yes" if assessment.settings.protect else "no: the setting protect is off"),
        ("Commit", assessment.commit),
        ("Templates (SHA-256)", assessment.template_sha256),
    )
    return (
        f"<p>{len(assessment.rows)} controls of the {escape(baseline.TITLE)}. {escape(DISCLAIMER)}</p>\n"
        f"<ul class=counts>{counts}</ul>\n<dl>"
        + "".join(f"<dt>{escape(name)}</dt><dd><code>{escape(value)}</code></dd>" for name, value in told)
        + "</dl>\n"
    )


def _filters(assessment: Assessment) -> str:
    families = dict.fromkeys(row.control.family for row in assessment.rows)

    def options(values: Iterable[str]) -> str:
        return "".join(f'<option value="{escape(value)}">{escape(value)}</option>' for value in values)

    return (
        '<form id="filters" role="search" hidden>'
        '<label>Search <input type="search" id="words" placeholder="AC-6, KMS, rotation …"></label>'
        f'<label>Status <select id="status"><option value="">all</option>{options(STATUSES)}</select></label>'
        f'<label>Family <select id="family"><option value="">all</option>{options(families)}</select></label>'
        '<output id="shown" aria-live="polite"></output></form>\n'
    )


def _table(caption: str, name: str, columns: Sequence[str], rows: Iterable[str]) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    return (
        f'<h2 id="{name}-title">{escape(caption)}</h2>\n<table id="{name}" aria-labelledby="{name}-title">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody></table>\n"
    )


def _row(row: Row, acknowledged: Sequence[int]) -> str:
    control = row.control
    cells = (
        f'<a href="#{control.id}">{escape(control.label)}</a> <span class=title>{escape(control.title)}</span>',
        _status(row.status),
        _statement(row),
        _resources(row.resources),
        _shown_by(row, acknowledged),
    )
    inner = "".join(
        f'<td data-label="{label}">{cell}</td>' for label, cell in zip(_COLUMNS[1:], cells[1:], strict=True)
    )
    return (
        f'<tr id="{control.id}" data-status="{escape(row.status)}" data-family="{escape(control.family)}">'
        f'<th scope="row" data-label="Control">{cells[0]}</th>{inner}</tr>\n'
    )


def _status(status: str) -> str:
    return f'<span class="status {status.replace(" ", "-")}">{escape(status)}</span>'


def _statement(row: Row) -> str:
    if row.implementation is None:
        return "<p class=agency>The agency's.</p>"
    unmet = "".join(
        f"<p class=unmet><strong>Not met:</strong> {escape(each.rule.name)} by {escape(', '.join(each.violations))}</p>"
        for each in row.rules
        if each.violations
    )
    agency = row.implementation.agency
    theirs = f"<p class=agency><strong>The agency's part:</strong> {escape(agency)}</p>" if agency else ""
    return f"<p>{escape(row.statement)}</p>{unmet}{theirs}"


def _resources(found: Sequence[Resource]) -> str:
    by_type: dict[str, list[str]] = {}
    for each in found:
        by_type.setdefault(each.type, []).append(str(each))
    items = []
    for kind, names in by_type.items():
        shown, more = names[:_SHOWN], names[_SHOWN:]
        unfold = f"<details><summary>{len(more)} more</summary>{_names(more)}</details>" if more else ""
        items.append(f"<li><b>{escape(kind.removeprefix('AWS::'))}</b> {_names(shown)}{unfold}</li>")
    return f"<ul>{''.join(items)}</ul>" if items else ""


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"<code>{escape(name)}</code>" for name in names)


def _shown_by(row: Row, acknowledged: Sequence[int]) -> str:
    parts = [_list("Config rules", row.rules, lambda each: f"{escape(each.rule.name)}: {_met(each.violations)}")]
    own = () if row.implementation is None else row.implementation.tests
    parts.append(_list("Tests", own, _test))
    parts.append(_list("Evidence", row.evidence, _cited))
    if row.missing:
        parts.append(_list("Not made yet", row.missing, lambda kind: f"<code>{escape(command(kind))}</code>"))
    if acknowledged:
        links = ", ".join(f'<a href="#acknowledgement-{number}">{number}</a>' for number in acknowledged)
        summary = f"{len(acknowledged)} acknowledged finding{'' if len(acknowledged) == 1 else 's'} on these resources"
        parts.append(f"<details><summary>{summary}</summary>{links}</details>")
    return "".join(parts)


def _list(title: str, items: Sequence[Any], shown: Callable[[Any], str]) -> str:
    if not items:
        return ""
    return f"<h4>{escape(title)}</h4><ul>{''.join(f'<li>{shown(each)}</li>' for each in items)}</ul>"


def _met(violations: Sequence[str]) -> str:
    return f"<strong>not met</strong> by {escape(', '.join(violations))}" if violations else "met"


def _test(node: str) -> str:
    file, _, name = node.partition("::test_")
    return f'<span title="tests/{escape(node)}">{escape(name.replace("_", " "))}</span> <code>{escape(file)}</code>'


def _cited(evidence: Evidence) -> str:
    return f'<a href="#{_anchor(evidence)}">{escape(evidence.title)}</a>, {escape(evidence.made_at)}'


def _anchor(evidence: Evidence) -> str:
    return f"evidence-{evidence.sha256[:12]}"


def _acknowledgements(assessment: Assessment) -> str:
    rows = (
        f'<tr id="acknowledgement-{number}"><th scope="row" data-label="No.">{number}</th>'
        f'<td data-label="Finding"><code>{escape(each.rule)}</code></td>'
        f'<td data-label="Construct"><code>{escape(each.construct)}</code></td>'
        f'<td data-label="Why it may stay">{escape(each.reason)}</td></tr>\n'
        for number, each in enumerate(assessment.acknowledgements, 1)
    )
    return _table(
        "Findings of the policy packs that may stay",
        "acknowledgements",
        ("No.", "Finding", "Construct", "Why it may stay"),
        rows,
    )


def _evidence(found: Iterable[Evidence], missing: Iterable[str]) -> str:
    rows = [
        f'<tr id="{_anchor(each)}"><th scope="row" data-label="Evidence">{escape(each.title)}</th>'
        f'<td data-label="Made at">{escape(each.made_at)}</td>'
        f'<td data-label="What it says">{escape(each.says)}</td>'
        f'<td data-label="File"><code>{escape(each.path)}</code> SHA-256 <code>{escape(each.sha256)}</code></td></tr>\n'
        for each in found
    ]
    rows += [
        f'<tr><th scope="row" data-label="Evidence">{escape(kind)}</th><td data-label="Made at">not made yet</td>'
        f'<td data-label="What it says">–</td>'
        f'<td data-label="File"><code>{escape(command(kind))}</code> makes it</td></tr>\n'
        for kind in missing
    ]
    return _table("Evidence", "evidence", ("Evidence", "Made at", "What it says", "File"), rows)


def counts(assessment: Assessment) -> str:
    """The assessment in one line."""
    here = len(assessment.of(SYSTEM, SHARED, UNMET))
    unmet = len(assessment.of(UNMET))
    return (
        f"{len(assessment.rows)} controls: {here} implemented here ({len(assessment.of(SYSTEM))} by the system alone, "
        f"{unmet} with a Config rule that is not met), {len(assessment.of(AGENCY))} are the agency's"
    )
