"""What the documentation of a rendered project says, followed to the letter in the project "Full Stack".

Its Docker commands are those of test_containers.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import harness

pytestmark = pytest.mark.xdist_group("installed-full")
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


def section(project: Path, title: str) -> str:
    """Return a section of the worker guide."""
    text = (project / "docs/worker.md").read_text()
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def code_blocks(text: str, language: str) -> list[str]:
    """Return what stands between the fences, without its indentation."""
    blocks = re.findall(rf"(?ms)^( *)```{language}\n(.*?)^ *```", text)
    return [re.sub(rf"(?m)^{indent}", "", block) for indent, block in blocks]


def test_a_task_is_added_as_described(project: Path, redis_url: str, tmp_path: Path) -> None:
    task, registration, use = code_blocks(section(project, "Adding worker tasks"), "python")
    path = project / task.splitlines()[0].removeprefix("# ")
    path.write_text(task.partition("\n")[2])

    queue = project / registration.splitlines()[0].removeprefix("# ")
    imported = registration.splitlines()[1]
    entry = registration.splitlines()[-2]
    text = queue.read_text().replace("\n\n\nclass ", f"\n{imported}\n\n\nclass ", 1)
    queue.write_text(re.sub(r"(?ms)(functions: .*?)^    \]", rf"\1{entry}\n    ]", text, count=1))
    harness.run("make", "format", cwd=project)
    harness.run("make", "check", cwd=project)
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
    (block,) = code_blocks(section(project, "Running workers"), "bash")
    run, burst, watch, check = [line for line in block.splitlines() if line.startswith("uv ")]

    def exit_code(command: str) -> int:
        return harness.run(*command.split(), cwd=project, check=False, REDIS_URL=redis_url).returncode

    assert exit_code(burst) == 0
    assert exit_code(check) == 1
    for command in (run, watch):
        with harness.running("bash", "-c", command, cwd=project, log=tmp_path / "log", REDIS_URL=redis_url):
            harness.wait_until(lambda: exit_code(check) == 0, f"`{command}` starts no worker")
    for named in re.findall(r"`(app\.[\w.]+\.WorkerSettings)`", section(project, "Running workers")):
        assert exit_code(f"uv run python -m arq {named} --burst") == 0


def test_the_health_commands_do(project: Path, redis_url: str) -> None:
    (block,) = code_blocks(section(project, "Health"), "bash")
    for command in block.splitlines():
        assert command.startswith("uv run full-stack health ")
        done = harness.run(*command.split(), cwd=project, check=False, REDIS_URL=redis_url)
        assert (done.returncode, done.stderr) == (1, "")
        assert "no worker has reported" in done.stdout


@pytest.mark.parametrize("name", harness.ANSWERS)
def test_links_and_paths_exist(rendered: Callable[[str], Path], name: str) -> None:
    project = rendered(name)
    for page in [project / "README.md", *project.glob("docs/*.md")]:
        text = page.read_text()
        for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
            target = (page.parent / link) if link else page
            assert target.exists(), f"{page.name}: {link}"
            headings = re.findall(r"(?m)^#+ (.*)$", target.read_text())
            assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}
        for path in re.findall(r"`((?:app|docs|tests)/[\w/.]*)`", text):
            assert (project / path).exists(), f"{page.name}: {path}"


def test_the_readme_here_names_the_make_targets() -> None:
    readme = (harness.ROOT / "README.md").read_text()
    targets = set(re.findall(r"(?m)^make (\w+)$", readme))
    assert targets == {"demo", "test"}
    for target in targets:
        harness.run("make", "--dry-run", target, cwd=harness.ROOT)
