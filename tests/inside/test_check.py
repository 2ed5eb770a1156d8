"""`python -m app.check` beside `arq --check`: the same truth on every server, at a low cost."""

import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from app.core import keys
from app.core.config import settings
from tests.inside import servers

SETTINGS = {"REDIS_URL", "API_KEY", "ENV_FILE"}
CHECK = ("-m", "app.check")
STOCK = ("-m", "arq", "app.components.worker.queues.system.WorkerSettings", "--check")
SENTINEL = keys.sentinel("arq:queue:system")
REPORT = "Nov-25 13:00:00 j_complete=1 j_failed=0 j_retried=0 j_ongoing=0 queued=0"
PASSWORD = "p@ss/w:rd %41é"  # noqa: S105 - of a server that lives as long as a test
ENCODED = "p%40ss%2Fw%3Ard%20%2541%C3%A9"


def run(
    *command: str, cwd: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run Python with no other settings than these."""
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return subprocess.run(  # noqa: S603 - the test's own words
        [sys.executable, *command],
        env=environment | variables,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[str, str]]]:
    """For each kind of server the URL under test, and a plain one for the same server."""
    directory = tmp_path_factory.mktemp("servers")
    (certificates := directory / "certificates").mkdir()
    servers.make_certificates(certificates)
    (plain := directory / "plain").mkdir()
    with (
        servers.valkey(plain) as port,
        servers.tls(port, certificates) as tls_port,
        servers.tls(port, certificates, client_certificate=True) as mutual_port,
    ):
        direct = f"redis://:{ENCODED}@127.0.0.1:{port}"
        with Redis(port=port) as client:
            client.config_set("requirepass", PASSWORD)
            client.execute_command("AUTH", PASSWORD)
            client.execute_command("ACL", "SETUSER", "worker", "on", f">{PASSWORD}", "~*", "+@all")
        ca = f"ssl_ca_certs={certificates}/ca.pem"
        client_pair = (
            f"ssl_certfile={certificates}/client.pem&ssl_keyfile={certificates}/client.key"
        )
        yield {
            "unix": (settings.REDIS_URL, settings.REDIS_URL),
            "password": (direct, direct),
            "user": (f"redis://worker:{ENCODED}@127.0.0.1:{port}/0", direct),
            "database": (f"{direct}/3", f"{direct}/3"),
            "TLS": (f"rediss://:{ENCODED}@localhost:{tls_port}/0?{ca}", direct),
            "TLS unverified": (
                f"rediss://:{ENCODED}@127.0.0.1:{tls_port}/0?ssl_cert_reqs=none",
                direct,
            ),
            "TLS both ways": (
                f"rediss://:{ENCODED}@localhost:{mutual_port}/0?{ca}&{client_pair}",
                direct,
            ),
            # Refused: for another host, of an unknown authority, without the client's certificate.
            "other host": (f"rediss://:{ENCODED}@127.0.0.1:{tls_port}/0?{ca}", direct),
            "unknown authority": (f"rediss://:{ENCODED}@localhost:{tls_port}/0", direct),
            "no client certificate": (
                f"rediss://:{ENCODED}@localhost:{mutual_port}/0?{ca}",
                direct,
            ),
        }


@pytest.mark.parametrize(
    "kind", ["unix", "password", "user", "database", "TLS", "TLS unverified", "TLS both ways"]
)
def test_it_says_what_the_stock_check_says(urls: dict[str, tuple[str, str]], kind: str) -> None:
    url, writer = urls[kind]
    with Redis.from_url(writer) as client:
        client.delete(SENTINEL)
        done = run(*CHECK, "system", REDIS_URL=url)
        assert (done.returncode, run(*STOCK, REDIS_URL=url).returncode) == (1, 1)
        assert done.stderr == "system: no worker on this host has reported lately.\n"
        assert run(*CHECK, "--live", "system", REDIS_URL=url).returncode == 1
        client.set(SENTINEL, REPORT)
        for name in ("system", "arq:queue:system"):
            done = run(*CHECK, name, REDIS_URL=url)
            assert (done.returncode, done.stdout, done.stderr) == (0, f"{name}: {REPORT}\n", "")
        assert run(*STOCK, REDIS_URL=url).returncode == 0
        client.set(SENTINEL, "\x1b[2J\u202e")
        assert run(*CHECK, "system", REDIS_URL=url).stdout == "system: \\x1b[2J\\u202e\n"
        assert run(*CHECK, "media", REDIS_URL=url).returncode == 1


def test_what_is_no_report_is_none(urls: dict[str, tuple[str, str]]) -> None:
    url = urls["password"][0]
    with Redis.from_url(url) as client:
        client.set(SENTINEL, "")
        for _ in range(2):
            done = run(*CHECK, "system", REDIS_URL=url)
            assert (done.returncode, run(*STOCK, REDIS_URL=url).returncode) == (1, 1)
            assert done.stderr == "system: no worker on this host has reported lately.\n"
            client.delete(SENTINEL)
            client.lpush(SENTINEL, "of another type")
        client.delete(SENTINEL)


@pytest.mark.parametrize("kind", ["other host", "unknown authority", "no client certificate"])
def test_it_trusts_no_more_than_the_stock_check(
    urls: dict[str, tuple[str, str]], kind: str
) -> None:
    url, writer = urls[kind]
    with Redis.from_url(writer) as client:
        client.set(SENTINEL, REPORT)
    done = run(*CHECK, "system", REDIS_URL=url)
    assert done.returncode == 1
    assert done.stderr.startswith("Redis does not answer (")
    assert done.stderr.count("\n") == 1


def test_a_wrong_password_is_named_but_not_shown(urls: dict[str, tuple[str, str]]) -> None:
    url = urls["password"][0].replace(ENCODED, "wrong-password")
    for options, status in (((), 1), (("--live",), 0)):
        done = run(*CHECK, *options, "system", REDIS_URL=url)
        assert done.returncode == status
        assert "WRONGPASS" in done.stderr
        assert "wrong-password" not in done.stderr
        assert done.stderr.count("\n") == 1


def test_an_outage_fails_the_check_but_not_liveness() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        for url in (
            "redis://127.0.0.1:1",
            "unix:///nowhere.sock",
            "rediss://127.0.0.1:1",
            f"redis://{address}",
            # Each of these takes a time-out, and a host name can take longer than a probe waits.
            f"redis+sentinel://{','.join([address] * 4)}/main",
        ):
            for options, status in (((), 1), (("--live",), 0)):
                began = time.monotonic()
                done = run(*CHECK, *options, "system", REDIS_URL=url)
                assert done.returncode == status, url
                assert done.stderr.startswith("Redis does not answer (")
                # A probe's time-out is longer than its own.
                assert time.monotonic() - began < 10


def test_a_worker_that_cannot_report_is_not_restarted() -> None:
    with Redis.from_url(settings.REDIS_URL) as client:
        client.flushdb()
        client.config_set("maxmemory", 1)
        try:
            codes = [
                run(*CHECK, *options, "system", REDIS_URL=settings.REDIS_URL).returncode
                for options in ([], ["--live"])
            ]
        finally:
            client.config_set("maxmemory", 0)
        assert codes == [1, 0]
        assert run(*CHECK, "--live", "system", REDIS_URL=settings.REDIS_URL).returncode == 1


def test_mistakes_are_one_line() -> None:
    for url in ("http://host", "redis://", "redis://h:x", "redis+sentinel://h", "rediss://h?a=b"):
        done = run(*CHECK, "system", REDIS_URL=url)
        assert done.returncode == 1, url
        assert done.stderr.count("\n") == 1, done.stderr
    for arguments in ((), ("--check",), ("system", "media"), ("--live",)):
        assert run(*CHECK, *arguments, REDIS_URL=settings.REDIS_URL).returncode == 2


def test_secrets_can_be_in_files(urls: dict[str, tuple[str, str]], tmp_path: Path) -> None:
    url = urls["password"][0]
    with Redis.from_url(url) as client:
        client.set(SENTINEL, REPORT)
    password, whole = tmp_path / "password", tmp_path / "url"
    (blob := tmp_path / "blob").write_bytes(b"\xff")
    (empty := tmp_path / "empty").write_text("\n")
    password.write_text(f"{PASSWORD}\n")
    whole.write_text(f"{url}\n")
    nowhere = str(tmp_path / "nowhere")
    without = url.replace(f":{ENCODED}@", "")
    for command in ((*CHECK, "system"), STOCK):
        assert run(*command, REDIS_URL=without, REDIS_PASSWORD_FILE=str(password)).returncode == 0
        assert run(*command, REDIS_URL_FILE=str(whole)).returncode == 0
        done = run(*command, REDIS_URL=without, REDIS_PASSWORD_FILE=nowhere)
        assert done.returncode == 1
        assert f"REDIS_PASSWORD_FILE: cannot read {str(nowhere)!r} (No such file" in done.stderr
        done = run(*command, REDIS_URL=without, REDIS_PASSWORD_FILE=str(blob))
        assert "it is not text in UTF-8" in done.stderr
        done = run(*command, REDIS_URL=without, REDIS_PASSWORD_FILE=str(empty))
        assert done.returncode == 1
        assert "empty' is empty: write the secret into it" in done.stderr
        done = run(*command, REDIS_URL=url, REDIS_URL_FILE=str(whole))
        assert done.returncode == 1
        assert "REDIS_URL and REDIS_URL_FILE are both set: unset one of them" in done.stderr
        assert PASSWORD not in done.stderr


def test_a_key_can_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a-key-from-a-file\n")
    code = "from app.core.config import settings; print(settings.API_KEY.get_secret_value())"
    done = run("-c", code, API_KEY_FILE=str(tmp_path / "key"))
    assert done.stdout == "a-key-from-a-file\n"


def test_an_env_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "env").write_bytes(b"PORT=\xff")
    done = run("-c", "import app.core.config", ENV_FILE=str(tmp_path / "env"))
    assert done.returncode == 1
    assert done.stderr == "cannot read .env: it is not text in UTF-8\n"


def test_it_finds_the_server_of_the_env_file(
    tmp_path: Path, urls: dict[str, tuple[str, str]]
) -> None:
    url = urls["password"][0]
    with Redis.from_url(url) as client:
        client.set(SENTINEL, REPORT)
    (tmp_path / ".env").write_text(f"export REDIS_URL='{url}'  # a comment\n")
    (tmp_path / "app").symlink_to(Path("app").resolve())
    for command in ((*CHECK, "system"), STOCK):
        assert run(*command, cwd=tmp_path).returncode == 0


def test_it_is_cheap(capsys: pytest.CaptureFixture[str]) -> None:
    """What it imports decides. The figure is printed, since a busy machine changes it."""
    imported = run("-X", "importtime", *CHECK, "system", REDIS_URL=settings.REDIS_URL).stderr
    modules = {line.rpartition("|")[2].strip() for line in imported.splitlines() if "|" in line}
    assert modules & {"app.core.keys", "app.core.redis_url"} == {
        "app.core.keys",
        "app.core.redis_url",
    }
    heavy = {
        "arq",
        "redis",
        "pydantic",
        "structlog",
        "asyncio",
        "ssl",
        "typing",
        "argparse",
        "pathlib",
    }
    assert modules & heavy == set()
    assert not [name for name in modules if name.startswith(("app.components", "app.services"))]

    def cost(*command: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(*command, REDIS_URL=settings.REDIS_URL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    cheap = statistics.median(cost(*CHECK, "system") for _ in range(5))
    stock = cost(*STOCK)
    with capsys.disabled():
        print(f"\napp.check: {cheap:.0f} ms of CPU, median of 5; arq --check: {stock:.0f} ms")  # noqa: T201
    assert cheap < stock / 4
