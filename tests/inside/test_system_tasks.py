"""The cleanup never leaves its directory, and the settings never name one that others need."""

import os
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.components.worker.queues.system import WorkerSettings
from app.components.worker.tasks.system import cleanup_temp_files
from app.core.config import load_settings, settings
from app.core.directories import own_directory
from tests.test_system import write

PROJECT = Path.cwd()


@pytest.fixture
def temp_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "temp"
    directory.mkdir()
    monkeypatch.setattr(settings, "TEMP_DIR", directory)
    return directory


def test_both_tasks_are_cron_jobs() -> None:
    names = {job.name for job in WorkerSettings.cron_jobs}
    assert names >= {"cron:system_health_check", "cron:cleanup_temp_files"}


async def test_links_are_neither_followed_nor_deleted(
    ctx: dict[str, Any], temp_dir: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside" / "old"
    write(outside, age_hours=25)
    (temp_dir / "directory").symlink_to(outside.parent)
    (temp_dir / "file").symlink_to(outside)
    cleanup = await cleanup_temp_files(ctx, max_age_hours=0)
    assert cleanup["removed"] == []
    assert outside.exists()
    assert (temp_dir / "file").is_symlink()


async def test_a_directory_that_is_a_link_is_left_alone(
    ctx: dict[str, Any], temp_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(temp_dir / "old", age_hours=25)
    (tmp_path / "link").symlink_to(temp_dir)
    monkeypatch.setattr(settings, "TEMP_DIR", tmp_path / "link")
    assert (await cleanup_temp_files(ctx))["removed_count"] == 0
    assert (temp_dir / "old").exists()


@pytest.fixture(params=["tmpfs", "bind"])
def mount(request: pytest.FixtureRequest, temp_dir: Path, tmp_path: Path) -> Iterator[Path]:
    """A mount below the directory, of another file system or of the same one."""
    (tmp_path / "other").mkdir()
    point = temp_dir / "mounted point"
    point.mkdir()
    options = ["--bind", tmp_path / "other"] if request.param == "bind" else ["-t", "tmpfs", "none"]
    if subprocess.run(["mount", *options, point], capture_output=True).returncode:  # noqa: S603, S607
        pytest.skip("mounting needs more rights than this test has")
    yield point
    subprocess.run(["umount", point], check=True)  # noqa: S603, S607


async def test_what_is_mounted_is_left_alone(
    ctx: dict[str, Any], temp_dir: Path, mount: Path
) -> None:
    write(mount / "old", age_hours=25)
    write(temp_dir / "old", age_hours=25)
    assert (await cleanup_temp_files(ctx))["removed"] == ["old"]
    assert (mount / "old").exists()


async def test_a_checkout_is_left_alone(ctx: dict[str, Any], temp_dir: Path) -> None:
    write(temp_dir / "old", age_hours=25)
    write(temp_dir / "a/b/old", age_hours=25)
    write(temp_dir / "c/old", age_hours=25)
    (temp_dir / "a/.git").mkdir()
    # That of a worktree is a file.
    (temp_dir / "c/.git").touch()
    cleanup = await cleanup_temp_files(ctx)
    assert cleanup["removed"] == ["old"]
    checkouts = [f"{temp_dir}/{name}: it is a checkout" for name in "ac"]
    assert sorted(cleanup["errors"]) == checkouts


async def test_a_missing_directory_holds_nothing(
    ctx: dict[str, Any], temp_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "TEMP_DIR", temp_dir / "missing")
    assert (await cleanup_temp_files(ctx))["removed_count"] == 0


async def test_a_name_of_any_bytes_can_be_a_result(ctx: dict[str, Any], temp_dir: Path) -> None:
    write(temp_dir / os.fsdecode(b"caf\xe9"), age_hours=25)
    assert (await cleanup_temp_files(ctx))["removed"] == ["caf\\xe9"]


async def test_a_deep_tree_is_told_and_does_not_fail(ctx: dict[str, Any], temp_dir: Path) -> None:
    write(temp_dir / "old", age_hours=25)
    here = os.open(temp_dir, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    cleanup = await cleanup_temp_files(ctx)
    assert cleanup["removed"] == ["old"]
    subprocess.run(["rm", "-r", temp_dir / "d"], check=True)  # noqa: S603, S607


@pytest.mark.parametrize("age", [-1, float("nan"), float("inf"), 86_400 * 365])
async def test_an_age_that_is_none_is_refused(
    ctx: dict[str, Any], temp_dir: Path, age: float
) -> None:
    write(temp_dir / "old", age_hours=25)
    with pytest.raises(ValueError, match="cannot be negative"):
        await cleanup_temp_files(ctx, max_age_hours=age)
    assert (temp_dir / "old").exists()


DANGEROUS = ["", ".", "..", "../..", "/", "~", "/home", "/etc", "/etc/ssl", "/usr/share/x", "/var"]
DANGEROUS += ["app", "app/core", "tests", "docs", ".git", ".venv", "data/../tests/x", "a/.git/x"]
DANGEROUS += ["/tmp", "/var/tmp", "/dev/shm"]  # noqa: S108 - they are refused
DANGEROUS += ["data", "data/valkey", "data/valkey/x", " ", "data/tmp ", "/mnt", "/var/lib/docker/x"]
DANGEROUS += ["App", "/home/ada", "~/Documents"]
DANGEROUS += ["/root/.ssh", "/home/ada/.ssh/x", "/home/ada/Documents", "/var/lib/mysql/x"]
DANGEROUS += ["~/.ssh", "~/.config/x", "pyproject.toml", "pyproject.toml/x", "x" * 5000]
DANGEROUS += ["/proc/self", sysconfig.get_path("stdlib"), str(PROJECT), str(PROJECT.parent)]


@pytest.mark.parametrize("value", DANGEROUS)
@pytest.mark.parametrize("name", ["TEMP_DIR", "MEDIA_DIR"])
def test_a_directory_that_others_need_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=rf"^{name} in the environment or in \.env: [^\n]*$"):
        load_settings()


@pytest.mark.parametrize("mark", [".git", ".env", "pyproject.toml"])
def test_a_checkout_and_a_link_to_it_are_refused(tmp_path: Path, mark: str) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "work")
    assert own_directory(tmp_path / "link") == tmp_path / "work"
    (tmp_path / "work" / mark).touch()
    for path in (tmp_path / "work", tmp_path / "link"):
        with pytest.raises(ValueError, match=f"contains {mark}, and jobs"):
            own_directory(path)


@pytest.mark.parametrize("place", ["", "app", "app/core"])
def test_a_second_name_of_the_project_is_refused(tmp_path: Path, place: str) -> None:
    mount = ["mount", "--bind", str(PROJECT), str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:  # noqa: S603
        pytest.skip("mounting needs more rights than this test has")
    try:
        with pytest.raises(ValueError, match=r"is inside|is or contains"):
            own_directory(tmp_path / place)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)  # noqa: S603, S607


def test_a_directory_of_another_checkout_is_refused(tmp_path: Path) -> None:
    assert own_directory(tmp_path / "work/src") == tmp_path / "work/src"
    (tmp_path / "work/.git").mkdir(parents=True)
    with pytest.raises(ValueError, match=rf"is inside the checkout {tmp_path}/work, and jobs"):
        own_directory(tmp_path / "work/src")


def test_a_project_among_the_system_s_files_has_its_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.core.directories._PROJECT", Path("/usr/src/shop"))
    assert own_directory(Path("/usr/src/shop/data/tmp")) == Path("/usr/src/shop/data/tmp")
    for path in ("/usr/src", "/usr/src/other", "/usr/src/shop/app", "/usr/src/shop/.venv"):
        with pytest.raises(ValueError, match=r"is inside|is or contains"):
            own_directory(Path(path))


def test_images_are_kept_out_of_the_cleanup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMP_DIR", "data/files")
    monkeypatch.setenv("MEDIA_DIR", "data/files/media")
    with pytest.raises(SystemExit, match="MEDIA_DIR is inside TEMP_DIR"):
        load_settings()
    monkeypatch.setenv("MEDIA_DIR", "/srv/media")
    assert load_settings().TEMP_DIR == PROJECT / "data/files"
