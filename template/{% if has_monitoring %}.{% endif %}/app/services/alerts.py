"""Alerts without Prometheus: each change of health is sent once, whichever workers run.

A cron job of every queue checks the application's health. One script in Redis compares what it
found with the alerts that are known, so that only one check sees each change.
"""

from datetime import UTC, datetime
from typing import Any

from arq.connections import ArqRedis
from pydantic import AwareDatetime, BaseModel, ValidationError

from app import NAME
from app.core import keys
from app.core.scripts import run_script
from app.services.health import HealthReport
from app.services.jobs import or_empty

# Checks are 10 s apart. A problem counts when a second check finds it: a rolling restart of a
# worker takes less. A recovery counts in the same way.
HOLD_SECONDS = 8
# An alert that was resolved does not fire again for this long.
QUIET_SECONDS = 120
# What Alertmanager writes for an alert that has not ended.
NOT_ENDED = "0001-01-01T00:00:00Z"


class Change(BaseModel):
    """An alert that fires, or that is resolved."""

    name: str
    status: str
    since: float
    summary: str

    @property
    def job_id(self) -> str:
        """The id of the job that sends it: arq takes an id once."""
        return f"{keys.ALERT_PREFIX}{self.name}:{self.since:.0f}:{self.status}"


class KnownAlert(BaseModel):
    """What the scripts keep of an alert, as far as it is shown."""

    firing: bool
    since: AwareDatetime


async def find_changes(redis: ArqRedis, report: HealthReport) -> list[Change]:
    """Compare a report with the known alerts, and return the changes that were not sent yet."""
    problems = {
        name: next((check.output or check.status for check in checks if check.status != "pass"), "")
        for name, checks in report.checks.items()
    }
    if not any(check.status == "fail" for check in report.checks["redis"]):
        # A queue that was removed has no problem any more.
        for name in await or_empty(redis.hkeys(keys.ALERTS), []):
            problems.setdefault(name.decode(errors="replace"), "")
    arguments: list[Any] = [HOLD_SECONDS, QUIET_SECONDS]
    for name, problem in problems.items():
        arguments += name, problem
    reply = await run_script(redis, "change_alerts", [keys.ALERTS], arguments)
    texts = [part.decode() for part in reply]
    return [
        Change(
            name=name,
            status=status,
            since=float(since),
            summary=problems[name] if status == "firing" else "resolved",
        )
        for name, since, status in zip(texts[::3], texts[1::3], texts[2::3], strict=True)
    ]


async def mark_sent(redis: ArqRedis, change: Change) -> None:
    """Keep later checks from returning a change again."""
    await run_script(redis, "mark_alert_sent", [keys.ALERTS], [change.name, change.status])


async def read_since(redis: ArqRedis) -> dict[str, datetime]:
    """Return since when each alert has been firing that does."""
    found = {}
    for name, text in (await or_empty(redis.hgetall(keys.ALERTS), {})).items():
        try:
            alert = KnownAlert.model_validate_json(text)
        except ValidationError:
            # Another program has written it.
            continue
        if alert.firing:
            found[name.decode(errors="replace")] = alert.since
    return found


def to_webhook(change: Change) -> dict[str, Any]:
    """Return a change as Alertmanager's webhook sends it (version 4), which many receivers take."""
    labels = {"alertname": change.name, "service": NAME}
    annotations = {"summary": change.summary}
    is_firing = change.status == "firing"
    alert = {
        "status": change.status,
        "labels": labels,
        "annotations": annotations,
        "startsAt": datetime.fromtimestamp(change.since, UTC).isoformat(),
        "endsAt": NOT_ENDED if is_firing else datetime.now(UTC).isoformat(),
        "generatorURL": "",
        "fingerprint": f"{NAME}:{change.name}",
    }
    return {
        "version": "4",
        "groupKey": f"{NAME}:{change.name}",
        "truncatedAlerts": 0,
        "status": change.status,
        "receiver": NAME,
        "groupLabels": {"alertname": change.name},
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": "",
        "alerts": [alert],
    }
