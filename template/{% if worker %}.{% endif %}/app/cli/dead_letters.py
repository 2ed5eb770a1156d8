"""Dead letters on the command line: look at jobs that have failed, send them again, delete them."""

import json
import math
import re
from typing import Annotated

import typer
from arq.connections import ArqRedis
from pydantic import ValidationError

from app.cli.client import with_client
from app.cli.output import AsJson, print_job, print_jobs, print_json
from app.components.worker.lookup import check_job
from app.core.ages import UNITS
from app.core.log import escape
from app.services import dead_letters
from app.services.dead_letters import MAX_AGE_SECONDS, MAX_LETTERS, Filter, Selection
from app.services.jobs import Job, require_queue

app = typer.Typer(help="Look at jobs that have failed for good.", no_args_is_help=True)

Ids = Annotated[list[str] | None, typer.Argument(help="The ids of jobs.")]
Queue = Annotated[str | None, typer.Option(help="Only of this queue.")]
Task = Annotated[str | None, typer.Option(help="Only of this task.")]
Age = Annotated[str, typer.Option(help="Only older ones, as in 90s, 15m, 12h or 7d.")]
All = Annotated[bool, typer.Option("--all", help="All letters.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@app.command("list")
def list_(
    queue: Queue = None, task: Task = None, older_than: Age = "0s", as_json: AsJson = False
) -> None:
    """List the letters, the newest first."""
    seconds = _seconds(older_than)
    wanted = Filter(queue=queue or None, task=task or None, older_than_seconds=seconds)

    async def read(redis: ArqRedis) -> list[Job]:
        letters = await dead_letters.list_letters(redis, wanted, MAX_LETTERS)
        if not letters and queue:
            require_queue(queue)
        return letters

    letters = with_client(read)
    if as_json:
        hidden = {"args", "kwargs", "traceback"}
        print_json([letter.model_dump(mode="json", exclude=hidden) for letter in letters])
        return
    print_jobs(letters, ("id", "age", "queue", "task", "error"), "There are no dead letters.")


@app.command()
def show(letter_id: str, as_json: AsJson = False) -> None:
    """Print all that is known of a letter."""
    letter = with_client(lambda redis: dead_letters.load_letter(redis, letter_id))
    print_job(letter, as_json=as_json)


@app.command()
def requeue(
    ids: Ids = None,
    queue: Queue = None,
    task: Task = None,
    older_than: Age = "0s",
    every: All = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Send jobs again, each under its id with its arguments; exit with 1 if one was refused."""
    selection = _select(ids, queue, task, older_than, every)
    until_ms = _confirm("Requeue", selection, yes or bool(ids))
    answer = with_client(lambda redis: dead_letters.requeue(redis, selection, check_job, until_ms))
    if as_json:
        print_json(answer.model_dump())
    else:
        typer.echo(f"{answer.requeued} requeued")
        for job_id, reason in answer.refused.items():
            typer.echo(f"{escape(job_id)}: {escape(reason)}", err=True)
    raise typer.Exit(bool(answer.refused))


@app.command()
def purge(
    ids: Ids = None,
    queue: Queue = None,
    task: Task = None,
    older_than: Age = "0s",
    every: All = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete letters for good."""
    selection = _select(ids, queue, task, older_than, every)
    until_ms = _confirm("Delete", selection, yes)
    purged = with_client(lambda redis: dead_letters.purge(redis, selection, until_ms))
    typer.echo(json.dumps({"purged": purged}) if as_json else f"{purged} purged")


def _select(
    ids: list[str] | None, queue: str | None, task: str | None, older_than: str, every: bool
) -> Selection:
    seconds = _seconds(older_than)
    try:
        return Selection(
            ids=ids or None, queue=queue, task=task, older_than_seconds=seconds, all=every
        )
    except ValidationError:
        message = "Give ids, --queue, --task or --older-than, or --all without any of them."
        raise typer.BadParameter(message) from None


def _confirm(verb: str, selection: Selection, yes: bool) -> float:
    """Ask, and return until when letters may have failed that the answer is about."""
    if yes:
        return math.inf
    until_ms: float
    count, until_ms = with_client(lambda redis: dead_letters.count_letters(redis, selection))
    typer.confirm(f"{verb} {count} dead letters?", abort=True, err=True)
    return until_ms


def _seconds(age: str) -> int:
    match = re.fullmatch(r"(\d{1,6})([smhd])", age, re.ASCII)
    if not match:
        raise typer.BadParameter(f"{age!r} is not a duration such as 90s, 15m, 12h or 7d.")
    seconds = int(match[1]) * dict(UNITS)[match[2]]
    if seconds > MAX_AGE_SECONDS:
        raise typer.BadParameter(f"{age!r}: no letter is kept for longer than 30d.")
    return seconds
