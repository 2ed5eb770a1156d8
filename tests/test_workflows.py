"""Workflows, Dockerfiles and compose files, as their own linters see them; none of them needs the network."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests import harness, releases
from tests.steps import WORKFLOW


def lint_workflow(workflow: Path, cwd: Path) -> None:
    """Look for what is unsafe, and for what does not work, in a workflow."""
    harness.run("zizmor", "--offline", "--quiet", "--pedantic", workflow, cwd=cwd)
    harness.run("actionlint", "-shellcheck=", "-pyflakes=", workflow, cwd=cwd)


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_own_workflow(name: str) -> None:
    lint_workflow(harness.ROOT / ".github/workflows" / name, harness.ROOT)


def test_own_workflow_renders_every_variant() -> None:
    jobs = yaml.safe_load((harness.ROOT / WORKFLOW).read_text())["jobs"]
    assert jobs["variant"]["strategy"]["matrix"]["variant"] == list(harness.ANSWERS)


@pytest.mark.xdist_group("installed-no-worker")
def test_the_steps_of_a_rendered_workflow_run(installed: Callable[[str], Path]) -> None:
    command = ("python", "-m", "tests.steps", installed("no-worker"))
    done = harness.run("uv", "run", *command, "oldest", cwd=harness.ROOT)
    assert [line for line in done.stdout.splitlines() if line.startswith("$ ")] == [
        "$ uv sync",
        "$ make check",
        "$ make test",
    ]


def test_the_notes_of_a_release_are_its_own() -> None:
    command = ("python", "-m", "tests.releases")
    for version in releases.list_releases()[1:]:
        # Only the newest one can be published.
        refused = harness.run(*command, f"v{version}", cwd=harness.ROOT, check=False)
        assert refused.returncode == 1
        assert "set it before you tag" in refused.stderr
    newest = releases.list_releases()[0]
    notes = harness.run(*command, f"v{newest}", cwd=harness.ROOT).stdout
    assert notes.strip() == releases.read_notes()[newest]
    assert "## [" not in notes
    unknown = harness.run(*command, "v99.0.0", cwd=harness.ROOT, check=False)
    assert (unknown.returncode, "Traceback" in unknown.stderr) == (1, False)


@pytest.mark.parametrize("name", harness.ANSWERS)
def test_rendered_files(rendered: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    project = rendered(name)
    lint_workflow(project / WORKFLOW, project)
    harness.run("hadolint", "Dockerfile", cwd=project)
    command = ("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")
    harness.run(*command, cwd=project)


def test_linters_bite(rendered: Callable[[str], Path], tmp_path: Path) -> None:
    project = shutil.copytree(rendered("default"), tmp_path / "project")
    workflow = project / WORKFLOW
    workflow.write_text(workflow.read_text().replace("permissions: {}\n", "permissions: write-all\n"))
    with pytest.raises(AssertionError, match="excessive-permissions"):
        lint_workflow(workflow, project)
