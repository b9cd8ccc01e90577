"""The key of a snapshot: everything that shaped the machine, and nothing that a host adds."""

from typing import Any

import pytest

from vimto.plan.prepare import snapshot_key
from vimto.qemu.options import Option

MACHINE = ["-nodefaults", "tcg", Option("m", "1024M")]
REST: dict[str, Any] = {"contents": ["q", "k", "i"], "version": (7, 2, 22), "cpu": ""}
KEY = snapshot_key(MACHINE, "panic=-1", **REST)


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


def test_options_and_the_kernel_s_command_line_count() -> None:
    assert snapshot_key([*MACHINE[:2], Option("m", "512M")], "panic=-1", **REST) != KEY
    assert snapshot_key(["-nodefaults", "kvm", *MACHINE[2:]], "panic=-1", **REST) != KEY
    assert snapshot_key(MACHINE, "panic=-1 nokaslr", **REST) != KEY
