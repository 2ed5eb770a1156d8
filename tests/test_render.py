"""Every pair of answers: whole, clean, well-typed, and silent about what was left out."""

import ast
import itertools
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from itertools import dropwhile
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytest_copie.plugin import Copie, Result

from tests import harness, pairs

# What names a feature and nothing else, in any letter case: a project that leaves it out has none of it.
OWNED = {
    "jobs_api": ("jobs_per_minute", "enqueue_by_name", "rate_limit", "post /jobs"),
    "monitoring": ("prometheus_client", "alertmanager", "opentelemetry", "correlation_id", "alert_webhook"),
}


def parametrize(combinations: list[dict[str, Any]]) -> list[Any]:
    """Return parameters in two groups, so that a combination is rendered once."""
    return [
        pytest.param(
            answers,
            id=pairs.name_of(answers),
            marks=pytest.mark.xdist_group(f"monitoring-{answers.get('monitoring', False)}"),
        )
        for answers in combinations
    ]


@pytest.fixture(scope="module", params=parametrize(pairs.COMBINATIONS))
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


def test_each_pair_of_values_occurs() -> None:
    values = pairs.list_values()
    found = set().union(*map(pairs.pairs_of, pairs.COMBINATIONS))
    missing = set()
    for one, other in itertools.combinations(values, 2):
        for first, second in itertools.product(values[one], values[other]):
            missing |= {((one, repr(first)), (other, repr(second)))} - found
    # What is not asked after such an answer has no value.
    assert all(("worker", "False") in pair or ("jobs_api", "False") in pair for pair in missing)


def test_answers_are_known(combination: dict[str, Any], result: Result) -> None:
    assert combination.items() <= result.answers.items()


def test_text_is_clean(project: Path) -> None:
    for name, text in texts(project):
        # Pages have Jinja of their own, as Prometheus and Grafana have, and in Python doubled braces
        # are those of a format.
        if not name.endswith(".html") and not name.startswith(("deploy/prometheus/", "deploy/grafana/")):
            marker = r"\{%|\{#" if name.endswith(".py") else r"(?<!\$)\{\{|\{%|\{#"
            assert not re.search(marker, text), f"{name}: a Jinja marker"
        assert not re.search(r"[ \t\r]$", text, re.MULTILINE), f"{name}: a trailing blank"
        assert not text or re.search(r"[^\n]\n\Z", text), f"{name}: not one newline at the end"
        assert not text.startswith("\n"), f"{name}: an empty line at the top"
        assert "\n\n\n\n" not in text, f"{name}: three empty lines in a row"


def test_files_parse(project: Path) -> None:
    parse_all(project)


def parse_all(project: Path) -> None:
    """Parse every file of a known kind; ruff reads the Python, which can be newer than that of the tests."""
    parsers: dict[str, Callable[[str], object]] = {
        ".toml": tomllib.loads,
        ".yml": yaml.safe_load,
        ".json": json.loads,
    }
    parsed = set()
    for name, text in texts(project):
        suffix = Path(name).suffix
        if parser := parsers.get(suffix):
            try:
                parser(text)
            except (ValueError, yaml.YAMLError) as error:
                pytest.fail(f"{name}: {error}")
            parsed.add(suffix)
    assert parsed >= parsers.keys() - {".json"}


def check_with_ruff(project: Path, tools: Path) -> None:
    """Run the linter and the formatter of a project."""
    harness.run(tools / "ruff", "check", "--no-cache", cwd=project)
    harness.run(tools / "ruff", "format", "--no-cache", "--check", cwd=project)


def test_ruff_passes(project: Path, tools: Path) -> None:
    check_with_ruff(project, tools)


@pytest.mark.parametrize("combination", parametrize(pairs.CODE_COMBINATIONS), indirect=True)
def test_types_pass(
    project: Path,
    tools: Path,
    combination: dict[str, Any],
    rendered: Callable[[str], Path],
    check: Callable[..., None],
) -> None:
    # The oldest Python and the newest, and one configuration: mypy reads every library anew for each.
    version = "3.11" if combination["python_version"] == "3.11" else "3.14"
    config = rendered("full") / "pyproject.toml"
    options = ("--config-file", config, "--python-version", version, "app", "tests")
    check(project, tools / "mypy", *options, config=config)


def words_of(queue: str) -> set[str]:
    """Return what names a queue and nothing else, in lower case."""
    known = harness.CATALOGUE[queue]
    paths = {f"{folder}{mark}{queue}" for folder in ("queues", "tasks") for mark in "./"}
    packages = {requirement.partition(">")[0] for requirement in known["dependencies"]}
    return {known["service"], f"queue:{queue}", *paths, *packages, *known["words"], *tasks_of(queue)}


def tasks_of(queue: str) -> set[str]:
    """Return the names of the tasks that the template has for a queue."""
    folder = harness.ROOT / f"template/{{% if has_{queue} %}}.{{% endif %}}/app/components/worker/tasks"
    module = ast.parse((folder / f"{queue}.py").read_text())
    return {
        node.name
        for node in module.body
        if isinstance(node, ast.AsyncFunctionDef) and not node.name.startswith("_")
    }


def test_what_is_left_out_leaves_nothing(project: Path, combination: dict[str, Any]) -> None:
    everything = "\n".join(
        # But for what links within a page name: the guide's own headings.
        re.sub(r"\]\(#[^)]*\)", "]", f"{name}:{line}").lower()
        for name, text in texts(project)
        if name != ".copier-answers.yml"
        for line in ["", *text.splitlines()]
    )
    kept = {*harness.queues(combination, "run", "commented")} | {n for n in OWNED if combination.get(n)}
    for feature, words in (OWNED | {queue: words_of(queue) for queue in harness.CATALOGUE}).items():
        if feature not in kept:
            assert [line for line in everything.splitlines() if any(word in line for word in words)] == []
        else:  # The list is right: each of its words is somewhere in a project that has the feature.
            assert [word for word in words if word not in everything] == []


def test_names_of_folders_are_few() -> None:
    """A condition stands once, in the name of a folder; what is in the folder has plain names."""
    paths = [path.relative_to(harness.ROOT / "template") for path in (harness.ROOT / "template").rglob("*")]
    conditional = {part for path in paths for part in path.parts if "{%" in part}
    assert len(conditional) <= 12
    assert all(re.fullmatch(r"\{% if [\w ]+ %\}\.\{% endif %\}", part) for part in conditional)
    # They come first, one in another where a file needs both.
    below = [part for path in paths for part in dropwhile(lambda part: "{%" in part, path.parts)]
    assert not [part for part in below if "{%" in part]


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
        assert f"app.components.worker.queues.{queue}.WorkerSettings" in service["command"]
        assert service["stop_grace_period"] == f"{known['completion_wait'] + 10}s"
        limits = service["deploy"]["resources"]["limits"]
        assert (limits["memory"], limits["cpus"]) == (known["memory"], known["cpus"])
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

    parse_all(project)
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


# Lines of Python, tests included, of projects with these answers. They are only ever lowered.
# None is kept yet: a budget that is met fails this test until its mark goes.
PLAIN: dict[str, Any] = {name: False for name in ("dashboard", "monitoring") if name in harness.QUESTIONS}
MAX_LINES: dict[str, tuple[dict[str, Any], int]] = {
    "workers only": (harness.variant("workers"), 2900),
    "default without pages and monitoring": (PLAIN, 5700),
    "default": ({}, 7800),
}


@pytest.mark.xfail(strict=True, reason="the budgets are missed: the figures of the summary say by how much")
@pytest.mark.parametrize("name", MAX_LINES)
def test_a_project_stays_small(
    template: Path, tmp_path: Path, record_property: Callable[[str, object], None], name: str
) -> None:
    answers, most = MAX_LINES[name]
    project = harness.render(template, tmp_path / "project", answers)
    lines = sum(text.count("\n") for path, text in texts(project) if path.endswith(".py"))
    record_property("figure", f"{name}: {lines} lines of Python, of at most {most}")
    assert lines <= most
