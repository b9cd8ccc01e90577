"""`vimto kernel ls`: what is in the cache, or in a registry's repository."""

import fnmatch
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from vimto import console, inventory
from vimto.commands.catalog import usage
from vimto.config import Config
from vimto.errors import UsageError
from vimto.inventory import show_ago
from vimto.kernel.reference import RegistryReference, parse_image
from vimto.oci.progress import show_bytes
from vimto.plan.kernels import wanted_kernel
from vimto.quoting import visible

# Each is two or three requests; docker.io lets those who are not logged in pull a hundred images.
_DESCRIBED = 100


class _Wanted(NamedTuple):
    """What is to be listed: names that fit the shell's pattern `match`, of a repository or here."""

    remote: bool = False
    repository: str = ""
    match: str = ""
    json: bool = False


def show_list(config: Config, words: Sequence[str]) -> None:
    """Print a table of all that is in the cache, or that a repository has."""
    wanted = _parse(words)
    if wanted.remote:
        _show_remote(config, wanted)
    else:
        _show_cache(config, wanted)


def _parse(words: Sequence[str]) -> _Wanted:
    wanted, rest = _Wanted(), list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        name = name.replace("--", "-", 1)
        if word in ("-json", "--json"):
            wanted = wanted._replace(json=True)
        elif name == "-remote" and (value or not equals):
            wanted = wanted._replace(remote=True, repository=value or wanted.repository)
        elif name == "-match" and (value or (rest and not equals)):
            wanted = wanted._replace(match=value or rest.pop(0))
        elif wanted.remote and not wanted.repository and not word.startswith("-") and word:
            wanted = wanted._replace(repository=word)
        else:
            raise UsageError(f"`vimto kernel ls` does not know `{word}`", hint=usage("kernel ls"))
    return wanted


def _show_cache(config: Config, wanted: _Wanted) -> None:
    """An image has a line for each of its names."""
    items = [
        (name, item)
        for item in inventory.list_items(config.cache_dir)
        for name in item.shown
        if _fits(name, wanted)
    ]
    if wanted.json:
        _show_json(
            {"name": name, "what": item.what, "size": item.size, "used": item.used,
             "busy": item.busy}
            for name, item in items
        )  # fmt: skip
        return
    rows = [
        (name, item.what, show_bytes(item.size), "now" if item.busy else show_ago(item.used))
        for name, item in items
    ]
    head = ("NAME", "WHAT", "SIZE", "USED")
    widths = [max(len(visible(row[i], keep="")) for row in (head, *rows)) for i in range(3)]
    for row in (head, *rows):
        _show_row(row, widths)
    total = sum({id(item): item.size for _, item in items}.values())
    _say(f"{show_bytes(total)} of at most {show_bytes(config.cache_limit)} in {config.cache_dir}")


def _show_remote(config: Config, wanted: _Wanted) -> None:
    from vimto.oci.registry import Registry  # they take time to load
    from vimto.oci.remote import describe_tags, list_tags

    reference = _repository(config, wanted.repository)
    with Registry(reference, insecure=config.insecure_registry) as registry:
        tags = [tag for tag in list_tags(registry) if _fits(tag, wanted)]
        bare, described = tags[:-_DESCRIBED], tags[-_DESCRIBED:]
        if bare:
            console.note(
                f"{len(tags)} tags; the sizes of the last {len(described)} are looked up, "
                "`-match '6.*'` chooses others"
            )
        images = describe_tags(registry, described)
        if wanted.json:
            _show_json([*({"tag": tag} for tag in bare), *(image._asdict() for image in images)])
            return
        widths = [max(map(len, ("TAG", *tags))), 9]
        _show_row(("TAG", "SIZE", "PLATFORMS"), widths)
        for tag in bare:
            _show_row((tag,), widths)
        for image in images:
            size = show_bytes(image.size) if image.size is not None else "-"
            platforms = " ".join(image.platforms) or "not an image"
            _show_row((image.tag, size, platforms), widths)


def _repository(config: Config, name: str) -> RegistryReference:
    """Return the repository called `name`, with or without a tag; the configured one for ""."""
    if not name and not config.kernel:
        raise UsageError("which repository? no kernel is configured", hint=usage("kernel ls"))
    kernel = parse_image(name) if name else wanted_kernel(config)
    if not isinstance(kernel, RegistryReference):
        raise UsageError(f"`{name or config.kernel}` is not in a registry", hint=usage("kernel ls"))
    return kernel


def _fits(name: str, wanted: _Wanted) -> bool:
    return not wanted.match or fnmatch.fnmatchcase(name, wanted.match)


def _show_json(items: Iterable[dict[str, Any]]) -> None:
    console.show(json.dumps(list(items), indent=2) + "\n")


def _show_row(row: tuple[str, ...], widths: Sequence[int]) -> None:
    cells = [visible(cell, keep="") for cell in row]
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
    _say("  ".join([*padded, *cells[len(padded) :]]).rstrip())


def _say(text: str) -> None:
    """Print a line to stdout: here it is the command's product, there is no test."""
    console.show(visible(text, keep="") + "\n")
