"""The jobs that every library runs, and their own measure of their rate and cost."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path


class Counter:
    """Counts the jobs of a run, and writes jobs/s and CPU seconds per 1,000 jobs after the last one.

    Every library is measured where all of them are equal: in the task's code. Neither the start of the
    process nor a reader that asks for results is in the figures.
    """

    def __init__(self) -> None:
        """Take the number of jobs and the file from the environment; without them nothing is written."""
        self.tasks = int(os.environ.get("BENCH_TASKS", "0"))
        self.file = Path(os.environ.get("BENCH_FILE", os.devnull))
        self.count = 0
        self.start = self.cpu_start = 0.0

    def add(self) -> None:
        """Count one job."""
        if self.count == 0:
            self.start, self.cpu_start = time.perf_counter(), time.process_time()
        self.count += 1
        if self.count == self.tasks:
            # In one step, since another process waits for the file.
            part = self.file.with_suffix(".part")
            seconds, cpu = time.perf_counter() - self.start, time.process_time() - self.cpu_start
            jobs = self.count - 1
            part.write_text(json.dumps({"rate": jobs / seconds, "worker": cpu / jobs * 1000}))
            part.rename(self.file)


COUNTER = Counter()


async def noop(_ctx: object = None) -> None:
    """Do nothing. arq and SAQ hand over a context; taskiq does not."""
    COUNTER.add()


async def simulate_io(echo: Callable[[bytes], Awaitable[bytes]]) -> dict[str, float | str]:
    """Do what the project's `io_simulation_task` does, with the library's own client of Redis."""
    start = time.perf_counter()
    await asyncio.sleep(0.005)
    payload = await echo(bytes(1024))
    COUNTER.add()
    seconds, cpu = time.perf_counter() - start, time.process_time()
    return {"payload_bytes": len(payload), "seconds": seconds, "worker": "bench", "cpu_seconds": cpu}
