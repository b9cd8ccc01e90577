// The guest program is PID 1 of every machine. It runs from the initramfs, says on its virtio-serial port that it
// is ready, waits for one order, carries it out and reports the result. A snapshot may be taken while it
// waits, and restored many times: so it does before whatever no order changes, and nothing that must differ
// from machine to machine.
//
// The packages import downwards only (tests/unit/test_guest.py):
//
//	main                                      boots, and picks what this program is run as
//	run                                       one order, from its arrival to the exit frame
//	forward streams mounts modules warmup     what that is carried out with
//	console wire process network dump         the log, the host, processes, devices
//	linkcache                                 on the host: a link of go's that is known is a copy
//	sys                                       system calls, without package os
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"vimto/guest/internal/console"
	"vimto/guest/internal/dump"
	"vimto/guest/internal/linkcache"
	"vimto/guest/internal/modules"
	"vimto/guest/internal/mounts"
	"vimto/guest/internal/network"
	"vimto/guest/internal/process"
	"vimto/guest/internal/run"
	"vimto/guest/internal/warmup"
	"vimto/guest/internal/wire"
)

// buildID is the digest of the source that this was built from; the linker sets it.
var buildID = "unknown"

// portLimit bounds the wait for the port; the host has a limit of its own for the whole boot.
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
		if status, ours := linkcache.Run(os.Args); ours {
			os.Exit(status)
		}
		fmt.Fprintln(os.Stderr, "this is vimto's guest program, which runs only as PID 1 of a machine")
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

// bootAndServe carries out one order. It returns when the host has closed the port.
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

// boot does what needs no order: mounts, modules, devices.
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
	modules.ReleaseDisks()
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

// powerOff ends the machine by a restart, at which QEMU ends because of -no-reboot: every machine can do
// that, whereas powering off needs ACPI.
func powerOff() {
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}
