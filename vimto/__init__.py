"""Run Go tests in an ephemeral virtual machine under a Linux kernel of your choice."""

__version__ = "0.1.0"
