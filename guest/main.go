// The guest program: PID 1 of every VM. It runs from the initramfs, says on its virtio-serial port
// that it's there, waits for one order, carries it out and reports the result. A machine may be saved
// while it waits and restored many times; so what does not depend on the order is done before, and
// nothing that must differ between two machines is.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"vimto/guest/internal/console"
	"vimto/guest/internal/dump"
	"vimto/guest/internal/modules"
	"vimto/guest/internal/mounts"
	"vimto/guest/internal/network"
	"vimto/guest/internal/process"
	"vimto/guest/internal/run"
	"vimto/guest/internal/warmup"
	"vimto/guest/internal/wire"
)

// buildID names the source this was built from; the linker sets it.
var buildID = "unknown"

// portLimit bounds the wait for the port. Emulated machines are slow; the host has a limit of its own.
const portLimit = 60 * time.Second

func main() {
	if filepath.Base(os.Args[0]) == "modprobe" {
		os.Exit(modules.Modprobe(buildID, os.Args[1:], os.Stdout, os.Stderr))
	}
	if os.Getpid() != 1 && len(os.Args) > 1 && os.Args[1] == dump.Argument {
		if dump.Write(os.Args[2:]) != nil {
			os.Exit(1)
		}
		return
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "this is vimto's guest program; it runs as PID 1 of a VM only")
		os.Exit(run.NotPID1)
	}
	defer powerOff()
	process.ResetSignals()
	_, _ = syscall.Setsid() // the kernel starts us in session 0, which means "none" to getsid's callers
	defer func() {
		if cause := recover(); cause != nil {
			console.LogPanic(cause)
		}
	}()
	if err := bootAndServe(); err != nil {
		console.Logf("%v", err)
	}
}

func bootAndServe() error {
	if err := boot(); err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	reaper := process.NewReaper()
	go reaper.Run()
	warmup, err := warmup.Prepare(reaper)
	if err != nil {
		console.Logf("warm-up: %v", err)
	}
	runner := run.NewRunner(buildID, reaper, warmup)
	if err := runner.Prime(); err != nil {
		console.Logf("priming: %v", err)
	}
	p, err := waitForPort()
	if err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	return runner.Serve(p)
}

// boot makes what no order changes: mounts, modules, devices.
func boot() error {
	if err := mounts.Early(); err != nil {
		return err
	}
	console.Open()
	if err := process.StayOnFirstCPU(); err != nil {
		console.Logf("processors: %v", err)
	}
	if err := modules.Load("/modules"); err != nil {
		return err
	}
	if err := mounts.Stage(); err != nil {
		return err
	}
	if err := modules.StageModprobe(mounts.Layer); err != nil {
		console.Logf("modprobe: %v", err)
	}
	modules.MakeNodes("/dev", mounts.Layer)
	if err := network.RaiseLoopback(); err != nil {
		console.Logf("lo: %v", err)
	}
	return nil
}

func waitForPort() (*wire.Port, error) {
	path, err := wire.FindPort(wire.PortName, portLimit)
	if err != nil {
		return nil, err
	}
	return wire.OpenPort(path, portLimit)
}

// powerOff ends the machine. A restart, since QEMU runs with -no-reboot and every machine can do that;
// powering off needs ACPI.
func powerOff() {
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}
