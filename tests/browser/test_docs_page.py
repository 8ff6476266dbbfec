"""The OpenAPI document as a page: every operation is on it, and a request can be tried with the reader's key."""

import json
import urllib.request
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from deploy.process import free_port
from streams.settings import Settings
from streams.web import PAGE
from tests.browser.canned import Api
from tests.browser.conftest import serving_page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def root() -> Iterator[str]:
    base = Settings()
    with serving_page(base.model_copy(update={"web": base.web.model_copy(update={"port": free_port()})})) as address:
        yield address


def test_every_operation_is_on_the_page_and_can_be_tried(root: str, page: Page) -> None:
    with urllib.request.urlopen(f"{root}api/v1/openapi.json") as answer:
        described = json.load(answer)["paths"]
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    # The `page` fixture passes over what the API is asked; here that is the page itself.
    faults: list[str] = []
    page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
    page.on("requestfailed", lambda request: faults.append(request.url))
    page.goto(root)
    page.evaluate("sessionStorage.setItem('calltide-key', 'the-readers-key')")
    page.goto(f"{root}api/v1/docs")
    expect(page.locator(".opblock")).to_have_count(sum(len(methods) for methods in described.values()))
    expect(page.get_by_role("heading", name="Calltide")).to_be_visible()
    page.route("**/api/v1/status", lambda route: route.fulfill(json={"calltide": "tried"}))
    operation = page.locator("#operations-system-get_status")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    with page.expect_request("**/api/v1/status") as sent:
        operation.get_by_role("button", name="Execute").click()
    assert sent.value.headers["authorization"] == "Bearer the-readers-key"
    expect(operation.locator(".live-responses-table tbody")).to_contain_text("tried")
    assert not [fault for fault in faults if "WebSocket" not in fault]
    assert all(url.startswith((root, "data:", "ws:")) for url in asked), "nothing comes from elsewhere"


def test_the_page_is_reached_from_the_status(root: str, page: Page) -> None:
    Api(page)
    page.goto(f"{root}#/rules")
    link = page.get_by_role("link", name="The API")
    expect(link).to_be_visible()
    assert page.evaluate("link => link.href", link.element_handle()) == f"{root}api/v1/docs"


def test_its_policy_is_the_app_s_but_for_pictures_in_the_style_sheet(root: str) -> None:
    policies = []
    for place in ("", "api/v1/docs"):
        with urllib.request.urlopen(f"{root}{place}") as answer:
            policy = answer.headers["Content-Security-Policy"]
            policies.append(dict(one.split(" ", 1) for one in policy.split("; ")))
    app, docs = policies
    assert docs.pop("img-src") == app.pop("img-src") + " data:"
    assert docs.pop("connect-src") == "'self'"
    assert {name: app[name] for name in docs} == docs
    # Whoever takes no compressed answers gets it, too.
    with urllib.request.urlopen(f"{root}api/v1/docs/swagger-ui.css") as answer:
        assert b".swagger-ui" in answer.read()
    assert not [*PAGE.rglob("swagger*")], "the script of the web app is held below 300 kB"
