"""Workflows, Dockerfiles and compose files, as their own linters see them; none of them needs the network."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import harness

WORKFLOW = ".github/workflows/ci.yml"


def lint_workflow(workflow: Path, cwd: Path) -> None:
    """Look for what is unsafe, and for what does not work, in a workflow."""
    harness.run("zizmor", "--offline", "--quiet", "--pedantic", workflow, cwd=cwd)
    harness.run("actionlint", "-shellcheck=", "-pyflakes=", workflow, cwd=cwd)


def test_own_workflow() -> None:
    lint_workflow(harness.ROOT / WORKFLOW, harness.ROOT)


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
