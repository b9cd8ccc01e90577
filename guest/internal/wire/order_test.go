package wire

import (
	"slices"
	"testing"
)

func TestParseOrderKeepsBytesThatAreNoUTF8(t *testing.T) {
	o, err := ParseOrder(golden(t)["run"].payload)
	if err != nil {
		t.Fatal(err)
	}
	for what, pair := range map[string][2]string{
		"argv":  {o.Argv[2], "\xff\xfe"},
		"dir":   {o.Dir, "/src/m\xf6d"},
		"share": {o.Shares[1].Path, "/opt/caf\xc3\xa9"},
		"env":   {o.Env[1], "MULTI=a\nb"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s is %q, want %q", what, pair[0], pair[1])
		}
	}
	if want := []View{{"/tmp/x.test", "/private/\xf6.test"}}; !slices.Equal(o.Views, want) {
		t.Errorf("views: %q", o.Views)
	}
	if want := []Link{{"/run/l", "../srv/\xf6"}}; !slices.Equal(o.Links, want) {
		t.Errorf("links: %q", o.Links)
	}
	if len(o.Limits) == 0 || o.Limits[0] != (Limit{"core", ^uint64(0), ^uint64(0)}) {
		t.Errorf("limits: %v", o.Limits)
	}
	if len(o.Entropy) != 8 || o.UID != 1000 || o.Terminal != nil || !o.Shares[1].Readonly {
		t.Errorf("order: %+v", o)
	}
}

func TestParseOrderWithTerminal(t *testing.T) {
	o, err := ParseOrder(golden(t)["run-pty"].payload)
	if err != nil || o.Terminal == nil || *o.Terminal != (Size{24, 80}) {
		t.Fatalf("%+v, %v", o, err)
	}
}

func TestParseOrderRefuses(t *testing.T) {
	for _, text := range []string{
		``, `[]`, `{"protocol":2,"argv":["x"]}`, `{"protocol":1,"argv":[]}`,
		`{"protocol":1,"argv":["\u0100"]}`, `{"protocol":1,"argv":"x"}`,
		`{"protocol":1,"argv":["x"],"uid":4294967296}`, `{"protocol":1,"argv":["x"],"uid":4294967295}`,
		`{"protocol":1,"argv":["x"],"gid":-1}`, `{"protocol":1,"argv":["x"],"groups":[4294967295]}`,
		`{"protocol":1,"argv":["x"],"umask":512}`, `{"protocol":1,"argv":["x"],"pty":{"rows":65536,"cols":1}}`,
	} {
		if _, err := ParseOrder([]byte(text)); err == nil {
			t.Errorf("%s was accepted", text)
		}
	}
}

func TestTheLastUserIsOne(t *testing.T) {
	o, err := ParseOrder([]byte(`{"protocol":1,"argv":["x"],"uid":4294967294,"gid":4294967294}`))
	if err != nil || o.UID != 4294967294 || o.GID != 4294967294 {
		t.Errorf("%+v, %v", o, err)
	}
}
