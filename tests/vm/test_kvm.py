"""What vimto says of a real /dev/kvm: in a machine that has one, see hack/kvm."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import need

RIG = Path(__file__).parents[2] / "hack/kvm"

# The second half takes root: who may open the device, and whether there is one.
PROBE = """
import os, subprocess
from vimto.qemu.probe import choose_accelerator as choose, identify_host_cpu as identify

print(*choose("kvm")[:1], identify(), sep="|", flush=True)
if os.getuid() == 0:
    os.chmod("/dev/kvm", 0o600)
    if os.fork() == 0:
        os.setgid(54321)
        os.setuid(54321)
        print(choose("auto").name, choose("auto").reason, sep="|", flush=True)
        os._exit(0)
    os.wait()
    subprocess.run(["modprobe", "-r", "kvm_amd"], check=True)
    print(*choose("auto"), sep="|")
"""


@pytest.mark.slow
def test_kvm_is_used_where_it_can_be() -> None:
    need("qemu-system-x86_64", "setpriv", "go")
    done = subprocess.run(
        [sys.executable, RIG, sys.executable, "-c", PROBE],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    here, *others = done.stdout.splitlines()
    assert here.startswith("kvm|vendor_id=AuthenticAMD cpu family="), here
    if os.getuid() == 0:
        assert others == ["tcg|this user may not open /dev/kvm", "tcg|there is no /dev/kvm|"]
