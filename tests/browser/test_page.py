"""The page in a real headless Chromium, on a real server. ANOMALY_SCREENSHOTS=folder keeps what it looks like."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from service.app import create_app
from service.manifest import Bounds, Rules
from service.settings import Settings
from tests.service import tiny_bundle
from tests.service.serving import serving
from tests.service.tiny_bundle import FEATURES, GOOD, ODD, publish, sample
from training.reference import with_reference

SIZES = {"light": ("light", 1280), "dark": ("dark", 1280), "phone": ("light", 390), "phone-dark": ("dark", 390)}
SCREENSHOTS = os.environ.get("ANOMALY_SCREENSHOTS")  # read here: tests run without the settings of whoever runs them


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose API key is k1, with some traffic behind it."""
    models = tmp_path_factory.mktemp("models")
    publish(models, rules=Rules(bounds=(Bounds(feature="amount", high=1_000),)))
    quiet = {"provider": "cpu", "reload_seconds": 0, "log_requests": False}
    settings = Settings(models_dir=models, api_keys=("k1",), page_values=True, **quiet)
    with serving(create_app(settings)) as url:
        with httpx.Client(base_url=url, headers={"X-API-Key": "k1"}) as client:
            for body in (
                {"records": [GOOD] * 60},
                {"records": [GOOD, ODD]},
                {"columns": {"amount": [5.0, 1e5]}},
            ):
                client.post("/score", json=body).raise_for_status()
        yield url


class Visit:
    """A page that was opened, and all that it did besides."""

    def __init__(self, browser: Browser, address: str, scheme: Any = "light", width: int = 1280) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page: Page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda line: self.wrong.append(line.text) if line.type in ("error", "warning") else None)
        self.page.on("request", lambda request: self._same_origin(request.url, address))
        self.page.goto(f"{address}/")

    def _same_origin(self, url: str, address: str) -> None:
        if not url.startswith((f"{address}/", "data:")):
            self.wrong.append(f"asked for {url}")

    def unlock(self, key: str = "k1") -> None:
        self.page.get_by_label("API key").fill(key)
        self.page.keyboard.press("Enter")

    def faults(self) -> list[str]:
        """What went wrong, without the 401 that a missing key gives."""
        return [text for text in self.wrong if "401" not in text]


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    made = Visit(browser, address)
    yield made
    made.context.close()


@pytest.mark.parametrize("name", SIZES)
def test_it_shows_the_service_in_both_themes_and_on_a_phone(browser: Browser, address: str, name: str) -> None:
    scheme, width = SIZES[name]
    visit = Visit(browser, address, scheme, width)
    visit.unlock()
    page = visit.page
    expect(page.get_by_role("heading", name="tiny")).to_be_visible()
    expect(page.get_by_text("healthy")).to_be_visible()
    tiles = page.locator("#tiles")
    expect(tiles).to_contain_text("Records")
    expect(tiles).to_contain_text(re.compile(r"Flagged\s*\d"))
    expect(page.get_by_role("img")).to_have_count(6)
    page.locator("#latest summary").nth(1).click()
    expect(page.locator("#latest details[open]").get_by_text("country")).not_to_have_count(0)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (
        sum(map(int, re.findall(r"\d+", background))) > 600
        if scheme == "light"
        else sum(map(int, re.findall(r"\d+", background))) < 200
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if SCREENSHOTS:
        page.screenshot(path=str(Path(SCREENSHOTS) / f"{name}.png"), full_page=True)
    assert visit.faults() == []
    visit.context.close()


@pytest.mark.parametrize("name", ["light", "phone-dark"])
def test_what_has_drifted_is_told_in_words_and_beside_the_training(browser: Browser, tmp_path: Path, name: str) -> None:
    scheme, width = SIZES[name]
    publish(tmp_path, features=with_reference(FEATURES, sample(FEATURES, 2_000)))
    settings = Settings(models_dir=tmp_path, provider="cpu", reload_seconds=0, log_requests=False)
    with serving(create_app(settings)) as url:
        changed = {"columns": {"amount": [400.0] * 300, "country": ["xx"] * 150 + ["de"] * 150, "at": [GOOD["at"]] * 300}}
        visit = Visit(browser, url, scheme, width)
        page = visit.page
        page.clock.install()
        page.reload()
        expect(page.locator("#drift-status")).to_contain_text("Fewer than 200 records")
        httpx.post(f"{url}/score", json=changed).raise_for_status()
        page.clock.fast_forward(5_000)  # the page asks again by itself
        expect(page.locator("#drift-warnings")).to_contain_text(
            "country: there are categories that training did not see", timeout=20_000
        )
        expect(page.locator("#drift-warnings")).to_contain_text("amount: values are spread otherwise than in training")
        expect(page.locator("#drift-warnings li").first).to_have_text("100 % of the records are flagged, and alpha is 0.01")
        page.get_by_text("Every feature, beside the training").click()
        expect(page.locator("#drift-table tbody tr")).to_have_count(len(FEATURES))
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if SCREENSHOTS:
            page.screenshot(path=str(Path(SCREENSHOTS) / f"drift-{name}.png"), full_page=True)
        assert visit.faults() == []
        visit.context.close()


def test_a_wrong_key_is_told_and_a_right_one_opens(visit: Visit) -> None:
    page = visit.page
    visit.unlock("nonsense")
    expect(page.get_by_text("That key was not accepted")).to_be_visible()
    expect(page.locator("#content")).to_be_hidden()
    visit.unlock()
    expect(page.locator("#content")).to_be_visible()
    page.reload()
    expect(page.locator("#content")).to_be_visible()
    assert "k1" not in page.url
    assert page.evaluate("[...Object.values(localStorage)].includes('k1')") is False


def test_a_record_is_tried_by_keyboard_and_its_reasons_are_shown(visit: Visit) -> None:
    visit.unlock()
    page = visit.page
    expect(page.get_by_label("amount", exact=True)).to_be_visible()  # what is hidden takes no focus
    page.get_by_label("amount", exact=True).focus()
    page.keyboard.type("99999")
    page.keyboard.press("Enter")
    verdict = page.locator("#verdict")
    expect(verdict).to_contain_text("Flagged (critical)")
    expect(verdict.get_by_role("listitem").first).to_contain_text("amount")
    expect(verdict).to_contain_text("amount: out of range")
    expect(verdict).to_contain_text("But for amount it would not be flagged.")
    expect(verdict.get_by_role("listitem").first).to_contain_text("without it: score")
    expect(verdict.get_by_role("listitem").first).to_contain_text("not flagged any more at")
    expect(verdict).to_contain_text("what every training record keeps: amount: 1000 or less.")
    page.get_by_role("button", name="Fill with what the model expects").click()
    expect(page.get_by_label("amount", exact=True)).not_to_have_value("99999")
    page.get_by_role("button", name="Score", exact=True).click()
    expect(verdict).to_contain_text("Not flagged")
    assert visit.faults() == []


def test_a_new_version_is_taken_up_once_though_the_page_looks_twice_at_once(visit: Visit) -> None:
    """The second time would clear what was typed into the form meanwhile."""
    visit.unlock()
    expect(visit.page.get_by_label("amount", exact=True)).to_be_visible()
    drawn = visit.page.evaluate(
        """async () => {
            let drawn = 0;
            new MutationObserver(() => { drawn += 1; }).observe(document.getElementById("fields"), { childList: true });
            await refresh();
            state.version = null;
            await Promise.all([refresh(), refresh()]);
            return drawn;
        }"""
    )
    assert drawn == 1
    assert visit.faults() == []


def test_a_record_is_pasted_as_json_and_what_does_not_fit_is_told_at_its_field(visit: Visit) -> None:
    visit.unlock()
    page = visit.page
    page.get_by_text("Paste a record as JSON").click()
    page.get_by_label("A JSON object").fill('{"amount": 7.5, "country": "de", "online": true, "colour": 1}')
    page.get_by_role("button", name="Fill the form with it").click()
    expect(page.get_by_text("left aside: colour")).to_be_visible()
    expect(page.get_by_label("country")).to_have_value("de")
    page.get_by_label("count", exact=True).fill("1e300")
    page.get_by_role("button", name="Score", exact=True).click()
    expect(page.get_by_label("count", exact=True)).to_have_attribute("aria-invalid", "true")


def test_the_theme_is_chosen_and_kept(visit: Visit) -> None:
    page = visit.page
    for name in ("light", "dark"):
        page.locator("#theme").click()
        expect(page.get_by_role("button", name=f"Theme: {name}")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).colorScheme") == "dark"
    page.reload()
    expect(page.get_by_role("button", name="Theme: dark")).to_be_visible()


def test_the_report_opens_in_a_tab_with_the_key_and_not_in_its_address(visit: Visit) -> None:
    visit.unlock()
    with visit.context.expect_page() as opened:
        visit.page.get_by_role("button", name="Training report").click()
    expect(opened.value.locator("body")).to_contain_text("report.html")
    assert opened.value.url.endswith("/models/tiny/report")


def test_every_control_has_a_name_and_every_chart_is_told_in_words(visit: Visit) -> None:
    visit.unlock()
    page = visit.page
    expect(page.locator("#content")).to_be_visible()
    nameless = page.evaluate(
        """[...document.querySelectorAll('button, a[href], input:not([type=hidden]), select, textarea')].filter(
        (one) => !(one.textContent.trim() || one.labels?.length)).map((one) => one.outerHTML)"""
    )
    assert nameless == []
    names = page.locator("svg[role=img]").evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")
    assert all(len(name) > 10 for name in names)
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids))
    page.locator("#charts summary").first.click()
    expect(page.locator("#charts table tbody tr").first).to_be_visible()


def test_an_open_service_of_several_models_lets_choose(browser: Browser, models_dir: Path) -> None:
    tiny_bundle.publish(models_dir, "numbers", features=tiny_bundle.NUMBERS)
    settings = Settings(models_dir=models_dir, provider="cpu", reload_seconds=0, log_requests=False)
    with serving(create_app(settings)) as address:
        visit = Visit(browser, address)
        page = visit.page
        expect(page.get_by_role("heading", name="numbers")).to_be_visible()
        page.get_by_role("combobox", name="Model").select_option("tiny")
        expect(page.get_by_role("heading", name="tiny")).to_be_visible()
        page.get_by_label("amount", exact=True).fill("1e5")
        page.get_by_role("button", name="Score", exact=True).click()
        expect(page.locator("#verdict")).to_contain_text("Flagged")
        expect(page.locator("#latest li")).to_have_count(0)  # what is tried is no live record
        httpx.post(f"{address}/models/tiny/score", json={"records": [tiny_bundle.ODD]})
        expect(page.locator("#latest li")).to_have_count(1)
        expect(page.locator("#latest .had b")).to_have_count(0)  # no values, unless a setting says so
        assert visit.faults() == []
        visit.context.close()


def test_docs_are_drawn_without_the_internet(browser: Browser, address: str) -> None:
    visit = Visit(browser, address)
    visit.wrong.clear()
    visit.page.goto(f"{address}/docs")
    expect(visit.page.get_by_text("Score records").first).to_be_visible()
    assert visit.faults() == []
    visit.context.close()


def test_docs_try_requests_below_the_prefix_of_a_proxy(browser: Browser, bundle_dir: Path) -> None:
    service = create_app(Settings(models_dir=bundle_dir, provider="cpu", reload_seconds=0, log_requests=False))

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":  # what comes without the prefix is nowhere
            scope = {**scope, "path": scope["path"].removeprefix("/anomaly") if "/anomaly/" in scope["path"] else "/nowhere"}
        await service(scope, receive, send)

    with serving(proxy) as url:
        visit = Visit(browser, f"{url}/anomaly")
        visit.wrong.clear()
        visit.page.goto(f"{url}/anomaly/docs")
        visit.page.locator("#operations-health-get_live .opblock-summary-control").click()
        visit.page.get_by_role("button", name="Try it out").click()
        with visit.page.expect_response(re.compile("/live$")) as answered:
            visit.page.get_by_role("button", name="Execute").click()
        assert (answered.value.url, answered.value.status) == (f"{url}/anomaly/health/live", 200)
        assert visit.faults() == []
        visit.context.close()
