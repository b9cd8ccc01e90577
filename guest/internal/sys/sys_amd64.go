package sys

// System calls that package syscall has no number for.
const (
	SYS_FINIT_MODULE = 313
	SYS_SYNCFS       = 306
)
