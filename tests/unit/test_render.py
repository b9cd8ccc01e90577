"""Options as a file, read by real QEMUs in the tests that restore machines."""

import pytest

from tests.unit.test_devices import backends, hardware
from vimto.qemu import devices
from vimto.qemu.options import Option
from vimto.qemu.render import config_file


def test_the_whole_file() -> None:
    console = Option("chardev", "file", {"path": "/dev/fd/7", "append": "on"}, id="console")
    network = devices.UserNetwork().options()
    options = [console, *hardware("tcg").options, *backends("tcg"), *network]
    assert config_file(options).decode() == (
        '[chardev "console"]\n  backend = "file"\n  path = "/dev/fd/7"\n  append = "on"\n'
        '[machine]\n  type = "q35"\n  memory-backend = "ram"\n  smm = "off"\n  vmport = "off"\n'
        '  sata = "off"\n  usb = "off"\n'
        '[memory]\n  size = "512M"\n'
        '[smp-opts]\n  cpus = "2"\n'
        '[device]\n  driver = "virtio-serial-pci"\n  max_ports = "2"\n'
        '[device "port"]\n  driver = "virtserialport"\n  chardev = "agent"\n  name = "port"\n'
        '[object "rng"]\n  qom-type = "rng-random"\n  filename = "/dev/urandom"\n'
        '[device]\n  driver = "virtio-rng-pci"\n  rng = "rng"\n'
        '[device]\n  driver = "virtio-9p-pci"\n  fsdev = "root"\n  mount_tag = "root"\n'
        '  addr = "0x10.0"\n  multifunction = "on"\n'
        '[device]\n  driver = "virtio-9p-pci"\n  fsdev = "a"\n  mount_tag = "a"\n'
        '  addr = "0x10.1"\n'
        '[accel]\n  accel = "tcg"\n  thread = "single"\n'
        '[object "ram"]\n  qom-type = "memory-backend-file"\n  size = "512M"\n'
        '  mem-path = "/s/ra,m"\n  share = "off"\n'
        '[fsdev "root"]\n  fsdriver = "local"\n  security_model = "none"\n'
        '  multidevs = "remap"\n  path = "/"\n  readonly = "on"\n'
        '[fsdev "a"]\n  fsdriver = "local"\n  security_model = "none"\n'
        '  multidevs = "remap"\n  path = "/t,c"\n'
        '[chardev "agent"]\n  backend = "socket"\n  fd = "5"\n'
        '[netdev "net"]\n  type = "user"\n'
        '[device]\n  driver = "virtio-net-pci"\n  netdev = "net"\n  romfile = ""\n'
    )


def directory(path: str, name: str = "x") -> Option:
    return Option("fsdev", "local", {"path": path}, id=name)


def test_bytes_of_a_path_survive() -> None:
    path = b"/\xff\xc3\xa4=,".decode("utf-8", "surrogateescape")
    assert b'  path = "/\xff\xc3\xa4=,"\n' in config_file([directory(path)])


@pytest.mark.parametrize(
    "option",
    [
        directory('/a"b'),
        directory("/a\nb"),
        directory("/" + "a" * 1000),
        directory("/", "x" * 64),
    ],
)
def test_what_it_cannot_hold_is_refused(option: Option) -> None:
    with pytest.raises(ValueError, match=r"cannot be quoted|too long"):
        config_file([option])
