"""The Redis client of a worker, for arq's setting `redis_pool`: fewer requests and no poll delay.

arq's `Worker` asks Redis for one thing at a time. This client gives it the same responses:

- `_poll_iteration` reads the ids of due jobs, `start_jobs` locks each one in four requests, and
  `run_job` reads it in a fifth. Here one script locks and reads as many jobs as there are free
  slots when `_poll_iteration` asks, and the other requests are served from its reply.
- `_poll_iteration` looks every `poll_delay`. Here its request waits until the queue changes,
  which Redis reports by `CLIENT TRACKING`, or until the next deferred job is due. Of several idle
  workers one listens to the queue, and the others to the key that names it.
- While all slots are taken it does not look: then `_cancel_aborted_jobs`, which asks last, waits
  for a job to end.
- `finish_job` executes a transaction for each job, and tasks have commands of their own. Here
  those of the same moment leave in one write on one connection.

Keys and transactions are those of arq, so workers with and without this client share a queue.
It is written for arq 0.28: a test names what a newer arq asks in another way.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from arq.connections import RedisSettings
from arq.constants import abort_jobs_ss, in_progress_key_prefix, job_key_prefix
from arq.jobs import Job
from arq.utils import ms_to_datetime, timestamp_ms
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError, WatchError

from app.components.worker.claims import Claim, Claims
from app.components.worker.shared_connection import SharedConnection, can_share
from app.core import keys
from app.core.config import settings
from app.core.redis import (
    PASSING_ERRORS,
    PATIENCE_SECONDS,
    STOP_SECONDS,
    Client,
    Patience,
    SafePipeline,
    connection_pool,
)
from app.core.scripts import run_script
from app.core.serializer import deserialize, serialize
from app.services.malformed import discard_malformed

# How often the server is asked for jobs to abort; `_poll_iteration` asks in each poll.
ABORT_INTERVAL_SECONDS = 0.4
# What it asks with, beside the queue, and how its question about aborts begins.
_POLL = {"min", "max", "start", "num"}
_ABORTS = ("ZRANGE", abort_jobs_ss)
# What watches the queues, by arq's names: a backlog must not hold it up.
AHEAD = ("cron:watch_health", "send_alert", "cron:sweep_dead_letters")


def worker_client(queue_name: str, max_jobs: int) -> "WorkerRedis":
    """Return the client for a queue's `WorkerSettings`. It connects when its worker starts."""
    return WorkerRedis(settings.redis_settings, queue_name, max_jobs)


class WorkerRedis(Client):
    """The client of the worker that polls first. It serves all others as `Client` does."""

    def __init__(self, server: RedisSettings, queue_name: str, max_jobs: int) -> None:
        """Take the server, the worker's queue, and how many jobs it runs at a time."""
        self.max_jobs = max_jobs
        # By the clock of the event loop, which cannot be set.
        self.aborts_known_until = 0.0
        # The ids of runs of cron jobs that the server has not taken, which arq takes for taken ids.
        self.refused: set[str] = set()
        patience = Patience(PATIENCE_SECONDS)
        super().__init__(
            connection_pool(server, retry=patience, retry_on_error=list(PASSING_ERRORS)),
            default_queue_name=queue_name,
            job_serializer=serialize,
            job_deserializer=deserialize,
        )
        self._make_connections()

    def _make_connections(self) -> None:
        self.shared = SharedConnection(self._connection())
        self.claims = Claims(
            self.default_queue_name,
            self.max_jobs,
            self._connection(protocol=3),
            self.execute_command,
        )

    def _connection(self, **options: Any) -> AbstractConnection:
        pool = self.connection_pool
        options |= {"retry": Retry(NoBackoff(), 0), "retry_on_error": []}
        return pool.connection_class(**pool.connection_kwargs | options)

    def set_retry(self, retry: Retry) -> None:
        """Set the patience of all connections."""
        super().set_retry(retry)
        self.claims.patience = retry

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close all connections. The client can be used again, in another event loop too."""
        await self.claims.close()
        await self.shared.close()
        await self.connection_pool.disconnect()
        self.set_retry(Patience(PATIENCE_SECONDS))
        self._make_connections()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Execute a command, on the shared connection if it can be shared."""
        if can_share(args, options) and (replies := await self.shared.send([args])):
            return self.parse(replies[0], args, options)
        return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def parse(self, reply: Any, command: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """Return what redis-py makes of a reply.

        Raises:
            redis.exceptions.ResponseError: The reply is an error. redis-py would add the command to
                that of a transaction, and with it what is secret.
        """
        if isinstance(reply, ResponseError):
            raise reply
        if callback := self.response_callbacks.get(command[0]):
            # `keys` is for redis-py's own cache.
            return callback(reply, **{name: options[name] for name in options if name != "keys"})
        return reply

    async def zrangebyscore(self, *args: Any, **kwargs: Any) -> Any:
        """Lock the jobs that the worker has free slots for, where `_poll_iteration` asks."""
        is_poll = args == (self.default_queue_name,) and kwargs.keys() == _POLL
        if is_poll and self.claims.belong_to_this_task():
            job_ids = await self.claims.poll(kwargs["start"], kwargs["num"])
            # Jobs that are locked are to start without a pause.
            if self.claims.found_malformed and not job_ids:
                self.claims.found_malformed = False
                with suppress(RedisError):
                    await discard_malformed(self, args[0])
            return job_ids
        return await super().zrangebyscore(*args, **kwargs)

    async def enqueue_job(self, function: str, *args: Any, **options: Any) -> Job | None:
        """Put what is in `AHEAD` before the jobs that wait, and repeat what was refused.

        arq asks once for each run of a cron job: one that a full server refuses would be left out.
        """
        if function in AHEAD:
            first = await self._first_due(options.get("_queue_name", self.default_queue_name))
            due = options.get("_defer_until") or datetime.now(UTC)
            # arq would count the expiry from the time that is given here.
            options |= {"_defer_until": min(due, first) if first else due, "_expires": 86_400}
        clock = asyncio.get_running_loop().time
        end = clock() + PATIENCE_SECONDS
        while True:
            job = await super().enqueue_job(function, *args, **options)
            if options.get("_job_id") not in self.refused:
                return job
            self.refused.remove(options["_job_id"])
            if clock() > end:
                return None
            await asyncio.sleep(1)

    async def _first_due(self, queue_name: str) -> datetime | None:
        try:
            first = await self.zrange(queue_name, 0, 0, withscores=True)
        except ResponseError:
            # The queue has another type: the next poll discards it.
            return None
        # Another program may have written any number.
        score = first[0][1] if first else 0
        return ms_to_datetime(int(score) - 1) if 1 < score < timestamp_ms() else None

    async def zcard(self, name: Any) -> Any:
        """Count a queue of another type as empty, where `record_health` asks after a poll."""
        try:
            return await super().zcard(name)
        except ResponseError as error:
            if name != self.default_queue_name or "WRONGTYPE" not in str(error):
                raise
            self.claims.found_malformed = True
            return 0

    async def delete(self, *names: Any) -> Any:
        """Be less patient from arq's `close` on, which begins with this request.

        `startup` sees to it too, but a worker may be stopped while it waits to start.
        """
        patience = self.get_retry()
        is_first = names == (keys.sentinel(self.default_queue_name),)
        if is_first and isinstance(patience, Patience):
            patience.seconds = STOP_SECONDS
        return await super().delete(*names)

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """Return a pipeline that asks Redis only for what is not known yet."""
        return WorkerPipeline(self, transaction, shard_hint)


class WorkerPipeline(SafePipeline):
    """A pipeline that serves `start_jobs` and `run_job` from a claim, where there is one."""

    def __init__(self, client: WorkerRedis, transaction: bool, shard_hint: str | None) -> None:
        """Take what `pipeline` of `client` was called with."""
        super().__init__(client.connection_pool, client.response_callbacks, transaction, shard_hint)
        self._client = client
        self._claim: Claim | None = None

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Answer what `start_jobs` asks before it locks a job: it is locked."""
        if args[0] == "WATCH" and (claim := self._client.claims.take(args[1])):
            self._claim, self.watching = claim, True
        if self._claim is None or self.explicit_transaction:
            return super().execute_command(*args, **options)
        return _return({"WATCH": True, "EXISTS": 0, "ZSCORE": self._claim.score}[args[0]])

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Execute the commands, unless their replies are known."""
        commands = [command for command, _ in self.command_stack]
        if commands and commands[0][:2] == _ABORTS:
            replies = await self._wait_for_aborts()
        else:
            replies = self._known_replies(commands)
        if replies is None and raise_on_error and self._can_leave_with_others():
            replies = await self._leave_with_others(commands)
        if replies is None and self._is_end_of_a_try(commands):
            replies = await self._end_try(commands)
        if replies is None:
            return await self._execute_alone(commands, raise_on_error)
        await self.aclose()
        return replies

    def _known_replies(self, commands: list[Any]) -> list[Any] | None:
        client, first = self._client, tuple(commands[0]) if commands else (None,)
        if self._claim:
            # PSETEX by `start_jobs`.
            _, _, lock_ms, _ = first
            client.claims.start(self._claim, lock_ms)
            return [True]
        if first[0] == "GET" and (replies := client.claims.read(first[1])):
            return [replies[name] for name, *_ in commands]
        return None

    async def _wait_for_aborts(self) -> list[Any] | None:
        await self._client.claims.wait_for_slot()
        now = asyncio.get_running_loop().time()
        if now < self._client.aborts_known_until:
            return [[], 0]
        self._client.aborts_known_until = now + ABORT_INTERVAL_SECONDS
        return None

    def _can_leave_with_others(self) -> bool:
        is_idle = self.connection is None and not self.scripts
        has_commands = self.is_transaction and bool(self.command_stack)
        return has_commands and is_idle and all(can_share(*each) for each in self.command_stack)

    async def _leave_with_others(self, commands: list[Any]) -> list[Any] | None:
        replies = await self._client.shared.send([("MULTI",), *commands, ("EXEC",)])
        if replies is None:
            return None
        _, *queued, results = replies
        if errors := [reply for reply in (*queued, results) if isinstance(reply, ResponseError)]:
            raise errors[0]
        return [
            self._accept(result, command)
            if isinstance(result, ResponseError)
            else self._client.parse(result, command, options)
            for result, (command, options) in zip(results, self.command_stack, strict=True)
        ]

    def _accept(self, reply: Any, command: Any) -> Any:
        """Read a queue, or ids to abort, of another type as empty: the next poll discards them."""
        if not isinstance(reply, ResponseError):
            return reply
        names = abort_jobs_ss, self._client.default_queue_name
        if command[1] not in names or "WRONGTYPE" not in str(reply):
            raise reply
        self._client.claims.found_malformed = True
        return [] if command[0] == "ZRANGE" else 0

    async def _execute_alone(self, commands: list[Any], raise_on_error: bool) -> list[Any]:
        # Of a transaction with WATCH, `enqueue_job` is to be told the error.
        if raise_on_error and self.is_transaction and not self.explicit_transaction:
            return list(map(self._accept, await super().execute(raise_on_error=False), commands))
        try:
            return await super().execute(raise_on_error)
        except WatchError as error:
            job_id = str(commands[0][1]).removeprefix(job_key_prefix)
            if job_id.startswith("cron:") and isinstance(error.__context__, PASSING_ERRORS):
                self._client.refused.add(job_id)
            raise

    def _is_end_of_a_try(self, commands: list[Any]) -> bool:
        deferring = ("ZINCRBY", self._client.default_queue_name)
        return self.is_transaction and any(command[:2] == deferring for command in commands)

    async def _end_try(self, commands: list[Any]) -> list[Any]:
        """Do what `finish_job` does for a job that is tried again, at most once.

        The first request may have been executed without a reply; then the job may have run again
        elsewhere, and a second ZINCRBY would put an id without a job into the queue.
        """
        steps = {name: words for name, *words in commands}
        queue_name, defer_ms, job_id = steps["ZINCRBY"]
        lock_key = f"{in_progress_key_prefix}{job_id}"
        _, keep_ms = steps.get("PEXPIRE", (lock_key, 0))
        arguments = [self._client.claims.lock_prefix, defer_ms, job_id, keep_ms]
        return [await run_script(self._client, "end_try", [queue_name, lock_key], arguments)]


async def _return(value: Any) -> Any:
    return value
