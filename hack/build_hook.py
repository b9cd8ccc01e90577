"""hatchling's hook: adds to what is built the guest program's source, and the commit.

Neither is a matter of `pyproject.toml` alone: the guest's tests stay behind, and the commit is
known to git only. An editable installation has both in its checkout.
"""

import os
import runpy
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# As `source_files` in vimto/plan/agent.py chooses; a test compares.
_SOURCES = (".go", ".s", "go.mod", "go.sum")


class BuildHook(BuildHookInterface):  # type: ignore[type-arg, misc]
    """The hook of both targets, `sdist` and `wheel`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Choose the files; `version` is the kind of build."""
        if version == "editable":
            return
        added: dict[str, str] = build_data["force_include"]
        if self.target_name == "wheel":
            for path in _sources(os.path.join(self.root, "guest")):
                name = os.path.relpath(path, os.path.join(self.root, "guest"))
                added[path] = os.path.join("vimto/_guest", name)
        # Named here even where it came with an sdist: both ways give the same order of files.
        commit = os.path.join(self.root, "vimto/_commit.py")
        text = _commit_module(self.root)
        if text:
            self._made = tempfile.TemporaryDirectory(prefix="vimto-build-")
            commit = os.path.join(self._made.name, "_commit.py")
            with open(commit, "w", encoding="utf-8") as file:
                file.write(text)
        if os.path.exists(commit):
            added[commit] = "vimto/_commit.py"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what `initialize` made."""
        made = getattr(self, "_made", None)
        if made is not None:
            made.cleanup()


def _sources(directory: str) -> Iterator[str]:
    for place, directories, files in os.walk(directory):
        directories.sort()
        for name in sorted(files):
            if name.endswith(_SOURCES) and not name.endswith("_test.go"):
                yield os.path.join(place, name)


def _commit_module(root: str) -> str:
    read_commit = runpy.run_path(os.path.join(root, "vimto/version.py"))["read_commit"]
    commit = read_commit(root, _run)
    if commit is None:
        return ""
    return (
        '"""What this vimto was built from; written by hack/build_hook.py."""\n\n'
        f"DIGEST = {commit.digest!r}\nMODIFIED = {commit.modified!r}\n"
    )


def _run(argv: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
