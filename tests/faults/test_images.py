"""Hostile images at a real worker: each fails within its limit, and no other waits for long."""

import time
from pathlib import Path
from typing import Any

import msgpack
from PIL import Image

from app.services.image_process import ELAPSED_PER_CPU_SECOND
from tests.faults.frame import ROOT, trial, wait_until
from tests.inside.pictures import jpeg_of_empty_scans

QUEUE = "arq:queue:media"
CPU_SECONDS = 3
SETTINGS = "app.components.worker.queues.media.WorkerSettings"


def test_hostile_images_fail_within_their_limit(tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.mkdir()
    (media / "scans.jpg").write_bytes(jpeg_of_empty_scans(50_000))
    Image.new("RGB", (400, 300), "red").save(media / "good.png")
    with trial(tmp_path / "trial") as run:
        worker = run.start_worker(
            SETTINGS, ROOT, MEDIA_DIR=str(media), MEDIA_CPU_SECONDS=str(CPU_SECONDS)
        )
        client = run.server.client
        kinds = {f"hostile-{n}": "scans.jpg" for n in range(4)}
        kinds |= {f"good-{n}": "good.png" for n in range(8)}
        now = int(time.time() * 1000)
        for name, source in kinds.items():
            arguments = [source, f"{name}.small.png"]
            job: dict[str, Any] = {
                "t": None,
                "f": "make_thumbnail",
                "a": arguments,
                "k": {},
                "et": now,
            }
            client.set(f"arq:job:{name}", msgpack.packb(job))
        client.zadd(QUEUE, dict.fromkeys(kinds, now))
        start = time.monotonic()
        wait_until(
            lambda: all(client.exists(f"arq:result:{name}") for name in kinds),
            "not every image has a result",
            # Two work at a time.
            4 / 2 * CPU_SECONDS * ELAPSED_PER_CPU_SECOND + 30,
        )
        seconds = time.monotonic() - start
        assert worker.poll() is None
        succeeded = {
            name
            for name in kinds
            if msgpack.unpackb(client.get(f"arq:result:{name}"), strict_map_key=False)["s"]  # type: ignore[arg-type]
        }
        wait_until(lambda: len(run.letters()) == 4, "a hostile image leaves no dead letter")
    print(f"\n4 hostile images of 12: {len(succeeded)} succeeded, all ended after {seconds:.0f} s")
    assert succeeded == {name for name in kinds if name.startswith("good")}
    assert len(list(media.iterdir())) == 2 + 8
