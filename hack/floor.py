"""The floor under a restored `vimto exec`: QEMU with the same arguments, and no vimto around it."""

import os
import select
import time
from contextlib import closing

from vimto.config import load_config
from vimto.plan import shares
from vimto.plan.prepare import prepare
from vimto.qemu.backends import Ram, accelerator_option
from vimto.qemu.monitor import Monitor
from vimto.qemu.options import INCOMING, Flag, Option
from vimto.qemu.process import Qemu
from vimto.vm import claims, protocol, snapshot
from vimto.vm.order import describe_host, make_order
from vimto.vm.protocol import Kind
from vimto.vm.request import Places, Request
from vimto.vm.signals import SignalPipe
from vimto.vm.waiting import Waiting


def measure_floor(kernel: str, directory: str) -> float:
    """Restore a machine, run `sh -c true` in `directory`, and return the seconds it took.

    All that can be known before is worked out before: the plan, the order, the command line.
    """
    config = load_config({"kernel": kernel}, os.environ, directory)
    with prepare(config) as plan, SignalPipe() as signals:
        shape = plan.shapes[0]
        request = Request(["sh", "-c", "true"], directory, os.environb)
        places = Places([shares.Share(directory)], [], [])
        found = snapshot.acquire_snapshot(plan, shape, Waiting(signals, -1))
        if found is None:
            raise SystemExit("there is no snapshot to restore")
        null = dict.fromkeys(("stdin", "stdout", "stderr"), "null")
        told = make_order(plan, request, places, describe_host(), null, warm_up=True)
        order = protocol.encode_json(Kind.RUN, told)
        directories = places.directories(shape.slots, plan.image)
        with closing(found), Qemu(plan.qemu) as qemu:
            options: list[Option | Flag] = [
                *shape.options,
                accelerator_option(plan.accelerator, claims.THREAD_EACH),
                Ram(found.ram).option(plan.memory),
                *(each.option(tag) for tag, each in directories.items()),
                INCOMING,
            ]
            return _run(qemu, options, found.state, order)


def _run(qemu: Qemu, options: list[Option | Flag], state: int, order: bytes) -> float:
    before = time.perf_counter()
    qemu.become(options)
    monitor, port = Monitor(qemu.monitor), qemu.port
    monitor.load(state)
    os.write(port, order)
    reader, kind = protocol.FrameReader(), 0
    while kind != Kind.EXIT:
        # A QEMU that refuses the state must not hold up the bench.
        data = select.select([port], [], [], 60)[0] and os.read(port, 1 << 20)
        if not data:
            raise SystemExit("QEMU ended before the command, or was silent")
        for kind, _payload in reader.feed(data):
            if kind == Kind.CLOCK:
                os.write(port, protocol.encode_clock(time.time_ns()))
    qemu.close()
    return time.perf_counter() - before
