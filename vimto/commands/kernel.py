"""`vimto kernel`: what is in the cache, and what a kernel brings along."""

import contextlib
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path

from vimto import console, inventory
from vimto.cache import verdicts
from vimto.cache.place import Limits
from vimto.config import ARGUMENT, Config
from vimto.errors import CacheError, ImageError, KernelError, UsageError
from vimto.inventory import Item
from vimto.kernel import boot
from vimto.kernel.boot import KernelFiles
from vimto.kernel.reference import ImageReference, LayoutReference, RegistryReference, parse_image
from vimto.oci.progress import show_bytes
from vimto.oci.store import list_images
from vimto.plan.kernels import locate_kernel, wanted_kernel
from vimto.quoting import visible

# A CI job that runs once a month still finds its kernel.
_KEPT = 30 * 86400


def pull_images(config: Config, names: Sequence[str]) -> None:
    """Fetch images, asking the registry whether or not they are here."""
    if not names and not config.kernel:
        raise UsageError("which image? none is configured")
    from vimto.oci.pull import fetch_image  # it takes time to load

    asking = config._replace(pull="always")
    wanted = [name_kernel(config, name) for name in names] or [config]
    for reference in [_image(each) for each in wanted]:
        image = fetch_image(reference, asking)
        _say(f"{reference} {image.digest} {show_bytes(image.size)}")


def name_kernel(config: Config, name: str) -> Config:
    """Return `config` with the kernel that an argument names."""
    if not name:
        raise UsageError("the kernel's name is empty")
    config = config._replace(origins={**config.origins, "kernel": ARGUMENT})
    if name.startswith(":"):  # another tag of what is configured
        base = config.configured_kernel if config.kernel.startswith(":") else config.kernel
        return config._replace(kernel=name, configured_kernel=base)
    return config._replace(kernel=name, kernel_directories=(Path.cwd(),))


def _image(config: Config) -> ImageReference:
    kernel = wanted_kernel(config)
    if not isinstance(kernel, RegistryReference | LayoutReference):
        raise UsageError(f"`{config.kernel}` is a kernel, but not an image")
    return kernel


def show_info(config: Config, words: Sequence[str]) -> None:
    """Print what a kernel is and has; fetches it if it is not here."""
    if len(words) > 1:
        raise UsageError("`vimto kernel info` describes one kernel at a time")
    config = name_kernel(config, words[0]) if words else config
    with contextlib.ExitStack() as stack:
        place = locate_kernel(config, wanted_kernel(config), stack).place
        _say(f"place     {place}")
        for image, tags in list_images(config.cache_dir):
            if image.root == place:
                _say(f"image     {', '.join(tag.reference for tag in tags) or image.reference}")
                _say(f"digest    {image.digest}")
                _say(f"size      {show_bytes(image.size)}")
        for line in describe_kernel(boot.resolve_kernel(place, cache=config.cache_dir)):
            _say(line)


def describe_kernel(files: KernelFiles) -> list[str]:
    """Return the lines of `vimto kernel info` about a resolved kernel."""
    plan = files.modules
    modules = [module.name for module in plan.modules]
    return [
        f"version   {files.release or 'unknown'}",
        f"kernel    {files.kernel}",
        f"entry     {'PVH' if files.pvh else 'BIOS (slower to boot)'}",
        f"files     {files.transport}",
        f"built in  {' '.join(plan.builtin) or 'nothing that vimto needs'}",
        f"modules   {' '.join(modules) or 'none needed'}",
        f"missing   {' '.join(plan.missing) or 'nothing'}",
        f"debug     {files.vmlinux or 'no debug symbols'}",
    ]


def remove_items(config: Config, words: Sequence[str]) -> None:
    """Remove the entries that are named; all are looked for before the first goes."""
    if not words:
        raise UsageError("which entry? `vimto kernel ls` lists them")
    items = inventory.list_items(config.cache_dir)
    for item in [_find(config, items, word) for word in words]:
        if not item.remove():
            raise CacheError(f"`{item.names[0]}` {_why_kept(item)}")
        _say_removed(item)


def _why_kept(item: Item) -> str:
    return "is in use" if item.busy else "cannot be removed: it is not this user's"


def _find(config: Config, items: list[Item], word: str) -> Item:
    """Return the entry that `word` names: wholly, or by at least six digits of its digest."""
    if not word:
        raise UsageError("an empty name names no entry", hint=_hint(word))
    if word.startswith("-"):
        raise UsageError(f"`vimto kernel rm` does not know the flag `{word}`", hint=_hint(word))
    found = [item for item in items if word in item.names]
    if not found and _DIGITS.fullmatch(word):
        start = word.removeprefix("sha256:")
        found = [item for item in items if any(name.startswith(start) for name in item.names)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"`{word}` is the start of {len(found)} names")
    return _find_image(config, items, word)


def _find_image(config: Config, items: list[Item], word: str) -> Item:
    """Return the image that `word` names in another way than `ls` does."""
    missing = CacheError(f"there is no `{word}` in the cache", hint=_hint(word))
    if _NAMED.match(word):
        raise missing
    try:
        meant = name_kernel(config, word)
        image = parse_image(
            word,
            configured=meant.configured_kernel,
            directories=meant.kernel_directories,
        )
    except KernelError as exc:
        if word.startswith(":"):
            raise
        raise missing from exc
    for item in items:
        if str(image) in item.names:
            return item
    raise ImageError(f"the image `{image}` is not on this machine", hint=_hint(word))


def _hint(word: str) -> str:
    if word in ("-all", "--all") or any(mark in word for mark in "*?"):
        return "`vimto kernel prune -all` removes all that is not in use; `rm` takes whole names"
    return "`vimto kernel ls` lists those that are"


# Digests may be given in part, tags and versions may not.
_KEYED = "vmlinux|initramfs|modules|gdb-index|snapshot|image|sha256"
_DIGITS = re.compile(rf"(({_KEYED}):)?[0-9a-f]{{6,64}}")
# What is not an image, or is a digest.
_NAMED = re.compile(rf"links$|(apt|apt-lists|agent|{_KEYED}):")


def _say_removed(item: Item) -> None:
    _say(f"removed {item.names[0]}, {visible(item.what)}, {show_bytes(item.size)}")


def prune(config: Config, words: Sequence[str]) -> None:
    """Remove what has not been used for long, with `-all` everything that is not in use."""
    everything = list(words) in (["-all"], ["--all"])
    if words and not everything:
        raise UsageError(f"`vimto kernel prune` does not know `{words[0]}`", hint="it knows `-all`")
    before = math.inf if everything else time.time() - _KEPT
    removed = inventory.prune_items(
        config.cache_dir,
        Limits(0, 0, 0)
        if everything
        else Limits(config.cache_limit, config.snapshot_limit, config.link_limit),
        before=before,
    )
    freed = 0
    for item in removed:
        freed += item.size
        _say_removed(item)
    inventory.forget(config.cache_dir, before=before)
    verdicts.acquit_all(str(config.cache_dir / "snapshots"))
    _say(f"{show_bytes(freed)} freed")
    for item in inventory.list_items(config.cache_dir) if everything else ():
        console.note(f"`{item.names[0]}` {_why_kept(item)}")


def flush_cache(config: Config, words: Sequence[str]) -> None:
    """Remove everything from the cache that is not in use."""
    _no_words("flush-cache", words)
    prune(config, ["-all"])


def _no_words(command: str, words: Sequence[str]) -> None:
    if words:
        raise UsageError(f"`{command}` takes no arguments, and there is `{words[0]}`")


def _say(text: str) -> None:
    """Print a line to stdout: here it is the command's product, there is no test."""
    console.show(visible(text, keep="") + "\n")
