"""REDIS_URL: what the workers get of it, and what a wrong one says."""

from typing import Any

import pytest

from app.core.config import load_settings
from app.core.redis import describe_server, redis_settings


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost", {"host": "localhost", "port": 6379, "database": 0, "ssl": False}),
        ("redis://localhost:7000/", {"port": 7000, "database": 0}),
        ("redis://localhost/3", {"database": 3}),
        ("redis://localhost?db=4", {"database": 4}),
        ("redis://:p%40ss%2Fword@localhost", {"username": None, "password": "p@ss/word"}),
        (
            "rediss://user:secret@example.com:6380/2",
            {
                "host": "example.com",
                "port": 6380,
                "database": 2,
                "username": "user",
                "password": "secret",
                "ssl": True,
                "ssl_cert_reqs": "required",
                "ssl_check_hostname": True,
            },
        ),
        (
            "rediss://example.com?ssl_cert_reqs=none",
            {"ssl_cert_reqs": "none", "ssl_check_hostname": False},
        ),
        ("rediss://example.com?ssl_ca_certs=/ca.pem", {"ssl_ca_certs": "/ca.pem"}),
        ("unix:///run/redis.sock?db=5", {"unix_socket_path": "/run/redis.sock", "database": 5}),
    ],
)
def test_redis_url_reaches_arq_unchanged(url: str, expected: dict[str, Any]) -> None:
    settings = vars(redis_settings(url))
    assert {name: settings[name] for name in expected} == expected


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://localhost",
        "redis://",
        "unix://",
        "redis://:secret@localhost:port",
        "redis://:secret@one,two/master/0",
        "redis+sentinel://:secret@one;two/master/0",
        "redis+sentinel://:secret@one//0",
        "redis://:secret@localhost/zero",
        "redis://:secret@localhost?timeout=1",
    ],
)
def test_a_wrong_redis_url_is_named_but_not_repeated(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(SystemExit, match=r"^REDIS_URL .*URL[^\n]*$") as exit_info:
        load_settings()
    assert "secret" not in str(exit_info.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rediss://user:secret@example.com/1", "rediss://example.com:6379/1"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock?db=0"),
    ],
)
def test_a_server_is_shown_without_its_password(url: str, shown: str) -> None:
    assert describe_server(redis_settings(url)) == shown
