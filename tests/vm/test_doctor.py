"""`vimto doctor` boots a machine and restores it, and nothing is left of that."""

import json
import os
import re
import signal
import time
from pathlib import Path

from tests.vm.conftest import Vimto

_PAGE = Path(__file__).parents[2] / "docs/doctor.md"


def documented() -> dict[str, set[str]]:
    """Return the keys of `data` that the page names, by `what`."""
    _, _, table = _PAGE.read_text().partition("| `what` | `data` |\n|---|---|\n")
    found: dict[str, set[str]] = {}
    for row in table.partition("\n\n")[0].splitlines():
        _, names, keys, _ = row.split("|")
        for name in re.findall(r"`(\w+)`", names):
            found[name] = set(re.findall(r"`(\w+)`", keys))
    return found


def test_a_machine_is_booted_and_restored(vimto: Vimto) -> None:
    outcome = vimto("doctor", "-json").check()
    document = json.loads(outcome.text)
    assert (document["schema"], document["verdict"]) in ((1, "ok"), (1, "weak"))
    found = {finding["what"]: finding for finding in document["findings"]}
    assert {name for name, finding in found.items() if finding["verdict"] == "missing"} == set()
    page = documented()
    for name, finding in found.items():
        assert finding["data"].keys() <= page[name], f"{name} is not all in {_PAGE}"
    assert found["snapshots"]["data"] == {"wanted": True, "restores": True}
    assert found["kernel"]["data"]["release"].startswith("6.1.")
    assert found["boot"]["data"]["accelerator"] == found["accelerator"]["data"]["name"]
    assert found["boot"]["data"]["seconds"] > 0
    times = found["restore"]["data"]
    assert times["restored"] is True
    assert 0 < times["ready_seconds"] < times["command_seconds"]
    version = tuple(map(int, found["qemu"]["data"]["version"].split(".")))
    assert found["shares"]["data"]["special_files"] is (version >= (10, 0, 0))
    assert os.listdir(vimto.directory) == []


def test_a_kernel_that_does_not_boot_shows_its_last_words(vimto: Vimto) -> None:
    # What it was told makes it panic before the guest program runs.
    words = ("-kernel-args", "rdinit=/nothing", "-kernel-args", "root=/dev/none", "doctor")
    report = vimto(*words).check(1).text
    assert report.startswith("ok       vimto "), "what a report of a fault begins with"
    _, _, trial = report.partition("\nmissing  trial ")
    assert "the kernel cannot read an initramfs" in trial.partition("\n")[0]
    assert "this is not a failure of the test" not in trial
    log = [line for line in trial.splitlines() if line.lstrip().startswith("| ")]
    assert any("Kernel panic - not syncing" in line for line in log)
    assert "hint: " in trial.splitlines()[-1]


def test_ctrl_c_ends_it_and_leaves_nothing(vimto: Vimto) -> None:
    process = vimto.start("doctor", "--json")
    assert process.stderr and process.stdout
    assert b"trying it" in process.stderr.readline()
    while not any(" -append " in line for line in vimto.processes()):  # the machine boots
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.stdout.read() == b""
    assert b"Traceback" not in process.stderr.read()
    assert process.wait() == 128 + signal.SIGINT
    process.stdout.close()
    process.stderr.close()
