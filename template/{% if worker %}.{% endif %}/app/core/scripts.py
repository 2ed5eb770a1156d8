"""The Lua scripts: one file each in `lua/`, whose header names its keys and arguments.

A script runs whole before Redis looks at another command, so no WATCH is needed.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from arq.connections import ArqRedis
from redis.asyncio.client import Pipeline


async def run_script(
    redis: ArqRedis, name: str, keys: Sequence[str | bytes], arguments: Sequence[Any] = ()
) -> Any:
    """Run a script by its name without `.lua`.

    Redis keeps scripts by their hash: redis-py sends the text only to a server that lacks it.
    """
    return await redis.register_script(read_script(name))(keys, arguments)


def queue_script(
    pipe: Pipeline, name: str, keys: Sequence[str | bytes], arguments: Sequence[Any] = ()
) -> None:
    """Queue a script in a pipeline, with its text: a pipeline cannot ask whether Redis has it."""
    pipe.execute_command("EVAL", read_script(name), len(keys), *keys, *arguments)


@cache
def read_script(name: str) -> str:
    """Return the text of a script."""
    return (Path(__file__).with_name("lua") / f"{name}.lua").read_text()
