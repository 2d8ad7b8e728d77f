"""A report as an assessor opens it: in a real browser, wide and narrow, light and dark, and on paper."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from recovery import report_page
from tests import browser
from tests.browser import Browser
from tests.unit.recovery.test_report_page import INCIDENT, document

pytestmark = pytest.mark.skipif(
    not browser.is_available(), reason="the browser's package is for Linux on x86-64 and comes with make setup"
)
WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser.opened(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module", params=["drill", "incident"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drill with long words that must be broken, and an incident of the table."""
    longest = {"reason": "x" * 400, "lost": list(range(300)), "facts": {"k" * 120: "v" * 300}}
    made = document(**longest) if request.param == "drill" else report_page.of_record("incident#1", INCIDENT)
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report_page.page(made), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_asks_nobody_and_complains_of_nothing(opened: Browser, page: Path, width: int, scheme: str) -> None:
    look = opened.look(page, width, "dark" if scheme == "dark" else "light", whole=False)
    assert look.content_width == width, "it has to be scrolled sideways"
    assert look.requests == [page.as_uri()]
    assert look.complaints == []
    assert look.screenshot.startswith(b"\x89PNG")
    for said in ("Timeline", "Corrective actions", "Provenance"):
        assert said in look.text


def test_it_is_printed_on_whole_pages_with_every_section(opened: Browser, page: Path) -> None:
    look = opened.look(page, 1280, paper=True)
    assert look.pdf.startswith(b"%PDF-")
    assert look.pdf.rstrip().endswith(b"%%EOF")
    assert len(re.findall(rb"/Type\s*/Page\b", look.pdf)) >= 2


def test_a_page_that_did_these_things_would_be_noticed(opened: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        '<div style="width:2000px">x</div><img src="http://127.0.0.1:9/x.png"><script>console.log("said")</script>',
        encoding="utf-8",
    )
    look = opened.look(bad, 1280)
    assert look.content_width > 1280
    assert any("127.0.0.1:9" in each for each in look.requests)
    assert any("said" in each for each in look.complaints)
