"""The project's own keys in Redis, beside those of arq."""

import socket

from app import NAME

# The hash of the dead letters: the failed result of each, by the id of its job.
LETTERS = f"{NAME}:dead-letters"
# The ids of the dead letters, by the time of the failure.
LETTERS_BY_TIME = f"{LETTERS}:by-time"
# The bytes of all dead letters. It may be deleted: the next letter counts them again.
LETTERS_BYTES = f"{LETTERS}:bytes"
# The ids of the load tests, by the time of their start. `load_test` names the hash of each.
LOAD_TESTS = f"{NAME}:load-tests"

# The stream of the jobs that ended lately, and the hash of how and when each cron job last ended.
HISTORY = f"{NAME}:history"
CRONS = f"{HISTORY}:crons"
# The next run of each cron job, and the alerts that fire or did lately: see `services/crons.py` and
# `services/alerts.py`.
SCHEDULE = f"{NAME}:schedule"
ALERTS = f"{NAME}:alerts"

# Written where a check asks whether Redis takes writes.
WRITE_CHECK = f"{NAME}:write-check"

# The types of these keys. One of another type, which another program has written, is deleted.
TYPES = {
    LETTERS: "hash",
    LETTERS_BY_TIME: "zset",
    LETTERS_BYTES: "string",
    LOAD_TESTS: "zset",
    HISTORY: "stream",
    CRONS: "hash",
    SCHEDULE: "hash",
    ALERTS: "hash",
}

# What the counters of the rate limit begin with.
RATE = f"{NAME}:rate"

# Ids of jobs that are sent in bulk begin with this. They leave no dead letters, since their sender
# counts what has failed, and they would push out those that a person has to look at.
BULK_PREFIX = "bulk:"

# Ids of the jobs that tell of alerts begin with this.
ALERT_PREFIX = "alert:"

# How often arq writes what `arq --check` reads, in seconds. With its default of an hour a killed
# worker would look healthy for that long.
HEALTH_CHECK_INTERVAL = 15


def sentinel(queue_name: str) -> str:
    """Return the key that `arq --check` reads: one for each host.

    By default arq shares one among all replicas of a queue, and one that stops deletes it for all.
    """
    return f"{queue_name}:health-check:{socket.gethostname()}"


def workers(queue_name: str) -> str:
    """Return the key of the sorted set of a queue's workers, by the time of their last report."""
    return f"{NAME}:workers:{queue_name}"


def worker(queue_name: str, name: str) -> str:
    """Return the key of the record that a worker keeps of itself."""
    return f"{NAME}:worker:{queue_name}:{name}"


def load_test(run_id: str) -> str:
    """Return the key of the hash that holds a load test."""
    return f"{LOAD_TESTS}:{run_id}"


def history_row(seconds: int, start: int) -> str:
    """Return the key of the hash that counts the jobs that ended in `seconds` from `start` on."""
    return f"{HISTORY}:{seconds}:{start}"
