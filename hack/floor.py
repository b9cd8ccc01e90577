"""The floor under a restored `vimto exec`: QEMU with the same arguments, and no vimto around it."""

import os
import socket
import subprocess
import time
from contextlib import closing

from vimto.config import load_config
from vimto.plan import shares
from vimto.plan.prepare import prepare
from vimto.qemu.qmp import Monitor
from vimto.vm import crowd, machine, protocol, run, snapshot
from vimto.vm.launch import Wiring
from vimto.vm.signals import SignalPipe
from vimto.vm.waiting import Waiting


def measure_floor(kernel: str, directory: str) -> float:
    """Restore a machine, run `sh -c true` in `directory`, and return the seconds it took.

    All that can be known before is worked out before: the plan, the order, the command line.
    """
    config = load_config({"kernel": kernel}, os.environ, directory)
    with prepare(config) as plan, SignalPipe() as signals:
        tier, waiting = plan.tiers[0], Waiting(signals, -1)
        request = run.Request(["sh", "-c", "true"], directory, os.environb)
        places = run.Places([shares.Share(directory)], [], [])
        session = run._Session(plan, tier, places, request, waiting)
        save = snapshot.acquire_snapshot(plan, tier, waiting)
        if save is None:
            raise SystemExit("there is no snapshot to restore")
        null = dict.fromkeys(("stdin", "stdout", "stderr"), "null")
        order = protocol.encode_json(protocol.RUN, session._make_order(True) | null)
        wiring = Wiring()
        values = {
            "agent": str(wiring.port_there),
            "monitor": str(wiring.monitor_there),
            "console": str(wiring.console),
            "threads": crowd.ALONE,
            "ram": machine.Memory(save.ram).option(plan.memory),
            **session._slots(),
        }
        argv = [*machine.fill(tier.machine, values), "-incoming", "defer"]
        with (
            closing(save),
            closing(Monitor(wiring.monitor)) as monitor,
            socket.socket(fileno=wiring.port) as port,
        ):
            try:
                return _run(argv, wiring.inherited(), monitor, save.state, port, order)
            finally:
                wiring.close_theirs()
                os.close(wiring.console)


def _run(
    argv: list[str],
    keep: list[int],
    monitor: Monitor,
    state: int,
    port: socket.socket,
    order: bytes,
) -> float:
    before = time.perf_counter()
    with subprocess.Popen(argv, pass_fds=keep, stdin=subprocess.DEVNULL) as qemu:
        try:
            monitor.load(state)
            port.sendall(order)
            reader, kind = protocol.FrameReader(), 0
            port.settimeout(60)  # a QEMU that refuses the state must not hold up the bench
            while kind != protocol.EXIT:
                data = port.recv(1 << 20)
                if not data:
                    raise SystemExit("QEMU ended before the command")
                for kind, _payload in reader.feed(data):
                    if kind == protocol.CLOCK:
                        port.sendall(protocol.encode_clock(time.time_ns()))
        finally:
            qemu.kill()
    return time.perf_counter() - before
