"""The documentation in a browser: nothing is asked for from elsewhere, and the diagrams follow the theme."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.test_site import build


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    assert build(folder).returncode == 0
    return folder


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_the_diagrams_are_part_of_their_page_and_follow_its_theme(browser: Browser, site: Path, scheme: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((site / "architecture.html").as_uri(), wait_until="networkidle")
    for name, word in (("From bytes to an answer", "batching"), ("From a table to a bundle", "parity")):
        diagram = page.get_by_role("img", name=name)
        expect(diagram).to_be_visible()
        fill = diagram.get_by_text(word, exact=True).evaluate("text => getComputedStyle(text).fill")
        assert (brightness(fill) > 100) == (scheme == "dark")
        drawn = diagram.evaluate("drawing => [drawing.clientWidth, drawing.parentNode.parentNode.clientWidth]")
        assert drawn[0] >= 640  # letters that can be read; a phone scrolls
        assert drawn[0] <= drawn[1] or width < 640
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [url for url in asked if not url.startswith("file:")] == []
    context.close()


def brightness(colour: str) -> float:
    """The mean of red, green and blue, of 255."""
    red, green, blue, *_ = (float(part) for part in re.findall(r"[\d.]+", colour))
    return (red + green + blue) / 3
