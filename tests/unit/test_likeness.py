import os
from pathlib import Path

from vimto.vm import likeness


def test_the_hosts_names_and_the_guests(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    assert likeness.describe_hosts("n", str(hosts)).splitlines() == [
        *(b"127.0.0.1 localhost", b"::1 localhost", b"127.0.1.1 n"),
    ]
    hosts.write_bytes(b"10.0.0.1 \xff")
    assert likeness.describe_hosts("n", str(hosts)) == b"10.0.0.1 \xff\n127.0.1.1 n\n"
    hosts.write_bytes(b"0.0.0.0 advertiser\n" * (1 << 16))
    text = likeness.describe_hosts("n", str(hosts))
    assert len(text) < (1 << 20) + 100
    assert text.endswith(b"advertiser\n127.0.1.1 n\n")


def test_links_at_the_top_and_on_the_way_of_path(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("user/1/tools", "wrappers/bin.1", "other"):
        (run / name).mkdir(parents=True)
    (run / "file").write_text("")
    links = {
        "system": "/nix/store/x",
        "user/1/bin": "../1/tools",
        "user/1/tools/sh": "/bin/sh",
        "wrappers/bin": "bin.1",
        "wrappers/bin.1/su": "/bin/su",
        "other/unwanted": "/",
        "loop": "loop",
    }
    for name, target in links.items():
        (run / name).symlink_to(target)

    def find(*entries: str) -> set[str]:
        found = likeness.find_links(":".join(entries), str(run))
        assert all(os.readlink(link.path) == link.target for link in found)
        return {os.path.relpath(link.path, run) for link in found}

    always = {"system", "loop"}
    assert find("/bin", "relative", "") == always
    assert find(f"{run}/user/1/bin") == {*always, "user/1/bin", "user/1/tools/sh"}
    assert find(f"{run}/wrappers/bin", f"{run}/loop/bin", f"{run}/none", f"{run}/../x") == {
        *(*always, "wrappers/bin", "wrappers/bin.1/su"),
    }
    assert likeness.find_links("", str(tmp_path / "nothing")) == []
