"""The floor under a restored `vimto exec`: QEMU with the same arguments, and no vimto around it."""

import json
import os
import socket
import subprocess
import time

from vimto.commands.prepare import prepare
from vimto.config import load_config
from vimto.vm import crowd, machine, protocol, run, shares, snapshot
from vimto.vm.signals import SignalPipe


def measure_floor(kernel: str, directory: str) -> float:
    """Restore a machine, run `sh -c true` in `directory`, and return the seconds it took.

    All that can be known before is worked out before: the plan, the order, the command line.
    """
    config = load_config({"kernel": kernel}, os.environ, directory)
    with prepare(config) as plan, SignalPipe() as signals:
        tier = plan.tiers[0]
        request = run.Request(["sh", "-c", "true"], directory, os.environb)
        session = run._Session(plan, tier, [shares.Share(directory)], request, signals)
        save = snapshot.acquire_save(plan, tier, signals, -1)
        if save is None:
            raise SystemExit("there is no save to restore")
        null = dict.fromkeys(("stdin", "stdout", "stderr"), "null")
        order = session._make_order(True) | null
        here, there = socket.socketpair()
        monitor, monitor_there = socket.socketpair()
        console = os.open(os.devnull, os.O_WRONLY)
        values = {
            "agent": str(there.fileno()),
            "monitor": str(monitor_there.fileno()),
            "console": str(console),
            "threads": crowd.ALONE,
            "ram": machine.Memory(save.ram).option(plan.memory),
            **session._slots(),
        }
        argv = [*machine.fill(tier.machine, values), "-incoming", "defer"]
        keep = (there.fileno(), monitor_there.fileno(), console, save.state)
        try:
            return _run(argv, keep, save.state, order, here, monitor)
        finally:
            for end in (here, there, monitor, monitor_there):
                end.close()
            os.close(console)
            save.close()


def _run(
    argv: list[str],
    keep: tuple[int, ...],
    state: int,
    order: dict[str, object],
    here: socket.socket,
    monitor: socket.socket,
) -> float:
    before = time.perf_counter()
    with subprocess.Popen(argv, pass_fds=keep, stdin=subprocess.DEVNULL) as qemu:
        try:
            for command in (
                {"execute": "qmp_capabilities"},
                machine.ignore_shared(),
                {"execute": "migrate-incoming", "arguments": {"uri": f"fd:{state}"}},
            ):
                monitor.sendall(json.dumps(command).encode())
            here.sendall(protocol.encode_json(protocol.RUN, order))
            reader, kind = protocol.FrameReader(), 0
            here.settimeout(60)  # a QEMU that refuses the state must not hold up the bench
            while kind != protocol.EXIT:
                for kind, _payload in reader.feed(here.recv(1 << 20)):
                    if kind == protocol.CLOCK:
                        here.sendall(protocol.encode_clock(time.time_ns()))
        finally:
            qemu.kill()
    return time.perf_counter() - before
