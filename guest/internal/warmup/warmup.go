package warmup

import (
	"bytes"
	"encoding/binary"
	"os"
	"runtime"
	"syscall"

	"vimto/guest/internal/process"
)

// An emulator translates the machine's code when it first runs, once for all processors, and a restored
// machine has none translated: whatever happens in it for the first time takes ten times as long as
// later. Half of what the command still waits for, when its root is mounted, is kernel code that starts
// and ends programs. So while processor 0 mounts the root, another one, which would sleep, starts and
// ends a small program that asks the kernel for what every program does; its code is ready then.

// warmupPath is the program's place in the initramfs, which nobody sees once the root is another.
const warmupPath = "/vimto-warmup"

// Program starts the program when told to. A nil one has no processor for it, or no program.
type Program struct {
	begun, ended chan struct{}
}

// Prepare writes the program and keeps a thread for it on all processors but the first.
func Prepare(r *process.Reaper) (*Program, error) {
	others, ok := process.OtherCPUs()
	text := programText()
	if len(text) == 0 || !ok {
		return nil, nil
	}
	if err := os.WriteFile(warmupPath, programFile(text, warmupPath), 0o755); err != nil {
		return nil, err
	}
	null, err := syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	w := &Program{begun: make(chan struct{}), ended: make(chan struct{}, 1)}
	go onOwnThread(func() { w.run(r, uintptr(null), &others) })
	return w, nil
}

// Start starts the program. The function that it returns waits until there is no trace of it any more.
func (w *Program) Start() (wait func()) {
	if w == nil {
		return func() {}
	}
	w.begun <- struct{}{}
	return func() { <-w.ended }
}

// onOwnThread does something on a thread that nobody else uses, and which is not the main one: that one
// is what others see of us in /proc.
func onOwnThread(do func()) {
	runtime.LockOSThread()
	if syscall.Gettid() != syscall.Getpid() {
		do()
		return
	}
	locked := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		close(locked)
		do()
	}()
	<-locked
	runtime.UnlockOSThread()
}

func (w *Program) run(r *process.Reaper, null uintptr, where *process.CPUSet) {
	_ = process.SetAffinity(0, where)
	attr := &syscall.ProcAttr{
		Dir: "/", Env: []string{"PATH=/"}, Files: []uintptr{null, null, null},
		Sys: &syscall.SysProcAttr{Setpgid: true, Credential: &syscall.Credential{}},
	}
	for range w.begun {
		if _, done, err := r.Start(warmupPath, []string{warmupPath}, attr, where); err == nil {
			<-done
		}
		w.ended <- struct{}{}
	}
}

const (
	elfDynamic     = 3 // ET_DYN: a program that can be loaded anywhere
	elfX86         = 62
	elfLoad        = 1
	elfInterpreter = 3
	elfStack       = 0x6474e551
	canRead        = 4
	canWrite       = 2
	canExecute     = 1
)

// elfHeader and elfSegment are Elf64_Ehdr and Elf64_Phdr of elf(5).
type elfHeader struct {
	Ident                                  [16]byte
	Type, Machine                          uint16
	Version                                uint32
	Entry, Segments, Sections              uint64
	Flags                                  uint32
	Size, SegmentSize, SegmentCount        uint16
	SectionSize, SectionCount, SectionName uint16
}

type elfSegment struct {
	Type, Flags               uint32
	Offset, Virtual, Physical uint64
	FileSize, MemorySize      uint64
	Align                     uint64
}

// programFile returns an ELF file at path of the instructions text. It has the parts that most programs
// have, and is its own dynamic loader: a page of headers, one of text, and data with zeroes behind.
func programFile(text []byte, path string) []byte {
	const page = 4096
	at := func(kind, flags uint32, offset, file, memory int) elfSegment {
		place := uint64(offset)
		return elfSegment{kind, flags, place, place, place, uint64(file), uint64(memory), page}
	}
	name := page / 2
	segments := []elfSegment{
		at(elfInterpreter, canRead, name, len(path)+1, len(path)+1),
		at(elfLoad, canRead, 0, page, page),
		at(elfLoad, canRead|canExecute, page, len(text), len(text)),
		at(elfLoad, canRead|canWrite, 2*page, page/2, 3*page),
		at(elfStack, canRead|canWrite, 0, 0, 0),
	}
	header := elfHeader{
		Type: elfDynamic, Machine: elfX86, Version: 1, Entry: page, Segments: 64,
		Size: 64, SegmentSize: 56, SegmentCount: uint16(len(segments)),
	}
	copy(header.Ident[:], "\x7fELF\x02\x01\x01")
	var head bytes.Buffer
	_ = binary.Write(&head, binary.LittleEndian, header)
	_ = binary.Write(&head, binary.LittleEndian, segments)
	file := make([]byte, 3*page)
	copy(file, head.Bytes())
	copy(file[name:], path)
	copy(file[page:], text)
	return file
}
