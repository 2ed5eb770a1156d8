"""The operations pages: the key opens each of them."""

import asyncio

import pytest
from arq.connections import ArqRedis
from fastapi.testclient import TestClient

from app.components.backend.main import app
from app.components.dashboard.pages import PAGES
from tests.conftest import API_KEY


@pytest.mark.parametrize(("page", "title"), PAGES.items())
async def test_the_key_opens_each_page(redis: ArqRedis, page: str, title: str) -> None:
    def visit() -> tuple[str, str]:
        with TestClient(app) as browser:
            path = app.url_path_for(page)
            closed = browser.get(path).url.path
            browser.post("/ops/sign-in", data={"key": API_KEY})
            return closed, browser.get(path).text

    closed, text = await asyncio.to_thread(visit)
    assert closed == "/ops/sign-in"
    assert f'aria-current="page">{title}</a>' in text
