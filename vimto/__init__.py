"""Run Go tests in an ephemeral virtual machine under a Linux kernel of your choice."""

import gc

# What imports make stays until the end: looking through it again and again takes 4 ms of a run.
gc.set_threshold(50_000)

__version__ = "0.1.0"
