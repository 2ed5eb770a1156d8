"""Slow strangers at the real web server: their connections are closed, and they cost no memory."""

import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from app.cli.serve import KEEP_ALIVE_SECONDS
from app.components.backend.middleware import MAX_BODY_SECONDS
from app.components.backend.protocol import MAX_HEAD_SECONDS
from tests.faults.frame import API_KEY, trial

# For a busy machine.
MARGIN_SECONDS = 10
MAX_MEMORY_BYTES = 130_000_000
BODY_BYTES = 990_000
HEAD = b"POST /jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n" % BODY_BYTES
KEY = b"X-API-Key: " + API_KEY.encode() + b"\r\n"


def seconds_until_closed(port: int, requests: list[bytes], limit: float) -> list[float]:
    """Send the requests at once, and return after how many seconds each connection was closed."""
    closed: list[float] = []

    def talk(request: bytes) -> None:
        start = time.monotonic()
        with socket.create_connection(("127.0.0.1", port)) as client, suppress(OSError):
            # The server may have closed it before all is sent.
            with suppress(OSError):
                client.sendall(request)
            client.settimeout(limit)
            while True:
                try:
                    data = client.recv(65536)
                except ConnectionError:
                    data = b""
                if not data:
                    closed.append(time.monotonic() - start)
                    return

    threads = [threading.Thread(target=talk, args=(request,)) for request in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return closed


def test_half_sent_requests_are_closed(tmp_path: Path) -> None:
    halves = [b"", HEAD, HEAD + KEY + LENGTH + b"{"]
    limit = max(MAX_HEAD_SECONDS, MAX_BODY_SECONDS) + KEEP_ALIVE_SECONDS + MARGIN_SECONDS
    with trial(tmp_path / "trial") as run:
        web = run.web()
        closed = seconds_until_closed(web.port, halves * 100, limit)
        assert web.answers()
        print(f"\n300 half-sent requests: {len(closed)} closed, the last after {max(closed):.0f} s")
    assert len(closed) == 300


def test_bodies_without_a_key_cost_no_memory(tmp_path: Path) -> None:
    with trial(tmp_path / "trial") as run:
        web = run.web()
        process = psutil.Process(web.pid)
        most = [process.memory_info().rss]
        is_over = threading.Event()

        def watch() -> None:
            while not is_over.wait(0.02):
                most[0] = max(most[0], process.memory_info().rss)

        watching = threading.Thread(target=watch)
        watching.start()
        # The last byte of each body never comes.
        request = HEAD + LENGTH + b"x" * (BODY_BYTES - 1)
        closed = seconds_until_closed(web.port, [request] * 200, MAX_BODY_SECONDS + MARGIN_SECONDS)
        is_over.set()
        watching.join()
        assert web.answers()
        print(
            f"\n200 bodies of 990 KB without a key: {len(closed)} closed, "
            f"the last after {max(closed):.0f} s, at most {most[0] / 1e6:.0f} MB of memory"
        )
    assert len(closed) == 200
    assert most[0] < MAX_MEMORY_BYTES
