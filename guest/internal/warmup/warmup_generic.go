//go:build !amd64

package warmup

// programText has no program for this architecture: nothing is warmed up.
func programText() []byte { return nil }
