"""The releases of the template: what the changelog says of each, and its commit.

`python -m tests.releases v0.1.0` prints the notes of a release, which a workflow publishes.
"""

import re
import sys
import tomllib

from tests import harness

UNRELEASED = "Unreleased"


def read_notes() -> dict[str, str]:
    """Return the changelog's text of each version, the newest first."""
    changelog = (harness.ROOT / "CHANGELOG.md").read_text()
    _, *sections = re.split(r"(?m)^## \[(.+?)\].*$", changelog)
    return {version: text.strip() for version, text in zip(sections[::2], sections[1::2], strict=True)}


def list_releases() -> list[str]:
    """Return the released versions, the newest first."""
    return [version for version in read_notes() if version != UNRELEASED]


def find_commit(version: str) -> str:
    """Return the commit of a release: its tag's or, where there are no tags, the one that set the version.

    Raises:
        LookupError: This clone has neither.
    """
    tag = f"refs/tags/v{version}^{{commit}}"
    tagged = harness.run("git", "rev-parse", "--quiet", "--verify", tag, cwd=harness.ROOT, check=False)
    if tagged.stdout:
        return tagged.stdout.strip()
    for line in harness.git("log", "--format=%H %P", "--", "pyproject.toml", cwd=harness.ROOT).splitlines():
        commit, *parents = line.split()
        if _version_at(commit) == version and version not in map(_version_at, parents):
            return commit
    raise LookupError(f"no commit here released {version}: fetch the tags or the whole history")


def _version_at(commit: str) -> str:
    # There was none before the first one.
    return _version_in(
        harness.run("git", "show", f"{commit}:pyproject.toml", cwd=harness.ROOT, check=False).stdout
    )


def _version_in(pyproject: str) -> str:
    version: str = tomllib.loads(pyproject).get("project", {}).get("version", "")
    return version


def main() -> None:
    """Print the notes of the tag that is given.

    Raises:
        SystemExit: The changelog or pyproject.toml do not know it.
    """
    version = sys.argv[1].removeprefix("v")
    if version not in list_releases():
        raise SystemExit(f"CHANGELOG.md has no section [{version}]: write one before you tag")
    current = _version_in((harness.ROOT / "pyproject.toml").read_text())
    if version != current:
        raise SystemExit(f"pyproject.toml is at {current}, not {version}: set it before you tag")
    print(read_notes()[version])


if __name__ == "__main__":
    main()
