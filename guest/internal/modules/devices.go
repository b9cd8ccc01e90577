package modules

import (
	"os"
	"path/filepath"
	"strings"

	"vimto/guest/internal/sys"
)

// What the kernel finds of the machine when it boots, whatever its user has asked for: drivers that are modules
// are loaded for none of it. (The PCI devices are the host bridge and the south bridge.)
var (
	ownBuses   = map[string]bool{"acpi": true, "cpu": true, "platform": true, "pnp": true}
	ownDevices = []string{"0000:00:00.0", "0000:00:1f."}
)

// Device is one that no driver has taken.
type Device struct {
	Alias string // what a driver's module is found by

	bus, name string
}

// Undriven returns the devices of the kernel's buses that have no driver; root is where /sys lies.
func Undriven(root string) []Device {
	var found []Device
	paths, _ := filepath.Glob(root + "/sys/bus/*/devices/*")
	for _, path := range paths {
		bus, name := filepath.Base(filepath.Dir(filepath.Dir(path))), filepath.Base(path)
		if ownBuses[bus] || isOwn(name) {
			continue
		}
		if _, err := os.Stat(path + "/driver"); err == nil {
			continue
		}
		if text, err := sys.ReadFile(path + "/modalias"); err == nil {
			found = append(found, Device{Alias: strings.TrimSpace(text), bus: bus, name: name})
		}
	}
	return found
}

func isOwn(name string) bool {
	for _, prefix := range ownDevices {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// Probe lets the kernel look once more for a driver that it has.
func (d Device) Probe() { _ = sys.WriteFile("/sys/bus/"+d.bus+"/drivers_probe", d.name) }

// diskDriver is where the driver of the machine's own disks has them, be it built in or a module.
const diskDriver = "/sys/bus/virtio/drivers/virtio_blk"

// ReleaseDisks takes all disks from their driver. What is behind one may be another when this machine goes on
// from its snapshot: nothing of it may be remembered, neither its size nor its partitions nor a block.
func ReleaseDisks() {
	paths, _ := filepath.Glob(diskDriver + "/virtio*")
	for _, path := range paths {
		_ = sys.WriteFile(diskDriver+"/unbind", filepath.Base(path))
	}
}
