"""What is held against snapshots on this host: a failure that may repeat, or one that is enough.

    CACHE/local/HOST/failed/KEY  JSON, a `Verdict` on the snapshot KEY, reached at its mtime

A snapshot that is off is neither used nor made for a while: a QEMU that cannot restore what it
saved would otherwise cost each run two boots.
"""

import json
import os
import time
from contextlib import suppress
from typing import NamedTuple

from vimto.cache import entry
from vimto.cache.digest import local_directory

# Seconds that a snapshot is off.
_OFF = 600.0


class Verdict(NamedTuple):
    """`until` is when the snapshot may be used again, in seconds since the epoch; `reason` why not.

    Until 0 it is only under suspicion of failing in the way `kind`.
    """

    kind: str
    reason: str
    until: float

    @property
    def is_off(self) -> bool:
        """Whether the snapshot shall not be used."""
        return time.time() < self.until


def find_verdict(snapshots: str, key: str) -> Verdict | None:
    """Return what is held against the snapshot `key`, or None."""
    try:
        with open(_place(snapshots, key), "rb") as file:
            value = json.load(file)
            at = os.fstat(file.fileno()).st_mtime
        until = at + _OFF if value["off"] else 0.0
        return Verdict(str(value["kind"]), str(value["reason"]), until)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def turn_off(snapshots: str, key: str, kind: str, reason: str) -> None:
    """Let nobody use or make the snapshot `key` for a while."""
    _write(snapshots, key, {"kind": kind, "reason": reason, "off": True})


def suspect(snapshots: str, key: str, kind: str, reason: str) -> bool:
    """Hold a failure of the kind `kind` against the snapshot `key`; a second in a row turns it off.

    Returns whether it did.
    """
    before = find_verdict(snapshots, key)
    second = before is not None and before.kind == kind
    _write(snapshots, key, {"kind": kind, "reason": reason, "off": second})
    return second


def acquit(snapshots: str, key: str) -> None:
    """Hold nothing against the snapshot `key` any more: it could be made, or restored."""
    with suppress(OSError):
        os.unlink(_place(snapshots, key))


def acquit_all(snapshots: str) -> None:
    """Hold nothing against any snapshot in `snapshots`."""
    for key in entry.entries(os.path.dirname(_place(snapshots, "x"))):
        acquit(snapshots, key)


def _write(snapshots: str, key: str, value: dict[str, object]) -> None:
    path = _place(snapshots, key)
    aside = f"{path}.{os.urandom(4).hex()}"
    with suppress(OSError):
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        try:
            with open(aside, "x", encoding="utf-8") as file:
                json.dump(value, file)
            os.rename(aside, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(aside)


def _place(snapshots: str, key: str) -> str:
    return os.path.join(local_directory(os.path.dirname(snapshots)), "failed", key)
