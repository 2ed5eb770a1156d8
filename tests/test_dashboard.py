"""The operations pages in a real browser, with real workers behind them."""

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests import harness
from tests.screens import CHROMIUM_OPTIONS

CHROMIUM = shutil.which("chromium")
KEY = "a-key-for-the-browser"
PAGES = ["", "jobs", "jobs/new", "jobs/new?queue=media&task=make_thumbnail", "dead-letters", "load-tests"]
# Long enough for a busy machine; each wait ends as soon as its condition holds.
PATIENCE_MS = 60_000

pytestmark = [
    pytest.mark.xdist_group("installed-full-to-watch"),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


class Site:
    """A project that runs: its address, and its workers."""

    def __init__(self, project: Path, directory: Path, redis_url: str, stack: ExitStack) -> None:
        """Start the web server and the workers; `stack` ends them."""
        self.project, self.log, self.stack = project, directory / "log", stack
        self.port = harness.free_port()
        self.variables: dict[str, Any] = {"REDIS_URL": redis_url, "PORT": str(self.port), "API_KEY": KEY}
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        self.run("full-stack", "serve")
        harness.wait_until(lambda: harness.answers_at(self.port), "the web server does not listen")
        for queue in ("system", "load_test", "media"):
            self.start_worker(queue)

    def run(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a command of the project's environment."""
        program = self.project / ".venv/bin" / command[0]
        running = harness.running(program, *command[1:], cwd=self.project, log=self.log, **self.variables)
        return self.stack.enter_context(running)

    def start_worker(self, queue: str) -> None:
        """Start the worker of a queue."""
        settings = f"app.components.worker.queues.{queue}.WorkerSettings"
        self.workers[queue] = self.run("python", "-m", "arq", settings)

    def url(self, path: str = "") -> str:
        """Return the address of a page."""
        return f"http://127.0.0.1:{self.port}/ops/{path}"


@pytest.fixture(scope="module")
def site(
    installed: Callable[..., Path], redis_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    with ExitStack() as stack:
        url = f"redis://127.0.0.1:{redis_port}/0"
        yield Site(installed("full", "-to-watch"), tmp_path_factory.mktemp("site"), url, stack)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)


@pytest.fixture
def open_page(site: Site, browser: Browser) -> Iterator[Callable[..., Page]]:
    """Return a function that opens the overview, signed in; what the console says fails the test."""
    said: list[str] = []
    contexts: list[BrowserContext] = []

    def open_page(**options: Any) -> Page:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(site.url())
        page.get_by_label("API key").fill(KEY)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("heading", name="Overview").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


def wait_for_text(page: Page, text: str) -> None:
    expect(page.locator("main")).to_contain_text(text, timeout=PATIENCE_MS)


@pytest.mark.parametrize("javascript", [True, False], ids=["live", "without JavaScript"])
def test_a_load_test_is_started_and_followed(open_page: Callable[..., Page], javascript: bool) -> None:
    page = open_page(java_script_enabled=javascript)
    page.get_by_role("link", name="Load tests").click()
    page.get_by_label("Jobs", exact=True).fill("300")
    page.get_by_role("button", name="Start").click()
    wait_for_text(page, "The load test has started.")
    if not javascript:
        harness.wait_until(lambda: page.reload() and page.get_by_text("Run times").count(), "no report", 60)
    wait_for_text(page, "Run times")
    wait_for_text(page, "queue wait")
    assert page.locator("svg[role=img]").count() == 1


def test_a_worker_dies_in_words_and_comes_back(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page()
    wait_for_text(page, "Everything works")
    worker = site.workers["media"]
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    wait_for_text(page, "queues.media.WorkerSettings")
    site.start_worker("media")
    wait_for_text(page, "Everything works")


def test_letters_are_requeued_by_group(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page()
    for name in ("one.png", "two.png"):
        page.goto(site.url("jobs/new?queue=media&task=describe_media"))
        page.get_by_label("source").fill(name)
        page.get_by_role("button", name="Send", exact=True).click()
        wait_for_text(page, "MediaError")
    page.get_by_role("link", name="Dead letters").click()
    wait_for_text(page, "describe_media")
    page.get_by_role("textbox", name="Error").fill("MediaError")
    page.get_by_role("button", name="Filter").click()
    assert "error=MediaError" in page.url
    page.locator("#groups").get_by_role("button", name="Requeue").click()
    page.get_by_role("button", name="Requeue 2").click()
    wait_for_text(page, "Jobs queued again: 2.")
    # They fail again.
    wait_for_text(page, "describe_media")
    page.get_by_role("link", name="Jobs", exact=True).click()
    page.get_by_label("State").select_option("failed")
    page.get_by_role("button", name="Filter").click()
    assert "state=failed" in page.url
    wait_for_text(page, "describe_media")
    page.go_back()
    assert "state=failed" not in page.url


def test_signing_out_closes_the_pages(site: Site, open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.get_by_role("button", name="Sign out").click()
    page.goto(site.url("jobs"))
    assert page.get_by_label("API key").is_visible()


@pytest.mark.parametrize(
    "options",
    [{"color_scheme": "light"}, {"color_scheme": "dark"}, {"viewport": {"width": 360, "height": 740}}],
    ids=["light", "dark", "phone"],
)
def test_pages_are_accessible(site: Site, open_page: Callable[..., Page], options: dict[str, Any]) -> None:
    page = open_page(**options)
    for path in PAGES:
        page.goto(site.url(path))
        found = Axe().run(page).response["violations"]
        assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found] == [], path
        overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0, f"{path} is {overflow} px too wide"
