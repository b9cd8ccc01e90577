//go:build arm64 || riscv64 || loong64

package sys

// Numbers of system calls that package syscall lacks; these architectures share one table.
const (
	SYS_FINIT_MODULE = 273
	SYS_SYNCFS       = 267
)
