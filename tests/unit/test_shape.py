"""Machines and their keys: a wrong one would restore a machine that is not the one asked for."""

import itertools
from typing import Any

import pytest

from vimto.plan import shape
from vimto.plan.plan import IMAGE_TAG, ROOT_TAG, share_tag
from vimto.plan.shape import ROOMS, Hardware, Origin, shape_machines, snapshot_key
from vimto.qemu.devices import Verbatim
from vimto.qemu.options import Option

PARTS = ["-nodefaults", "tcg", Option("m", "1024M")]
ORIGIN = Origin(contents=["q", "k", "i"], version=(7, 2, 22), cpu="")
KEY = snapshot_key(PARTS, "panic=-1", ORIGIN)
HARDWARE = Hardware(
    memory=1024,
    processors=2,
    accelerator="tcg",
    verbose=False,
    network=False,
    transport="9p",
    image=False,
)


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
    assert snapshot_key(PARTS, "panic=-1", ORIGIN._replace(**change)) != KEY


def test_options_and_the_kernel_s_command_line_count() -> None:
    assert snapshot_key([*PARTS[:2], Option("m", "512M")], "panic=-1", ORIGIN) != KEY
    assert snapshot_key(["-nodefaults", "kvm", *PARTS[2:]], "panic=-1", ORIGIN) != KEY
    assert snapshot_key(PARTS, "panic=-1 nokaslr", ORIGIN) != KEY


def test_another_vimto_and_another_format_have_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shape, "__version__", "0.other")
    assert snapshot_key(PARTS, "panic=-1", ORIGIN) != KEY
    monkeypatch.undo()
    monkeypatch.setattr(shape, "_SNAPSHOT_FORMAT", shape._SNAPSHOT_FORMAT + 1)
    assert snapshot_key(PARTS, "panic=-1", ORIGIN) != KEY


def keys(hardware: Hardware, origin: Origin | None = ORIGIN) -> list[str]:
    return [machine.key for machine in shape_machines(hardware, origin)[1]]


def test_the_same_machine_has_the_same_key_and_each_size_its_own() -> None:
    first = keys(HARDWARE)
    assert keys(HARDWARE._replace()) == first
    assert len(set(first)) == len(ROOMS)


@pytest.mark.parametrize(
    "change",
    [
        {"memory": 1025},
        {"processors": 1},
        {"accelerator": "kvm"},
        {"verbose": True},
        {"network": True},
        {"image": True},
        {"model": "qemu64"},
        {"disks": 1},
        {"cards": [("virtio-net-pci", {})]},
        {"cards": [("virtio-net-pci", {"mac": "52:54:00:00:00:01"})]},
        {"cards": [("e1000", {})]},
        {"verbatim": Verbatim(["edu"], ())},
        {"verbatim": Verbatim((), [("-global", "x=y")])},
        {"kernel_args": ("nokaslr",)},
        {"kernel_args": ("a", "b")},
        {"kernel_args": ("b", "a")},
        {"kernel_args": ("a b",)},
    ],
)
def test_all_of_the_hardware_counts(change: dict[str, Any]) -> None:
    # `("a b",)` is the same command line as `("a", "b")`, and so the same machine.
    others = [HARDWARE, HARDWARE._replace(kernel_args=("b", "a"))]
    changed = HARDWARE._replace(**change)
    for other in others:
        if changed != other:
            assert not set(keys(changed)) & set(keys(other))
    assert keys(HARDWARE._replace(kernel_args=("a b",))) == keys(
        HARDWARE._replace(kernel_args=("a", "b"))
    )


def test_each_device_counts_by_itself() -> None:
    found = [
        keys(HARDWARE._replace(**change))[0]
        for change in (
            {},
            {"disks": 1},
            {"disks": 2},
            {"cards": [("virtio-net-pci", {})]},
            {"cards": [("virtio-net-pci", {}), ("e1000", {})]},
            {"verbatim": Verbatim(["a", "b"], ())},
            {"verbatim": Verbatim(["b", "a"], ())},
            {"verbatim": Verbatim(["a"], [("-device", "b", "-S2")])},
        )
    ]
    assert len(set(found)) == len(found)


def test_without_an_origin_every_machine_is_booted() -> None:
    assert keys(HARDWARE, None) == [""] * len(ROOMS)


@pytest.mark.parametrize("transport", ["9p", "virtiofs"])
@pytest.mark.parametrize("image", [False, True])
def test_slots_are_the_root_the_image_and_the_shares(transport: str, image: bool) -> None:
    hardware = HARDWARE._replace(transport=transport, image=image)
    _, machines = shape_machines(hardware, ORIGIN)
    own = [ROOT_TAG, IMAGE_TAG] if image else [ROOT_TAG]
    for machine, room in zip(machines, ROOMS, strict=True):
        assert machine.slots == [*own, *map(share_tag, range(room))]
        assert machine.shares == room
        text = repr(machine.options)
        assert all(f"'{tag}'" in text for tag in machine.slots)
    assert list(ROOMS) == sorted(ROOMS)
    for smaller, larger in itertools.pairwise(machines):
        # A share's device stands at one place whatever the size: its slot is part of the state.
        assert smaller.slots == larger.slots[: len(smaller.slots)]


def test_the_kernel_s_command_line_is_the_same_for_all_sizes() -> None:
    append, _ = shape_machines(HARDWARE._replace(kernel_args=("x=1", "nokaslr")), ORIGIN)
    assert append.endswith(" x=1 nokaslr") and "panic=-1" in append
