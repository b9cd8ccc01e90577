import tarfile
from pathlib import Path

import kernel_parts as parts
import pytest

from vimto.errors import KernelError
from vimto.kernel import deb
from vimto.kernel.modules import read_module


def everything(name: str) -> str:
    return name


def member(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    return info


@pytest.mark.parametrize("how", ["gzip", "xz", "zstd", "none"])
def test_chosen_files_are_written(tmp_path: Path, how: str) -> None:
    package = tmp_path / "x.deb"
    package.write_bytes(
        parts.make_deb(
            [
                member("./boot", tarfile.DIRTYPE),
                ("./boot/vmlinuz-1", b"kernel"),
                ("./usr/share/doc/x", b"text"),
                ("./usr/run.sh", b"#!"),
                ("./dev/null", b""),
                member("./link", tarfile.SYMTYPE, "/boot/vmlinuz-1"),
                member("./device", tarfile.CHRTYPE),
            ],
            how=how,
        )
    )

    def choose(name: str) -> str:
        return "" if "doc" in name or name.startswith("dev/") else name.replace("usr", "opt")

    into = tmp_path / "into"
    into.mkdir()
    assert deb.extract_deb(package, into, choose) == 2
    assert (into / "boot/vmlinuz-1").read_bytes() == b"kernel"
    assert (into / "boot/vmlinuz-1").stat().st_mode & 0o7777 == 0o644
    assert (into / "opt/run.sh").stat().st_mode & 0o7777 == 0o755
    assert (into / "link").readlink() == Path("/boot/vmlinuz-1")
    assert sorted(path.name for path in into.iterdir()) == ["boot", "link", "opt"]


def test_a_file_is_compressed_on_its_way(tmp_path: Path) -> None:
    package = tmp_path / "x.deb"
    package.write_bytes(parts.make_deb([("./a.ko", b"1" * 9999), ("./b.zst", b"2")]))
    (tmp_path / "into").mkdir()

    def choose(name: str) -> str:
        return f"{name}.zst" if name.endswith(".ko") else name

    assert deb.extract_deb(package, tmp_path / "into", choose) == 2
    assert (tmp_path / "into/a.ko.zst").stat().st_size < 100
    assert read_module(tmp_path / "into/a.ko.zst") == b"1" * 9999
    assert (tmp_path / "into/b.zst").read_bytes() == b"2", "it came like this"


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "./a/../../x"])
def test_no_name_leads_out(tmp_path: Path, name: str) -> None:
    package = tmp_path / "x.deb"
    package.write_bytes(parts.make_deb([(name, b"1")]))
    (tmp_path / "into").mkdir()
    with pytest.raises(KernelError, match="holds the name"):
        deb.extract_deb(package, tmp_path / "into", everything)
    assert not (tmp_path / "x").exists()


def test_no_file_is_written_through_a_link(tmp_path: Path) -> None:
    package = tmp_path / "x.deb"
    link = member("./a", tarfile.SYMTYPE, str(tmp_path))
    package.write_bytes(parts.make_deb([link, ("./a/escaped", b"1")]))
    (tmp_path / "into").mkdir()
    deb.extract_deb(package, tmp_path / "into", everything)
    assert not (tmp_path / "escaped").exists()
    assert (tmp_path / "into/a/escaped").read_bytes() == b"1"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"!<arch>\n",
        b"text",
        parts.make_deb([("./a", b"1" * 99999)])[:-60],
        parts.make_deb([("./a", b"1" * 99999)], how="gzip")[:-60],
        parts.make_deb([("./a", b"1" * 99999)], how="zstd")[:-20],
        parts.make_deb([("./a", b"1")]).replace(b"data.tar.xz", b"data.tar.zz"),
        parts.make_deb([("./a", b"1")]).replace(b"\xfd7zXZ", b"\xfd7zXX"),
        parts.make_deb([("./a", b"1")], how="zstd").replace(b"\x28\xb5\x2f", b"\x28\xb5\x2e"),
        parts.make_deb([("./a", b"1")], how="gzip").replace(b"\x1f\x8b", b"\x1f\x8c"),
    ],
)
def test_damage_is_reported(tmp_path: Path, content: bytes) -> None:
    package = tmp_path / "x.deb"
    package.write_bytes(content)
    (tmp_path / "into").mkdir()
    with pytest.raises(KernelError, match="damaged"):
        deb.extract_deb(package, tmp_path / "into", everything)
