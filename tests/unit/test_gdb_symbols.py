"""Build-ids, and symbol tables that the real tools read."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import need
from vimto import elf
from vimto.errors import KernelError
from vimto.gdb import symbols
from vimto.gdb.symbols import Symbols

KALLSYMS = """\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000040 t local_helper
ffffffff81000100 T do_things
ffffffff82000000 D jiffies
ffffffffc0001000 t v9fs_open	[9p]
ffffffffc0002000 d v9fs_table	[9p]
ffffffffc0003000 t init_module	[9p]
"""
NOTE = bytes.fromhex("04000000 04000000 03000000 474e5500 0c7b9d9b")
XEN = bytes.fromhex("04000000 08000000 12000000 58656e00 0000000100000000")


def test_the_build_id_among_other_notes() -> None:
    assert elf.find_build_id(elf.parse_notes(XEN + NOTE)) == "0c7b9d9b"
    assert elf.find_build_id(elf.parse_notes(XEN)) == ""
    assert elf.find_build_id(elf.parse_notes(NOTE[:10])) == ""


def test_the_build_id_of_a_file_is_readelf_s(tmp_path: Path) -> None:
    need("readelf")
    said = subprocess.run(
        ["readelf", "-n", "/bin/true"], capture_output=True, text=True, check=True
    ).stdout
    assert f"Build ID: {symbols.read_build_id(Path('/bin/true'))}\n" in said
    (tmp_path / "text").write_text("no ELF")
    assert symbols.read_build_id(tmp_path / "text") == ""


def test_kallsyms_become_symbol_tables(tmp_path: Path) -> None:
    need("readelf")
    (tmp_path / "kallsyms").write_text(KALLSYMS)
    (module,) = symbols.write_kallsyms((tmp_path / "kallsyms").read_text(), tmp_path / "elf")
    assert rows_of(tmp_path / "elf") == [
        ["ffffffff81000040", "192", "FUNC", "LOCAL", "DEFAULT", "1", "local_helper"],
        ["ffffffff81000000", "64", "FUNC", "GLOBAL", "DEFAULT", "1", "_stext"],
        ["ffffffff81000100", "16", "FUNC", "GLOBAL", "DEFAULT", "1", "do_things"],
        ["ffffffff82000000", "16", "OBJECT", "GLOBAL", "DEFAULT", "2", "jiffies"],
    ]
    assert rows_of(module) == [
        ["ffffffffc0001000", "4096", "FUNC", "LOCAL", "DEFAULT", "1", "v9fs_open"],
        ["ffffffffc0002000", "4096", "OBJECT", "LOCAL", "DEFAULT", "1", "v9fs_table"],
        ["ffffffffc0003000", "16", "FUNC", "LOCAL", "DEFAULT", "1", "init_module"],
    ]


def rows_of(path: Path) -> list[list[str]]:
    words = ["readelf", "-sW", str(path)]
    said = subprocess.run(words, capture_output=True, text=True, check=True)
    assert said.stderr == ""
    return [line.split()[1:] for line in said.stdout.splitlines() if "ffffffff" in line]


def test_gdb_reads_those_tables(tmp_path: Path) -> None:
    need("gdb")
    (tmp_path / "kallsyms").write_text(KALLSYMS)
    (module,) = symbols.write_kallsyms((tmp_path / "kallsyms").read_text(), tmp_path / "elf")
    words = ["gdb", "-nx", "-batch", str(tmp_path / "elf"), "-ex", f"add-symbol-file {module}"]
    words += ["-ex", "info symbol 0xffffffff81000104", "-ex", "info address v9fs_open"]
    words += ["-ex", "info symbol 0xffffffffc0003004"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "do_things + 4 in section .text" in said
    assert '"v9fs_open" is at 0xffffffffc0001000' in said
    assert "init_module + 4 in section .text" in said


def test_a_kernel_that_hides_its_addresses() -> None:
    with pytest.raises(KernelError, match="no addresses"):
        symbols.read_kallsyms(["0000000000000000 T _stext"])


def test_an_address_that_no_kernel_has_is_left_out(tmp_path: Path) -> None:
    """The guest's root may have written the text."""
    lines = ["ffffffff81000000 T _stext", "1ffffffff81000000 T beyond", "f" * 99 + " T far"]
    assert symbols.write_kallsyms("\n".join(lines), tmp_path / "elf") == ()
    assert [symbol.name for symbol in symbols.read_kallsyms(lines)[""]] == ["_stext"]


def test_only_the_running_build_will_do() -> None:
    found = Symbols(vmlinux=Path("/bin/true"), release="6.1")
    symbols.check_build(found, found.build_id)
    symbols.check_build(found, "")
    symbols.check_build(Symbols(vmlinux=None, release="6.1"), "00")
    with pytest.raises(KernelError, match="not of the kernel that runs") as error:
        symbols.check_build(found, "0c7b9d9b")
    assert error.value.lines[1].endswith("0c7b9d9b")


def test_the_user_s_own_vmlinux(tmp_path: Path) -> None:
    found = Symbols(vmlinux=None, release="6.1", hint="get it")
    with pytest.raises(KernelError, match="cannot be read"):
        symbols.check_vmlinux(tmp_path / "absent")
    (tmp_path / "vmlinux").write_bytes(Path("/bin/true").read_bytes())
    (tmp_path / "kernel").mkdir()
    mine = symbols.use_vmlinux(tmp_path / "vmlinux", found)
    assert (mine.vmlinux, mine.sources, mine.hint) == (tmp_path / "vmlinux", (tmp_path,), "")
