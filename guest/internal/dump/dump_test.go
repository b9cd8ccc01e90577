package dump

import (
	"bytes"
	"os"
	"reflect"
	"testing"
	"time"
)

func TestParseDump(t *testing.T) {
	d, err := parseDump([]string{"57", "100", "1", "2", "18446744073709551615", "a/b", "c"})
	if err != nil || d != (dump{"57", "100", 1, 2, 1<<64 - 1, "a/b c"}) {
		t.Errorf("%+v, %v", d, err)
	}
	if d.name() != "core-a!b c-100-57" {
		t.Errorf("%q", d.name())
	}
	for _, words := range [][]string{{}, {"57", "100", "1", "2", "3"}, {"57", "100", "x", "2", "3", "p"}} {
		if _, err := parseDump(words); err == nil {
			t.Errorf("%q is taken", words)
		}
	}
}

func TestFind(t *testing.T) {
	directory := t.TempDir()
	for _, name := range []string{"core-a-b-100-57", "core-a-99-57", "core-x-100", "core-a-b-57", "acore-a-100-57", "core"} {
		if err := os.WriteFile(directory+"/"+name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if found := Find(directory, time.Unix(100, 5)); !reflect.DeepEqual(found, []string{"core-a-b-100-57"}) {
		t.Errorf("%q", found)
	}
	if found := Find(directory+"/nothing", time.Unix(0, 0)); found != nil {
		t.Errorf("%q", found)
	}
}

func TestCopySparse(t *testing.T) {
	const block = 64 << 10
	data := bytes.Join([][]byte{
		make([]byte, 3*block), bytes.Repeat([]byte{1}, 10), make([]byte, 2*block), []byte("end"), make([]byte, block),
	}, nil)
	file, err := os.Create(t.TempDir() + "/core")
	if err != nil {
		t.Fatal(err)
	}
	size, err := copySparse(file, bytes.NewReader(data))
	if err != nil || size != int64(len(data)) {
		t.Fatal(size, err)
	}
	if err := file.Truncate(size); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file.Name())
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes differ, %v", len(got), err)
	}
}
