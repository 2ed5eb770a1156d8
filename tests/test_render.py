"""Every combination of the components: whole, clean, well-typed, and silent about what was left out."""

import ast
import itertools
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytest_copie.plugin import Copie, Result

from tests import harness

STATES = ("run", "commented", "omit")
COMBINATIONS: list[dict[str, Any]] = [{"worker": False}] + [
    {"worker": True} | {f"queue_{name}": state for name, state in zip(harness.CATALOGUE, states, strict=True)}
    for states in itertools.product(STATES, repeat=len(harness.CATALOGUE))
    if "run" in states
]

# What names a queue and its own, in any letter case: none of it is in a project that leaves the queue out.
OWNED = {
    "system": (
        *("worker-system", "queues.system", "queues/system", "tasks.system", "tasks/system", "queue:system"),
        *("system_health_check", "cleanup_temp_files", "temp_dir", "psutil"),
    ),
    "load_test": (
        *("worker-load-test", "load_test", "load-test"),
        *("cpu_intensive_task", "io_simulation_task", "memory_operations_task", "failure_testing_task"),
    ),
    "media": (
        *("worker-media", "queues.media", "queues/media", "tasks.media", "tasks/media", "queue:media"),
        *("make_thumbnail", "convert_image", "describe_media", "media_dir", "pillow", "from pil import"),
    ),
}


def name_of(answers: dict[str, Any]) -> str:
    """Return an id such as `system=run,load_test=omit,media=commented`."""
    if not answers["worker"]:
        return "no-worker"
    return ",".join(f"{name}={answers[f'queue_{name}']}" for name in harness.CATALOGUE)


# The tests of a combination stay on one test worker, which renders it once.
@pytest.fixture(
    scope="module",
    params=[
        pytest.param(answers, id=name_of(answers), marks=pytest.mark.xdist_group(name_of(answers)))
        for answers in COMBINATIONS
    ],
)
def combination(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the answers of one combination."""
    answers: dict[str, Any] = request.param
    return answers


@pytest.fixture(scope="module")
def result(combination: dict[str, Any], copie_session: Copie, template: Path) -> Result:
    """Return the render of a combination."""
    result = copie_session.copy(extra_answers=combination, template_dir=template)
    assert result.exception is None
    return result


@pytest.fixture(scope="module")
def project(result: Result) -> Path:
    """Return the directory that a combination was rendered into."""
    assert result.project_dir is not None
    return result.project_dir


def texts(project: Path) -> Iterator[tuple[str, str]]:
    """Give the path and the text of every file."""
    for name, content in harness.tree(project).items():
        yield name, content.decode()


def test_combinations_are_complete() -> None:
    assert len({name_of(answers) for answers in COMBINATIONS}) == 20


def test_answers_are_known(combination: dict[str, Any], result: Result) -> None:
    assert combination.items() <= result.answers.items()


def test_text_is_clean(project: Path) -> None:
    for name, text in texts(project):
        assert not re.search(r"(?<!\$)\{\{|\{%|\{#", text), f"{name}: a Jinja marker"
        assert not re.search(r"[ \t\r]$", text, re.MULTILINE), f"{name}: a trailing blank"
        assert not text or re.search(r"[^\n]\n\Z", text), f"{name}: not one newline at the end"
        assert not text.startswith("\n"), f"{name}: an empty line at the top"
        assert "\n\n\n\n" not in text, f"{name}: three empty lines in a row"


def test_files_parse(project: Path) -> None:
    parse_all(project)


def parse_all(project: Path, *, python: bool = True) -> None:
    """Parse every file of a known kind."""
    parsers: dict[str, Callable[[str], object]] = {
        ".toml": tomllib.loads,
        ".yml": yaml.safe_load,
        ".json": json.loads,
    }
    if python:
        parsers[".py"] = ast.parse
    parsed = set()
    for name, text in texts(project):
        suffix = Path(name).suffix
        if parser := parsers.get(suffix):
            try:
                parser(text)
            except (SyntaxError, ValueError, yaml.YAMLError) as error:
                pytest.fail(f"{name}: {error}")
            parsed.add(suffix)
    assert parsed >= parsers.keys() - {".json"}


def check_with_ruff(project: Path, tools: Path) -> None:
    """Run the linter and the formatter of a project."""
    harness.run(tools / "ruff", "check", "--no-cache", cwd=project)
    harness.run(tools / "ruff", "format", "--no-cache", "--check", cwd=project)


def test_ruff_passes(project: Path, tools: Path) -> None:
    check_with_ruff(project, tools)


def test_types_pass(project: Path, tools: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    # The libraries are read once a test worker.
    cache = tmp_path_factory.getbasetemp() / "mypy"
    harness.run(tools / "mypy", "--cache-dir", cache, cwd=project)


def test_omitted_queue_leaves_nothing(project: Path, combination: dict[str, Any]) -> None:
    everything = "\n".join(
        f"{name}:{line}".lower()
        for name, text in texts(project)
        if name != ".copier-answers.yml"
        for line in ["", *text.splitlines()]
    )
    kept = harness.queues(combination, "run", "commented")
    for queue, names in OWNED.items():
        found = [line for line in everything.splitlines() if any(name in line for name in names)]
        if queue not in kept:
            assert not found
        else:  # The list is right: each of its names is somewhere in a project that has the queue.
            assert all(name in everything for name in names)


def test_catalogue_reaches_every_place(project: Path, combination: dict[str, Any]) -> None:
    compose = yaml.safe_load((project / "docker-compose.yml").read_text())
    workers = {name for name in compose["services"] if name.startswith("worker-")}
    run = harness.queues(combination, "run")
    assert workers == {harness.CATALOGUE[queue]["service"] for queue in run}
    listed = worker_queues(project) if combination["worker"] else {}
    assert list(listed) == run

    for queue in run:
        known = harness.CATALOGUE[queue]
        assert listed[queue] == {
            "description": known["description"],
            "max_jobs": known["max_jobs"],
            "timeout_seconds": known["timeout"],
            "queue_name": f"arq:queue:{queue}",
        }
        service = compose["services"][known["service"]]
        assert service["command"][-1] == f"app.components.worker.queues.{queue}.WorkerSettings"
        assert service["stop_grace_period"] == f"{known['completion_wait'] + 10}s"
        assert service["deploy"]["resources"]["limits"] == {"memory": known["memory"], "cpus": known["cpus"]}
    for queue in harness.queues(combination, "run", "commented"):
        known = harness.CATALOGUE[queue]
        settings = worker_settings(project, queue)
        assert settings["queue_name"] == f"arq:queue:{queue}"
        assert settings["max_jobs"] == known["max_jobs"]
        assert settings["job_timeout"] == known["timeout"]
        assert settings["job_completion_wait"] == known["completion_wait"]


def worker_queues(project: Path) -> dict[str, Any]:
    """Read the literal `WORKER_QUEUES` of a project."""
    module = ast.parse((project / "app/core/config.py").read_text())
    for statement in module.body:
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "WORKER_QUEUES":
            assert statement.value is not None
            queues: dict[str, Any] = ast.literal_eval(statement.value)
            return queues
    raise LookupError("WORKER_QUEUES")


def worker_settings(project: Path, queue: str) -> dict[str, Any]:
    """Read the literals that a queue's `WorkerSettings` assigns."""
    module = ast.parse((project / f"app/components/worker/queues/{queue}.py").read_text())
    (settings,) = (node for node in module.body if isinstance(node, ast.ClassDef))
    return {
        ast.unparse(statement.targets[0]): statement.value.value
        for statement in settings.body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
    }


def test_without_worker_not_a_word_about_it(rendered: Callable[[str], Path]) -> None:
    for name, text in texts(rendered("no-worker")):
        found = re.search("arq|redis", f"{name}\n{text}", re.IGNORECASE)
        assert not found, f"{name}: {found and found[0]}"


def test_any_text_gives_valid_files(rendered: Callable[[str], Path], tools: Path) -> None:
    answers = harness.variant("texts")
    project = rendered("texts")

    # Its Python can be newer than the one that runs the tests: ruff reads it.
    parse_all(project, python=False)
    harness.run(tools / "ruff", "check", "--no-cache", cwd=project)
    about = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    assert about["name"] == answers["project_slug"]
    assert about["description"] == answers["project_description"]
    assert about["authors"] == [{"name": answers["author_name"], "email": answers["author_email"]}]
    assert about["requires-python"] == ">=3.12"
    remembered = yaml.safe_load((project / ".copier-answers.yml").read_text())
    assert answers.items() <= remembered.items()


@pytest.mark.parametrize("version", ["3.12", "3.13", "3.14"])
def test_newer_python_passes_ruff(template: Path, tools: Path, tmp_path: Path, version: str) -> None:
    project = harness.render(
        template, tmp_path / "project", {"python_version": version, "queue_media": "run"}
    )
    check_with_ruff(project, tools)
    assert f'requires-python = ">={version}"' in (project / "pyproject.toml").read_text()


def test_default_render_is_small(rendered: Callable[[str], Path]) -> None:
    lines = sum(text.count("\n") for name, text in texts(rendered("default")) if name.endswith(".py"))
    assert lines <= 6300
