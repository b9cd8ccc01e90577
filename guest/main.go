// The guest program: PID 1 of every VM. It runs from the initramfs, says on its virtio-serial port
// that it's there, waits for one order, carries it out and reports the result. A machine may be saved
// while it waits and restored many times; so what does not depend on the order is done before, and
// nothing that must differ between two machines is.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

// buildID names the source this was built from; the linker sets it.
var buildID = "unknown"

// portLimit bounds the wait for the port. Emulated machines are slow; the host has a limit of its own.
const portLimit = 60 * time.Second

// refusal is the status of this program where it is not PID 1.
const refusal = 2

func main() {
	if filepath.Base(os.Args[0]) == "modprobe" {
		os.Exit(runModprobe(os.Args[1:], os.Stdout, os.Stderr))
	}
	if os.Getpid() != 1 && len(os.Args) > 1 && os.Args[1] == dumpWord {
		if helpDump(os.Args[2:]) != nil {
			os.Exit(1)
		}
		return
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "this is vimto's guest program; it runs as PID 1 of a VM only")
		os.Exit(refusal)
	}
	defer powerOff()
	resetSignals()
	_, _ = syscall.Setsid() // the kernel starts us in session 0, which means "none" to getsid's callers
	defer func() {
		if cause := recover(); cause != nil {
			logPanic(cause)
		}
	}()
	c := &crew{reaper: newReaper(), worker: newWorker()}
	p, err := boot(c)
	if err != nil {
		logf("boot: %v", err)
		return
	}
	if err := serve(p, c, false); err != nil {
		logf("%v", err)
	}
}

// crew are the goroutines that the rehearsal and the real order share.
type crew struct {
	reaper *reaper
	worker worker
	warmer *warmer
}

// boot brings the guest to where it waits for its order.
func boot(c *crew) (*port, error) {
	err := mountEarly()
	if err != nil {
		return nil, err
	}
	openConsole()
	if err := stayOnFirstCPU(); err != nil {
		logf("processors: %v", err)
	}
	if err := loadModules("/modules"); err != nil {
		return nil, err
	}
	if err := mountStaged(); err != nil {
		return nil, err
	}
	if err := stageModprobe(); err != nil {
		logf("modprobe: %v", err)
	}
	makeNodes("/dev", findModules(layerDir).dir+"/modules.devname")
	if err := raiseLoopback(); err != nil {
		logf("lo: %v", err)
	}
	go c.reaper.run()
	if c.warmer, err = newWarmer(c.reaper); err != nil {
		logf("warm-up: %v", err)
	}
	if err := rehearse(c); err != nil {
		logf("rehearsal: %v", err)
	}
	path, err := findPort(portName, portLimit)
	if err != nil {
		return nil, err
	}
	return openPort(path, portLimit)
}

// serve carries out one order. It returns when the host has closed the port. A rehearsal leaves the
// machine as it is.
func serve(p *port, c *crew, rehearsal bool) error {
	if err := p.write(describe().frame()); err != nil {
		return err
	}
	k, payload, err := p.next()
	received := time.Now()
	if err != nil {
		return fmt.Errorf("waiting for the order: %w", err)
	}
	if k != kindRun {
		return fmt.Errorf("waiting for the order: got a frame of kind %d", k)
	}
	if err := p.send(kindAccepted, []byte("{}")); err != nil {
		return err
	}
	s, err := accept(p, c, payload, received)
	if err != nil {
		_ = p.write(exit{status: statusLost, stage: "mount", err: err.Error()}.frame())
		_, _, err = p.next()
		return err
	}
	s.rehearsal = rehearsal
	go guarded(s, s.clock.run)
	c.worker <- s.run
	err = s.dispatch()
	_ = syscall.Kill(-1, syscall.SIGKILL)
	_ = s.flush()
	return err
}

// worker is a goroutine that does one thing after the other. It carries out the rehearsal's order and
// then the real one, for which its stack has grown by then: to move a stack is a lot of code.
type worker chan func()

func newWorker() worker {
	w := make(worker)
	go func() {
		for do := range w {
			do()
		}
	}()
	return w
}

// accept parses the order and makes this machine differ from all others of the same save.
func accept(p *port, c *crew, payload []byte, received time.Time) (*session, error) {
	o, err := parseOrder(payload)
	if err != nil {
		return nil, err
	}
	var warming *warmer
	if o.warmUp {
		warming = c.warmer
		warming.begin()
	}
	if err := setClock(o.timeNS, received); err != nil {
		return nil, fmt.Errorf("set the clock: %w", err)
	}
	if err := addEntropy(o.entropy); err != nil {
		return nil, fmt.Errorf("add entropy: %w", err)
	}
	if o.hostname != "" {
		if err := syscall.Sethostname([]byte(o.hostname)); err != nil {
			return nil, fmt.Errorf("set the host name `%s`: %w", o.hostname, err)
		}
	}
	s, err := newSession(p, c.reaper, o, received)
	if err != nil {
		return nil, err
	}
	s.warming = warming
	if s.log, err = openKernelLog(); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("open the kernel's log: %w", err)
	}
	return s, nil
}

// describe gathers what the ready frame says.
func describe() ready {
	r := ready{agent: buildID, release: kernelRelease(), cpus: countCPUs()}
	if text, err := os.ReadFile("/proc/uptime"); err == nil {
		var seconds float64
		_, _ = fmt.Sscan(string(text), &seconds)
		r.bootMS = int64(seconds * 1000)
	}
	text, _ := os.ReadFile("/proc/filesystems")
	for _, line := range strings.Split(string(text), "\n") {
		if fields := strings.Fields(line); len(fields) > 0 {
			r.filesystems = append(r.filesystems, fields[len(fields)-1])
		}
	}
	return r
}

// countCPUs counts the processors that are online, from a list like `0-3,5`.
func countCPUs() int {
	text, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return 1
	}
	count := 0
	for _, part := range strings.Split(string(trimNewline(text)), ",") {
		var first, last int
		switch n, _ := fmt.Sscanf(part, "%d-%d", &first, &last); n {
		case 1:
			count++
		case 2:
			count += last - first + 1
		}
	}
	return max(count, 1)
}

// openConsole points stdout and stderr at the console, or, where there is none, at the kernel's log,
// so that even the runtime's last words are seen.
func openConsole() {
	for _, path := range []string{"/dev/console", "/dev/kmsg"} {
		fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		_ = syscall.Dup3(fd, 1, 0)
		_ = syscall.Dup3(fd, 2, 0)
		if fd > 2 {
			syscall.Close(fd)
		}
		return
	}
}

func logf(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, "vimto: "+format+"\n", arguments...)
}

func logPanic(cause any) { logf("panic: %v\n%s", cause, debug.Stack()) }

// powerOff ends the machine. A restart, since QEMU runs with -no-reboot and every machine can do that;
// powering off needs ACPI.
func powerOff() {
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}
