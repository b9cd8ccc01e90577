// Package modules loads kernel modules: those that this program needs before there is a root, and, as the
// guest's modprobe(8), all others.
package modules

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"vimto/guest/internal/console"
	"vimto/guest/internal/sys"
)

// Load loads the kernel modules that dir/order names, one a line, in that order. It is not an error if one is
// there already, or if there is no list, because the kernel has everything built in. One that cannot be
// loaded is only logged: most machines do without it, and where something is missing, that will be reported.
func Load(dir string) error {
	list, err := os.ReadFile(dir + "/order")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(list)) {
		path := dir + "/" + name
		if err := loadModule(path); err != nil && !errors.Is(err, syscall.EEXIST) {
			console.Logf("load module `%s`: %v", name, err)
		}
		// Else the file's pages stay in memory, and in the snapshot.
		_ = os.Remove(path)
	}
	return nil
}

func loadModule(path string) error {
	err := finitModule(path, "", 0)
	if err != syscall.ENOSYS {
		return err
	}
	image, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return initModule(image, "")
}

// compressedFile is MODULE_INIT_COMPRESSED_FILE: the kernel unpacks the file (5.17, CONFIG_MODULE_DECOMPRESS).
const compressedFile = 4

func finitModule(path, parameters string, flags uintptr) error {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	text := append([]byte(parameters), 0)
	_, _, errno := syscall.Syscall(sys.SYS_FINIT_MODULE, uintptr(fd), uintptr(unsafe.Pointer(&text[0])), flags)
	runtime.KeepAlive(text)
	return sys.Err(errno)
}

func initModule(image []byte, parameters string) error {
	if len(image) == 0 {
		return syscall.ENOEXEC
	}
	text := append([]byte(parameters), 0)
	_, _, errno := syscall.Syscall(syscall.SYS_INIT_MODULE, uintptr(unsafe.Pointer(&image[0])),
		uintptr(len(image)), uintptr(unsafe.Pointer(&text[0])))
	runtime.KeepAlive(image)
	runtime.KeepAlive(text)
	return sys.Err(errno)
}

// deleteModule removes a module that nobody uses.
func deleteModule(name string) error {
	text := append([]byte(name), 0)
	_, _, errno := syscall.Syscall(syscall.SYS_DELETE_MODULE, uintptr(unsafe.Pointer(&text[0])), syscall.O_NONBLOCK, 0)
	runtime.KeepAlive(text)
	return sys.Err(errno)
}
