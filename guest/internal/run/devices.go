package run

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"vimto/guest/internal/modules"
	"vimto/guest/internal/process"
	"vimto/guest/internal/sys"
)

// What hangs on a USB port takes the kernel some tenths of a second to find: there is more as long as something has
// come within usbLooks times usbPause.
const (
	usbLooks = 10
	usbPause = 100 * time.Millisecond
)

const noDisksHint = "its kernel needs CONFIG_VIRTIO_BLK, built in or as a module that lies in its tree"

// findDevices lets the kernel load drivers for the devices that the host's user has asked for, as udev would,
// and sees to it that all disks are there.
func (s *session) findDevices() *failure {
	if !s.order.Devices {
		return nil
	}
	seen := map[modules.Device]bool{}
	for quiet, patience := 0, 0; quiet <= patience; quiet++ {
		var found []modules.Device
		for _, device := range modules.Undriven("") {
			if !seen[device] {
				seen[device] = true
				found = append(found, device)
			}
		}
		if len(found) > 0 { // whose drivers may find others
			s.loadDrivers(found)
			for _, device := range found {
				device.Probe()
			}
			quiet = -1
		} else if hasUSB() {
			patience = usbLooks
			sys.Pause(usbPause)
		}
	}
	if disks := diskPaths(); len(disks) < s.order.Disks {
		problem := failed("mount", fmt.Errorf("the guest has %d of its %d disks: no driver takes them", len(disks), s.order.Disks))
		problem.hint = noDisksHint
		return problem
	}
	return nil
}

func hasUSB() bool {
	hubs, _ := filepath.Glob("/sys/bus/usb/devices/usb*")
	return len(hubs) > 0
}

// loadDrivers runs modprobe for devices. One without a module may do without, as the drivers' own tests do.
func (s *session) loadDrivers(devices []modules.Device) {
	argv := []string{modules.ModprobePath, "-abq"}
	for _, device := range devices {
		argv = append(argv, device.Alias)
	}
	null, err := syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer syscall.Close(null)
	c := process.Command{Argv: argv, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Dir: "/"}
	c.Files = []uintptr{uintptr(null), uintptr(null), uintptr(null)}
	c.Attr = &syscall.SysProcAttr{Setpgid: true}
	if _, done, problem := c.Start(s.reaper); problem == nil {
		<-done
	}
}

// diskPaths returns the devices of the machine's own disks.
func diskPaths() []string {
	paths, _ := filepath.Glob("/sys/block/vd*")
	for i, path := range paths {
		paths[i] = "/dev/" + filepath.Base(path)
	}
	return paths
}

// writeBackDisks brings to the host what was written to disks: the file systems on them are unmounted, as at any
// shutdown, and each disk is told to write what it holds back, for QEMU is killed next.
func writeBackDisks() error {
	for _, target := range mountedDisks() {
		if syscall.Unmount(target, 0) != nil {
			_ = syscall.Mount("", target, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
		}
	}
	syscall.Sync()
	for _, path := range diskPaths() {
		fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err == nil {
			err = syscall.Fsync(fd)
			syscall.Close(fd)
		}
		if err != nil {
			return fmt.Errorf("write back disk `%s`: %w", path, err)
		}
	}
	return nil
}

// mountedDisks returns where file systems that lie on block devices are mounted, the innermost first.
func mountedDisks() []string {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	return blockMounts(string(text))
}

// unescape takes back what the kernel does to blanks and backslashes in a path.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// blockMounts takes the text of proc_pid_mountinfo(5). Devices of major number 0 are those that no disk has.
func blockMounts(mountinfo string) []string {
	var found []string
	for _, line := range strings.Split(mountinfo, "\n") {
		fields := strings.Fields(line)
		if len(fields) > 4 && !strings.HasPrefix(fields[2], "0:") {
			found = append(found, unescape.Replace(fields[4]))
		}
	}
	sort.SliceStable(found, func(i, j int) bool { return len(found[i]) > len(found[j]) })
	return found
}
