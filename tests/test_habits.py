"""What keeps a project in order: its contracts, the hooks before a commit, and `make help`."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests import harness


def list_commands(project: Path, target: str) -> list[str]:
    """Return the commands of a target of a project's Makefile."""
    (recipe,) = re.findall(rf"(?m)^{target}:.*\n((?:\t.*\n)+)", (project / "Makefile").read_text())
    return [line.strip() for line in recipe.splitlines()]


@pytest.mark.parametrize("name", ["default", "no-worker"])
def test_the_hooks_are_those_of_make_check(rendered: Callable[[str], Path], name: str) -> None:
    config = yaml.safe_load((rendered(name) / ".pre-commit-config.yaml").read_text())
    hooks = [hook for repository in config["repos"] for hook in repository["hooks"]]
    assert [hook["entry"] for hook in hooks] == list_commands(rendered(name), "check")
    assert all(repository["repo"] == "local" for repository in config["repos"])


@pytest.mark.parametrize("name", ["default", "no-worker"])
def test_make_help_names_each_target(rendered: Callable[[str], Path], name: str) -> None:
    project = rendered(name)
    targets = re.findall(r"(?m)^([a-z-]+):", (project / "Makefile").read_text())
    shown = harness.run("make", "help", cwd=project).stdout.splitlines()
    assert [line.split()[1] for line in shown] == targets
    assert all(len(line) <= 80 for line in shown)


def test_git_sees_an_owners_package(rendered: Callable[[str], Path], tmp_path: Path) -> None:
    project = shutil.copytree(rendered("default"), tmp_path / "project")
    harness.commit_all(project, "Render")
    paths = [f"{folder}/{name}/x" for name in ("data", "build", "dist") for folder in ("app/services", ".")]
    ignored = harness.run("git", "check-ignore", *paths, cwd=project).stdout.split()
    assert ignored == ["./data/x", "./build/x", "./dist/x"]


def test_dependabot_is_told_of_all(rendered: Callable[[str], Path]) -> None:
    kinds = {
        harness.ROOT: {"uv", "github-actions"},
        rendered("default"): {"uv", "github-actions", "docker", "docker-compose"},
    }
    for root, ecosystems in kinds.items():
        config = root / ".github/dependabot.yml"
        harness.run("check-jsonschema", "--builtin-schema", "vendor.dependabot", config, cwd=root)
        updates = yaml.safe_load(config.read_text())["updates"]
        assert {update["package-ecosystem"] for update in updates} == ecosystems


FORBIDDEN = {
    "Imports go down only": ("services/health.py", "from app.components.backend import main"),
    "Workers know nothing of the web": ("components/worker/hooks.py", "from app.components import backend"),
}


@pytest.mark.parametrize("contract", FORBIDDEN)
def test_a_contract_bites(
    rendered: Callable[[str], Path], tools: Path, tmp_path: Path, contract: str
) -> None:
    assert "uv run lint-imports" in list_commands(rendered("default"), "check")
    project = shutil.copytree(rendered("default"), tmp_path / "project")
    lint = (tools / "lint-imports", "--no-cache")
    assert f"{contract} KEPT" in harness.run(*lint, cwd=project, PYTHONPATH=str(project)).stdout
    path, line = FORBIDDEN[contract]
    module = project / "app" / path
    module.write_text(f"{module.read_text()}\n{line}\n")
    done = harness.run(*lint, cwd=project, check=False, PYTHONPATH=str(project))
    assert done.returncode == 1
    assert f"{contract} BROKEN" in done.stdout
