#include "textflag.h"

// func programBounds() (start, end unsafe.Pointer)
TEXT ·programBounds(SB), NOSPLIT, $0-16
	LEAQ program<>(SB), AX
	MOVQ AX, start+0(FP)
	LEAQ programEnd<>(SB), AX
	MOVQ AX, end+8(FP)
	RET

// System calls, by asm/unistd_64.h.
#define READ 0
#define CLOSE 3
#define FSTAT 5
#define MMAP 9
#define MPROTECT 10
#define MUNMAP 11
#define BRK 12
#define PREAD 17
#define ACCESS 21
#define ARCH_PRCTL 158
#define SET_TID_ADDRESS 218
#define EXIT_GROUP 231
#define OPENAT 257
#define SET_ROBUST_LIST 273
#define PRLIMIT 302
#define GETRANDOM 318
#define RSEQ 334

#define CALL0(number) MOVQ $number, AX; SYSCALL
#define CALL1(number, a) MOVQ a, DI; CALL0(number)
#define CALL2(number, a, b) MOVQ b, SI; CALL1(number, a)
#define CALL3(number, a, b, c) MOVQ c, DX; CALL2(number, a, b)
#define CALL4(number, a, b, c, d) MOVQ d, R10; CALL3(number, a, b, c)

// MAP maps the file R13, or nothing if that is -1. Protection: 1 read, 2 write, 4 execute. Flags: 2
// private, 0x10 fixed, 0x20 anonymous.
#define MAP(address, size, protection, flags) MOVQ R13, R8; XORQ R9, R9; CALL4(MMAP, address, size, protection, flags)

// The program that elf.go makes a file of: what a dynamic loader and a C library ask the kernel for
// before and after main. It never runs here, has nothing around it but its own file, and checks nothing:
// a call that fails has warmed up what it could. R12 is its path, R13 a file, R14 and R15 are memory.
TEXT program<>(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ 8(SP), R12
	SUBQ $1024, SP

	// A heap of one page.
	CALL1(BRK, $0)
	MOVQ AX, R15
	LEAQ 0x1000(R15), DI
	CALL0(BRK)
	MOVB $1, (R15)

	// A library: looked at and mapped in its parts, each of which is touched.
	CALL2(ACCESS, R12, $4)
	CALL3(OPENAT, $-100, R12, $0)
	MOVQ AX, R13
	CALL3(READ, R13, SP, $832)
	CALL4(PREAD, R13, SP, $784, $64)
	CALL2(FSTAT, R13, SP)
	MAP($0, $0x10000, $1, $2)
	MOVQ AX, R14
	MOVB (R14), CX
	LEAQ 0x1000(R14), BX
	MAP(BX, $0x2000, $5, $0x12)
	LEAQ 0x4000(R14), BX
	MAP(BX, $0x2000, $3, $0x12)
	MOVB $1, 0x4000(R14)
	CALL1(CLOSE, R13)
	MOVQ $-1, R13
	LEAQ 0x6000(R14), BX
	MAP(BX, $0x2000, $3, $0x32)
	MOVB $1, 0x6000(R14)

	// The first thread's own things.
	MAP($0, $0x3000, $3, $0x22)
	MOVQ AX, R15
	MOVB $1, (R15)
	CALL2(ARCH_PRCTL, $0x1002, R15)
	CALL1(SET_TID_ADDRESS, R15)
	LEAQ 0x100(R15), BX
	CALL2(SET_ROBUST_LIST, BX, $24)
	LEAQ 0x200(R15), BX
	CALL4(RSEQ, BX, $32, $0, $0x53053053)

	// Relocated data becomes read-only, and what was for the loader goes.
	LEAQ 0x4000(R14), BX
	CALL3(MPROTECT, BX, $0x1000, $1)
	CALL4(PRLIMIT, $0, $3, $0, SP)
	LEAQ 0xa000(R14), BX
	CALL2(MUNMAP, BX, $0x2000)
	CALL3(GETRANDOM, SP, $8, $1)

	CALL1(CLOSE, $1)
	CALL1(EXIT_GROUP, $0)

TEXT programEnd<>(SB), NOSPLIT|NOFRAME, $0-0
	RET
