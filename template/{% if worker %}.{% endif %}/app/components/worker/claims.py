"""Jobs that are locked for a worker before arq asks for each of them."""

import asyncio
import itertools
import os
import random
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog
from arq.constants import (
    abort_jobs_ss,
    in_progress_key_prefix,
    job_key_prefix,
    retry_key_prefix,
)
from arq.utils import timestamp_ms
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.exceptions import RedisError, ResponseError

from app.components.worker.shared_connection import pack
from app.core import keys
from app.core.redis import PASSING_ERRORS, PATIENCE_SECONDS, RESPONSE_SECONDS, Patience
from app.core.scripts import read_script

# The longest wait for a job, and for a slot. Between two polls arq looks for cron jobs, for jobs to
# abort, and for tasks that ended.
MAX_WAIT_MS = 450
# How often a server that refuses CLIENT TRACKING is polled.
UNTRACKED_WAIT_MS = 80
# When the worker that listens has no slot left, all idle ones wake. One that then finds no job
# gives the others a head start from now on, up to this, so that full listeners cost it no more
# than polling would.
MAX_HEAD_START_SECONDS = 0.08
# For the first jobs, until `start_jobs` names its own time. Longer than `PATIENCE_SECONDS`.
FIRST_LOCK_MS = 300_000
# How long arq's `run_job` keeps the count of a job's tries.
TRIES_SECONDS = 88_400

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that is locked and read."""

    job_id: str
    score: float
    lock_ms: int
    # To the commands of `run_job`, by name.
    replies: dict[str, Any]


class Claims:
    """The claims of the worker in whose task `poll` was called first."""

    def __init__(
        self,
        queue_name: str,
        max_jobs: int,
        connection: AbstractConnection,
        execute: Callable[..., Awaitable[Any]],
    ) -> None:
        """Take a connection of version 3 of the protocol that does not retry by itself.

        `execute` is a client's `execute_command`, for what needs no reply.
        """
        self._queue_name = queue_name
        self._listener_key = keys.listener(queue_name)
        self._heartbeat_key = keys.listener_heartbeat(queue_name)
        self.max_jobs = max_jobs
        self._connection = connection
        self._execute = execute
        self._executing: set[asyncio.Task[None]] = set()
        self.patience: Retry = Patience(PATIENCE_SECONDS)
        # The value of the locks of a poll tells whose they are when its reply is lost.
        self._name = f"{socket.gethostname()}:{os.getpid()}:{id(self)}"
        self.lock_prefix = f"{self._name}:"
        self._polls = itertools.count()
        self._value = ""
        # Whether a request for claims had no reply: what it has locked is asked for again.
        self._is_reply_lost = False
        self._lock_ms = FIRST_LOCK_MS

        # Claims that `start_jobs` has not asked for yet, by the key of the lock.
        self._locked: dict[str, Claim] = {}
        # Claims that `run_job` has not asked for yet, by the key of the job.
        self._started: dict[str, Claim] = {}
        # The tasks of `run_job`: arq counts a slot as free when its task is done.
        self._running: set[asyncio.Task[Any]] = set()
        self._has_ended = asyncio.Event()

        self._worker: asyncio.Task[Any] | None = None
        self._is_tracking = False
        # By the clock of the event loop, which cannot be set.
        self._look_again = 0.0
        # Whether this worker listens to the queue, as one of the idle ones does for all. The others
        # listen to the key that names it.
        self._is_listener = True
        self._head_start_seconds = 0.0
        self._last_refusal = ""
        # Whether a poll has met what `services/malformed.py` discards.
        self.found_malformed = False

    def belong_to_this_task(self) -> bool:
        """Return whether this task polls for the claims, as it does if no other one does."""
        task = asyncio.current_task()
        if self._worker is None or self._worker.done():
            self._worker = task
            if task:
                task.add_done_callback(self._leave)
        return self._worker is task

    async def poll(self, start: int, num: int) -> list[bytes]:
        """Wait for due jobs, lock them for the free slots, and return their ids."""
        is_woken = await self._wait()
        if (free := self._count_free()) < 1:
            return []
        claims = await self._claim(start, num, free)
        if claims or self._is_listener:
            self._head_start_seconds = 0
        elif is_woken:
            longer = max(0.02, 2 * self._head_start_seconds)
            self._head_start_seconds = min(MAX_HEAD_START_SECONDS, longer)
        self._locked = {in_progress_key_prefix + claim.job_id: claim for claim in claims}
        # `start_jobs` takes them without a pause.
        asyncio.get_running_loop().call_soon(self._release_unused)
        return [claim.job_id.encode() for claim in claims]

    async def wait_for_slot(self) -> None:
        """Wait until a job ends, if all slots are taken."""
        # The jobs that `start_jobs` has just started begin.
        await asyncio.sleep(0)
        if self._count_free() < 1:
            self._has_ended.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(MAX_WAIT_MS / 1000):
                    await self._has_ended.wait()

    def take(self, lock_key: str) -> Claim | None:
        """Return the claim that has this lock, for `start_jobs`."""
        return self._locked.pop(lock_key, None)

    def start(self, claim: Claim, lock_ms: int) -> None:
        """Note that `start_jobs` starts a job, and for how long it is to be locked."""
        self._started[job_key_prefix + claim.job_id] = claim
        if claim.lock_ms != lock_ms:
            self._lock_ms = lock_ms
            lock_key = in_progress_key_prefix + claim.job_id
            self._execute_soon("PEXPIRE", lock_key, lock_ms)

    def read(self, job_key: str) -> dict[str, Any] | None:
        """Return the replies to `run_job`, which is the current task, if it has a claim."""
        claim, task = self._started.pop(job_key, None), asyncio.current_task()
        if claim is None or task is None:
            return None
        self._running.add(task)
        task.add_done_callback(self._note_end)
        return claim.replies

    async def close(self) -> None:
        """Send what waits, and close the connection."""
        self._is_listener = False
        if self._executing:
            await asyncio.wait(self._executing, timeout=RESPONSE_SECONDS)
        await self._connection.disconnect()

    def _leave(self, _: object) -> None:
        """Let another worker listen; this one may still have jobs to end."""
        if self._is_listener:
            self._execute_soon("DEL", self._listener_key)

    def _count_free(self) -> int:
        return self.max_jobs - len(self._started) - len(self._running)

    def _note_end(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        self._has_ended.set()

    async def _wait(self) -> bool:
        """Wait until the last claim said to look again, or return True if Redis says it earlier."""
        clock = asyncio.get_running_loop().time
        while (seconds := self._look_again - clock()) > 0:
            if not self._is_tracking:
                await asyncio.sleep(seconds)
                return False
            try:
                message = await self._connection.read_response(timeout=seconds)
            except (RedisError, OSError):
                # The claim opens the connection again.
                return False
            if message is None:
                self._head_start_seconds /= 2
            elif self._is_to_look(message):
                await asyncio.sleep(self._head_start_seconds * random.random())  # noqa: S311
                return True
        return False

    def _is_to_look(self, message: list[Any]) -> bool:
        """Return whether a message about changed keys, all of them if it names none, is for us."""
        changed = message[1]
        if not changed or self._listener_key.encode() in changed:
            self._is_listener = True
        return self._is_listener

    async def _claim(self, start: int, num: int, free: int) -> list[Claim]:
        if not self._is_reply_lost:
            self._value = f"{self.lock_prefix}{next(self._polls)}"
        was_listener = self._is_listener

        async def ask() -> Any:
            is_lost, self._is_reply_lost = self._is_reply_lost, True
            now = timestamp_ms()
            try:
                reply = await self._run(
                    (self._queue_name, abort_jobs_ss, self._listener_key, self._heartbeat_key),
                    (now, start, num, free, self._value, self._lock_ms, int(is_lost)),
                    (in_progress_key_prefix, job_key_prefix, retry_key_prefix, TRIES_SECONDS),
                )
            except ResponseError as error:
                # A server that is full, for example, refuses locks.
                if str(error) != self._last_refusal:
                    log.warning("Redis refuses to lock jobs", error=str(error))
                self._last_refusal = str(error)
                self.found_malformed |= "WRONGTYPE" in str(error)
                if isinstance(error, PASSING_ERRORS):
                    # It may be a replica by now: the address may lead to another one.
                    await self._connection.disconnect(nowait=True)
                self._is_reply_lost = is_lost
                return [], None, was_listener
            self._is_reply_lost = False
            return reply

        asking = asyncio.create_task(
            self.patience.call_with_retry(ask, lambda _: self._connection.disconnect(nowait=True))
        )
        try:
            jobs, later, is_listener = await asyncio.shield(asking)
        except asyncio.CancelledError:
            # The worker ends while the reply is on its way.
            with suppress(RedisError, OSError):
                jobs, *_ = await asyncio.wait_for(asking, RESPONSE_SECONDS)
                self._release(self._parse(jobs))
            raise
        # At no fixed distance: idle workers that wake together must not poll together from then on.
        wait_ms: float = MAX_WAIT_MS if self._is_tracking else UNTRACKED_WAIT_MS
        wait_ms *= random.uniform(0.8, 1)  # noqa: S311
        if later:
            wait_ms = min(wait_ms, float(later) - timestamp_ms())
        self._look_again = asyncio.get_running_loop().time() + wait_ms / 1000
        # Redis notes only keys that were read after CLIENT CACHING.
        is_new = not was_listener and (is_listener or self._is_listener)
        self._is_listener = bool(is_listener) or is_new
        if is_new:
            self._look_again = 0
        return self._parse(jobs)

    def _parse(self, jobs: list[list[Any]]) -> list[Claim]:
        claims = []
        for job_id, due, job, tries, is_aborted in jobs:
            replies = {"GET": job, "INCRBY": tries, "EXPIRE": True, "ZREM": is_aborted}
            # arq takes 0 for no time, and would leave the job locked.
            score = float(due) or 1
            try:
                claims.append(Claim(job_id.decode(), score, self._lock_ms, replies))
            except UnicodeDecodeError:
                # arq cannot decode it either, and would end. The lock keeps it out of the way.
                self.found_malformed = True
        return claims

    def _release_unused(self) -> None:
        # The worker has fewer slots than `max_jobs`.
        unused, self._locked = list(self._locked.values()), {}
        self._release(unused)

    def _release(self, claims: list[Claim]) -> None:
        if claims:
            ids = [claim.job_id for claim in claims]
            prefixes = in_progress_key_prefix, retry_key_prefix
            script = read_script("release_jobs")
            self._execute_soon("EVAL", script, 0, self._value, *prefixes, *ids)

    def _execute_soon(self, *command: Any) -> None:
        async def execute() -> None:
            with suppress(RedisError, OSError):
                await self._execute(*command)

        task = asyncio.create_task(execute())
        self._executing.add(task)
        task.add_done_callback(self._executing.discard)

    async def _run(self, names: Sequence[str], *arguments: Sequence[Any]) -> Any:
        """Claim jobs. For a listener the server notes what it reads, and tells of one change."""
        is_new = not self._connection.is_connected
        if is_new:
            await self._connect()
        takes_over = int(is_new and self._is_tracking)
        values = itertools.chain(*arguments, (self._name, takes_over))
        script = read_script("claim_jobs")
        commands: list[tuple[Any, ...]] = [("EVAL", script, len(names), *names, *values)]
        if self._is_tracking and self._is_listener:
            commands.insert(0, ("CLIENT", "CACHING", "YES"))
        await self._connection.send_packed_command(pack(self._connection, commands))
        while True:
            reply = await self._connection.read_response()
            # A message about a change comes between, and begins with the name of its kind.
            if isinstance(reply[0], list):
                return reply
            if isinstance(reply, list):
                self._is_to_look(reply)

    async def _connect(self) -> None:
        try:
            await self._connection.connect()
            # OPTIN: what follows CLIENT CACHING is noted. NOLOOP: our own changes are not reported.
            for command in ("TRACKING", "ON", "OPTIN", "NOLOOP"), ("CACHING", "YES"):
                await self._connection.send_command("CLIENT", *command)
                await self._connection.read_response()
            self._is_tracking = self._is_listener = True
        except ResponseError as error:
            if isinstance(error, PASSING_ERRORS):
                raise
            log.warning("Redis refuses CLIENT TRACKING and is polled", error=str(error))
            self._is_tracking = False
            self._connection.protocol = 2
            await self._connection.connect()
