package sys

// Numbers of system calls that package syscall lacks.
const (
	SYS_FINIT_MODULE = 313
	SYS_SYNCFS       = 306
)
