"""What a Contingency Plan Test Report (CP-4; Appendix G of the contingency plan template) has to tell, as data: each
item, and what of a document must then be on its page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html import unescape
from typing import Any

from recovery import report_page

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """`section`: the heading that it stands under, "" for the head. `shown`: the texts of the document that must be
    there; KeyError, TypeError or StopIteration when the document does not hold it."""

    name: str
    section: str
    shown: Callable[[Document], list[str]]


def _key(document: Document, section: str, words: str) -> str:
    """The first fact of a section whose name has these words."""
    return next(str(name) for name, value in document[section].items() if words in name and value is not None)


def _sourced(document: Document) -> list[str]:
    entries = document["timeline"]
    if not entries or not all(each["at"] and each["source"] and each["event"] for each in entries):
        raise KeyError("source")
    return [text for each in entries for text in (each["source"], each["event"])]


def _or(found: list[str] | None, none: str) -> list[str]:
    if found is None:
        raise KeyError(none)
    return found or [none]


def _rows(document: Document) -> list[str]:
    if document.get("rows") is not None:
        return [document["rows"], document["rows_basis"]]
    acknowledged, missing = document["transactions_acknowledged"], document["transactions_missing"]
    return [f"{acknowledged - missing:,} of {acknowledged:,} found again", document["rows_basis"]]


ITEMS = (
    Item("id", "Provenance", lambda d: [d["id"]]),
    Item("plan and its hash", "Provenance", lambda d: [d["plan"]["name"], d["plan"]["sha256"]]),
    Item("scope", "Scope and participants", lambda d: [d["scope"]]),
    Item("roles", "Scope and participants", lambda d: [t for each in d["participants"] for t in each.values()]),
    Item("preflight", "Preflight", lambda d: [d["preflight"][0]["check"], d["preflight"][0]["found"]]),
    Item("timeline with a source for each stamp", "Timeline", _sourced),
    Item("lag before", "Before the fault", lambda d: [_key(d, "before", "behind, seconds")]),
    Item("LSN before", "Before the fault", lambda d: [_key(d, "before", "LSN of the primary")]),
    Item(
        "RTO with its resolution",
        "Objectives and their basis",
        lambda d: [f"{d['rto_seconds']:.1f} s ± {d['rto_resolution_seconds']:.1f} s", d["rto_basis"]],
    ),
    Item("RPO with its basis", "Objectives and their basis", lambda d: [f"{d['rpo_seconds']:.1f} s", d["rpo_basis"]]),
    Item("rows verified", "Objectives and their basis", _rows),
    Item(
        "alarms that fired or failed to",
        "Alarms",
        lambda d: _or([each["name"] for each in d["alarms"]], "No alarm fired, and none had to."),
    ),
    Item(
        "deviations",
        "Deviations from what was expected",
        lambda d: _or(d["deviations"], "None: everything came as it was expected."),
    ),
    Item("loss account", "Loss account", lambda d: [next(iter(d["loss_account"])).replace("_", " ")]),
    Item(
        "corrective actions with owner and date",
        "Corrective actions",
        lambda d: ["action", "owner", "due", *(str(t) for each in d["corrective_actions"] for t in each.values())],
    ),
    Item("restoration", "Restoration", lambda d: [d["restoration"][0]]),
    Item("control ids", "Controls", lambda d: [name for name in ("CP-2", "CP-4", "CP-10") if name in d["controls"]]),
    Item("commit", "Provenance", lambda d: [d["commit"]]),
    Item("templates", "Provenance", lambda d: [d["template_sha256"]]),
)


def missing(document: Document, html: str | None = None) -> Iterator[str]:
    """What of it the document (its JSON) or its page does not tell, a sentence each."""
    page = report_page.page(document) if html is None else html
    for item in ITEMS:
        try:
            shown = item.shown(document)
        except (KeyError, TypeError, IndexError, StopIteration) as error:
            yield f"{item.name}: not in the JSON ({error!r})"
            continue
        told = section(page, item.section)
        yield from (
            f"{item.name}: {text!r} is not on the page" for text in shown if not text or _plain(text) not in told
        )


def section(html: str, heading: str) -> str:
    """The words under a heading of a page."""
    return _plain(
        unescape(re.sub(r"<[^>]+>", " ", html.partition(f"<h2>{heading}</h2>")[2].partition("</section>")[0]))
    )


def _plain(text: object) -> str:
    return re.sub(r"\s+", " ", str(text)).strip()
