//go:build arm64 || riscv64 || loong64

package sys

// System calls that package syscall has no number for; these architectures share one table.
const (
	SYS_FINIT_MODULE = 273
	SYS_SYNCFS       = 267
)
