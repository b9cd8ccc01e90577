package warmup

import (
	"bytes"
	"encoding/binary"
)

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
