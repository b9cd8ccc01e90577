"""Writes a compressed kernel module to stdout, for gdb: its own Python may lack zstd.

python -m vimto.gdb.unpack MODULE
"""

import sys
from pathlib import Path

from vimto.errors import KernelError
from vimto.kernel.modules import read_module
from vimto.quoting import visible


def main(path: str) -> int:
    """Write the content of the module `path`; return 1, with a message, where that fails."""
    try:
        data = read_module(Path(path))
    except KernelError as exc:
        sys.stderr.write(visible(exc.message) + "\n")
        return 1
    sys.stdout.buffer.write(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
