"""`python -m vimto`."""

from vimto.cli import main

main()
