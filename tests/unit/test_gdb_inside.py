"""What needs no gdb of the part that runs inside gdb."""

import gzip
import lzma
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock, call

import pytest

from tests.unit.kernel_parts import zstd_compress
from vimto.gdb import inside, session


@pytest.mark.parametrize("name", ["../elf.py", "listing.py"])
def test_gdb_needs_nothing_of_vimto(name: str) -> None:
    """gdb's own Python has neither vimto nor its dependencies."""
    script = "import runpy, sys; runpy.run_path(sys.argv[1])['load_beside'](sys.argv[2])"
    command = [sys.executable, "-I", "-S", "-c", script, inside.__file__, name]
    subprocess.run(command, check=True)


def test_a_session_that_cannot_start_ends_gdb(tmp_path: Path) -> None:
    script = tmp_path / "start.gdb"
    settings = session.GdbConfig(
        target="nowhere",
        directory="",
        result="",
        modules="",
        debug_modules="",
        unpack=(),
        go="",
        breaks=(),
        greeting=(),
        debug=False,
        hardware=False,
        batch=True,
    )
    session.write_script(settings, script)
    script.with_suffix(".json").unlink()
    code = script.read_text().partition("python\n")[2].removesuffix("end\n")
    fake = MagicMock()
    exec(code, {"gdb": fake})
    assert fake.execute.call_args_list == [call("quit 1")]


def test_modules_by_their_kernel_names(tmp_path: Path) -> None:
    for name in ("net/virtio-net.ko", "9p.ko.xz", "a.ko.zst", "modules.dep", "b.kob"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = inside.find_modules(str(tmp_path))
    assert sorted(found) == ["9p", "a", "virtio_net"]
    assert found["virtio_net"] == str(tmp_path / "net/virtio-net.ko")


@pytest.mark.parametrize("suffix", ["", ".xz", ".gz", ".zst"])
def test_compressed_modules(tmp_path: Path, suffix: str) -> None:
    pack = {".xz": lzma.compress, ".gz": gzip.compress, ".zst": zstd_compress}.get(suffix, bytes)
    path = tmp_path / f"m.ko{suffix}"
    path.write_bytes(pack(b"module"))
    command = [sys.executable, "-m", "vimto.gdb.unpack", str(path)]
    assert subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout == b"module"
    if suffix:
        path.write_bytes(b"damaged")
        found = subprocess.run(command, check=False, capture_output=True)
        assert found.returncode == 1 and b"cannot be read" in found.stderr


class Events:
    """gdb's event registries, and what was connected to them."""

    def __init__(self) -> None:
        self.handlers: dict[str, Callable[[object], None]] = {}

    def __getattr__(self, name: str) -> "Events":
        self.name = name
        return self

    def connect(self, handler: Callable[[object], None]) -> None:
        self.handlers[self.name] = handler


class Gdb:
    """As much of gdb as the end of a session needs."""

    error = RuntimeError

    def __init__(self) -> None:
        self.events = Events()
        self.text = ""
        self.posted: list[Callable[[], None]] = []
        self.commands: list[str] = []
        self.places: list[SimpleNamespace] = []

    def write(self, text: str) -> None:
        self.text += text

    def post_event(self, event: Callable[[], None]) -> None:
        self.posted.append(event)

    def execute(self, command: str, to_string: bool = False) -> None:
        self.commands.append(command)

    def breakpoints(self) -> list[SimpleNamespace]:
        return self.places


@pytest.fixture
def ended(tmp_path: Path) -> tuple[Gdb, Path]:
    gdb, result = Gdb(), tmp_path / "result"
    settings = {"result": str(result), "batch": False, "machine": os.getpid()}
    inside.Ending(gdb, settings).watch()
    return gdb, result


def test_the_result_is_said_once_and_ends_gdb(ended: tuple[Gdb, Path]) -> None:
    gdb, result = ended
    gdb.places = [
        SimpleNamespace(pending=True, location="nowhere"),
        SimpleNamespace(pending=False, location="here"),
    ]
    gdb.events.handlers["stop"](None)
    assert gdb.text == "" and not gdb.posted
    result.write_text("the command has ended, status 0: passed")
    gdb.events.handlers["stop"](None)
    gdb.events.handlers["stop"](None)
    assert gdb.text.count("status 0: passed") == 1 and "SIGINT" not in gdb.text
    assert "breakpoint at `nowhere` was never set" in gdb.text and "`here`" not in gdb.text
    (event,) = gdb.posted
    event()
    assert gdb.commands == ["quit"]


def test_what_stops_the_machine_at_the_end_is_explained(ended: tuple[Gdb, Path]) -> None:
    gdb, result = ended
    interrupted = SimpleNamespace(stop_signal="SIGINT")
    gdb.events.handlers["stop"](interrupted)
    assert gdb.text == "", "the user's own Ctrl-C"
    result.write_text("the command has ended, status 1")
    gdb.events.handlers["stop"](interrupted)
    gdb.events.handlers["stop"](interrupted)
    assert gdb.text == (
        "vimto: this SIGINT is how vimto stops the machine at the end\n"
        "vimto: the command has ended, status 1\n"
    )


def test_leaving_gdb_posts_nothing(ended: tuple[Gdb, Path]) -> None:
    gdb, _ = ended
    gdb.events.handlers["gdb_exiting"](None)
    gdb.events.handlers["exited"](None)  # what our own `disconnect` raises
    assert gdb.commands == ["disconnect"] and gdb.posted == [] and gdb.text == ""


def test_a_machine_that_was_let_go_has_not_ended(ended: tuple[Gdb, Path]) -> None:
    gdb, _ = ended
    gdb.events.handlers["exited"](None)
    assert "goes on without it" in gdb.text and gdb.posted == []


def test_a_machine_that_has_ended(tmp_path: Path) -> None:
    gdb = Gdb()
    with subprocess.Popen(["true"]) as process:
        settings = {"result": str(tmp_path / "r"), "batch": True, "machine": process.pid}
        inside.Ending(gdb, settings).watch()
        gdb.events.handlers["exited"](None)
    assert "ended before the command reported" in gdb.text and gdb.posted == []


def test_a_module_cannot_be_named_like_a_command(tmp_path: Path) -> None:
    gdb = MagicMock()
    gdb.parse_and_eval.return_value = 1
    gdb.selected_frame().architecture().name.return_value = "aarch64"
    listings = inside.Listings(gdb, {"directory": str(tmp_path)})
    listings._layout = object()
    listings._listing = MagicMock()
    listings._listing.read_module.return_value = ('../a-b.c"\nshell true', [])
    listings.add()
    path = tmp_path / "module-.._a-b.c__shell_true"
    gdb.execute.assert_called_once_with(f'add-symbol-file "{path}"', to_string=True)
    assert path.exists()
