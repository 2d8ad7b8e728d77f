"""The compliance report: one well-formed page that needs nothing else and trusts nothing it shows."""

import dataclasses
import re
from html.parser import HTMLParser

import pytest

from assessment import baseline
from assessment.acknowledgements import Acknowledgement
from assessment.assessed import STATUSES, Assessment
from assessment.evidence import Evidence
from assessment.page import page
from stacks.templates import System
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
