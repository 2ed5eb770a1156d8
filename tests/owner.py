"""What an owner does to a rendered project before the next release of the template, edit by edit."""

import re
from collections.abc import Callable
from pathlib import Path

from tests import harness

TASK = '''\
"""Reports."""

from typing import Any


async def write_report(ctx: dict[str, Any], title: str) -> str:
    """Write a report."""
    return f"{title}, try {ctx['job_try']}"
'''
ROUTE = '''\
"""Reports over HTTP."""

from fastapi import APIRouter

from app.core.config import settings

router = APIRouter(tags=["reports"])


@router.get("/reports")
async def get_reports() -> list[str]:
    """Return the titles of all reports."""
    return [settings.REPORT_TITLE]
'''
COMMAND = '''\
"""Reports on the command line."""

import typer

from app.core.config import settings


def report() -> None:
    """Print the title of reports."""
    typer.echo(settings.REPORT_TITLE)
'''
TEST = '''\
"""Reports."""

from typing import Any

from app.components.backend.main import app
from app.components.worker.queues import reports, system
from app.components.worker.tasks.reports import write_report


async def test_report(ctx: dict[str, Any]) -> None:
    assert await write_report(ctx, "Sales") == "Sales, try 1"


def test_everything_is_registered() -> None:
    assert write_report in system.WorkerSettings.functions
    assert write_report in reports.WorkerSettings.functions
    assert app.url_path_for("get_reports") == "/reports"
'''
CACHE = """\
  cache:
    image: valkey/valkey:9-alpine
    restart: unless-stopped
"""


def replace(path: Path, old: str, new: str) -> None:
    """Replace the only place of `old` in a file."""
    text = path.read_text()
    assert text.count(old) == 1, f"{path} has {old!r} {text.count(old)} times"
    path.write_text(text.replace(old, new))


def append(path: Path, heading: str, lines: str) -> None:
    """Add lines below the comment that shows where an owner's lines go."""
    replace(path, f"{heading}\n", f"{heading}\n{lines}")


def add_a_task(project: Path) -> None:
    """Write a task module, and register its task in a queue that the template has filled."""
    worker = project / "app/components/worker"
    (worker / "tasks/reports.py").write_text(TASK)
    queue = worker / "queues/system.py"
    imported = "from app.components.worker.tasks.system import ("
    replace(queue, imported, f"from app.components.worker.tasks.reports import write_report\n{imported}")
    append(queue, "        # Your own tasks:", "        write_report,\n")


def change_max_jobs(project: Path) -> None:
    """Let the load-test worker run more jobs at a time."""
    replace(project / "app/components/worker/queues/load_test.py", "max_jobs = 50", "max_jobs = 60")
    replace(project / "app/core/config.py", '"max_jobs": 50', '"max_jobs": 60')


def add_a_service(project: Path) -> None:
    """Add a service to the compose file."""
    append(project / "docker-compose.yml", "  # Your own services:", CACHE)


def add_a_dependency(project: Path) -> None:
    """Depend on one more package."""
    harness.run("uv", "add", "--frozen", "humanize", cwd=project)


def add_a_setting(project: Path) -> None:
    """Read one more environment variable."""
    setting = '    REPORT_TITLE: str = "Report"\n'
    append(project / "app/core/config.py", "    # Your own settings:", setting)
    append(project / ".env.example", "# Your own settings:", "REPORT_TITLE=Report\n")


def add_a_route(project: Path) -> None:
    """Answer one more request."""
    backend = project / "app/components/backend"
    (backend / "api/reports.py").write_text(ROUTE)
    replace(backend / "main.py", "    jobs,\n", "    jobs,\n    reports,\n")
    append(backend / "main.py", "    # Your own routers:", "    app.include_router(reports.router)\n")
    append(project / "tests/test_security.py", "    # Your own routes:", '    "GET /reports": "open",\n')


def add_a_command(project: Path) -> None:
    """Add a command."""
    cli = project / "app/cli"
    (cli / "reports.py").write_text(COMMAND)
    replace(cli / "main.py", "    serve,\n", "    reports,\n    serve,\n")
    append(cli / "main.py", "# Your own commands:", 'app.command("report")(reports.report)\n')


def add_a_queue(project: Path) -> None:
    """Copy a queue's module, service, entry and process, as the documentation says."""
    queues = project / "app/components/worker/queues"
    text = (queues / "media.py").read_text().replace("media", "reports")
    text = re.sub(r"(?s)(tasks.reports import) \(.*?\n\)", r"\1 write_report", text, count=1)
    text = re.sub(
        r"(?s)(functions: .*? = \[\n).*?(    # Your)", r"\1        write_report,\n    \2", text, count=1
    )
    (queues / "reports.py").write_text(text)

    compose = project / "docker-compose.yml"
    service = re.search(r"(?s)  worker-load-test:\n.*?\n(?=\n)", compose.read_text())
    assert service
    copied = service[0].replace("load-test", "reports").replace("load_test", "reports")
    append(compose, "  # Your own services:", copied.replace("40s", "70s") + "\n")

    config = project / "app/core/config.py"
    entry = re.search(r'(?s)    # "media": .*?# },\n', config.read_text())
    assert entry
    append(config, "    # Your own queues:", entry[0].replace("# ", "").replace("media", "reports"))

    procfile = project / "Procfile"
    line = procfile.read_text().splitlines(keepends=True)[-2]
    append(procfile, "# Your own processes:", line.replace("media", "reports"))


def delete_a_file(project: Path) -> None:
    """Do without a file that the template has and keeps changing."""
    (project / "tests/test_system.py").unlink()


def add_files(project: Path) -> None:
    """Add files beside the template's own."""
    (project / "tests/test_reports.py").write_text(TEST)
    (project / "docs/reports.md").write_text("# Reports\n")


EDITS: list[Callable[[Path], None]] = [
    add_a_task,
    change_max_jobs,
    add_a_service,
    add_a_dependency,
    add_a_setting,
    add_a_route,
    add_a_command,
    add_a_queue,
    delete_a_file,
    add_files,
]
