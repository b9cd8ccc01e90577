"""The key of a snapshot: everything that shaped the machine, and nothing that a host adds."""

from typing import Any

import pytest

from vimto.plan.prepare import snapshot_key

MACHINE = ["/usr/bin/qemu-system-x86_64", "-m", "1024M"]
REST: dict[str, Any] = {"contents": ["q", "k", "i"], "version": (7, 2, 22), "cpu": ""}
KEY = snapshot_key(MACHINE, "panic=-1", **REST)


def test_where_qemu_lies_is_of_no_matter() -> None:
    moved = ["/opt/qemu/bin/qemu-system-x86_64", *MACHINE[1:]]
    assert snapshot_key(moved, "panic=-1", **REST) == KEY


@pytest.mark.parametrize(
    "change",
    [
        {"contents": ["Q", "k", "i"]},
        {"contents": ["q", "K", "i"]},
        {"contents": ["q", "k", "I"]},
        {"version": (7, 2, 23)},
        {"cpu": "model=1"},
    ],
)
def test_what_a_machine_is_made_of_counts(change: dict[str, Any]) -> None:
    assert snapshot_key(MACHINE, "panic=-1", **(REST | change)) != KEY


def test_the_command_lines_count() -> None:
    assert snapshot_key([*MACHINE[:2], "512M"], "panic=-1", **REST) != KEY
    assert snapshot_key(MACHINE, "panic=-1 nokaslr", **REST) != KEY
