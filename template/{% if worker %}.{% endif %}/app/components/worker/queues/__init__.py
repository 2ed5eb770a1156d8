"""The queues: one module each, with the `WorkerSettings` class that the arq command runs.

To add a queue, copy a module. arq reads the settings from the class itself and ignores inherited
ones, so each class names all of them:

- `functions`, `cron_jobs`: the tasks. arq gives a run of a cron job the same id in all queues, so
  that what every queue has, such as the sweep for dead letters, happens once. `keep_result` is
  there since arq keeps no result of a cron job by default.
- `queue_name`: arq's name of the queue, as in `WORKER_QUEUES`.
- `max_jobs`: how many jobs a worker runs at a time.
- `max_tries`: a job's tries, those in which its worker stopped included. `try_again` counts on it.
- `allow_abort_jobs`: without it, aborting a job has no effect.
- `keep_result`: for how many seconds a result is kept. Without a result there is no dead letter.
- `job_timeout`: the seconds a job may run. The jobs of a killed worker stay locked for 10 s more
  than that, and run again then.
- `job_completion_wait`: on SIGTERM arq lets running jobs end for this many seconds, and cancels the
  rest; by default it cancels all at once. Keep `stop_grace_period` in docker-compose.yml above it.
- `redis_settings`: what `arq --check` connects to, and a worker without `redis_pool`.
- `redis_pool`: the client of `client.py`, with which a job costs a third of the processor time and
  an idle worker starts one at once. Without this line arq makes its own client, and everything
  else stays the same; then set `poll_delay` to 0.08, since polling costs it 1 % of a core.
- `poll_delay`: the minimum seconds between two polls; an idle worker waits for jobs within a poll.
- `queue_read_limit`: how many ids a poll reads. Jobs already running on any replica count too, so
  it is at least twice the replicas times `max_jobs`.
- `job_serializer`, `job_deserializer`: the recorder. They write msgpack, since arq's default is
  pickle, which runs code of anyone who can write to Redis.
- `health_check_interval`, `health_check_key`: what `arq --check` reads. By default arq writes it
  once an hour, so a killed worker would look healthy for that long, and under one key for all
  hosts, which a worker that stops deletes.
- `on_startup`, `on_shutdown`, `on_job_start`: the hooks of `hooks.py`.
"""

from typing import cast

from arq.utils import import_string

from app.services.queues import QueueSettings


def settings(name: str) -> QueueSettings:
    """Return the `WorkerSettings` of a queue of `WORKER_QUEUES`.

    The modules of the queues import every task, so they are imported when one is asked for.
    """
    return cast(QueueSettings, import_string(f"{__name__}.{name}.WorkerSettings"))
