"""The sdist and the wheel: all that vimto is, and nothing else, the same bytes every time."""

import importlib.util
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import need
from tests.unit.test_linters import need_module
from vimto import __version__
from vimto.plan.agent import source_digest, source_files
from vimto.version import describe

ROOT = Path(__file__).parents[2]
NAME = f"vimto-{__version__}"
SHARED = {
    "share/man/man1/vimto.1": "vimto.1",
    "share/bash-completion/completions/vimto": "vimto.bash",
    "share/zsh/site-functions/_vimto": "vimto.zsh",
    "share/fish/vendor_completions.d/vimto.fish": "vimto.fish",
}


def build(root: Path, target: str, out: Path, **options: Any) -> Path:
    """Build one of hatchling's targets from `root`; return the file."""
    argv = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    environ = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    subprocess.run(argv, cwd=root, env=environ, check=True, capture_output=True, **options)
    (made,) = out.glob(f"{NAME}*{'.whl' if target == 'wheel' else '.tar.gz'}")
    return made


def unpack(sdist: Path, into: Path) -> Path:
    # Debian 12's Python does not know it, and later ones warn where it is not given.
    options: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(sdist) as archive:
        archive.extractall(into, **options)
    return into / NAME


@dataclass(frozen=True, kw_only=True)
class Built:
    """An sdist of this checkout, that unpacked, and the wheel made of it."""

    sdist: Path
    unpacked: Path
    wheel: Path

    def files(self) -> Mapping[str, bytes]:
        """Return what is in the wheel."""
        with zipfile.ZipFile(self.wheel) as archive:
            return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    need_module("hatchling")
    place = tmp_path_factory.mktemp("built")
    sdist = build(ROOT, "sdist", place)
    unpacked = unpack(sdist, place)
    return Built(sdist=sdist, unpacked=unpacked, wheel=build(unpacked, "wheel", place))


def modules() -> set[str]:
    """Return the files of the package, the commit's, which only what is built has, among them."""
    found = {str(path.relative_to(ROOT)) for path in (ROOT / "vimto").rglob("*.py")}
    return found | ({"vimto/_commit.py"} if (ROOT / ".git").exists() else set())


def guest() -> set[str]:
    return {str(path.relative_to(ROOT / "guest")) for path in source_files(ROOT / "guest")}


def test_what_is_in_the_sdist(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        members = archive.getmembers()
    assert all(member.isfile() for member in members)
    found = {member.name.removeprefix(f"{NAME}/") for member in members}
    project = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "hack/build_hook.py"}
    written = {"PKG-INFO", ".gitignore"}  # by hatchling, by its own account
    shared = {f"docs/share/{name}" for name in SHARED.values()}
    assert found == modules() | {f"guest/{name}" for name in guest()} | project | written | shared


def test_what_is_in_the_wheel(built: Built) -> None:
    files = built.files()
    data = {f"{NAME}.data/data/{place}": name for place, name in SHARED.items()}
    about = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    expected = modules() | {f"vimto/_guest/{name}" for name in guest()} | data.keys()
    assert set(files) == expected | {f"{NAME}.dist-info/{name}" for name in about}
    for place, name in data.items():
        assert files[place] == (ROOT / "docs/share" / name).read_bytes()
    for name in modules() - {"vimto/_commit.py"}:
        assert files[name] == (ROOT / name).read_bytes()


def test_the_guest_program_of_a_wheel_is_that_of_the_checkout(built: Built, tmp_path: Path) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        archive.extractall(tmp_path)
    assert source_digest(tmp_path / "vimto/_guest") == source_digest(ROOT / "guest")


def test_the_metadata_is_what_an_index_accepts(built: Built) -> None:
    need_module("packaging")
    from packaging.metadata import Metadata

    data = built.files()[f"{NAME}.dist-info/METADATA"]
    metadata = Metadata.from_email(data, validate=True)
    assert str(metadata.version) == __version__ and metadata.description
    assert metadata.description_content_type == "text/markdown"


def test_the_same_bytes_twice(built: Built, tmp_path: Path) -> None:
    # By another user's habits, in another place, and from the checkout in place of the sdist.
    assert build(ROOT, "sdist", tmp_path, umask=0o077).read_bytes() == built.sdist.read_bytes()
    elsewhere = unpack(built.sdist, tmp_path / "elsewhere")
    for path in elsewhere.rglob("*"):
        os.utime(path, (0, 0))
    for number, root in enumerate((elsewhere, ROOT)):
        wheel = build(root, "wheel", tmp_path / str(number), umask=0o077)
        assert wheel.read_bytes() == built.wheel.read_bytes()


def test_strays_stay_behind(built: Built, tmp_path: Path) -> None:
    elsewhere = unpack(built.sdist, tmp_path)
    for name in ("vimto/core", "vimto/cli.py.orig", "guest/guest", "guest/a_test.go", "x.py"):
        (elsewhere / name).touch()
    (elsewhere / "guest/internal/notes.txt").touch()
    again = build(elsewhere, "wheel", tmp_path / "again")
    assert again.read_bytes() == built.wheel.read_bytes()


def test_a_wheel_tells_the_commit(built: Built) -> None:
    need("git")
    code = f"import sys; sys.path.insert(0, {str(built.wheel)!r})\n"
    code += "from vimto.version import describe; print(describe())"
    # In a checkout: what was built says what it was built from, wherever it runs.
    argv = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == describe()


def test_an_editable_installation_gets_no_copies() -> None:
    need_module("hatchling")
    path = ROOT / "hack/build_hook.py"
    spec = importlib.util.spec_from_file_location("build_hook", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    hook = module.BuildHook(str(ROOT), {}, None, None, "", "wheel")
    added: dict[str, Any] = {"force_include": {}}
    hook.initialize("editable", added)
    assert added == {"force_include": {}}


def notes(*words: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, str(ROOT / "hack/release-notes"), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_the_notes_of_this_version() -> None:
    done = notes(__version__)
    assert done.returncode == 0 and done.stdout.count("\n- ") > 3
    assert "\n## " not in done.stdout and not done.stdout.startswith("#")


@pytest.mark.parametrize("words", [("9.9.9",), ("0.1",), ("",), (), ("0.1.0", "x")])
def test_there_are_no_notes_of_an_unknown_version(words: tuple[str, ...]) -> None:
    done = notes(*words)
    assert done.returncode == 1 and done.stdout == "" and "Traceback" not in done.stderr
