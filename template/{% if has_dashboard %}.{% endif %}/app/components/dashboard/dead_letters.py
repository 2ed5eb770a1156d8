"""Dead letters: grouped by what went wrong, requeued or purged one, a group, or all that match."""

import math
from collections import defaultdict

from fastapi import HTTPException, Request, Response
from pydantic import NonNegativeFloat, TypeAdapter

from app.components.dashboard.pages import read_form, redirect, render
from app.components.dashboard.session import audit
from app.components.worker.lookup import check_job
from app.services import dead_letters
from app.services.dead_letters import Filter, Selection, error_class
from app.services.jobs import UNKNOWN_TASK, Job

MAX_LISTED = 50
# Groups are made of this many of the newest letters, so that a page reads no more.
MAX_GROUPED = 1000
FILTERS = ("queue", "task", "error")


async def show(request: Request) -> Response:
    """Show the groups of the letters that match the filters in the address, and the newest."""
    filters = {name: request.query_params.get(name) or None for name in FILTERS}
    wanted = Filter.model_validate(filters)
    letters = await dead_letters.list_letters(request.state.redis, wanted, MAX_GROUPED)
    return render(
        request,
        "dead_letters",
        groups=_group(letters),
        letters=letters[:MAX_LISTED],
        filters=filters,
        is_cut=len(letters) == MAX_GROUPED,
    )


async def change(request: Request) -> Response:
    """Requeue or purge letters: the first request asks back, with their count."""
    form = await read_form(request, "action", "all", "confirmed", "id", "until_ms", *FILTERS)
    action = form.pop("action", "")
    if action not in ("requeue", "purge"):
        raise HTTPException(422, "Choose to requeue or to purge.")
    for name, value in (("all", "true"), ("confirmed", "yes")):
        if form.get(name, value) != value:
            raise HTTPException(422, f"{name} must be {value!r} or left out.")
    filters = {name: form[name] for name in FILTERS if name in form}
    ids = [form["id"]] if "id" in form else None
    selection = Selection.model_validate({"ids": ids, "all": "all" in form} | filters)
    redis = request.state.redis
    if "confirmed" not in form:
        count, until_ms = await dead_letters.count_letters(redis, selection)
        values = form | {"until_ms": until_ms}
        return render(request, "confirm", action=action, count=count, values=values)
    until_ms = TypeAdapter(NonNegativeFloat).validate_python(form.get("until_ms", math.inf))
    if action == "purge":
        note = f"Dead letters purged: {await dead_letters.purge(redis, selection, until_ms):,}."
    else:
        done = await dead_letters.requeue(redis, selection, check_job, until_ms)
        note = f"Jobs queued again: {done.requeued:,}."
        if done.refused:
            reason = next(iter(done.refused.values()))
            note += f" Refused: {len(done.refused):,}, the first since {reason}."
    audit(request, action, **filters, ids=ids, note=note)
    return redirect(request, "dead_letters", note, **{k: v for k, v in filters.items() if not ids})


def _group(letters: list[Job]) -> list[tuple[tuple[str | None, str, str], list[Job]]]:
    """Return the letters by queue, task and class of error, the largest group first."""
    groups = defaultdict(list)
    for letter in letters:
        task = letter.task or UNKNOWN_TASK
        groups[letter.queue, task, error_class(letter.error)].append(letter)
    return sorted(groups.items(), key=lambda group: -len(group[1]))
