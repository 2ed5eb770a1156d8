"""`copier update`: between all variants, there and back, across releases, and into an owner's project."""

import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml

from tests import harness, owner, pairs, releases

# No change, another text in each place, and without workers and back.
PAIRS = [("default", "default"), ("default", "texts"), ("default", "no-worker"), ("no-worker", "default")]
# As many as the longest question has values.
STEPS = max(map(len, pairs.list_values().values()))


def answers_at(step: int) -> dict[str, Any]:
    """Return answers that change from step to step; after the last step they are the first ones again."""
    asked = {name: values for name, values in pairs.list_values().items() if name != "worker"}
    return {
        name: values[(step + at) * len(values) // STEPS % len(values)]
        for at, (name, values) in enumerate(asked.items())
    }


NEW_TASK = '''

async def count_jobs(ctx: dict[str, Any]) -> int:
    """Count the jobs of the queue."""
    return int(await ctx["redis"].zcard(ctx["redis"].default_queue_name))
'''


def answers_of(project: Path) -> dict[str, Any]:
    """Return every answer that a project remembers."""
    answers: dict[str, Any] = yaml.safe_load((project / ".copier-answers.yml").read_text())
    return {name: answer for name, answer in answers.items() if not name.startswith("_")}


def update(project: Path, data: Mapping[str, Any] | None = None) -> None:
    """Update a committed project to the newest release of its template."""
    copier.run_update(project, data=dict(data or {}), defaults=True, overwrite=True, quiet=True)


def conflicts(project: Path) -> list[str]:
    """Return what the command lists that copier names after an update."""
    return harness.git("diff", "--name-only", "--diff-filter=U", cwd=project).split()


def release(template: Path, target: Path, change: Callable[[Path], None]) -> Path:
    """Copy the template and change it in a second release."""
    shutil.copytree(template, target)
    change(target)
    harness.release(target, "1.1.0")
    return target


# --- One release ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_other_answers_give_their_render(
    rendered: Callable[[str], Path], tmp_path: Path, one: str, other: str
) -> None:
    project = shutil.copytree(rendered(one), tmp_path / "project")
    harness.commit_all(project, "Render")

    update(project, answers_of(rendered(other)))

    assert harness.tree(project) == harness.tree(rendered(other))
    if one == other:
        assert harness.git("status", "--porcelain", cwd=project) == ""


def test_every_answer_is_changed_and_changed_back(template: Path, tmp_path: Path) -> None:
    for name, values in pairs.list_values().items():
        if name != "worker":
            assert {str(answers_at(step)[name]) for step in range(STEPS)} == set(map(str, values))
    project = harness.render(template, tmp_path / "project", answers_at(0))
    before = harness.tree(project)
    for step in range(1, STEPS + 1):
        harness.commit_all(project, f"Step {step - 1}")
        update(project, answers_at(step))
        wanted = before
        if step < STEPS:
            wanted = harness.tree(harness.render(template, tmp_path / str(step), answers_at(step)))
        assert harness.tree(project) == wanted


# --- The next release, and a project that has an owner ----------------------------------------------------


def change_the_worker(template: Path) -> None:
    """Change what is near the owner's edits: see the comments."""
    files = template / "template"
    system = files / "{% if has_system %}.{% endif %}"
    queue = system / "app/components/worker/queues/system.py.jinja"
    config, queues = files / "app/core/config.py.jinja", template / "extensions/queues.yml"
    # A new task in the queue that has one of the owner's.
    tasks = system / "app/components/worker/tasks/system.py"
    tasks.write_text(tasks.read_text() + NEW_TASK)
    owner.replace(queue, "    system_health_check,\n)", "    count_jobs,\n    system_health_check,\n)")
    owner.replace(queue, "        # Your own tasks:", "        count_jobs,\n        # Your own tasks:")
    # Another timeout of the queue whose max_jobs the owner has changed.
    owner.replace(queues, "timeout: 60\n", "timeout: 90\n")
    # A new setting.
    owner.replace(config, "    # Your own settings:", "    MAX_COUNT: int = 10\n\n    # Your own settings:")
    example = files / ".env.example.jinja"
    owner.replace(example, "# Your own settings:", "MAX_COUNT=10\n\n# Your own settings:")
    # A changed service, and a new one.
    owner.replace(queues, "memory: 1G", "memory: 2G")
    compose = files / "{% if worker %}.{% endif %}/docker-compose.yml.jinja"
    new = owner.CACHE.replace("cache", "second-cache")
    owner.replace(compose, "  # Your own services:\n", f"{new}\n  # Your own services:\n")
    # A new dependency.
    owner.replace(
        files / "pyproject.toml.jinja", '    "structlog', '    "python-slugify>=8.0",\n    "structlog'
    )
    # The file that the owner has deleted, and a new one.
    deleted = system / "tests/test_system.py"
    deleted.write_text(deleted.read_text() + "\n\n# The end.\n")
    (files / "docs.md").write_text("# More\n")
    # A line above each comment that shows where an owner's lines go.
    for path in files.rglob("*"):
        if path.is_file():
            text = path.read_text()
            path.write_text(re.sub(r"(?m)^( *)(?=# Your own [\w ]+:$)", r"\1# The next release.\n\1", text))


def make_owned(released: Path, target: Path, tag: str = "1.0.0") -> Path:
    """Return a project of a release that its owner has edited everywhere."""
    project = harness.render(released, target, harness.variant("default"), tag)
    harness.commit_all(project, "Render")
    for edit in owner.EDITS:
        edit(project)
    harness.commit_all(project, "Make it ours")
    return project


def assert_nothing_is_lost(released: Path, project: Path, scratch: Path) -> None:
    """Update an owned project: what its owner and what the release added is all there, without a conflict."""
    answers = answers_of(project)
    old = harness.tree(harness.render(released, scratch / "old", answers, "1.0.0"))
    new = harness.tree(harness.render(released, scratch / "new", answers))
    mine = harness.tree(project)

    update(project)

    assert conflicts(project) == []
    merged = harness.tree(project)
    deleted = old.keys() - mine.keys()
    assert merged.keys() == (mine.keys() | new.keys()) - deleted
    for added in (mine, new):
        for name in added.keys() - deleted:
            lines = set(added[name].splitlines()) - set(old.get(name, b"").splitlines())
            assert lines <= set(merged[name].splitlines()), name


def test_a_release_reaches_an_owned_project(
    template: Path, install: Callable[[Path], None], check: Callable[..., None], tmp_path: Path
) -> None:
    released = release(template, tmp_path / "template", change_the_worker)
    project = make_owned(released, tmp_path / "project")
    assert_nothing_is_lost(released, project, tmp_path)
    # It is not only text that was merged.
    install(project)
    check(project)
    harness.run("uv", "run", "pytest", "--quiet", cwd=project)


# --- All releases -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Path:
    """Return this repository with a tag a release, the newest of which is the template as it is now."""
    if harness.run("git", "rev-parse", "--is-shallow-repository", cwd=harness.ROOT).stdout != "false\n":
        pytest.skip("a shallow clone has no releases: fetch the whole history")
    history = tmp_path_factory.mktemp("history") / "template"
    harness.git(
        "clone", "--quiet", "--no-tags", "--shared", str(harness.ROOT), str(history), cwd=harness.ROOT
    )
    for version in releases.list_releases():
        harness.git("tag", f"v{version}", releases.find_commit(version), cwd=history)
    for name in ("copier.yml", "extensions", "template"):
        harness.run("rm", "-r", name, cwd=history)
        harness.run("cp", "-r", template / name, history, cwd=history)
    harness.release(history, "v99.99.99")
    return history


@pytest.mark.parametrize(("version", "name"), [*product(releases.list_releases(), ["full", "no-worker"])])
def test_every_release_updates_to_a_fresh_render(
    history: Path, tmp_path: Path, version: str, name: str
) -> None:
    # The tests of such a render pass: test_variants runs them.
    project = harness.render(history, tmp_path / "project", harness.variant(name), f"v{version}")
    old = harness.tree(project)
    harness.commit_all(project, "Render")

    update(project)

    assert conflicts(project) == []
    new = harness.tree(project)
    assert new == harness.tree(harness.render(history, tmp_path / "fresh", answers_of(project)))
    # An owner's edits of a file that is gone are lost, so an owner has to know.
    assert unnoted(old.keys() - new.keys(), version) == set()


@pytest.mark.parametrize("version", releases.list_releases())
def test_an_owned_project_of_every_release_is_updated(
    history: Path, tmp_path: Path, record_property: Callable[[str, object], None], version: str
) -> None:
    """Nothing of the owner's is lost; what is in conflict has a note in the changelog."""
    project = make_owned(history, tmp_path / "project", f"v{version}")
    mine = harness.tree(project)
    old = harness.tree(harness.render(history, tmp_path / "old", answers_of(project), f"v{version}"))

    update(project)

    merged = harness.tree(project)
    for name in mine.keys() - old.keys():
        assert merged[name] == mine[name], name
    assert not (old.keys() - mine.keys()) & merged.keys()
    for name in mine.keys() & old.keys() & merged.keys():
        lines = set(mine[name].splitlines()) - set(old[name].splitlines())
        assert lines <= set(merged[name].splitlines()), name
    found = conflicts(project)
    places = sum(merged[name].count(b"<<<<<<<") for name in found)
    record_property("figure", f"update of an edited {version}: {places} conflicts in {len(found)} files")
    assert unnoted(found, version) == set()


# What 0.3.0 accepted, and a new project is refused.
KEPT = {
    "project_name": "Jobs\u2028",
    "project_slug": "jobs",
    "project_description": "Runs\u2028jobs",
    "author_name": "A.\u2028B.",
    "author_email": "a..b@example.com",
}


def test_an_update_keeps_what_is_refused_now(history: Path, tmp_path: Path) -> None:
    project = harness.render(history, tmp_path / "project", KEPT, "v0.3.0")
    harness.commit_all(project, "Render")
    with pytest.raises(ValueError, match="the project uses it"):
        update(project, {"project_slug": "limits"})
    # The second update renders what the first has kept anew, to compare with it.
    for times in ("once", "twice"):
        update(project)
        assert KEPT.items() <= answers_of(project).items()
        harness.commit_all(project, f"Update {times}")


def unnoted(names: Iterable[str], version: str) -> set[str]:
    """Return the files that no note since a release names."""
    notes = releases.read_notes()
    since = "".join(list(notes.values())[: list(notes).index(version)])
    return {name for name in names if f"`{name}`" not in since}


# --- What no release may do: the tests above see it -------------------------------------------------------


def test_a_renamed_file_is_seen(template: Path, rendered: Callable[[str], Path], tmp_path: Path) -> None:
    def rename(template: Path) -> None:
        commands = template / "template/app/cli"
        (commands / "serve.py").rename(commands / "server.py")

    released = release(template, tmp_path / "template", rename)
    new = harness.tree(harness.render(released, tmp_path / "new", harness.variant("full")))
    gone = harness.tree(rendered("full")).keys() - new.keys()
    assert unnoted(gone, releases.list_releases()[-1]) == {"app/cli/serve.py"}


def ask_without_a_default(template: Path) -> None:
    """Ask what `--defaults` cannot answer."""
    with (template / "copier.yml").open("a") as file:
        file.write("\ncolour:\n  type: str\n  help: Which colour has it?\n")


def exclude_by_jinja(template: Path) -> None:
    """Ask anew, and exclude a file by the answer."""
    with (template / "copier.yml").open("a") as file:
        file.write("\nguide:\n  type: bool\n  help: With a guide?\n  default: true\n")
        file.write('\n_exclude: ["{% if not guide %}docs{% endif %}"]\n')


@pytest.mark.parametrize(
    ("mistake", "says"), [(ask_without_a_default, '"colour" is required'), (exclude_by_jinja, "is undefined")]
)
def test_what_stops_an_update_is_seen(
    template: Path, tmp_path: Path, mistake: Callable[[Path], None], says: str
) -> None:
    released = release(template, tmp_path / "template", mistake)
    project = harness.render(released, tmp_path / "project", {}, "1.0.0")
    harness.commit_all(project, "Render")
    done = harness.run(*harness.QUICK_COPIER, "update", "--defaults", cwd=project, check=False)
    assert done.returncode == 1
    assert says in done.stderr


def test_a_task_on_the_owners_line_is_seen(template: Path, tmp_path: Path) -> None:
    def write_below(template: Path) -> None:
        system = template / "template/{% if has_system %}.{% endif %}"
        queue = system / "app/components/worker/queues/system.py.jinja"
        owner.append(queue, "        # Your own tasks:", "        count_jobs,\n")

    released = release(template, tmp_path / "template", write_below)
    project = make_owned(released, tmp_path / "project")
    with pytest.raises(AssertionError, match=r"queues/system\.py"):
        assert_nothing_is_lost(released, project, tmp_path)
