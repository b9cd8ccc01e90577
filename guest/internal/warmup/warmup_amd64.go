package warmup

import "unsafe"

// programBounds returns where the warm-up program's instructions start and end, in warmup_amd64.s.
func programBounds() (start, end unsafe.Pointer)

func programText() []byte {
	start, end := programBounds()
	return unsafe.Slice((*byte)(start), uintptr(end)-uintptr(start))
}
