"""`vimto kernel lock`: writes down what the names in `.vimto.toml` mean now."""

from collections.abc import Sequence

from vimto import console
from vimto.commands.catalog import usage
from vimto.config import CONFIG_FILE, Config
from vimto.errors import ConfigError, UsageError
from vimto.kernel.reference import RegistryReference
from vimto.plan.kernels import named_kernel
from vimto.plan.lock import (
    Lockable,
    Locked,
    find_locked,
    is_lockable,
    names_in_file,
    read_lock,
    write_lock,
)


def lock_kernels(config: Config, words: Sequence[str]) -> None:
    """Write the lock beside the repository's file, and what has changed in it to stdout."""
    update = list(words) in (["-update"], ["--update"])
    if words and not update:
        raise UsageError(
            f"`vimto kernel lock` does not know `{words[0]}`", hint=usage("kernel lock")
        )
    path = config.lock
    if path is None:
        raise UsageError(f"there is no `{CONFIG_FILE}` here, whose kernel could be locked")
    before = _read(config, update=update)
    reference = _named_in_file(config)
    after: list[Locked] = []
    if reference:
        known = None if update else find_locked(before, reference)
        entry = known or _look_up(reference, config)
        # Hosts of other architectures have entries of their own.
        others = [
            each
            for each in before
            if each.name == entry.name and each.architecture != entry.architecture
        ]
        after = [entry, *(others if entry.architecture else ())]
    if not after:
        path.unlink()
        _tell(before, after)
        console.note(f"removed `{path}`: `{config.kernel}` needs no lock")
    elif write_lock(path, after):
        _tell(before, after)
        console.note(f"wrote `{path}`")
    else:
        console.note(f"`{path}` says so already")


def _read(config: Config, *, update: bool) -> list[Locked]:
    """Return what the lock says now; with `update` one that cannot be read says nothing."""
    assert config.lock
    if not config.lock.exists():
        return []
    try:
        return read_lock(config.lock)
    except ConfigError:
        if not update:
            raise
        return []


def _named_in_file(config: Config) -> Lockable | None:
    """Return what there is to be locked, None where the file names it exactly or not at all."""
    if config.kernel and not names_in_file(config):
        raise UsageError(
            f"{config.origins['kernel']} stands in the way: a lock is about `{config.file}` alone"
        )
    reference = named_kernel(config)
    if isinstance(reference, Lockable) and is_lockable(reference):
        return reference
    assert config.lock
    if config.lock.exists():
        return None
    raise UsageError(
        f"there is nothing to lock: `{config.kernel or 'no kernel'}` is what `{config.file}` names",
        hint="tags of images in registries, and the distribution's packages, can be locked",
    )


def _look_up(reference: Lockable, config: Config) -> Locked:
    if isinstance(reference, RegistryReference):
        from vimto.oci.pull import look_up_image  # these take time to load
        from vimto.oci.store import Store

        look_up_image(reference, config)
        tag = Store(config.cache_dir).read_tag(reference)
        assert tag, "what was looked up has been noted"
        return Locked(str(reference), digest=tag.top)
    from vimto.kernel.apt import pin_package

    packages = pin_package(reference, cache=config.cache_dir).pinned
    return Locked(str(reference), architecture=packages[0].architecture, packages=packages)


def _tell(before: Sequence[Locked], after: Sequence[Locked]) -> None:
    for entry in after:
        if entry not in before:
            console.show(f"{entry.name} {_meaning(entry)}\n")
    names = {entry.name for entry in after}
    for name in sorted({entry.name for entry in before} - names):
        console.show(f"{name} removed\n")


def _meaning(entry: Locked) -> str:
    if entry.digest:
        return entry.digest
    return f"{entry.packages[0].name}={entry.packages[0].version}"
