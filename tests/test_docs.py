"""What the documentation says, here and in a rendered project, followed to the letter.

The Docker commands are those of test_containers.
"""

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import harness, readme

pytestmark = pytest.mark.xdist_group("installed-full")
OWN = harness.ROOT / "README.md"
USE = """\
import asyncio

from app.core.config import settings
from app.core.redis import create_client
{imports}

async def main():
    redis = create_client(settings.redis_settings)
{use}
    print(result["task"])
    await redis.aclose()


asyncio.run(main())
"""


@pytest.fixture
def project(installed: Callable[[str], Path]) -> Iterator[Path]:
    """The installed project, which is as it was committed again afterwards."""
    path = installed("full")
    yield path
    harness.git("checkout", "--quiet", "--", ".", cwd=path)
    harness.git("clean", "--quiet", "--force", "-d", "app", cwd=path)


def section(project: Path, title: str, page: str = "worker") -> str:
    """Return a section of a page, with those below it."""
    text = (project / f"docs/{page}.md").read_text()
    heading = re.search(rf"(?m)^(#+) {re.escape(title)}\n", text)
    assert heading, f"docs/{page}.md has no section {title}"
    # A line that begins with one # is a comment in a code block.
    return re.split(rf"\n#{{2,{len(heading[1])}}} ", text[heading.end() :], maxsplit=1)[0]


def code_blocks(text: str, language: str) -> list[str]:
    """Return what stands between the fences, without its indentation."""
    blocks = re.findall(rf"(?ms)^( *)```{language}\n(.*?)^ *```", text)
    return [re.sub(rf"(?m)^{indent}", "", block) for indent, block in blocks]


def test_a_task_is_added_as_described(
    project: Path, check: Callable[..., None], redis_url: str, tmp_path: Path
) -> None:
    task, registration, use = code_blocks(section(project, "Adding worker tasks"), "python")
    path = project / task.splitlines()[0].removeprefix("# ")
    path.write_text(task.partition("\n")[2])

    queue = project / registration.splitlines()[0].removeprefix("# ")
    imported = registration.splitlines()[1]
    entry = registration.splitlines()[-2]
    text = queue.read_text().replace("\n\n\nclass ", f"\n{imported}\n\n\nclass ", 1)
    queue.write_text(text.replace("# Your own tasks:\n", f"# Your own tasks:\n{entry}\n", 1))
    harness.run("make", "format", cwd=project)
    check(project)
    harness.run("uv", "run", "pytest", "--quiet", "tests/test_queues.py", cwd=project)

    imports, _, statements = use.partition("\n\n")
    indented = "".join(f"    {line}\n" for line in statements.splitlines())
    script = tmp_path / "use.py"
    script.write_text(USE.format(imports=imports, use=indented))
    name = queue.stem
    worker = ("uv", "run", "python", "-m", "arq", f"app.components.worker.queues.{name}.WorkerSettings")
    with harness.running(*worker, cwd=project, log=tmp_path / "log", REDIS_URL=redis_url):
        done = harness.run("uv", "run", "python", script, cwd=project, REDIS_URL=redis_url)
    assert done.stdout == "my_background_task\n"


def test_the_commands_that_run_workers_do(project: Path, redis_url: str, tmp_path: Path) -> None:
    (block,) = code_blocks(section(project, "Local worker development"), "bash")
    run, burst, watch = [line for line in block.splitlines() if line.startswith("uv ")]
    (block,) = code_blocks(section(project, "Worker health checks"), "bash")
    check, cheap = [line for line in block.splitlines() if line.startswith("uv ")]

    def exit_code(command: str) -> int:
        return harness.run(*command.split(), cwd=project, check=False, REDIS_URL=redis_url).returncode

    assert exit_code(burst) == 0
    assert (exit_code(check), exit_code(cheap)) == (1, 1)
    for command in (run, watch):
        with harness.running("bash", "-c", command, cwd=project, log=tmp_path / "log", REDIS_URL=redis_url):
            harness.wait_until(lambda: exit_code(cheap) == 0, f"`{command}` starts no worker")
            assert exit_code(check) == 0
    for named in re.findall(r"`(app\.[\w.]+\.WorkerSettings)`", section(project, "Local worker development")):
        assert exit_code(f"uv run python -m arq {named} --burst") == 0


def test_the_health_commands_do(project: Path, redis_url: str) -> None:
    (block,) = code_blocks(section(project, "Health", "operations"), "bash")
    for command in block.splitlines():
        assert command.startswith("uv run full-stack health ")
        done = harness.run(*command.split(), cwd=project, check=False, REDIS_URL=redis_url)
        assert (done.returncode, done.stderr) == (1, "")
        assert "no worker has reported" in done.stdout


@pytest.mark.parametrize("title", ["Jobs", "Dead letters"])
def test_the_commands_for_jobs_do(project: Path, redis_url: str, title: str) -> None:
    (block,) = code_blocks(section(project, title, "operations"), "bash")
    for command in block.splitlines():
        harness.run(*command.split(), cwd=project, REDIS_URL=redis_url)


def links_and_paths(page: Path, *roots: Path) -> None:
    """Follow every relative link of a page, and look for every path that it names.

    Raises:
        AssertionError: One leads nowhere.
    """
    text = page.read_text()
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        target = (page.parent / link) if link else page
        assert target.exists(), f"{page.name}: {link}"
        headings = re.findall(r"(?m)^#+ (.*)$", target.read_text()) if anchor else []
        assert not anchor or anchor in {
            re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings
        }
    for path in re.findall(r"`((?:app|docs|tests|extensions|template)/[\w/.]*)`", text):
        assert any((root / path).exists() for root in roots), f"{page.name}: {path}"


@pytest.mark.parametrize("name", harness.ANSWERS)
def test_links_and_paths_exist(rendered: Callable[[str], Path], name: str) -> None:
    project = rendered(name)
    for page in [project / "README.md", *project.glob("docs/*.md")]:
        links_and_paths(page, project)


# The changelog names what there was.
@pytest.mark.parametrize("page", [OWN, harness.ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_own_links_and_paths_exist(rendered: Callable[[str], Path], page: Path) -> None:
    links_and_paths(page, harness.ROOT, rendered("full"))


@pytest.mark.parametrize("name", ["full", "no-worker"])
def test_commands_of_the_rendered_readme_work(installed: Callable[[str], Path], name: str) -> None:
    project = installed(name)
    text = (project / "README.md").read_text()
    commands = set(re.findall(r"`((?:make|uv|uvx) [^`]+)`", text))
    commands |= {line for block in code_blocks(text, "bash") for line in block.splitlines()}
    assert {"uv sync", "make dev", "make check"} <= commands
    # The tests of updates run this one.
    for command in commands - {"uvx copier update"}:
        # `make dev` would stay, and test_variants runs the others: make says what each would do.
        dry = f"{command} --dry-run" if command.startswith("make ") else command
        done = harness.run(*dry.split(), cwd=project, check=False)
        # Nothing runs whose health could be good.
        assert done.returncode == (1 if "health status" in command and name == "full" else 0), command


# --- This repository's own README -------------------------------------------------------------------------


def test_the_trees_are_those_of_renders(rendered: Callable[[str], Path]) -> None:
    tree = readme.draw_trees(rendered("default"), rendered("no-worker"))
    assert code_blocks(OWN.read_text(), "text") == [tree], "run `python -m tests.readme`"


def test_the_table_has_every_question() -> None:
    assert readme.list_questions() in OWN.read_text(), "run `python -m tests.readme`"


def test_commands_of_the_own_readme_work(template: Path, tmp_path: Path) -> None:
    text = OWN.read_text()
    copy, *others = [line for block in code_blocks(text, "bash") for line in block.splitlines()]
    assert others == ["make demo", "make test", "uvx copier update", "git diff --name-only --diff-filter=U"]
    for command in others[:2]:
        harness.run(*command.split(), "--dry-run", cwd=harness.ROOT)

    def run_copier(command: str, cwd: Path) -> None:
        _, _, *words = shlex.split(command.replace("gh:org/aegis", f"git+{template.as_uri()}"))
        harness.run(*harness.QUICK_COPIER, words[0], "--defaults", *words[1:], cwd=cwd)

    run_copier(copy, tmp_path)
    project = tmp_path / "my-app"
    updates = [others[2], *re.findall(r"`(uvx copier update [^`]+)`", text)]
    assert len(updates) == 3
    for update in updates:
        harness.commit_all(project, "Before the update")
        run_copier(update, project)
        assert harness.run(*others[3].split(), cwd=project).stdout == ""
    assert "  worker-media:" in (project / "docker-compose.yml").read_text()
    assert {path.name for path in (project / "deploy").iterdir()} >= {"swarm", "kubernetes"}


def shape(line: str) -> str:
    """Return a line without what differs from run to run."""
    return re.sub(r"\s+", " ", re.sub(r"\b[0-9a-f]{12}\b|#+|\d+(,\d{3})*(\.\d+)?", "", line))


def test_the_terminal_output_is_real(project: Path, redis_url: str, tmp_path: Path) -> None:
    (block,) = code_blocks(OWN.read_text(), "console")
    command, *shown = block.replace("my-app", "full-stack").splitlines()
    worker = ("uv", "run", "python", "-m", "arq", "app.components.worker.queues.load_test.WorkerSettings")
    with harness.running(*worker, cwd=project, log=tmp_path / "log", REDIS_URL=redis_url):
        harness.wait_until(lambda: harness.has_reported(project, "load_test", redis_url), "no worker runs")
        done = harness.run(*command.removeprefix("$ ").split(), cwd=project, REDIS_URL=redis_url)
        (others,) = code_blocks(section(project, "Load tests", "operations"), "bash")
        for other in others.splitlines():
            harness.run(*other.split(), cwd=project, REDIS_URL=redis_url)
    *lines, limit = done.stdout.splitlines()
    assert set(map(shape, shown[:-1])) <= set(map(shape, lines))
    assert "Limited by" in limit
    assert "Limited by" in shown[-1]
