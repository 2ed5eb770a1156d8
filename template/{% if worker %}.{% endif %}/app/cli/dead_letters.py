"""Dead letters on the command line: looking at jobs that have failed, and sending them again."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer
from arq.connections import ArqRedis

from app.core.config import settings
from app.core.log import CONTROL_CHARACTERS
from app.core.redis import create_client
from app.services import dead_letters
from app.services.dead_letters import LETTERS_KEPT, LIFETIME, Selection
from app.services.jobs import JobNotFoundError, TooLargeError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}

app = typer.Typer(help="Look at jobs that have failed for good.", no_args_is_help=True)


Ids = Annotated[list[str] | None, typer.Argument(help="The ids of jobs; all without any.")]
Queue = Annotated[str | None, typer.Option(help="Only of this queue.")]
Task = Annotated[str | None, typer.Option(help="Only of this task.")]
Age = Annotated[str, typer.Option(help="Only older ones, as in 90s, 15m, 12h or 7d.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print what the API answers.")]


@app.command("list")
def list_(
    queue: Queue = None, task: Task = None, older_than: Age = "0s", as_json: AsJson = False
) -> None:
    """List the letters, the newest first."""
    selection = _select(None, queue, task, older_than)
    letters = _run(lambda redis: dead_letters.list_letters(redis, selection, LETTERS_KEPT))
    if as_json:
        typer.echo(json.dumps([letter.model_dump(mode="json") for letter in letters], indent=2))
        return
    for letter in letters:
        when = f"{letter.finished:%Y-%m-%d %H:%M:%S}" if letter.finished else "-"
        parts = [letter.id, when, letter.queue or "-", letter.task or "-", str(letter.error)[:100]]
        typer.echo("  ".join(parts).translate(CONTROL_CHARACTERS))


@app.command()
def show(letter_id: str, as_json: AsJson = False) -> None:
    """Print all that is known of a letter."""
    try:
        letter = _run(lambda redis: dead_letters.load_letter(redis, letter_id))
    except (JobNotFoundError, TooLargeError) as error:
        raise SystemExit(str(error)) from None
    if as_json:
        typer.echo(letter.model_dump_json(indent=2))
        return
    for name, value in letter.model_dump(mode="json", exclude={"traceback"}).items():
        if value is not None:
            typer.echo(f"{name:<10} {json.dumps(value)}")
    for line in (letter.traceback or "").splitlines():
        typer.echo(line.translate(CONTROL_CHARACTERS))


@app.command()
def requeue(
    ids: Ids = None,
    queue: Queue = None,
    task: Task = None,
    older_than: Age = "0s",
    as_json: AsJson = False,
) -> None:
    """Send jobs again, each under its id with its arguments; exit with 1 where one was refused."""
    selection = _select(ids, queue, task, older_than)
    answer = _run(lambda redis: dead_letters.requeue(redis, selection))
    if as_json:
        typer.echo(answer.model_dump_json(indent=2))
    else:
        typer.echo(f"{answer.requeued} requeued")
        for job_id, reason in answer.refused.items():
            typer.echo(f"{job_id}: {reason}", err=True)
    raise typer.Exit(bool(answer.refused))


@app.command()
def purge(
    ids: Ids = None,
    queue: Queue = None,
    task: Task = None,
    older_than: Age = "0s",
    as_json: AsJson = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete letters for good."""
    selection = _select(ids, queue, task, older_than)
    if not yes:
        letters = _run(lambda redis: dead_letters.list_letters(redis, selection, LETTERS_KEPT))
        typer.confirm(f"Delete {len(letters)} dead letters for good?", abort=True, err=True)
    purged = _run(lambda redis: dead_letters.purge(redis, selection))
    typer.echo(json.dumps({"purged": purged}) if as_json else f"{purged} purged")


def _select(
    ids: list[str] | None, queue: str | None, task: str | None, older_than: str
) -> Selection:
    match = re.fullmatch(r"(\d{1,6})([smhd])", older_than)
    if not match:
        raise typer.BadParameter(f"{older_than!r} is no duration such as 90s, 15m, 12h or 7d")
    seconds = min(int(match[1]) * UNITS[match[2]], LIFETIME)
    return Selection(ids=ids or None, queue=queue, task=task, older_than_seconds=seconds)


def _run(ask: Callable[[ArqRedis], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with create_client(settings.redis_settings) as redis:
            return await ask(redis)

    return asyncio.run(run())
