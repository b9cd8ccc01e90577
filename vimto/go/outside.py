"""What lies outside of a repository and belongs to it, by the repository's own files.

They are read without git and go: `vimto exec` needs neither.
"""

import os
import re
from collections.abc import Iterator, Mapping

from vimto.config import find_repository, find_upward
from vimto.files import read_file

# As go.mod and go.work are split (golang.org/x/mod/modfile): two kinds of quotes, and comments.
_TOKEN = re.compile(r'//.*|"((?:[^"\\]|\\.)*)"|`([^`]*)`|([()])|([^\s()"`]+)')


def find_outside(directory: str, environ: Mapping[str, str]) -> list[str]:
    """Return the paths, absolute, that belong to the repository and the module at `directory`.

    They are the git directories of a linked worktree or a submodule, those that objects are
    borrowed from, the modules of a workspace, and directories that replace a module. What a file
    names is returned whether it is there or not, or inside of the repository.
    """
    repository = find_repository(directory)
    found = list(_git_directories(repository)) if repository else []
    modules = {find_upward(directory, "go.mod")}
    workspace = environ.get("GOWORK", "")
    if not workspace:
        base = find_upward(directory, "go.work")
        workspace = os.path.join(base, "go.work") if base else "off"
    if workspace != "off":
        used = _directories(workspace, "use")
        found += [*used, *_directories(workspace, "replace")]
        modules.update(used)
    for module in sorted(filter(None, modules)):
        found += _directories(os.path.join(module, "go.mod"), "replace")
    return found


def _git_directories(repository: str) -> Iterator[str]:
    """Find the places of gitrepository-layout(5) that are not in the working tree."""
    place = os.path.join(repository, ".git")
    text = _read(place)
    if text.startswith("gitdir:"):
        place = os.path.join(repository, text.removeprefix("gitdir:").strip())
        yield place
        common = _read(os.path.join(place, "commondir")).strip()
        if common:
            place = os.path.join(place, common)
            yield place
    objects = os.path.join(place, "objects")
    for line in _read(os.path.join(objects, "info/alternates")).split("\n"):
        if line and not line.startswith("#"):
            yield os.path.join(objects, line)


def _directories(path: str, verb: str) -> list[str]:
    """Return the directories that the directives `verb` of a go.mod or go.work name."""
    found, block = [], ""
    for line in _read(path).split("\n"):
        words = ["".join(match.groups("")) for match in _TOKEN.finditer(line)]
        words = [word for word in words if word]
        if words == [")"]:
            block = ""
        elif words[1:] == ["("]:
            block = words[0]
        elif words and verb in (block, words[0]):
            name = words[words.index("=>") + 1 :][:1] if "=>" in words else words[-1:]
            # What begins otherwise is a module's path (modfile.IsDirectoryPath).
            if verb == "use" or (name and name[0].startswith((".", "/"))):
                found += [os.path.join(os.path.dirname(path), part) for part in name]
    return found


def _read(path: str) -> str:
    try:
        return read_file(path, 1 << 20).decode("utf-8", "surrogateescape")
    except OSError:
        return ""
