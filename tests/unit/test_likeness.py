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


def test_links_at_the_top_of_run(tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    (tmp_path / "file").write_text("")
    links = {"system": "/nix/store/x", "loop": "loop", "user/deep": "/"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    found = likeness.find_links(str(tmp_path))
    assert found == [
        likeness.Link(f"{tmp_path}/loop", "loop"),
        likeness.Link(f"{tmp_path}/system", "/nix/store/x"),
    ]
    assert likeness.find_links(str(tmp_path / "nothing")) == []
