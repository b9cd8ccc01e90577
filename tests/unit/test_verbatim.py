"""What is QEMU's to understand, and what vimto must know of it."""

from collections.abc import Callable

import pytest

from vimto import verbatim
from vimto.verbatim import find_file, parse_card


def test_a_card_is_a_device_and_what_is_behind_it() -> None:
    assert parse_card("user") == ("virtio-net-pci", {}, "user")
    assert parse_card("tap,ifname=t0,script=no,mac=52:54:00:00:00:02") == (
        "virtio-net-pci",
        {"mac": "52:54:00:00:00:02"},
        "tap,ifname=t0,script=no",
    )
    card = parse_card("user,hostfwd=tcp::1-:1,hostfwd=tcp::2-:2,model=e1000,macaddr=x,addr=5")
    assert card.model == "e1000" and card.values == {"mac": "x", "addr": "5"}
    assert card.backend == "user,hostfwd=tcp::1-:1,hostfwd=tcp::2-:2"
    assert parse_card("socket,path=/a,,b,model=virtio").backend == "socket,path=/a,,b"
    assert parse_card("tap,,,x").backend == "tap,,,x"


@pytest.mark.parametrize(
    ("parse", "value", "said"),
    [
        (verbatim.parse_cards, "model=e1000", "does not begin with what is behind"),
        (verbatim.parse_cards, [",user"], "does not begin with what is behind"),
        (verbatim.parse_cards, "none", "is no card"),
        (verbatim.parse_cards, "user,id=x", "vimto names its cards itself"),
        (verbatim.parse_cards, "user,model=help", "-nic help"),
        (verbatim.parse_devices, "help", "-device help"),
        (verbatim.parse_devices, "e1000,help", "-device help"),
        (verbatim.parse_devices, ",x", "does not begin with the name of a device"),
        (verbatim.parse_devices, "-x", "does not begin with the name of a device"),
        (verbatim.parse_cpu, "", "is not the model of a processor"),
        (verbatim.parse_cpu, "-x", "is not the model of a processor"),
        (verbatim.parse_cpu, " ", "is not the model of a processor"),
        (verbatim.parse_cpu, "help", "-cpu help"),
        (verbatim.parse_qemu_args, "image", "holds `image`, which follows none of QEMU's options"),
        (verbatim.parse_qemu_args, "-object a b", "holds `b`, which follows none"),
        (verbatim.parse_qemu_args, "-m 4G", "`-m`, for which vimto has `-memory`"),
        (verbatim.parse_qemu_args, "--smp 4", "`--smp`, for which vimto has `-smp`"),
        (verbatim.parse_qemu_args, ["-daemonize"], "is for vimto to say"),
        (verbatim.parse_qemu_args, "-object x -S", "is for vimto to say"),
        (verbatim.parse_qemu_args, "-version", "after which there is no machine"),
        (verbatim.parse_qemu_args, "-object 'x", "cannot be split"),
    ],
)
def test_what_is_refused_before_anything_starts(
    parse: Callable[[object], object], value: object, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        parse(value)


def test_what_is_passed_on() -> None:
    assert verbatim.parse_qemu_args("-object 'iothread,id=a b' -trace x") == (
        ("-object", "iothread,id=a b", "-trace", "x"),
    )
    assert verbatim.parse_qemu_args(["", "-global x=-1"]) == ((), ("-global", "x=-1"))
    assert verbatim.parse_devices('{"driver":"edu"}') == ('{"driver":"edu"}',)
    assert verbatim.parse_devices(["", "virtio-balloon-pci"]) == ("", "virtio-balloon-pci")
    for model in ("qemu64,+avx2", "max,model-id=A processor"):
        assert verbatim.parse_cpu(model) == model


@pytest.mark.parametrize(
    ("arguments", "devices", "found"),
    [
        ([("-object", "x"), ("--drive", "if=none")], [], "--drive"),
        ([(), ("-object", "-drive,x")], [], ""),
        ([("-acpitable", "sig=X,file=a")], [], "-acpitable"),
        ([("-smbios", "type=1,product=file")], [], ""),
        ([("-fw_cfg", "name=opt/x,file=a")], [], "-fw_cfg"),
        ([("-bios", "a")], [], "-bios"),
        ([("-object", '{"qom-type": "memory-backend-file", "mem-path" : "a"}')], [], "-object"),
        ([], ["edu", "loader,file=a"], "-device"),
        ([], ['{"driver":"e1000","romfile":"a"}'], "-device"),
        ([], ["virtio-balloon-pci,id=file"], ""),
    ],
)
def test_files_whose_contents_the_guest_sees(
    arguments: list[tuple[str, ...]], devices: list[str], found: str
) -> None:
    assert find_file(arguments, devices) == found
