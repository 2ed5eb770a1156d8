"""The suites of `tests/inside`, run by an installed project's own pytest, linter and type checker."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import harness
from tests.conftest import build_once

INSIDE = harness.ROOT / "tests/inside"

# They have an installation of their own, so that they run beside the tests that use the others.
pytestmark = pytest.mark.xdist_group("inside")


@pytest.fixture(scope="module")
def project(shared: Path, template: Path) -> Path:
    """An installed full project with these suites."""
    path = shared / "inside"

    def build() -> None:
        harness.commit_all(harness.render(template, path, harness.variant("full")), "Render")
        harness.install(path)
        shutil.copytree(INSIDE, path / "tests/inside", ignore=shutil.ignore_patterns("__pycache__"))

    return build_once(path, build)


def test_suites_pass(project: Path, record_property: Callable[[str, object], None]) -> None:
    command = ("uv", "run", "--no-sync", "pytest", "-q", "-p", "no:cacheprovider", "tests/inside")
    done = harness.run(*command, cwd=project, check=False, timeout=1800)
    if done.returncode:
        pytest.fail(f"tests/inside in the full project:\n{done.stdout}\n{done.stderr}", pytrace=False)
    summary = re.search(r"(?m)^\d+ passed.*$", done.stdout)
    record_property("figure", f"tests/inside: {summary[0] if summary else 'no summary'}")


def test_suites_are_clean(project: Path) -> None:
    """By the rules of the project that they test."""
    harness.run(".venv/bin/ruff", "check", "tests/inside", cwd=project)
    harness.run(".venv/bin/ruff", "format", "--check", "tests/inside", cwd=project)
    harness.run(".venv/bin/mypy", cwd=project)


# What depends on how a worker reads and ends its jobs.
WITHOUT_CLIENT = ("tests/test_queues.py", *(f"tests/inside/test_{name}.py" for name in ("recorder", "hooks")))


def test_one_line_turns_the_client_off(project: Path) -> None:
    """With `redis_settings` alone a worker runs on arq's own client, and everything else is the same."""
    queues = sorted(project.glob("app/components/worker/queues/[a-z]*.py"))
    try:
        for path in queues:
            text, lines = re.subn(r"(?m)^    redis_pool = .*\n", "", path.read_text())
            assert lines == 1, path
            path.write_text(text)
        harness.run("uv", "run", "--no-sync", "pytest", "-q", *WITHOUT_CLIENT, cwd=project)
    finally:
        harness.git("checkout", "--quiet", "--", *map(str, queues), cwd=project)
