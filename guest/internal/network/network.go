// Package network brings up the guest's network interfaces.
package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"unsafe"

	"vimto/guest/internal/sys"
)

// interfaceRequest is struct ifreq: a name and a union of 24 bytes.
type interfaceRequest struct {
	name  [16]byte
	union [24]byte
}

// internetAddress is struct sockaddr_in, as ifreq's union and rtentry hold it.
type internetAddress struct {
	family uint16
	port   uint16
	ip     [4]byte
	_      [8]byte
}

// routeEntry is struct rtentry of a 64-bit kernel.
type routeEntry struct {
	_                          uint64
	destination, gateway, mask internetAddress
	flags                      uint16
	_                          [3]uint16
	_                          [2]uint64
	metric                     int16
	_                          [3]uint16
	device                     uintptr
	_                          [3]uint64
}

func inet(a, b, c, d byte) internetAddress {
	return internetAddress{family: syscall.AF_INET, ip: [4]byte{a, b, c, d}}
}

func withSocket(do func(fd int) error) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	return do(fd)
}

// raiseInterface is `ip link set NAME up`. lo then gets its addresses from the kernel.
func raiseInterface(fd int, name string) error {
	var request interfaceRequest
	copy(request.name[:15], name)
	if err := sys.Ioctl(fd, syscall.SIOCGIFFLAGS, unsafe.Pointer(&request)); err != nil {
		return err
	}
	*(*uint16)(unsafe.Pointer(&request.union)) |= syscall.IFF_UP
	return sys.Ioctl(fd, syscall.SIOCSIFFLAGS, unsafe.Pointer(&request))
}

// RaiseLoopback is `ip link set lo up`.
func RaiseLoopback() error {
	return withSocket(func(fd int) error { return raiseInterface(fd, "lo") })
}

func setAddress(fd int, name string, request uintptr, address internetAddress) error {
	var r interfaceRequest
	copy(r.name[:15], name)
	*(*internetAddress)(unsafe.Pointer(&r.union)) = address
	return sys.Ioctl(fd, request, unsafe.Pointer(&r))
}

// Start gives the first network card the addresses of QEMU's user networking, and root a resolver. They are
// the same in every machine (QEMU's manual, "Using the user mode network stack"), so there is no DHCP.
func Start(root string) error {
	name, err := findCard()
	if err != nil {
		return err
	}
	err = withSocket(func(fd int) error {
		if err := setAddress(fd, name, syscall.SIOCSIFADDR, inet(10, 0, 2, 15)); err != nil {
			return fmt.Errorf("address of %s: %w", name, err)
		}
		if err := setAddress(fd, name, syscall.SIOCSIFNETMASK, inet(255, 255, 255, 0)); err != nil {
			return fmt.Errorf("netmask of %s: %w", name, err)
		}
		if err := raiseInterface(fd, name); err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
		route := routeEntry{
			destination: inet(0, 0, 0, 0), gateway: inet(10, 0, 2, 2), mask: inet(0, 0, 0, 0),
			flags: syscall.RTF_UP | syscall.RTF_GATEWAY,
		}
		if err := sys.Ioctl(fd, syscall.SIOCADDRT, unsafe.Pointer(&route)); err != nil && !errors.Is(err, syscall.EEXIST) {
			return fmt.Errorf("default route: %w", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return writeResolver(root)
}

func findCard() (string, error) {
	paths, _ := filepath.Glob("/sys/class/net/*/device")
	sort.Strings(paths)
	for _, path := range paths {
		return filepath.Base(filepath.Dir(path)), nil
	}
	return "", errors.New("the guest has no network card: its kernel lacks virtio_net, or has not loaded the module")
}

// writeResolver makes QEMU the resolver. The host's resolv.conf is often a link into /run, which is empty
// here: then the file is made where the link leads.
func writeResolver(root string) error {
	path := root + "/etc/resolv.conf"
	if link, err := os.Readlink(path); err == nil {
		if !strings.HasPrefix(link, "/") {
			link = "/etc/" + link
		}
		path = root + filepath.Clean(link)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
	}
	return os.WriteFile(path, []byte("nameserver 10.0.2.3\n"), 0o644)
}
