"""What QEMU is told, as data. `vimto.qemu.render` writes it down, and nobody parses that again."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Option(NamedTuple):
    """`-group kind,id=ID,key=value…`, or a section of a configuration file.

    `kind` is the value that stands first, without a key: a device's driver, a machine's type.
    """

    group: str
    kind: str
    values: Mapping[str, str] = {}
    id: str = ""


class Flag(NamedTuple):
    """`-name value`, or `-name` alone: what a configuration file has no section for."""

    name: str
    value: str | None = None


# The machine does not start: it waits for the state of another one, which the monitor names.
INCOMING = Flag("incoming", "defer")


class Extra(NamedTuple):
    """What one run adds to a machine: more options, and the descriptors that they name.

    The descriptors stay their owner's; QEMU inherits them under the same numbers.
    """

    options: Sequence[Option | Flag] = ()
    descriptors: Sequence[int] = ()

    def after(self, *options: Option | Flag) -> "Extra":
        """Return the same with `options` before."""
        return Extra([*options, *self.options], self.descriptors)


NOTHING = Extra()
