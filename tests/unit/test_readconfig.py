"""QEMU's command line as a file, read by real QEMUs in the tests that restore machines."""

import pytest

from tests.unit.test_cmdline import VALUES, machine
from vimto.qemu import devices
from vimto.qemu.readconfig import EARLY, config_text
from vimto.vm.machine import fill


def words(*more: str) -> list[str]:
    return [*fill(machine("tcg").machine, VALUES)[1:], "-incoming", "defer", *more]


def test_the_whole_file() -> None:
    network = devices.UserNetwork().argv()
    assert config_text(words(*network)).decode() == (
        '[machine]\n  type = "q35"\n  memory-backend = "ram"\n  smm = "off"\n  vmport = "off"\n'
        '  sata = "off"\n  usb = "off"\n'
        '[memory]\n  size = "512M"\n'
        '[object "ram"]\n  qom-type = "memory-backend-file"\n  size = "512M"\n'
        '  mem-path = "/s/ra,m"\n  share = "off"\n'
        '[accel]\n  accel = "tcg"\n  thread = "single"\n'
        '[smp-opts]\n  cpus = "2"\n'
        '[chardev "console"]\n  backend = "file"\n  path = "/dev/fd/7"\n  append = "on"\n'
        '[device]\n  driver = "virtio-serial-pci"\n  max_ports = "2"\n'
        '[chardev "agent"]\n  backend = "socket"\n  fd = "5"\n'
        '[device]\n  driver = "virtserialport"\n  chardev = "agent"\n  name = "port"\n'
        '[chardev "monitor"]\n  backend = "socket"\n  fd = "6"\n'
        '[object "rng"]\n  qom-type = "rng-random"\n  filename = "/dev/urandom"\n'
        '[device]\n  driver = "virtio-rng-pci"\n  rng = "rng"\n'
        '[fsdev "root"]\n  fsdriver = "local"\n  security_model = "none"\n'
        '  multidevs = "remap"\n  path = "/"\n  readonly = "on"\n'
        '[device]\n  driver = "virtio-9p-pci"\n  fsdev = "root"\n  mount_tag = "root"\n'
        '  addr = "0x10.0"\n  multifunction = "on"\n'
        '[fsdev "a"]\n  fsdriver = "local"\n  security_model = "none"\n'
        '  multidevs = "remap"\n  path = "/t,c"\n'
        '[device]\n  driver = "virtio-9p-pci"\n  fsdev = "a"\n  mount_tag = "a"\n'
        '  addr = "0x10.1"\n'
        '[netdev "net"]\n  type = "user"\n'
        '[device]\n  driver = "virtio-net-pci"\n  netdev = "net"\n  romfile = ""\n'
    )


def test_bytes_of_a_path_survive() -> None:
    path = b"/\xff\xc3\xa4=,".decode("utf-8", "surrogateescape")
    value = f"local,id=x,path={path.replace(',', ',,')}"
    assert b'  path = "/\xff\xc3\xa4=,"\n' in config_text([*EARLY, "-fsdev", value])


@pytest.mark.parametrize(
    "more",
    [
        ["-fsdev", 'local,id=x,path=/a"b'],
        ["-fsdev", "local,id=x,path=/a\nb"],
        ["-fsdev", "local,id=x,path=/" + "a" * 1000],
        ["-fsdev", f"local,id={'x' * 64},path=/"],
        ["-gdb", "unix:/x"],
        ["-S"],
        ["-no-reboot"],
    ],
)
def test_what_it_cannot_hold_is_refused(more: list[str]) -> None:
    with pytest.raises(ValueError, match=r"cannot be quoted|too long|not in every machine"):
        config_text(words(*more))
