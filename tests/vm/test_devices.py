"""Disks, cards and devices that a user asks for: what the guest sees, and what is left of it."""

import hashlib
import struct
import subprocess
from pathlib import Path

import pytest

from tests.conftest import builtin_kernel, need
from tests.vm.conftest import AS_ROOT, Vimto

RESTORED = "the machine is restored from a snapshot"
# A partition table of one Linux partition, from sector 2048 on, of so many sectors.
_SIGNATURE = b"\x55\xaa"


def partitioned(path: Path, sectors: int, text: bytes) -> Path:
    """Write an image with one partition, that begins with `text`."""
    entry = struct.pack("<B3sB3sII", 0, bytes(3), 0x83, bytes(3), 2048, sectors)
    table = bytes(446) + entry + bytes(48) + _SIGNATURE
    path.write_bytes(table.ljust(1 << 20, b"\0") + text.ljust(sectors * 512, b"\0"))
    return path


def qcow2(path: Path, megabytes: int) -> Path:
    """Write an empty qcow2 image: header, refcounts (a table and a block), L1 table."""
    cluster = 1 << 16
    header = struct.pack(
        ">4sIQIIQIIQQIIQ",
        *(b"QFI\xfb", 2, 0, 0, 16, megabytes << 20, 0, 1, 3 * cluster, cluster, 1, 0, 0),
    )
    table = struct.pack(">Q", 2 * cluster)
    counts = struct.pack(">4H", 1, 1, 1, 1)
    parts = (header, table, counts, b"")
    path.write_bytes(b"".join(part.ljust(cluster, b"\0") for part in parts))
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


LOOK = r"""
for disk in vda vdb vdc vdd; do
    cd /sys/block/$disk; echo "$disk $(cat size) $(cat ro) $(cat serial)"
done
echo "$(cat /sys/block/vdb/vdb1/size) $(head -c 5 /dev/vdb1)"
echo lost | dd of=/dev/vdb1 conv=fsync status=none && head -c 4 /dev/vdb1; echo
echo no 2>/dev/null >/dev/vdc || echo refused
mkfs.ext4 -q -F /dev/vda && mount /dev/vda /mnt && echo scratch >/mnt/x && cat /mnt/x
mkdir /run/kept && mount /dev/vdd /run/kept && ls /run/kept && echo "$1" >"/run/kept/$1"
"""


def test_disks_hold_what_they_should_and_keep_what_they_must(vimto: Vimto) -> None:
    need("mkfs.ext4", "debugfs")
    directory = vimto.directory
    image = partitioned(directory / "table.img", 2048, b"first")
    empty = qcow2(directory / "a,b.qcow2", 8)
    kept = directory / "kept.img"
    kept.write_bytes(bytes(16 << 20))
    subprocess.run(["mkfs.ext4", "-q", "-F", kept], check=True)
    (directory / "look.sh").write_text(LOOK)

    def look(size: str, word: str) -> list[str]:
        disks = (size, "table.img", "a,b.qcow2:ro", "kept.img:rw")
        flags = [text for disk in disks for text in ("-disk", disk)]
        before = digest(image), digest(empty)
        outcome = vimto("-v", "-sudo", *flags, "exec", "sh", "look.sh", word).check()
        assert RESTORED in outcome.errors
        assert (digest(image), digest(empty)) == before
        return outcome.text.splitlines()

    assert look("32M", "one") == [
        *("vda 65536 0 disk0", "vdb 4096 0 disk1", "vdc 16384 1 disk2", "vdd 32768 0 disk3"),
        *("2048 first", "lost", "refused", "scratch", "lost+found"),
    ]
    # The same snapshot, and yet other sizes, partitions and contents.
    partitioned(image, 4096, b"other")
    assert look("48M", "two") == [
        *("vda 98304 0 disk0", "vdb 6144 0 disk1", "vdc 16384 1 disk2", "vdd 32768 0 disk3"),
        *("4096 other", "lost", "refused", "scratch", "lost+found", "one"),
    ]
    listed = subprocess.run(["debugfs", "-R", "cat two", kept], capture_output=True, check=True)
    assert listed.stdout == b"two\n"
    features = subprocess.run(["debugfs", "-R", "stats", kept], capture_output=True, check=True)
    assert b"needs_recovery" not in features.stdout, "it was unmounted"


def test_an_image_that_is_written_to_is_one_machine_s(vimto: Vimto) -> None:
    image = vimto.directory / "image"
    image.write_bytes(bytes(1 << 20))
    holder = vimto.start("-sudo", "-disk", "image:rw", "exec", "sh", "-c", "echo up; sleep 1000000")
    with holder:
        assert holder.stdout and holder.stdout.readline() == b"up\n"
        for disk, said in (("image:rw", "cannot be written to"), ("image", "cannot be read")):
            outcome = vimto("-disk", disk, "exec", "true").check(125)
            assert outcome.errors.startswith(f"error: `{image}` {said}: another machine")
            assert outcome.errors.count("error: ") == 1 and "hint: " in outcome.errors
        holder.kill()


def test_a_kernel_without_disks_says_so(vimto: Vimto) -> None:
    vimto.flags = (*AS_ROOT, "-kernel", str(builtin_kernel()))
    outcome = vimto("-disk", "1M", "exec", "true").check(125)
    assert "error: the guest has 0 of its 1 disks" in outcome.errors
    assert "hint: its kernel needs CONFIG_VIRTIO_BLK" in outcome.errors


SEE = r"""
grep -m1 '^model name' /proc/cpuinfo
cat /sys/class/dmi/id/product_name
for driver in virtio_balloon xhci_hcd usbhid; do
    ls /sys/bus/*/drivers/$driver | grep -c -E '^(0000:|virtio|1-1:)'
done
for card in /sys/class/net/e*; do
    echo "$(basename $(readlink $card/device/driver)) $(cat $card/address)"
done
"""


def test_devices_cards_processors_and_arguments(vimto: Vimto) -> None:
    outcome = vimto(
        *("-v", "-cpu", "qemu64,model-id=A processor", "-device", "virtio-balloon-pci"),
        *(
            "-device",
            "qemu-xhci,id=usb",
            "-device",
            "usb-tablet",
            "-qemu-args",
            "-smbios 'type=1,product=My Board'",
        ),
        *(
            "-nic",
            "socket,listen=127.0.0.1:0,mac=52:54:00:00:00:07",
            "-nic",
            "user,model=e1000,mac=52:54:00:00:00:08",
        ),
        *("exec", "sh", "-c", SEE),
    ).check()
    assert RESTORED in outcome.errors
    assert outcome.text.splitlines() == [
        *("model name\t: A processor", "My Board", "1", "1", "1"),
        *("virtio_net 52:54:00:00:00:07", "e1000 52:54:00:00:00:08"),
    ]


def test_what_cannot_be_saved_boots_and_says_why(vimto: Vimto, cache: Path) -> None:
    script = ("exec", "sh", "-c", "ls /sys/class/nvme")
    drive = ("-qemu-args", "-drive if=none,id=d,driver=null-co,size=1048576")
    outcome = vimto(*drive, "-device", "nvme,drive=d,serial=s", *script).check()
    assert outcome.text == "nvme0\n"
    assert outcome.errors.count("\n") == 1 and "QEMU's `-drive`" in outcome.errors
    outcome = vimto("-device", "amd-iommu", "exec", "true").check()
    assert outcome.errors.count("\n") == 1 and "non-migratable device" in outcome.errors


def test_what_qemu_refuses_is_told_once(vimto: Vimto) -> None:
    for flags, words in (
        (("-device", "nonsense"), "'nonsense' is not a valid device model name"),
        (("-cpu", "nonsense"), "unable to find CPU model 'nonsense'"),
        (("-qemu-args", "-object nonsense,id=x"), "nonsense"),
        (("-nic", "nonsense"), "nonsense"),
    ):
        outcome = vimto(*flags, "exec", "true").check(125)
        assert words in outcome.errors.partition("\n")[0], outcome.errors
        assert outcome.errors.count("error: ") == 1 and "warning: " not in outcome.errors


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("-disk", "none.img"), "cannot be a disk"),
        (("-disk", "100"), "has no unit"),
        (("-device", "help"), "`qemu-system-x86_64 -device help` answers"),
        (("-qemu-args", "-m 4G"), "`-memory`"),
    ],
)
def test_what_vimto_refuses_itself(vimto: Vimto, flags: tuple[str, str], said: str) -> None:
    outcome = vimto(*flags, "exec", "true").check(125)
    assert said in outcome.errors and "Traceback" not in outcome.errors
