//go:build arm64 || riscv64 || loong64

package main

// System calls that package syscall has no number for; these architectures share one table.
const (
	sysFinitModule = 273
	sysSyncfs      = 267
)
