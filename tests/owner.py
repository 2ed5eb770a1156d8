"""What an owner does to a rendered project before the next release of the template, edit by edit."""

import re
from collections.abc import Callable
from pathlib import Path

from tests import harness

TASK = '''\
"""Reports."""

from typing import Any


async def write_report(ctx: dict[str, Any], title: str = "Report") -> str:
    """Write a report."""
    ctx.get("reports", {})[title] = ctx["job_try"]
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
    ctx["reports"] = {}
    assert await write_report(ctx, "Sales") == "Sales, try 1"
    assert ctx["reports"] == {"Sales": 1}


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


def append(path: Path, marker: str, lines: str, before: str = "") -> None:
    """Add lines below the comment that shows where an owner's lines go.

    Releases that have no such comment yet get them before the only match of the pattern `before`.
    """
    text = path.read_text()
    if not before or f"{marker}\n" in text:
        replace(path, f"{marker}\n", f"{marker}\n{lines}")
        return
    (match,) = re.finditer(before, text)
    path.write_text(text[: match.start()] + lines + text[match.start() :])


def import_below(path: Path, module: str, name: str, before: str) -> None:
    """Import a name below the comment for an owner's imports."""
    append(path, "# Your own imports:", f"from {module} import {name}\n", before)


def add_a_task(project: Path) -> None:
    """Write a task module, and register its task in a queue that the template has filled."""
    worker = project / "app/components/worker"
    (worker / "tasks/reports.py").write_text(TASK)
    queue = worker / "queues/system.py"
    import_below(
        queue, "app.components.worker.tasks.reports", "write_report", r"from \S+tasks\.system import"
    )
    before = r"    \]\n    cron_jobs = "
    append(queue, "        # Your own tasks:", "        write_report,\n", before)


def add_a_cron_job(project: Path) -> None:
    """Run the task every hour."""
    queue = project / "app/components/worker/queues/system.py"
    job = "        cron(write_report, minute=15, keep_result=3600),\n"
    append(queue, "        # Your own cron jobs:", job, r"    \)\n\n    queue_name")


def change_max_jobs(project: Path) -> None:
    """Let the load-test worker run more jobs at a time."""
    replace(project / "app/components/worker/queues/load_test.py", "max_jobs = 50", "max_jobs = 60")
    replace(project / "app/core/config.py", '"max_jobs": 50', '"max_jobs": 60')


def add_a_service(project: Path) -> None:
    """Add a service to the compose file."""
    append(project / "docker-compose.yml", "  # Your own services:", CACHE, r"\nvolumes:\n")


def add_a_dependency(project: Path) -> None:
    """Depend on one more package."""
    harness.run("uv", "add", "--frozen", "humanize", cwd=project)


def add_a_setting(project: Path) -> None:
    """Read one more environment variable."""
    setting = '    REPORT_TITLE: str = "Report"\n'
    before = r"\n    @property\n    def redis_settings"
    append(project / "app/core/config.py", "    # Your own settings:", setting, before)
    append(project / ".env.example", "# Your own settings:", "REPORT_TITLE=Report\n", r"\Z")


def add_resources(project: Path) -> None:
    """Hold something in each worker and in the web application."""
    hooks = project / "app/components/worker/hooks.py"
    marker = "    # Your own resources:"
    if marker in hooks.read_text():
        replace(
            hooks,
            f"{marker}\n\n\nasync def shutdown",
            f'{marker}\n    ctx["reports"] = {{}}\n\n\nasync def shutdown',
        )
        replace(
            hooks,
            f"{marker}\n\n\nasync def bind",
            f'{marker}\n    ctx["reports"].clear()\n\n\nasync def bind',
        )
    else:
        append(hooks, marker, '    ctx["reports"] = {}\n', r"\n\nasync def shutdown")
        append(hooks, marker, '    ctx["reports"].clear()\n', r"\n\ndef read_job")
    backend = project / "app/components/backend"
    append(backend / "state.py", marker, "    reports: dict[str, int]\n", r"\n\ndef get_redis")
    if f"    {marker}\n" in (backend / "main.py").read_text():
        append(backend / "main.py", f"    {marker}", '        state["reports"] = {}\n')
    else:
        replace(backend / "main.py", '{"redis": redis}', '{"redis": redis, "reports": {}}')


def add_a_route(project: Path) -> None:
    """Answer one more request."""
    backend = project / "app/components/backend"
    (backend / "api/reports.py").write_text(ROUTE)
    import_below(backend / "main.py", "app.components.backend.api", "reports", r"\n\n@asynccontextmanager")
    router = "    app.include_router(reports.router)\n"
    append(backend / "main.py", "    # Your own routers:", router, r"    return app\n")
    security = project / "tests/test_security.py"
    if security.exists() and "# Your own routes:" in security.read_text():
        append(security, "    # Your own routes:", '    "GET /reports": "open",\n')


def add_a_command(project: Path) -> None:
    """Add a command."""
    cli = project / "app/cli"
    (cli / "reports.py").write_text(COMMAND)
    import_below(cli / "main.py", "app.cli", "reports", r"\napp = typer")
    command = 'app.command("report")(reports.report)\n'
    append(cli / "main.py", "# Your own commands:", command, r"\n\ndef main")


def add_a_queue(project: Path) -> None:
    """Copy a queue's module, service, entry and process, as the documentation says."""
    queues = project / "app/components/worker/queues"
    text = (queues / "media.py").read_text().replace("media", "reports")
    text = re.sub(r"(tasks\.reports import) (\([^)]*\)|.*)", r"\1 write_report", text, count=1)
    text = re.sub(
        r"(?s)(    functions[^\n]* = [\[(]\n(?:        send_alert,\n)?).*?(        # Your|    [\])]\n)",
        r"\1        write_report,\n\2",
        text,
        count=1,
    )
    (queues / "reports.py").write_text(text)

    compose = project / "docker-compose.yml"
    service = re.search(r"(?s)  worker-load-test:\n.*?\n(?=\n)", compose.read_text())
    assert service
    copied = service[0].replace("load-test", "reports").replace("load_test", "reports")
    append(compose, "  # Your own services:", copied.replace("40s", "70s") + "\n", r"\nvolumes:\n")

    config = project / "app/core/config.py"
    entry = re.search(r'(?s)    # "media": .*?# },\n', config.read_text())
    assert entry
    copied = entry[0].replace("# ", "").replace("media", "reports")
    append(config, "    # Your own queues:", copied, r"(?<=# },\n)\}\n")

    procfile = project / "Procfile"
    (line,) = re.findall(r"(?m)^worker-media: .*\n", procfile.read_text())
    append(procfile, "# Your own processes:", line.replace("media", "reports"), r"\Z")


def delete_a_file(project: Path) -> None:
    """Do without a file that the template has and keeps changing."""
    (project / "tests/test_system.py").unlink()


def add_files(project: Path) -> None:
    """Add files beside the template's own."""
    (project / "tests/test_reports.py").write_text(TEST)
    (project / "docs/reports.md").write_text("# Reports\n")


EDITS: list[Callable[[Path], None]] = [
    add_a_task,
    add_a_cron_job,
    change_max_jobs,
    add_a_service,
    add_a_dependency,
    add_a_setting,
    add_resources,
    add_a_route,
    add_a_command,
    add_a_queue,
    delete_a_file,
    add_files,
]
