"""`vimto kernel lock` with a registry: what is locked is taken, whatever a tag means by then."""

import contextlib
import os
from pathlib import Path

import pytest

from tests.oci.servers import Proxy, Reply, Request, push
from tests.unit.oci_parts import make_image, make_index, make_tar, member
from vimto import cli, console
from vimto.config import load_config
from vimto.errors import ImageError
from vimto.oci.manifest import host_platform
from vimto.plan import lock
from vimto.plan.identity import identify_kernel
from vimto.plan.kernels import locate_kernel, wanted_kernel
from vimto.settings import parse_flags

OLD, NEW = (make_image(make_tar(member(name, b"x"))) for name in ("old", "new"))
INDEX = make_index({"linux/s390x": NEW, host_platform(): OLD})


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(console, "_verbosity", [0])
    monkeypatch.setenv("VIMTO_CACHE_DIR", str(tmp_path / "cache"))
    lock._say.cache_clear()
    path = tmp_path / "repository"
    (path / ".git").mkdir(parents=True)
    monkeypatch.chdir(path)
    return path


def configure(hurt: Proxy, registry: str, repository: str, tag: str = "1") -> str:
    name = f"{hurt.host}/{repository}:{tag}"
    push(registry, repository, tag, OLD)
    Path(".vimto.toml").write_text(f'kernel = "{name}"\n')
    return name


def located(*words: str) -> list[str]:
    """Return the names of the files that a run would have of its kernel's."""
    flags, _ = parse_flags(words)
    config = load_config(flags, os.environ, os.getcwd())
    with contextlib.ExitStack() as stack:
        return os.listdir(locate_kernel(config, wanted_kernel(config), stack).place)


def run(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    assert cli.run(list(words)) == 0
    out, err = capfd.readouterr()
    return out, err


def test_a_tag_that_moves_on(
    hurt: Proxy, registry: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name = configure(hurt, registry, "lock/moving")
    out, err = run(capfd, "kernel", "lock")
    assert out == f"{name} {OLD.digest}\n" and err == f"vimto: wrote `{place}/.vimto.lock`\n"
    assert hurt.seen("/blobs/") == []  # nothing is pulled
    written = (place / ".vimto.lock").read_text()
    push(registry, "lock/moving", "1", NEW)
    config = load_config({}, os.environ, os.getcwd())
    wanted = wanted_kernel(config)
    assert wanted and identify_kernel(wanted, config) == OLD.digest  # what a CI's cache is keyed by
    assert located() == ["old"]
    capfd.readouterr()
    # From now on nobody is asked, however old what is known of the tag.
    asked = len(hurt.requests)
    assert located("-pull-fresh", "0s") == located("-pull", "never") == ["old"]
    assert run(capfd, "kernel", "pull")[0].startswith(f"{name}@{OLD.digest} {OLD.digest} ")
    out, err = run(capfd, "kernel", "lock")
    assert (out, err) == ("", f"vimto: `{place}/.vimto.lock` says so already\n")
    assert len(hurt.requests) == asked and (place / ".vimto.lock").read_text() == written
    # Past it, with a line each.
    assert located("-pull", "always") == ["new"]
    assert "vimto: `-pull always` goes past" in capfd.readouterr().err
    assert located("-kernel", ":1") == ["new"]
    assert "vimto: -kernel goes past" in capfd.readouterr().err
    out, _ = run(capfd, "kernel", "pull", ":1")  # an argument says which
    assert NEW.digest in out
    assert (place / ".vimto.lock").read_text() == written
    out, err = run(capfd, "kernel", "lock", "-update")
    assert out == f"{name} {NEW.digest}\n" and "wrote" in err
    assert located() == ["new"]


def test_an_image_that_is_here_under_another_name_is_taken(
    hurt: Proxy, registry: str, capfd: pytest.CaptureFixture[str]
) -> None:
    configure(hurt, registry, "lock/index")
    push(registry, "lock/index", "1", INDEX)
    assert INDEX.digest in run(capfd, "kernel", "lock")[0]  # good for each architecture
    assert located("-kernel", ":1") == ["old"]
    asked = len(hurt.requests)
    assert located() == located() == ["old"]
    assert len(hurt.requests) == asked


def test_another_kernel_in_the_file(
    hurt: Proxy, registry: str, capfd: pytest.CaptureFixture[str]
) -> None:
    first = configure(hurt, registry, "lock/two")
    run(capfd, "kernel", "lock")
    second = configure(hurt, registry, "lock/two", "2")
    assert located() == ["old"]
    assert f"`{second}` is not in" in capfd.readouterr().err
    out, _ = run(capfd, "kernel", "lock")
    assert out == f"{second} {OLD.digest}\n{first} removed\n"
    assert Path(".vimto.lock").read_text().count("[[kernel]]") == 1


def test_an_image_that_is_no_longer_there(
    hurt: Proxy, registry: str, capfd: pytest.CaptureFixture[str]
) -> None:
    name = configure(hurt, registry, "lock/gone")
    run(capfd, "kernel", "lock")
    lost = "sha256:" + "0" * 64
    path = Path(".vimto.lock")
    path.write_text(path.read_text().replace(OLD.digest, lost))
    with pytest.raises(ImageError, match=f"no longer has `{name}@{lost}`") as caught:
        located()
    assert "`vimto kernel lock -update`" in caught.value.hint
    assert located("-kernel", ":1") == ["old"]


def test_offline_nothing_else_is_taken(
    hurt: Proxy, registry: str, capfd: pytest.CaptureFixture[str]
) -> None:
    configure(hurt, registry, "lock/offline")
    run(capfd, "kernel", "lock")
    push(registry, "lock/offline", "1", NEW)
    assert located("-pull", "always") == ["new"]

    def down(_: Request, reply: Reply) -> None:
        reply.status = 503

    hurt.fault = down
    with pytest.raises(ImageError, match="503") as caught:
        located()
    assert "lock" not in caught.value.hint


def test_a_registry_that_gives_another_image_than_was_locked(
    hurt: Proxy, registry: str, capfd: pytest.CaptureFixture[str]
) -> None:
    configure(hurt, registry, "lock/swapped")
    run(capfd, "kernel", "lock")

    def swap(request: Request, reply: Reply) -> None:
        if "/manifests/" in request.path:
            reply.body = NEW.manifest

    hurt.fault = swap
    with pytest.raises(ImageError, match=f"is not {OLD.digest}"):
        located()


def test_update_mends_a_corrupt_lock(
    hurt: Proxy, registry: str, capfd: pytest.CaptureFixture[str]
) -> None:
    configure(hurt, registry, "lock/corrupt")
    Path(".vimto.lock").write_text("<<<<<<< HEAD\n")
    assert cli.run(["kernel", "lock"]) == 125
    capfd.readouterr()
    run(capfd, "kernel", "lock", "-update")
    assert located() == ["old"]
