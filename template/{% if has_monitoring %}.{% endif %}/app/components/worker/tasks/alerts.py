"""Alerts: check the application's health, and send what has changed."""

import asyncio
import json
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import structlog
from arq.constants import job_key_prefix, result_key_prefix
from redis.exceptions import RedisError

from app import NAME
from app.components.worker.retries import try_again
from app.components.worker.threads import in_thread
from app.core.config import settings
from app.services.alerts import Change, find_changes, mark_sent, to_webhook
from app.services.health import check_health

# How long a receiver may take, in seconds.
MAX_RESPONSE_SECONDS = 5

log = structlog.stdlib.get_logger(__name__)


async def watch_health(ctx: dict[str, Any]) -> int:
    """Check the application's health, and queue a job for each change; return how many.

    It is a cron job of every queue, so that it runs while any worker does.
    """
    redis = ctx["redis"]
    report = await check_health(redis)
    changes = []
    try:
        changes = await find_changes(redis, report)
        for change in changes:
            job_id = change.job_id
            await redis.enqueue_job("send_alert", change.model_dump(), _job_id=job_id)
            # When the connection is lost, arq returns None, as for an id that is taken.
            if await redis.exists(job_key_prefix + job_id, result_key_prefix + job_id):
                await mark_sent(redis, change)
    except RedisError as error:
        # The next check finds what was not sent. A failed check would be a dead letter.
        log.error("alerts cannot be sent", problems=report.output, error=str(error))
    if report.status != "fail" and settings.HEARTBEAT_URL:
        try:
            await _request(ctx, settings.HEARTBEAT_URL.get_secret_value())
        except OSError as error:
            log.warning("the heartbeat was not received", error=str(error))
    return len(changes)


async def send_alert(ctx: dict[str, Any], change: dict[str, Any]) -> None:
    """Log a change of an alert, and post it to `ALERT_WEBHOOK_URL`.

    Raises:
        arq.Retry: The receiver does not take it.
        OSError: It did not at the last try either.
    """
    alert = Change.model_validate(change)
    if ctx["job_try"] == 1:
        write = log.warning if alert.status == "firing" else log.info
        write("alert", alert=alert.name, status=alert.status, summary=alert.summary)
    if settings.ALERT_WEBHOOK_URL:
        body = json.dumps(to_webhook(alert)).encode()
        try:
            await _request(ctx, settings.ALERT_WEBHOOK_URL.get_secret_value(), body)
        except OSError as error:
            raise try_again(ctx, error) from None


async def _request(ctx: dict[str, Any], url: str, body: bytes | None = None) -> None:
    # The limit of `urlopen` is for each packet.
    async with asyncio.timeout(MAX_RESPONSE_SECONDS):
        await in_thread(ctx, _open, url, body)


def _open(url: str, body: bytes | None) -> None:
    headers = {"Content-Type": "application/json", "User-Agent": NAME}
    # The settings take http and https only.
    request = Request(url, body, headers)  # noqa: S310
    try:
        with urlopen(request, timeout=MAX_RESPONSE_SECONDS) as response:  # noqa: S310
            if response.url != request.full_url:
                # After a redirect `urlopen` sends no body.
                raise OSError("the server redirects: set the URL that it redirects to")
    except HTTPError as error:
        error.close()
        raise OSError(f"the response was {error.code}") from None
    except (HTTPException, ValueError) as error:
        # The second is for a redirect to what is no address.
        raise OSError(type(error).__name__) from None
