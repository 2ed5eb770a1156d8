"""What a person sees fits a terminal of 80 columns."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import harness
from tests.screens import SAMPLE, SCREENS, capture, find_wide_lines, runner
from tests.test_dev import dev

NAMES = ["dead-letters-list", "health-status-detailed", "jobs-list", "load-test-run", "make-dev"]


@pytest.mark.parametrize("name", NAMES)
def test_a_kept_screen_fits(name: str) -> None:
    text = (SCREENS / f"{name}.txt").read_text()
    assert text
    assert find_wide_lines(text) == []


def test_the_readme_shows_a_kept_screen() -> None:
    assert (
        SAMPLE + (SCREENS / "load-test-run.txt").read_text() + "```"
        in (harness.ROOT / "README.md").read_text()
    )


@pytest.mark.xdist_group("installed-full")
def test_the_screens_of_now_fit(installed: Callable[[str], Path], tmp_path: Path) -> None:
    project = installed("full")
    try:
        with dev(project, tmp_path, harness.free_port(), signal.SIGINT) as running:
            screens = capture(runner(project), running.text)
    finally:
        (project / ".env").unlink()
    assert sorted(screens) == NAMES
    for text in screens.values():
        assert find_wide_lines(text) == []
