"""The order, the mount tags and the status: what a machine is told, and what it says of itself."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from vimto.errors import ConfigError, VimtoError
from vimto.plan.plan import IMAGE_TAG, ROOT_TAG, Plan, Shape, load_plan, share_tag
from vimto.plan.shares import Share
from vimto.plan.views import Link, View
from vimto.qemu.backends import Directory, Drive
from vimto.qemu.options import Flag, Option
from vimto.vm import cores, protocol
from vimto.vm.order import Host, describe_host, make_order
from vimto.vm.request import Companion, Places, Request
from vimto.vm.run import choose_machine, settle_status

PLAN: Any = Plan(
    qemu="/usr/bin/qemu",
    accelerator="tcg",
    kernel="/k",
    initrd="/i",
    append="",
    kernel_name="Linux",
    image="/image",
    fs="9p",
    virtiofsd=None,
    memory=1024,
    smp=2,
    shapes=[
        Shape([ROOT_TAG, IMAGE_TAG, *map(share_tag, range(room))], [], str(room)) for room in (1, 3)
    ],
    snapshots="/cache/snapshots",
    snapshot_limit=0,
    boot_timeout=1.0,
    timeout=0.0,
    stop_timeout=10.0,
    shares=[],
    shown=[],
    homes=[],
    temporary="/tmp",
    uid=1000,
    gid=1001,
    groups=[1002],
    setup=[["sh", "-c", "ä\udcff"]],
    teardown=[["b"]],
    sysctls={"kernel.core_pattern": "core", "kernel.x": "1"},
    network=False,
    verbose=0,
    drives=[],
    cards=[],
    has_devices=False,
)
HOST = Host(
    hostname="vimto-0",
    hosts=b"127.0.0.1 \xff\n",
    links=[Link("/run/a", "/b")],
    time_ns=5,
    entropy=b"\x00\xff",
    umask=0o22,
    limits={"core": (-1, -1)},
)
REQUEST = Request(
    ["/bin/x", "\udcff"],
    "/w\xe4",
    {b"A": b"\xff", b"TMPDIR": b"/t", b"VIMTO_KERNEL": b"k", b"VIMTOX": b"1"},
)
PLACES = Places([Share("/w"), Share("/r", True)], [View("/tmp/v", "/var/v")], [Link("/c", "d")])
MODES = {"stdin": "null", "stdout": "pipe", "stderr": "stdout"}


def test_the_whole_order() -> None:
    order = make_order(PLAN, REQUEST, PLACES, HOST, MODES)
    assert order == {
        "protocol": protocol.VERSION,
        "argv": ["/bin/x", "\xff"],
        "env": ["A=\xff", "VIMTOX=1"],
        "dir": "/w\xc3\xa4",
        "umask": 0o22,
        "uid": 1000,
        "gid": 1001,
        "groups": [1002],
        "stdin": "null",
        "stdout": "pipe",
        "stderr": "stdout",
        "pty": None,
        "hostname": "vimto-0",
        "hosts": "127.0.0.1 \xff\n",
        "links": [{"path": "/run/a", "target": "/b"}, {"path": "/c", "target": "d"}],
        "time_ns": 5,
        "entropy": "\x00\xff",
        "root": {
            "fs": "9p",
            "tag": "root",
            "image": "kernel",
            "tmpfs_percent": 25,
            "msize": 512000,
        },
        "shares": [
            {"fs": "9p", "tag": "share0", "path": "/w", "readonly": False},
            {"fs": "9p", "tag": "share1", "path": "/r", "readonly": True},
        ],
        "views": [{"path": "/tmp/v", "source": "/var/v"}],
        "sysctls": {**cores.SYSCTLS, "kernel.core_pattern": "core", "kernel.x": "1"},
        "rlimits": {"core": (-1, -1)},
        "setup": [["sh", "-c", "\xc3\xa4\xff"]],
        "teardown": [["b"]],
        "network": False,
        "devices": False,
        "disks": 0,
        "write_back": False,
        "warm_up": False,
        "gdb_pause": False,
    }
    payload = protocol.encode_json(protocol.Kind.RUN, order)[5:]
    assert json.loads(payload)["setup"] == order["setup"]


def test_what_else_the_order_follows() -> None:
    companion = Companion()
    companion.pauses = True
    terminal: Any = SimpleNamespace(size=lambda: (24, 80))
    request = REQUEST._replace(companion=companion, terminal=terminal)
    plan = PLAN._replace(image="", fs="virtiofs", network=True)
    order = make_order(plan, request, PLACES, HOST, MODES, warm_up=True)
    assert order["gdb_pause"] and order["warm_up"] and order["network"]
    assert order["pty"] == (24, 80)
    assert order["root"]["image"] == "" and order["root"]["fs"] == "virtiofs"
    assert {share["fs"] for share in order["shares"]} == {"virtiofs"}


def test_the_order_tells_of_devices() -> None:
    drives = [Drive(size=512), Drive(path="/a", format="raw", mode="ro")]
    plan = PLAN._replace(has_devices=True, drives=drives)
    order = make_order(plan, REQUEST, PLACES, HOST, MODES)
    assert (order["devices"], order["disks"], order["write_back"]) == (True, 2, False)
    written = plan._replace(drives=[*drives, Drive(path="/b", format="qcow2", mode="rw")])
    assert make_order(written, REQUEST, PLACES, HOST, MODES)["write_back"]


def test_a_plan_is_read_as_it_was_written() -> None:
    options = [Option("device", "x", {"a": "b"}, id="i"), Flag("cpu", "qemu64"), Flag("S")]
    plan = PLAN._replace(
        shapes=[Shape(["root"], options, "k")],
        drives=[Drive(size=512), Drive(path="/a", format="qcow2", mode="rw", alone=False)],
        cards=["user"],
    )
    assert load_plan(plan.dump()) == plan


def test_qemu_loads_ahead_where_that_is_of_use() -> None:
    def ahead(options: list[Option | Flag], key: str = "k", **more: Any) -> bool:
        plan = PLAN._replace(shapes=[Shape(["root"], options, key)], **more)
        return bool(plan.may_load_ahead)

    assert ahead([Option("m", "1G")])
    assert not ahead([Option("m", "1G")], key="")
    assert not ahead([Option("m", "1G"), Flag("cpu", "qemu64")])
    assert not ahead([Option("m", "1G")], cards=["user"])
    assert ahead([Option("m", "1G")], drives=[Drive(size=512)])
    assert not ahead([Option("m", "1G")], drives=[Drive(path="/a", format="raw")])


def test_no_two_machines_are_told_the_same_of_the_moment() -> None:
    # They all begin with one snapshot's random state, clock and name.
    one, other = describe_host(), describe_host()
    assert one.entropy != other.entropy and len(one.entropy) == 64
    assert one.hostname != other.hostname and one.hostname.encode() in one.hosts
    assert one.time_ns <= other.time_ns
    assert one.limits["core"] == (-1, -1)


@pytest.mark.parametrize("image", ["", "/image"])
def test_a_share_is_behind_the_tag_that_the_order_names(image: str) -> None:
    own = [ROOT_TAG, IMAGE_TAG] if image else [ROOT_TAG]
    slots = [*own, *map(share_tag, range(5))]
    found = PLACES.directories(slots, image)
    assert list(found) == slots
    order = make_order(PLAN._replace(image=image), REQUEST, PLACES, HOST, MODES)
    for share in order["shares"]:
        assert found[share["tag"]] == Directory(share["path"], share["readonly"])
    unused = found.keys() - {share["tag"] for share in order["shares"]} - {IMAGE_TAG}
    for tag in unused:  # the root too, which is never written to
        assert found[tag] == Directory("/") and found[tag].readonly
    if image:
        assert found[order["root"]["image"]] == Directory(image) and Directory(image).readonly


def test_the_smallest_machine_with_room_is_chosen() -> None:
    request = Request(["x"], "/usr", {})
    plan = PLAN._replace(shares=[("/srv/a", False), ("/srv/a/b", False)])
    places, shape = choose_machine(plan, request)
    assert [share.path for share in places.shares] == ["/srv/a", "/usr"]
    assert shape.shares == 3
    alone, small = choose_machine(PLAN, request)
    assert [share.path for share in alone.shares] == ["/usr"] and small.shares == 1
    full = PLAN._replace(shares=[(f"/srv/{name}", False) for name in "abc"])
    with pytest.raises(ConfigError, match="4 directories are to be shared, 3 are the most"):
        choose_machine(full, request)


@pytest.mark.parametrize("stage", ["mount", "setup", "teardown", "flush"])
def test_a_failure_around_the_command_is_never_its_status(stage: str) -> None:
    for status in (1, 125):
        failed = protocol.Exit(status=status, error="no", hint="do", stage=stage)
        with pytest.raises(VimtoError, match=r"^no$") as caught:
            settle_status(failed)
        assert caught.value.hint == "do" and caught.value.status == 125


def test_the_command_s_status_is_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    for status in (0, 1, 126, 255):
        assert settle_status(protocol.Exit(status=status)) == status
    assert capfd.readouterr().err == ""
    missing = protocol.Exit(status=127, error="`x` is not there", stage="start")
    assert settle_status(missing) == 127
    assert "error: `x` is not there" in capfd.readouterr().err
