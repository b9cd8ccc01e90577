"""What depmod(8) does: the index of a directory of modules, made of what each says of itself.

Packages leave the index to their installation, images may have none, and one that is there may be
of other modules than those beside it. So we make it ourselves, whatever is there:

    CACHE/modules/KEY/modules.dep …   KEY is a digest of what the modules are
"""

import enum
import mmap
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from vimto import console
from vimto.cache import entry
from vimto.cache.digest import digest
from vimto.errors import KernelError
from vimto.files import read_file
from vimto.kernel import modules
from vimto.kernel.modules import ModuleIndex
from vimto.kernel.trie import write_trie
from vimto.limits import host_processors

# Raise it when the same modules would give another index.
_FORMAT = 1
# Of two modules of one name the one in the earlier of these counts, as depmod.d(5) has it on
# Debian (`search updates built-in`) and Fedora (`search updates extra built-in weak-updates`).
_SEARCH = ("updates", "extra", "", "weak-updates")
# Reading this many compressed ones takes seconds, and deserves a word.
_MANY = 500


# No module is as large; a file that is was not made to be read.
_LARGEST = 1 << 30
# The kernel's own modules do not change by themselves; what else is beside them may be rebuilt.
_OWN = "kernel"
_MOST_WATCHED = 64
# In a place of the index, but not for the guest: what is needed and is not there.
_MISSING = "missing"


class Facts(NamedTuple):
    """What a module says of itself: names, patterns of aliases, `softdep` lines, symbols."""

    depends: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    softdeps: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()


def read_index(directory: Path, *, cache: Path) -> ModuleIndex:
    """Read a directory `lib/modules/V`, or a kernel build tree.

    A module that is damaged is there, but says nothing. Raises `KernelError` when the directory
    cannot be read, `CacheError` where the cache cannot be written.
    """
    try:
        files = _sort(directory, list(_find_files(directory)))
        place, written = _written(directory, files, cache)
        builtin = frozenset(map(modules.normalise, _builtin_texts(directory)[0].split()))
        return ModuleIndex(
            files={modules.normalise(path.name): path for path in files},
            builtin=builtin,
            depends=dict(_read_depends(written)),
            written=written,
            place=place,
            sources=tuple(_watched(directory)),
        )
    except OSError as exc:
        raise KernelError(f"the modules in `{directory}` cannot be read: {exc.strerror}") from exc


class OwnIndex(enum.Enum):
    """What a directory of modules has for an index of its own, which vimto does without."""

    CURRENT = "current"
    STALE = "stale"
    NONE = "none"


def compare_index(directory: Path) -> OwnIndex:
    """Say whether the `modules.dep` in `directory` lists the modules that are there.

    Raises `KernelError` when the directory cannot be read.
    """
    try:
        text = os.fsdecode(read_file(directory / "modules.dep", modules.LARGEST_LIST))
    except FileNotFoundError:
        return OwnIndex.NONE
    except OSError as exc:
        raise KernelError(f"`{directory}/modules.dep` cannot be read: {exc.strerror}") from exc
    listed = {os.path.normpath(line.partition(":")[0]) for line in text.splitlines()}
    there = {str(path.relative_to(directory)) for path in _find_files(directory)}
    return OwnIndex.CURRENT if listed == there else OwnIndex.STALE


def guest_files(index: ModuleIndex, directory: Path | None) -> dict[str, bytes]:
    """Return the files of the index by name, as modprobe(8) reads them.

    With a `directory` the guest has the modules there, and not beside the index.
    """
    found = {name: content for name, content in index.written.items() if name != _MISSING}
    if directory is None:
        return found
    lines = os.fsdecode(found["modules.dep"]).splitlines(keepends=True)
    text = "".join(f"{directory}/{line.replace(' ', f' {directory}/')}" for line in lines)
    found["modules.dep"] = os.fsencode(text)
    found["modules.dep.bin"] = write_dep_trie(text)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        try:
            found[name] = read_file(directory / name, modules.LARGEST_LIST)
        except OSError:
            pass
    return found


def _find_files(directory: Path) -> Iterator[Path]:
    # `build` and `source` link to trees of 80,000 files; os.walk does not follow links.
    for place, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if not name.startswith(".")]
        for name in names:
            if modules.is_module(name):
                path = Path(place, name)
                try:
                    status = path.stat()
                except OSError:
                    continue
                if stat.S_ISREG(status.st_mode) and status.st_size <= _LARGEST:
                    yield path


def _watched(directory: Path) -> Iterator[Path]:
    """Yield what changes with the modules: a few files, and directories beside the kernel's own."""
    yield directory
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo", "modules.dep"):
        if (directory / name).exists():
            yield directory / name
    places = [Path(place) for place, _, _ in _walk_beside(directory)]
    yield from places[:_MOST_WATCHED]


def _walk_beside(directory: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    for entry_ in sorted(directory.iterdir()):
        if entry_.name == _OWN:
            yield str(entry_), [], []
        elif entry_.is_dir() and not entry_.is_symlink():
            yield from os.walk(entry_)


def _read_depends(written: Mapping[str, bytes]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each module with all that it needs, from an index."""
    missing = dict(_read_dep_lines(written[_MISSING]))
    for name, needs in _read_dep_lines(written["modules.dep"]):
        yield name, (*needs, *missing.get(name, ()))


def _read_dep_lines(content: bytes) -> Iterator[tuple[str, tuple[str, ...]]]:
    for line in content.decode("utf-8", "surrogateescape").splitlines():
        name, _, needs = line.partition(":")
        yield modules.normalise(name), tuple(map(modules.normalise, needs.split()))


def _written(directory: Path, files: Sequence[Path], cache: Path) -> tuple[Path, dict[str, bytes]]:
    """Return where the index is in the cache, and its files by name.

    They are read while it is held: whoever starts a machine needs it no longer.
    """
    while True:
        place = _make_index(directory, files, cache)
        try:
            held = entry.hold(place)
        except FileNotFoundError:  # somebody prunes the cache
            continue
        try:
            return place, {path.name: path.read_bytes() for path in place.iterdir()}
        finally:
            os.close(held)


def _make_index(directory: Path, files: Sequence[Path], cache: Path) -> Path:
    """Return the directory with the files of the index, made if the cache has it not."""
    with ThreadPoolExecutor(host_processors()) as pool:
        facts = list(pool.map(_read_plain, files))
        shapes = (
            f"{path.relative_to(directory)} {digest(repr(told).encode()) if told else _hash(path)}"
            for path, told in zip(files, facts, strict=True)
        )
        shape = "\n".join([str(_FORMAT), *shapes, *_builtin_texts(directory)])
        path = cache / "modules" / digest(os.fsencode(shape))

        def make() -> None:
            if facts.count(None) > _MANY:
                console.note(f"reading what {len(files)} kernel modules need (once)")
            whole = list(pool.map(_complete, files, facts))
            with entry.new_directory(path) as into:
                names = [str(file.relative_to(directory)) for file in files]
                for name, content in _write(names, whole, directory).items():
                    (into / name).write_bytes(content)

        return entry.make_once(path, make, waiting="another vimto reads the kernel's modules")


def _sort(directory: Path, files: Sequence[Path]) -> list[Path]:
    """Return the files in the order in which they count, one of each name."""
    try:
        text = os.fsdecode(read_file(directory / "modules.order", modules.LARGEST_LIST))
    except OSError:
        text = ""
    order = {modules.stem(line): at for at, line in enumerate(text.split())}

    def rank(path: Path) -> tuple[int, int, str]:
        relative = str(path.relative_to(directory))
        top = relative.partition("/")[0]
        place = _SEARCH.index(top if top in _SEARCH else "")
        return place, order.get(modules.stem(relative), len(order)), relative

    found: dict[str, Path] = {}
    for path in sorted(files, key=rank):
        found.setdefault(modules.normalise(path.name), path)
    return list(found.values())


def _read_plain(path: Path) -> Facts | None:
    """Return the facts of a module that is not compressed, reading those alone."""
    if path.suffix != ".ko":
        return None
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as data:
            return read_facts(data, path)
    except (OSError, ValueError, KernelError):  # ValueError: it is empty
        return Facts()


def _complete(path: Path, facts: Facts | None) -> Facts:
    try:
        return facts or read_facts(modules.read_module(path), path)
    except KernelError:
        return Facts()


def _hash(path: Path) -> str:
    try:
        return digest(read_file(path, _LARGEST))
    except OSError as exc:
        return str(exc.errno)


def read_facts(module: bytes | mmap.mmap, name: Path) -> Facts:
    """Return what a decompressed module says; raises `KernelError` for a damaged one."""
    sections = modules.read_sections(module, (".modinfo", "__ksymtab_strings"), name)
    told: dict[str, list[str]] = {"depends": [], "alias": [], "softdep": []}
    for item in _texts(sections[".modinfo"]):
        key, _, value = item.partition("=")
        if key in told:
            told[key].append(value)
    return Facts(
        tuple(modules.normalise(part) for part in ",".join(told["depends"]).split(",") if part),
        tuple(told["alias"]),
        tuple(told["softdep"]),
        tuple(sorted(set(_texts(sections["__ksymtab_strings"])))),
    )


def _texts(data: bytes) -> list[str]:
    return [text for text in data.decode("utf-8", "surrogateescape").split("\0") if text]


def _builtin_texts(directory: Path) -> list[str]:
    """Return what the kernel's build says of the modules that are built in: names, then facts."""
    found = []
    for name in ("modules.builtin", "modules.builtin.modinfo"):
        try:
            found.append(os.fsdecode(read_file(directory / name, modules.LARGEST_LIST)))
        except FileNotFoundError:
            found.append("")
    return found


def _write(names: Sequence[str], facts: Sequence[Facts], directory: Path) -> dict[str, bytes]:
    """Return the index's files by name; `names` are the modules' paths."""
    known = [modules.normalise(name) for name in names]
    aliases = [
        (alias, name) for name, told in zip(known, facts, strict=True) for alias in told.aliases
    ]
    symbols = [
        (f"symbol:{symbol}", name)
        for name, told in zip(known, facts, strict=True)
        for symbol in told.symbols
    ]
    softdeps = (
        f"softdep {name} {text}\n"
        for name, told in zip(known, facts, strict=True)
        for text in told.softdeps
    )
    depends = dict(zip(known, (told.depends for told in facts), strict=True))
    dep = write_dep(names, depends)
    builtin, modinfo = _builtin_texts(directory)
    builtin_names = [modules.normalise(line) for line in builtin.split()]
    there = {*known, *builtin_names}
    missing = {name: set(needs) - there for name, needs in depends.items()}
    nothing = {name: [(0, "")] for name in builtin_names}
    texts = {
        "modules.dep": dep,
        "modules.alias": "# Aliases extracted from modules.\n" + _alias_lines(aliases),
        "modules.symbols": "# Aliases for symbols.\n" + _alias_lines(symbols),
        "modules.softdep": "# Soft dependencies extracted from modules.\n" + "".join(softdeps),
        "modules.devname": "# Nodes to load modules.\n" + "".join(_devname_lines(known, facts)),
        _MISSING: "".join(f"{n}: {' '.join(sorted(m))}\n" for n, m in missing.items() if m),
    }
    return {
        **{name: os.fsencode(text) for name, text in texts.items()},
        "modules.dep.bin": write_dep_trie(dep),
        "modules.alias.bin": _alias_trie(aliases, known),
        "modules.symbols.bin": _alias_trie(symbols, known),
        "modules.builtin.bin": write_trie(nothing),
        "modules.builtin.alias.bin": _alias_trie(list(_builtin_aliases(modinfo)), builtin_names),
    }


def write_dep(names: Sequence[str], depends: Mapping[str, tuple[str, ...]]) -> str:
    """Return `modules.dep`: each path with those it needs, to be loaded from the last to the first.

    A dependency that is not there is left out: it may be built in.
    """
    paths = {modules.normalise(name): name for name in names}

    def visit(name: str, done: dict[str, None], above: tuple[str, ...]) -> None:
        for need in depends[name]:
            if need in paths and need not in done and need not in above:
                visit(need, done, (*above, need))
                done[need] = None

    lines = []
    for name, path in paths.items():
        done: dict[str, None] = {}
        visit(name, done, (name,))
        lines.append(f"{path}:{''.join(f' {paths[need]}' for need in reversed(done))}\n")
    return "".join(lines)


def write_dep_trie(dep: str) -> bytes:
    """Return `modules.dep.bin` for the text of `modules.dep`."""
    lines = dep.splitlines()
    return write_trie(
        {modules.normalise(line.partition(":")[0]): [(at, line)] for at, line in enumerate(lines)}
    )


def _alias_lines(pairs: Sequence[tuple[str, str]]) -> str:
    return "".join(f"alias {alias} {name}\n" for alias, name in pairs)


def _alias_trie(pairs: Sequence[tuple[str, str]], order: Sequence[str]) -> bytes:
    ranks = {name: rank for rank, name in enumerate(order)}
    found: dict[str, list[tuple[int, str]]] = {}
    for alias, name in pairs:
        found.setdefault(_normalise_alias(alias), []).append((ranks.get(name, len(ranks)), name))
    return write_trie(found)


def _normalise_alias(alias: str) -> str:
    # As libkmod does with what it is asked for: `-` is `_`, but not between brackets.
    return "".join(
        part if part.startswith("[") else part.replace("-", "_")
        for part in re.split(r"(\[[^]]*\])", alias)
    )


def _devname_lines(names: Sequence[str], facts: Sequence[Facts]) -> Iterator[str]:
    for name, told in zip(names, facts, strict=True):
        text = "\n".join(told.aliases)
        number = re.search(r"^(char|block)-major-(\d+)-(\d+)$", text, re.MULTILINE)
        node = re.search(r"^devname:(.+)$", text, re.MULTILINE)
        if number and node:
            yield f"{name} {node[1]} {number[1][0]}{number[2]}:{number[3]}\n"


def _builtin_aliases(modinfo: str) -> Iterator[tuple[str, str]]:
    # `modules.builtin.modinfo` holds `NAME.key=value` texts.
    for text in modinfo.split("\0"):
        name, _, rest = text.partition(".")
        if rest.startswith("alias="):
            yield rest.removeprefix("alias="), modules.normalise(name)
