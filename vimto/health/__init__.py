"""What this host and the kernel have for a run, and what they lack: what `vimto doctor` checks."""
