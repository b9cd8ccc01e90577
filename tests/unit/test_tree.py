from pathlib import Path

import pytest

from vimto.errors import KernelError
from vimto.kernel import tree


def test_links_stay_inside_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "boot").mkdir(parents=True)
    (root / "boot/vmlinuz-1").write_text("")
    (root / "boot/absolute").symlink_to("/boot/vmlinuz-1")
    (root / "boot/relative").symlink_to("vmlinuz-1")
    (root / "boot/above").symlink_to("../../../../../boot/relative")
    (root / "boot/outside").symlink_to(tmp_path / "secret")
    (tmp_path / "secret").write_text("")
    (root / "usr/lib").mkdir(parents=True)
    (root / "lib").symlink_to("/usr/lib")
    for name in ("boot/absolute", "/boot/relative", "boot/above", "../boot/./vmlinuz-1"):
        assert tree.find_inside(root, name) == root / "boot/vmlinuz-1"
    assert tree.find_inside(root, "lib") == root / "usr/lib"
    assert tree.find_inside(root, "boot/outside") is None
    assert tree.find_inside(root, "boot/nothing") is None
    assert tree.find_inside(root, "boot/vmlinuz-1/below") is None


def test_versions_of_any_text_have_an_order() -> None:
    names = ["6.12", "6.9-2", "6.9-rc1", "6.9", "6.²", "٦.1"]
    names.sort(key=tree.version_key)
    assert [name for name in names if name.isascii()] == ["6.9-rc1", "6.9", "6.9-2", "6.12"]


def test_a_loop_of_links_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("/a")
    with pytest.raises(KernelError, match="loop"):
        tree.find_inside(tmp_path, "a")


def test_versions_sort_by_their_numbers() -> None:
    ordered = [
        "6.1.0-9-amd64",
        "6.1.0-56-amd64",
        "6.9-rc1",
        "6.9",
        "6.9.1",
        "6.12.117+deb12-amd64",
        "7.3-rc7-amd64",
        "7.3-amd64",
    ]
    assert sorted(sorted(ordered), key=tree.version_key) == ordered


def test_names_of_a_missing_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert tree.find_names(tmp_path, "boot") == []
    assert tree.find_names(tmp_path, "file") == []
