"""Whole machines, for emulation and for KVM (which no test machine can run)."""

import pytest

from vimto.qemu import devices
from vimto.qemu.backends import Directory, Ram, accelerator_option, socket_option
from vimto.qemu.devices import Hardware, assemble
from vimto.qemu.options import Flag, Option
from vimto.qemu.render import arguments


def hardware(accelerator: str, *, verbose: bool = False) -> Hardware:
    return assemble(
        [
            devices.Memory(mebibytes=512),
            devices.Processors(number=2, accelerator=accelerator),
            devices.SerialConsole(verbose=verbose),
            devices.AgentPort(name="port"),
            devices.EntropySource(),
            devices.NinePSlots(tags=("root", "a")),
        ],
        ["user=arg"],
    )


def backends(accelerator: str) -> list[Option]:
    return [
        accelerator_option(accelerator, "single"),
        Ram("/s/ra,m").option(512),
        Directory("/").option("root"),
        Directory("/t,c", readonly=False).option("a"),
        socket_option("agent", 5),
    ]


@pytest.mark.parametrize(
    ("accelerator", "words"), [("tcg", "-accel tcg,thread=single"), ("kvm", "-accel kvm")]
)
def test_the_whole_command_line(accelerator: str, words: str) -> None:
    found = hardware(accelerator)
    assert " ".join(arguments([*found.options, *backends(accelerator)])) == (
        "-machine q35,memory-backend=ram,smm=off,vmport=off,sata=off,usb=off"
        " -m 512M -smp 2"
        " -device virtio-serial-pci,max_ports=2"
        " -device virtserialport,id=port,chardev=agent,name=port"
        " -object rng-random,id=rng,filename=/dev/urandom -device virtio-rng-pci,rng=rng"
        " -device virtio-9p-pci,fsdev=root,mount_tag=root,addr=0x10.0,multifunction=on"
        " -device virtio-9p-pci,fsdev=a,mount_tag=a,addr=0x10.1"
        f" {words}"
        " -object memory-backend-file,id=ram,size=512M,mem-path=/s/ra,,m,share=off"
        " -fsdev local,id=root,security_model=none,multidevs=remap,path=/,readonly=on"
        " -fsdev local,id=a,security_model=none,multidevs=remap,path=/t,,c"
        " -chardev socket,id=agent,fd=5"
    )
    check = " no_timer_check tsc=reliable" if accelerator == "tcg" else ""
    assert found.append == (
        f"panic=-1 GODEBUG=asyncpreemptoff=1{check} console=ttyS0 quiet random.trust_cpu=on"
        " user=arg"
    )


def test_a_verbose_console_shows_all() -> None:
    assert "ignore_loglevel" in hardware("tcg", verbose=True).append


def shown(option: Option) -> str:
    return arguments([option])[1]


def test_memory_backings() -> None:
    assert shown(Ram().option(64)) == "memory-backend-ram,id=ram,size=64M"
    assert shown(Ram(shared=True).option(64)) == "memory-backend-memfd,id=ram,size=64M,share=on"
    assert shown(Ram("/r", shared=True).option(64)).endswith("mem-path=/r,share=on")


def test_nine_devices_take_two_slots() -> None:
    last = devices.NinePSlots(tags=[f"t{index}" for index in range(9)]).options()[-1]
    assert shown(last) == "virtio-9p-pci,fsdev=t8,mount_tag=t8,addr=0x11.0,multifunction=on"


def test_other_devices() -> None:
    network = arguments(devices.UserNetwork().options())
    assert network == ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]
    (slot,) = devices.VirtiofsSlots(tags=("x",)).options()
    assert shown(slot) == "vhost-user-fs-pci,chardev=x,tag=x"


def test_what_a_user_asks_for() -> None:
    assert arguments(devices.Processors(2, "kvm", "qemu64,+avx2").options()) == [
        *("-smp", "2", "-cpu", "qemu64,+avx2"),
    ]
    disks = [shown(option) for option in devices.Disks(9).options()]
    rest = "werror=report,rerror=report,addr=0x18.0,multifunction=on"
    assert disks[0] == f"virtio-blk-pci,drive=disk0,serial=disk0,{rest}"
    assert disks[8].endswith(
        "serial=disk8,werror=report,rerror=report,addr=0x19.0,multifunction=on"
    )
    cards = devices.NetworkCards([("virtio-net-pci", {"mac": "m"}), ("e1000", {})])
    assert [shown(option) for option in cards.options()] == [
        "virtio-net-pci,netdev=nic0,romfile=,mac=m",
        "e1000,netdev=nic1",
    ]
    words = ["-object", "a b,,c", "-S2", "--trace", "x"]
    verbatim = devices.Verbatim(["edu,x=1,,2"], [words[:3], words[3:]])
    assert arguments(verbatim.options()) == ["-device", "edu,x=1,,2", *words]
    for device in (devices.Disks(1), cards, verbatim):
        assert device.kernel_args() == []


def test_what_is_behind_a_device_is_no_part_of_the_hardware() -> None:
    groups = {option.group for option in hardware("tcg").options}
    assert groups == {"machine", "m", "smp", "device", "object"}
    assert arguments([Flag("S"), Flag("append", "a,b")]) == ["-S", "-append", "a,b"]


@pytest.mark.parametrize("name", ["x,readonly=on", "a,,b", ",", "=", "x,id=y"])
def test_a_directory_s_name_is_never_an_option(name: str) -> None:
    """`x,readonly=on` was once taken for `x` that is only read."""
    head = "local,id=a,security_model=none,multidevs=remap,path=/"
    escaped = name.replace(",", ",,")
    assert shown(Directory(f"/{name}", readonly=False).option("a")) == head + escaped
    assert shown(Directory(f"/{name}").option("a")) == f"{head}{escaped},readonly=on"
