"""`make screenshots`: write what a person sees to tests/docs: a terminal of 80 columns, and the pages."""

import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests import harness
from tests.test_dev import dev, slug_of

SCREENS = Path(__file__).with_name("docs")
COLUMNS = 80
PAGES = ("Overview", "Dead letters")
CHROMIUM_OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-sync", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update"),
)
KEY = re.compile(r"(?m)^key     \S+")
JOBS = (
    ("system", "system_health_check"),
    ("load_test", "io_simulation_task", "--wait_ms", "20"),
    ("load_test", "failure_testing_task", "--failure_rate", "1"),
)


# README.md shows this screen.
SAMPLE = "$ uv run my-app load-test run --type io_simulation --tasks 200\n"


def capture(run: Callable[..., str], log: Callable[[], str]) -> dict[str, str]:
    """Return what commands print, by the names of their screens.

    Args:
        run: Runs the project's command at 80 columns, and returns what it prints.
        log: Returns what `make dev` has printed.
    """
    for queue, task, *arguments in JOBS:
        run("jobs", "run", queue, task, *arguments, "--wait")
    harness.wait_until(lambda: "SimulatedError" in log(), "the log lacks a failure")
    dev_log = log()
    load_test = run("load-test", "run", "--type", "io_simulation", "--tasks", "200")
    # The recorder writes the letter and the history with its next flush.
    harness.wait_until(lambda: "Simulated" in run("dead-letters", "list"), "no dead letter")
    return {
        "make-dev": KEY.sub("key     " + "x" * 32, dev_log),
        "load-test-run": load_test,
        "jobs-list": run("jobs", "list"),
        "dead-letters-list": run("dead-letters", "list"),
        "health-status-detailed": run("health", "status", "--detailed"),
    }


def find_wide_lines(text: str) -> list[str]:
    """Return the lines that an 80-column terminal would wrap."""
    return [line for line in text.splitlines() if len(line) > COLUMNS]


def runner(project: Path) -> Callable[..., str]:
    """Return a function that runs the project's command at 80 columns."""
    (command,) = (project / ".venv/bin").glob(slug_of(project))

    def run(*arguments: str) -> str:
        # A failed job makes `jobs run` exit with 1: that is wanted here.
        done = harness.run(command, *arguments, cwd=project, check=False, COLUMNS=str(COLUMNS))
        return done.stdout

    return run


def take_pictures(url: str, key: str) -> dict[str, bytes]:
    """Return pictures of the operations pages, light and dark, by the names of their files."""
    pictures = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM_OPTIONS)
        for scheme in ("light", "dark"):
            size = {"width": 1200, "height": 760}
            page = browser.new_page(color_scheme=scheme, viewport=size)  # type: ignore[arg-type]
            page.goto(f"{url}/ops/")
            page.get_by_label("API key").fill(key)
            page.get_by_role("button", name="Sign in").click()
            page.get_by_role("heading", name="Overview").wait_for()
            for name in PAGES:
                page.get_by_role("link", name=name, exact=True).click()
                page.get_by_role("heading", name=name, exact=True).wait_for()
                file = f"{name.lower().replace(' ', '-')}-{scheme}.png"
                pictures[file] = page.screenshot()
        browser.close()
    return pictures


def main() -> None:
    """Render and install the default project, run it, and write its screens and pictures."""
    with tempfile.TemporaryDirectory(prefix="aegis-") as name:
        directory = Path(name)
        answers = harness.variant("default")
        project = harness.render(
            harness.publish_template(directory / "template"), directory / "my-app", answers
        )
        harness.install(project)
        with dev(project, directory, harness.free_port(), signal.SIGINT) as running:
            screens = capture(runner(project), running.text)
            pictures = take_pictures(running.url, KEY.search(running.text())[0].split()[1])  # type: ignore[index]
    for file, picture in pictures.items():
        (SCREENS / file).write_bytes(picture)
    readme = harness.ROOT / "README.md"
    sample = SAMPLE + screens["load-test-run"]
    readme.write_text(re.sub(f"{re.escape(SAMPLE)}[^`]*", lambda _: sample, readme.read_text()))
    for title, text in screens.items():
        (SCREENS / f"{title}.txt").write_text(text)
        sys.stdout.write(
            f"{title}: {len(text.splitlines())} lines, {len(find_wide_lines(text))} wider than {COLUMNS}\n"
        )


if __name__ == "__main__":
    main()
