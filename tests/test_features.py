"""The list of what the operations pages do names tests that exist."""

import re

from tests import harness


def test_each_feature_names_tests_that_exist() -> None:
    rows = (harness.ROOT / "tests/docs/features.md").read_text().splitlines()[7:]
    sources = "\n".join(path.read_text() for path in (harness.ROOT / "tests").rglob("test_*.py"))
    existing = set(re.findall(r"def (test_\w+)", sources))
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named or "| - (" in row, row
        assert set(named) <= existing, row
