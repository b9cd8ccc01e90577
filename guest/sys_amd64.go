package main

// System calls that package syscall has no number for.
const (
	sysFinitModule = 313
	sysSyncfs      = 306
)
