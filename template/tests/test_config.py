"""Settings: what a wrong one says."""

import pytest

from app.core.config import load_settings


def test_every_mistake_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "eighty")
    monkeypatch.setenv("LOG_FORMAT", "xml")
    with pytest.raises(SystemExit) as exit_info:
        load_settings()
    lines = str(exit_info.value).splitlines()
    assert [line.split()[0] for line in lines] == ["PORT", "LOG_FORMAT"]
