"""A commented queue: uncommenting it by hand gives the `run` render."""

from pathlib import Path

import pytest

from tests import harness


def without_answers(project: Path) -> dict[str, bytes]:
    """Return the files of a project but for the one that remembers the answers."""
    files = harness.tree(project)
    del files[".copier-answers.yml"]
    return files


@pytest.mark.parametrize("queue", harness.CATALOGUE)
def test_uncommented_by_hand(template: Path, tmp_path: Path, queue: str) -> None:
    other = {"queue_system": "run"} if queue != "system" else {"queue_load_test": "run"}
    project = harness.render(template, tmp_path / "commented", other | {f"queue_{queue}": "commented"})
    wanted = harness.render(template, tmp_path / "run", other | {f"queue_{queue}": "run"})
    assert without_answers(project) != without_answers(wanted)

    harness.uncomment(project, queue)

    assert without_answers(project) == without_answers(wanted)
