"""One frozen configuration from five sources, the strongest last.

defaults < the user's own file < the repository's `.vimto.toml` < environment < flags
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from vimto import console
from vimto.errors import ConfigError
from vimto.files import read_file
from vimto.places import TEMPORARY
from vimto.settings import EARLIER_KERNEL, SETTINGS, Flags, Setting, near_misses
from vimto.trust import Place
from vimto.values import parse_bool

CONFIG_FILE = ".vimto.toml"
LOCK_FILE = ".vimto.lock"

DEFAULT = "default"
# The origin of what an argument of a command names, instead of a setting.
ARGUMENT = "an argument"

_LARGEST = 1 << 20


class Config(NamedTuple):
    """All settings, as the table in `vimto.settings` describes them, and where they came from.

    `memory` is in MiB, limits in bytes, times in seconds. `kernel` is as it was written; if it is
    a relative path, then to the first of `kernel_directories` that has it. `configured_kernel` is
    what a weaker source names, for `kernel = ":tag"` to change the tag of. `origins` has a text for
    each key: `default`, `FILE: key`, `$VARIABLE` or `-flag`, several of them where a list adds up.
    `file` is the repository's file and `user_file` the user's own, if there are such.
    `foreign_kernel` says that the kernel was chosen, or its registry named, by the repository and
    not by the user.
    """

    kernel: str
    memory: int
    smp: int
    cpu: str
    user: str
    sudo: bool
    setup: tuple[tuple[str, ...], ...]
    teardown: tuple[tuple[str, ...], ...]
    share: tuple[str, ...]
    disk: tuple[str, ...]
    kernel_args: tuple[str, ...]
    sysctl: tuple[str, ...]
    accel: str
    qemu: str
    device: tuple[str, ...]
    nic: tuple[str, ...]
    qemu_args: tuple[tuple[str, ...], ...]
    boot_timeout: float
    timeout: float
    stop_timeout: float
    snapshot: bool
    cache_limit: int
    snapshot_limit: int
    link_cache: bool
    link_limit: int
    pull: str
    pull_fresh: float
    image_limit: int
    insecure_registry: tuple[str, ...]
    net: str
    forward: tuple[str, ...]
    gdb: bool
    vmlinux: str
    cache_dir: Path
    verbose: int

    configured_kernel: str
    kernel_directories: tuple[Path, ...]
    foreign_kernel: bool
    file: Path | None
    user_file: Path | None
    origins: Mapping[str, str]

    @property
    def lock(self) -> Path | None:
        """Where the lock of the repository's file is, or would be; None without such a file."""
        return self.file.with_name(LOCK_FILE) if self.file else None


class _Source(NamedTuple):
    """What one source sets: parsed values, paths absolute, and the name of each one's origin.

    A kernel's path alone is relative to `directory`; with `upward` it may also be found above.
    `foreign` is whoever wrote the repository, not the user.
    """

    values: Mapping[str, Any]
    origins: Mapping[str, str]
    directory: str
    upward: bool = True
    foreign: bool = False


# The Go tool's name for `VIMTO_ACCEL=tcg`.
_DISABLE_KVM = "VIMTO_DISABLE_KVM"

_NOTHING = _Source(values=MappingProxyType({}), origins=MappingProxyType({}), directory="")


def load_config(flags: Flags, environ: Mapping[str, str], cwd: str | os.PathLike[str]) -> Config:
    """Merge all sources, the strongest last; `flags` is what `parse_flags` returned.

    The repository's file is the `.vimto.toml` in `cwd`, or else the one in the repository's root.
    Raises `ConfigError` for a file or a variable that cannot be used, and for what the repository
    asks for and only the user may.
    """
    directory = os.path.abspath(cwd)
    own, path = find_user_file(), find_config_file(directory)
    sources = [
        _read_file(own) if own else _NOTHING,
        _read_environment(environ, directory),
        _read_flags(flags, directory),
    ]
    if EARLIER_KERNEL in flags:
        # Of two flags a later `:tag` changes the tag of the earlier.
        earlier = {"kernel": flags[EARLIER_KERNEL]}
        sources.insert(-1, sources[-1]._replace(values=earlier))
    if path:
        foreign = _read_file(path)._replace(foreign=True)
        sources.insert(1, _restrict(foreign, path, sources))
    values: dict[str, Any] = {row.key: row.default for row in SETTINGS}
    origins = {row.key: DEFAULT for row in SETTINGS}
    for row in SETTINGS:
        for source in sources:
            if row.key in source.values:
                _merge(row, source, values, origins)
    _settle_user(sources, values, origins)
    values["cache_dir"] = Path(values["cache_dir"]) if values["cache_dir"] else _default_cache()
    return Config(
        **values,
        **_find_kernel_base(sources, directory),
        file=Path(path) if path else None,
        user_file=Path(own) if own else None,
        origins=MappingProxyType(origins),
    )


def _default_cache() -> Path:
    import platformdirs

    path = _absolute(platformdirs.user_cache_path)
    if path is None:
        raise ConfigError(
            "there is no home directory for the cache",
            hint="set HOME, or name a directory with `-cache-dir`",
        )
    return path


def _absolute(find: Callable[[str], Path]) -> Path | None:
    """Return what platformdirs finds; None without a home directory.

    Older versions then name a relative path. It would lead into the working directory, whose
    author would so become the author of the cache, and of what its user has said.
    """
    try:
        path = find("vimto")
    except RuntimeError:
        return None
    return path if path.is_absolute() else None


def _restrict(source: _Source, path: str, others: list[_Source]) -> _Source:
    """Return what counts of a repository's file: all, or else `ConfigError` says what may not.

    What the user has said as well, in one of the `others`, needs no permission and is dropped.
    """
    place = Place(root=find_repository(source.directory) or source.directory)
    values = dict(source.values)
    refused: list[tuple[Setting, str]] = []
    for row in SETTINGS:
        if row.key not in values:
            continue
        said = [_items(row, other) for other in others if row.key in other.values]
        granted = {_grant(item) for items in said for item in items}
        dropped = bool(said) and (not row.kind.many or not all(said[-1]))
        kept = []
        for item in _items(row, source):
            problem = row.trust.refuse(item, place)
            if not problem:
                kept.append(item)
            elif not (dropped or _grant(item) in granted or _is_default(row, item)):
                refused.append((row, problem))
        if not kept and _items(row, source):
            del values[row.key]
        elif row.kind.many:
            values[row.key] = tuple(kept)
    if refused:
        raise _refusal(path, refused)
    return source._replace(values=values)


def _items(row: Setting, source: _Source) -> tuple[Any, ...]:
    return row.kind.items(source.values[row.key])


def _is_default(row: Setting, value: Any) -> bool:
    # `vimto config >.vimto.toml` writes these too; where nothing changes, nothing is asked for.
    return bool(value == (str(_default_cache()) if row.key == "cache_dir" else row.default))


def _grant(item: Any) -> Any:
    # Who shares a directory, writable or not, has said yes to what the repository asks for; it is
    # shared as the user says.
    return item.removesuffix(":ro") if isinstance(item, str) else item


def _refusal(path: str, refused: list[tuple[Setting, str]]) -> ConfigError:
    text = _read_text(path)
    lines = dict.fromkeys(
        f"{_where(path, text, row.key)}: `{row.key}`: {problem}" for row, problem in refused
    )
    flags = ", ".join(dict.fromkeys(f"`-{row.flags[0]}`" for row, _ in refused))
    names = ", ".join(dict.fromkeys(f"`{row.variable}`" for row, _ in refused))
    own = user_file_path()
    place = f", or in your own `{own}`" if own else ""
    return ConfigError(
        f"`{path}` asks for what only you may",
        lines=tuple(lines),
        hint=f"if you trust it, say it yourself: by {flags}, by {names}{place}",
    )


def _merge(row: Setting, source: _Source, values: dict[str, Any], origins: dict[str, str]) -> None:
    value = source.values[row.key]
    origin = source.origins[row.key]
    if row.kind.many:
        kept = list(values[row.key])
        for item in value:
            if item:
                kept.append(item)
            else:
                kept, origins[row.key] = [], DEFAULT
        value = tuple(kept)
        if origins[row.key] != DEFAULT:
            origin = f"{origins[row.key]}, {origin}"
    values[row.key], origins[row.key] = value, origin


def _settle_user(sources: list[_Source], values: dict[str, Any], origins: dict[str, str]) -> None:
    """Let the stronger one of `sudo` and `user` count, so that the two never contradict."""
    if not values["sudo"] or values["user"] in ("", "root", "0"):
        return
    for source in reversed(sources):
        if source.values.get("sudo") and "user" in source.values:
            raise ConfigError(
                f"{origins['sudo']} and {origins['user']} contradict each other",
                hint='`sudo` is short for `user = "root"`',
            )
        if source.values.get("sudo"):
            values["user"], origins["user"] = "root", origins["sudo"]
            return
        if "user" in source.values:
            values["sudo"], origins["sudo"] = False, origins["user"]
            return


def _read_flags(flags: Flags, directory: str) -> _Source:
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for row in SETTINGS:
        if row.key in flags:
            origins[row.key] = f"-{row.flags[0]}"
            try:
                values[row.key] = row.kind.placed(flags[row.key], directory)
            except ValueError as exc:
                raise ConfigError(f"`{origins[row.key]}` {exc}") from None
    return _Source(values=values, origins=origins, directory=directory)


def _read_environment(environ: Mapping[str, str], directory: str) -> _Source:
    rows = {row.variable: row for row in SETTINGS}
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, text in environ.items():
        if not name.startswith("VIMTO_") or not text or name == _DISABLE_KVM:
            continue
        row = rows.get(name)
        if row is None:
            _warn_unknown(name, list(rows))
            continue
        # Lists: one item a line. Neither blanks nor colons can separate paths or commands, nor can
        # what else `str.splitlines` ends a line at (U+2028, form feeds): a name may hold it.
        parts: Any = [line for line in text.split("\n") if line] if row.kind.many else text
        try:
            values[row.key] = row.kind.placed(row.kind.parse(parts), directory)
        except ValueError as exc:
            raise ConfigError(f"${name}: `{text}` {exc}") from None
        origins[row.key] = f"${name}"
    if "accel" not in values and _is_true(environ, _DISABLE_KVM):
        values["accel"], origins["accel"] = "tcg", f"${_DISABLE_KVM}"
    return _Source(values=values, origins=origins, directory=directory)


def _is_true(environ: Mapping[str, str], name: str) -> bool:
    try:
        return parse_bool(environ.get(name) or "false")
    except ValueError as exc:
        raise ConfigError(f"${name}: `{environ[name]}` {exc}") from None


def _warn_unknown(name: str, known: list[str]) -> None:
    # No error: others may have variables of that prefix for purposes of their own.
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.85)
    end = f"did you mean `{near[0]}`?" if near else "`vimto config` lists all there are"
    console.warn(f"the variable `{name}` is not one of vimto's settings; {end}")


def find_repository(directory: str) -> str | None:
    """Return the root of the repository that `directory`, an absolute path, is in.

    That is the nearest directory upward with a `.git` (a directory, or the file that worktrees
    and submodules have); without one, the nearest with a `go.mod`. A directory for
    everybody's temporary files is not a repository, as to go it is not a module.
    """
    return find_upward(directory, ".git") or find_upward(directory, "go.mod")


def find_upward(directory: str, name: str) -> str | None:
    """Return the nearest directory from `directory` upward with a `name` in it.

    Those for everybody's temporary files do not count.
    """
    while directory in TEMPORARY or not os.path.lexists(os.path.join(directory, name)):
        parent = os.path.dirname(directory)
        if parent == directory:
            return None
        directory = parent
    return directory


def user_file_path() -> str:
    """Return where the user's own file is, or would be; "" without a home directory."""
    import platformdirs

    directory = _absolute(platformdirs.user_config_path)
    return os.fspath(directory / "config.toml") if directory else ""


def find_user_file() -> str | None:
    """Return the path of the user's own file, if there is one."""
    path = user_file_path()
    return path if path and os.path.lexists(path) else None


def find_config_file(directory: str) -> str | None:
    """Return the path of the file that counts in `directory`: its own, else the repository's."""
    for place in (directory, find_repository(directory)):
        if place is not None:
            path = os.path.join(place, CONFIG_FILE)
            if os.path.lexists(path):
                return path
    return None


def _read_file(path: str) -> _Source:
    text = _read_text(path)
    import tomllib  # 10 ms that a run without a file need not spend

    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"`{path}` is not TOML: {exc}") from exc
    except (RecursionError, ValueError) as exc:  # a number of 5,000 digits; brackets in brackets
        why = exc if isinstance(exc, ValueError) else "it is nested too deeply"
        raise ConfigError(f"`{path}` cannot be read: {why}") from exc
    rows = {row.key: row for row in SETTINGS}
    unknown = [key for key in table if key not in rows]
    if unknown:
        raise _unknown_keys(path, text, unknown, list(rows))
    values, problems = {}, []
    for key, value in table.items():
        try:
            values[key] = _parse_toml(rows[key], value, os.path.dirname(path))
        except ValueError as exc:
            problems.append(f"{_where(path, text, key)}: `{key}`: {_subject(value)} {exc}")
    if problems:
        raise ConfigError(f"`{path}` cannot be used", lines=tuple(problems))
    origins = {key: f"{path}: {key}" for key in values}
    return _Source(values=values, origins=origins, directory=os.path.dirname(path), upward=False)


def _subject(value: object) -> str:
    """Return what an error says of a TOML value: itself, as TOML writes it, if it is short."""
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    if isinstance(value, (str, int, float)):
        return f"`{value}`"
    return "an item" if isinstance(value, list) else "the value"


def _parse_toml(row: Setting, value: object, directory: str) -> Any:
    if row.kind.many and not isinstance(value, list):
        # The Go tool refuses a lone string here too: `setup = "a b"` reads like a list of words.
        raise ValueError(f"is not a list, as in `{row.key} = [{row.kind.example}]`")
    return row.kind.placed(row.kind.parse(value), directory)


def _read_text(path: str) -> str:
    try:
        data = read_file(path, _LARGEST)
    except OSError as exc:
        raise ConfigError(f"`{path}` cannot be read: {exc.strerror}") from exc
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise ConfigError(f"`{path}` is not TOML: line {line} is not UTF-8") from exc


def _unknown_keys(path: str, text: str, unknown: list[str], known: list[str]) -> ConfigError:
    lines = []
    for key in unknown:
        near = near_misses(key, known)
        end = f"; did you mean `{near[0]}`?" if near else ""
        lines.append(f"{_where(path, text, key)}: `{key}`{end}")
    what = "an unknown key" if len(unknown) == 1 else f"{len(unknown)} unknown keys"
    return ConfigError(
        f"`{path}` has {what}", lines=tuple(lines), hint="`vimto config` lists all there are"
    )


def _where(path: str, text: str, key: str) -> str:
    """Return `FILE:LINE` of a key, `FILE` alone where it is written in some unusual way."""
    name = os.path.basename(path)
    for number, line in enumerate(text.splitlines(), 1):
        word = line.strip().lstrip("[\"' ").removeprefix(key)
        if len(word) < len(line.strip().lstrip("[\"' ")) and word.lstrip("\"' ")[:1] in "=.]":
            return f"{name}:{number}"
    return name


# What has a tag to be replaced is an image's name: not `:6.12`, nor the `6.12` that CI has in
# $VIMTO_KERNEL, for tests to read.
_TAG = re.compile(r":.*|\d[\w.-]*", re.ASCII)


def _find_kernel_base(sources: list[_Source], cwd: str) -> dict[str, Any]:
    """Return what a kernel's name may need: directories, and the name of a weaker source."""
    named = [source for source in sources if "kernel" in source.values]
    if not named:
        return {
            "configured_kernel": "",
            "kernel_directories": (Path(cwd),),
            "foreign_kernel": False,
        }
    kernel = named[-1].values["kernel"]
    bases = [source for source in named[:-1] if not _TAG.fullmatch(source.values["kernel"])]
    decides = bases[-1] if bases and kernel.startswith(":") else named[-1]
    return {
        "configured_kernel": bases[-1].values["kernel"] if bases else "",
        "kernel_directories": _upward(cwd) if decides.upward else (Path(decides.directory),),
        "foreign_kernel": decides.foreign,
    }


def _upward(cwd: str) -> tuple[Path, ...]:
    """Return `cwd` and the directories above it, up to the repository's root.

    `go test -exec 'vimto -kernel ./bzImage' ./...` runs us in each package's directory, while the
    user means the one where go was started.
    """
    root = Path(find_repository(cwd) or cwd)
    directory = Path(cwd)
    return (directory, *(path for path in directory.parents if path.is_relative_to(root)))
