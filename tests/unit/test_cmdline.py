"""Whole command lines, for emulation and for KVM (which no test machine can run)."""

import pytest

from vimto.qemu import devices
from vimto.qemu.cmdline import FIRST_SHARE_SLOT, CommandLine, assemble
from vimto.quoting import escape
from vimto.vm.machine import Memory, fill


def machine(accelerator: str, *, verbose: bool = False) -> CommandLine:
    return assemble(
        "/usr/bin/qemu",
        [
            devices.Memory(mebibytes=512),
            devices.Processors(number=2, accelerator=accelerator),
            devices.SerialConsole(verbose=verbose),
            devices.AgentPort(name="port"),
            devices.EntropySource(),
            devices.NinePSlots(tags=("root", "a"), first_slot=FIRST_SHARE_SLOT),
        ],
        ["user=arg"],
    )


VALUES = {
    "threads": "single",
    "ram": Memory("/s/ra,m").option(512),
    "console": "7",
    "agent": "5",
    "monitor": "6",
    "root": "/,readonly=on",
    "a": escape("/t,c"),
}


@pytest.mark.parametrize(
    ("accelerator", "words"), [("tcg", "-accel tcg,thread=single"), ("kvm", "-accel kvm")]
)
def test_the_whole_command_line(accelerator: str, words: str) -> None:
    line = machine(accelerator)
    assert " ".join(fill(line.machine, VALUES)) == (
        "/usr/bin/qemu -nodefaults -no-user-config -display none -no-reboot"
        " -machine q35,memory-backend=ram,smm=off,vmport=off,sata=off,usb=off"
        " -m 512M -object memory-backend-file,id=ram,size=512M,mem-path=/s/ra,,m,share=off"
        f" {words} -cpu max -smp 2"
        " -chardev file,id=console,path=/dev/fd/7,append=on -serial chardev:console"
        " -device virtio-serial-pci,max_ports=2"
        " -chardev socket,id=agent,fd=5 -device virtserialport,chardev=agent,name=port"
        " -chardev socket,id=monitor,fd=6 -qmp chardev:monitor"
        " -object rng-random,id=rng,filename=/dev/urandom -device virtio-rng-pci,rng=rng"
        " -fsdev local,id=root,security_model=none,multidevs=remap,path=/,readonly=on"
        " -device virtio-9p-pci,fsdev=root,mount_tag=root,addr=0x10.0,multifunction=on"
        " -fsdev local,id=a,security_model=none,multidevs=remap,path=/t,,c"
        " -device virtio-9p-pci,fsdev=a,mount_tag=a,addr=0x10.1"
    )
    check = " no_timer_check tsc=reliable" if accelerator == "tcg" else ""
    assert line.append == (
        f"panic=-1 GODEBUG=asyncpreemptoff=1{check} console=ttyS0 quiet random.trust_cpu=on"
        " user=arg"
    )


def test_a_verbose_console_shows_all() -> None:
    assert "ignore_loglevel" in machine("tcg", verbose=True).append


def test_memory_backings() -> None:
    assert Memory().option(64) == "memory-backend-ram,id=ram,size=64M"
    assert Memory(shared=True).option(64) == "memory-backend-memfd,share=on,id=ram,size=64M"
    assert Memory("/r", shared=True).option(64).endswith("mem-path=/r,share=on")


def test_nine_devices_take_two_slots() -> None:
    tags = tuple(f"t{index}" for index in range(9))
    words = devices.NinePSlots(tags=tags, first_slot=0x10).argv()
    assert words[-1] == "virtio-9p-pci,fsdev=t8,mount_tag=t8,addr=0x11.0,multifunction=on"


def test_other_devices() -> None:
    assert devices.UserNetwork().argv()[1] == "user,id=net"
    assert "vhost-user-fs-pci,chardev=x,tag=x" in devices.VirtiofsSlots(tags=("x",)).argv()
