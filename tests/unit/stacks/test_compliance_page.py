"""The compliance report: one well-formed page that needs nothing else and trusts nothing it shows."""

import dataclasses
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from assessment import baseline
from assessment.acknowledgements import Acknowledgement
from assessment.assessed import STATUSES, Assessment
from assessment.evidence import Evidence
from assessment.page import page
from stacks.templates import System
from tests import browser
from tests.browser import Browser
from tests.unit.stacks.conftest import settings
from tests.unit.stacks.test_assessment import assessed

VOID = {"meta", "input", "br", "link", "img", "hr"}
HOSTILE = "<script>alert('1')</script>\"&"


class Reader(HTMLParser):
    """Notes elements and attributes; fails at an element that is closed out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def attributes(self, name: str) -> list[str]:
        return [str(found[name]) for _, found in self.tags if name in found]


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def assessment(protected: System) -> Assessment:
    hostile = Evidence(
        "drill primary-lost", f"Drill {HOSTILE}", HOSTILE, HOSTILE, f"reports/{HOSTILE}/report.json", "a" * 64
    )
    found = assessed(protected, settings(protect=True, logRetentionDays=731), drill=hostile)
    hostile_acknowledgement = Acknowledgement("Security/DeadLetters", HOSTILE, HOSTILE)
    return dataclasses.replace(
        found, commit=HOSTILE, acknowledgements=(*found.acknowledgements, hostile_acknowledgement)
    )


@pytest.fixture(scope="module")
def html(assessment: Assessment) -> str:
    return page(assessment)


def test_every_control_has_a_row_with_its_status_in_words(html: str) -> None:
    rows = {
        str(found["id"]): str(found["data-status"])
        for tag, found in read(html).tags
        if tag == "tr" and "data-status" in found
    }
    assert list(rows) == [each.id for each in baseline.controls()]
    assert set(rows.values()) <= set(STATUSES)
    text = " ".join(read(html).text)
    assert all(each.label in text for each in baseline.controls())
    assert all(meaning in text for meaning in STATUSES.values())


def test_the_page_needs_no_network(html: str) -> None:
    reader = read(html)
    assert not reader.attributes("src")
    assert all(each.startswith("#") for each in reader.attributes("href"))
    assert "@import" not in html
    assert "url(" not in html
    assert not re.search(r"\b(fetch|XMLHttpRequest|import)\b *\(", html)


def test_every_link_leads_somewhere_and_no_two_places_share_a_name(html: str) -> None:
    reader = read(html)
    places = reader.attributes("id")
    assert len(places) == len(set(places))
    assert {each.removeprefix("#") for each in reader.attributes("href")} <= set(places)


def test_what_it_shows_is_escaped(html: str) -> None:
    assert html.count("<script>") == 1
    assert "alert('1')" not in html.replace("alert(&#x27;1&#x27;)", "")
    # Title, date, what it says, path; the commit; finding and reason
    assert html.count("&lt;script&gt;") >= 7
    assert not any(name.startswith("on") for _, found in read(html).tags for name in found)


def test_the_table_has_a_head_that_stays_and_is_printed_on_every_page(html: str) -> None:
    assert "position: sticky" in html
    assert "table-header-group" in html
    heads = [found for tag, found in read(html).tags if tag == "th"]
    assert all(found.get("scope") in ("col", "row") for found in heads)


def test_the_same_assessment_gives_the_same_page(assessment: Assessment, html: str) -> None:
    assert page(assessment) == html


def test_every_cell_names_its_column_for_a_narrow_screen(html: str) -> None:
    cells = [found for tag, found in read(html).tags if tag == "td"]
    assert len(cells) > 1000
    assert all(found.get("data-label") for found in cells)


# -- as a reader opens it: in a real browser ---------------------------------------------------------------------------

in_a_browser = pytest.mark.skipif(
    not browser.is_available(), reason="the browser's package is for Linux on x86-64 and comes with make setup"
)
SET = """((name, value) => {
  const field = document.getElementById(name);
  field.value = value;
  field.dispatchEvent(new Event("input", {bubbles: true}));
})"""
VISIBLE = '[...document.querySelectorAll("#controls tbody tr")].filter((row) => row.offsetHeight).map((row) => row.id)'
FOLLOW = """new Promise((done) => {
  addEventListener("hashchange", done, {once: true});
  location.hash = "cp-4";
}).then(() => 0)"""
SHOWN = 'document.getElementById("shown").textContent'


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser.opened(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def path(html: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("page") / "compliance.html"
    made.write_text(html, encoding="utf-8")
    return made


@in_a_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_asks_nobody_and_complains_of_nothing(opened: Browser, path: Path, width: int) -> None:
    look = opened.look(path, width, whole=False)
    assert look.content_width == width, "it has to be scrolled sideways"
    assert look.requests == [path.as_uri()]
    assert look.complaints == []
    for said in ("AC-2", "CP-10(2)", "SI-7", "Evidence", "Search"):
        assert said in look.text


@in_a_browser
def test_the_filters_leave_the_rows_that_fit_all_of_them_and_say_how_many(opened: Browser, path: Path) -> None:
    opened.look(path, 1280, whole=False)
    every = opened.try_out(VISIBLE)
    assert isinstance(every, list)
    assert opened.try_out(SHOWN) == f"{len(every)} of {len(every)} controls"

    def left(**chosen: str) -> list[str]:
        for name in ("words", "status", "family"):
            opened.try_out(f"{SET}({json.dumps(name)}, {json.dumps(chosen.get(name, ''))})")
        found = opened.try_out(VISIBLE)
        assert isinstance(found, list)
        assert opened.try_out(SHOWN) == f"{len(found)} of {len(every)} controls"
        return found

    audit = left(family="Audit and Accountability")
    assert audit
    assert all(name.startswith("au-") for name in audit)
    here = left(words="chain OF hashes", family="Audit and Accountability")
    assert here == ["au-9"], "every word, in whatever case"
    assert left(words="no control says this") == []
    by_status = [left(status=status) for status in STATUSES]
    assert sorted(name for found in by_status for name in found) == sorted(every), "each has one status"
    assert len(by_status[0]) > 0
    assert left() == every
    assert opened.complaints() == []


@in_a_browser
def test_a_link_finds_a_control_that_was_filtered_away_and_enter_leaves_the_page_alone(
    opened: Browser, path: Path
) -> None:
    opened.look(path, 1280, whole=False)
    opened.try_out(f'{SET}("words", "no control says this")')
    opened.try_out("document.getElementById('filters').requestSubmit()")
    opened.try_out(FOLLOW)
    visible = opened.try_out(VISIBLE)
    assert isinstance(visible, list)
    assert "cp-4" in visible
    assert opened.try_out("document.getElementById('words').value") == ""
    assert str(opened.try_out("location.href")) == f"{path.as_uri()}#cp-4"
    assert opened.complaints() == []


@in_a_browser
def test_it_is_printed_on_whole_pages_with_what_is_folded(opened: Browser, path: Path) -> None:
    look = opened.look(path, 1280, paper=True, whole=False)
    assert look.pdf.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", look.pdf)) >= 20
    assert opened.try_out("document.querySelectorAll('details').length > 9") is True
    assert opened.try_out("document.querySelectorAll('details:not([open])').length") == 0
