package warmup

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestTheWarmUpProgramRuns(t *testing.T) {
	text := programText()
	if text == nil {
		t.Skip("there is none for this architecture")
	}
	path := filepath.Join(t.TempDir(), "program")
	file := programFile(text, path)
	f, err := elf.NewFile(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	loads := 0
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD {
			loads++
		}
	}
	if f.Type != elf.ET_DYN || loads != 3 || f.Progs[0].Type != elf.PT_INTERP {
		t.Errorf("type %v, %d segments to load, the first one is %v", f.Type, loads, f.Progs[0].Type)
	}
	if err := os.WriteFile(path, file, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v: %q", err, out)
	}
}

func TestNoWarmUpIsNothingToWaitFor(t *testing.T) {
	var none *Program
	none.Start()()
}
