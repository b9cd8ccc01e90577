package modules

import (
	"os"
	"path/filepath"
	"testing"
)

func TestUndrivenDevicesAreThoseTheUserAskedFor(t *testing.T) {
	root := t.TempDir()
	add := func(bus, name, alias string, driven bool) {
		t.Helper()
		path := filepath.Join(root, "sys/bus", bus, "devices", name)
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if alias != "" {
			if err := os.WriteFile(path+"/modalias", []byte(alias+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if driven {
			if err := os.Mkdir(path+"/driver", 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	add("acpi", "PNP0C0A:00", "acpi:PNP0C0A:", false)
	add("pci", "0000:00:1f.0", "pci:v00008086", false)
	add("pci", "0000:00:1d.0", "pci:v00001B36", false)
	add("virtio", "virtio0", "virtio:d00000003v00001AF4", true)
	add("virtio", "virtio5", "virtio:d00000002v00001AF4", false)
	add("usb", "usb1", "", false)
	found := Undriven(root)
	want := []Device{
		{Alias: "pci:v00001B36", bus: "pci", name: "0000:00:1d.0"},
		{Alias: "virtio:d00000002v00001AF4", bus: "virtio", name: "virtio5"},
	}
	if len(found) != len(want) || found[0] != want[0] || found[1] != want[1] {
		t.Errorf("found %+v, want %+v", found, want)
	}
}
