"""The suites of `tests/inside`, run by an installed project's own pytest, linter and type checker."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import harness
from tests.conftest import build_once

INSIDE = harness.ROOT / "tests/inside"

# Each half has an installation of its own, so that they run beside each other and beside other tests.
HALVES = [pytest.param(half, marks=pytest.mark.xdist_group(f"inside-{half}")) for half in range(2)]


@pytest.fixture
def project(shared: Path, template: Path, install: Callable[[Path], None], half: int) -> Path:
    """An installed full project with these suites."""
    path = shared / f"inside-{half}"

    def build() -> None:
        harness.commit_all(harness.render(template, path, harness.variant("full")), "Render")
        # What only these suites need.
        python = harness.python_for(path)
        harness.run("uv", "add", "--dev", "--no-sync", "schemathesis>=4.32", cwd=path, UV_PYTHON=python)
        install(path)
        shutil.copytree(INSIDE, path / "tests/inside", ignore=shutil.ignore_patterns("__pycache__"))

    return build_once(path, build)


@pytest.mark.parametrize("half", HALVES)
def test_suites_pass(project: Path, half: int, record_property: Callable[[str, object], None]) -> None:
    suites = sorted((project / "tests/inside").glob("test_*.py"))[half::2]
    command = ("uv", "run", "--no-sync", "pytest", "-q", "-p", "no:cacheprovider")
    done = harness.run(*command, *suites, cwd=project, check=False, timeout=1800)
    if done.returncode:
        pytest.fail(f"tests/inside in the full project:\n{done.stdout}\n{done.stderr}", pytrace=False)
    summary = re.search(r"(?m)^\d+ passed.*$", done.stdout)
    record_property("figure", f"tests/inside: {summary[0] if summary else 'no summary'}")


@pytest.mark.parametrize("half", HALVES[:1])
def test_suites_are_clean(project: Path, check: Callable[..., None]) -> None:
    """By the rules of the project that they test."""
    harness.run(".venv/bin/ruff", "check", "tests/inside", cwd=project)
    harness.run(".venv/bin/ruff", "format", "--check", "tests/inside", cwd=project)
    check(project, ".venv/bin/mypy")


# What depends on how a worker reads and ends its jobs.
WITHOUT_CLIENT = ("tests/test_queues.py", *(f"tests/inside/test_{name}.py" for name in ("recorder", "hooks")))


@pytest.mark.parametrize("half", HALVES[:1])
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
