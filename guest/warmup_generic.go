//go:build !amd64

package main

// programText has no program for this architecture: nothing is warmed up.
func programText() []byte { return nil }
