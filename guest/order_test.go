package main

import (
	"slices"
	"testing"
)

func TestParseOrderKeepsBytesThatAreNoUTF8(t *testing.T) {
	o, err := parseOrder(golden(t)["run"].payload)
	if err != nil {
		t.Fatal(err)
	}
	for what, pair := range map[string][2]string{
		"argv":  {o.argv[2], "\xff\xfe"},
		"dir":   {o.dir, "/src/m\xf6d"},
		"share": {o.shares[1].path, "/opt/caf\xc3\xa9"},
		"env":   {o.env[1], "MULTI=a\nb"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s is %q, want %q", what, pair[0], pair[1])
		}
	}
	if want := []view{{"/tmp/x.test", "/private/\xf6.test"}}; !slices.Equal(o.views, want) {
		t.Errorf("views: %q", o.views)
	}
	if want := []link{{"/run/l", "../srv/\xf6"}}; !slices.Equal(o.links, want) {
		t.Errorf("links: %q", o.links)
	}
	if len(o.rlimits) == 0 || o.rlimits[0] != (rlimit{"core", ^uint64(0), ^uint64(0)}) {
		t.Errorf("limits: %v", o.rlimits)
	}
	if len(o.entropy) != 8 || o.uid != 1000 || o.pty != nil || !o.shares[1].readonly {
		t.Errorf("order: %+v", o)
	}
}

func TestParseOrderWithTerminal(t *testing.T) {
	o, err := parseOrder(golden(t)["run-pty"].payload)
	if err != nil || o.pty == nil || *o.pty != (size{24, 80}) {
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
		if _, err := parseOrder([]byte(text)); err == nil {
			t.Errorf("%s was accepted", text)
		}
	}
}

func TestTheLastUserIsOne(t *testing.T) {
	o, err := parseOrder([]byte(`{"protocol":1,"argv":["x"],"uid":4294967294,"gid":4294967294}`))
	if err != nil || o.uid != 4294967294 || o.gid != 4294967294 {
		t.Errorf("%+v, %v", o, err)
	}
}
