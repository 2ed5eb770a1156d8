"""A worker and a client over TLS, with a real authority and certificates for both sides."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from app.components.worker.enqueue import enqueue
from app.components.worker.queues.load_test import WorkerSettings
from app.components.worker.tasks.load_test import io_simulation_task
from app.core.redis import create_client, redis_settings
from tests.inside import servers


@pytest.mark.parametrize("both_ways", [False, True], ids=["server", "both"])
async def test_a_job_is_sent_and_run_over_tls(tmp_path: Path, both_ways: bool) -> None:
    servers.make_certificates(tmp_path)
    query = f"ssl_ca_certs={tmp_path}/ca.pem"
    if both_ways:
        query += f"&ssl_certfile={tmp_path}/client.pem&ssl_keyfile={tmp_path}/client.key"
    with (
        servers.process(tmp_path, "server") as (_, plain_port),
        servers.tls(plain_port, tmp_path, client_certificate=both_ways) as port,
    ):
        url = f"rediss://localhost:{port}/0?{query}"
        async with create_client(redis_settings(url)) as redis:
            job = await enqueue(redis, WorkerSettings, io_simulation_task)
            worker = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "arq", "app.components.worker.queues.load_test.WorkerSettings", "--burst"),
                env=os.environ | {"REDIS_URL": url},
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            _, errors = await worker.communicate()
            assert worker.returncode == 0, errors.decode()
            info = await job.result_info()
            assert info is not None
            assert info.success
        # The certificate is for localhost, not for this address.
        other = create_client(redis_settings(url.replace("localhost", "127.0.0.1")))
        async with other:
            with pytest.raises(RedisConnectionError, match="certificate verify failed"):
                await other.ping()
