package main

import (
	"fmt"
	"math"
)

// maxID is the last uid and gid; the one after it says "as it is" to setuid(2): root.
const maxID = math.MaxUint32 - 1

// order is the run frame: everything the host wants done, fully resolved.
type order struct {
	argv, env []string
	dir       string
	umask     int
	uid, gid  uint32
	groups    []uint32

	streams [3]string // what stdin, stdout and stderr are: "pipe", "null", "closed"; stderr also "stdout"
	pty     *size     // not nil: a terminal instead of the streams

	hostname string
	hosts    string // what /etc/hosts holds; nothing: it is the host's
	links    []link
	timeNS   int64
	entropy  []byte

	root            rootOrder
	shares          []share
	views           []view
	sysctls         []sysctl
	rlimits         []rlimit
	setup, teardown [][]string
	network         bool
	warmUp          bool // there is a host processor to spare: see warmup.go
	gdbPause        bool // wait for the host's resume before the command is started
}

// link is a symbolic link that the guest gets.
type link struct{ path, target string }

// size is a terminal's, in character cells.
type size struct{ rows, cols uint16 }

// rootOrder says where the root's parts come from; image is "" if the kernel brings no files.
type rootOrder struct {
	fs, tag, image      string
	tmpfsPercent, msize int
}

// share is a directory of the host that appears at the same path.
type share struct {
	fs, tag, path string
	readonly      bool
}

// view is what the host has at source, a real path, seen at path in one of the guest's own directories.
type view struct{ path, source string }

// sysctl is a kernel parameter; a dot or a slash separates the parts of its name.
type sysctl struct{ name, value string }

// rlimit is a resource limit by its name in getrlimit(2), in lower case.
type rlimit struct {
	name       string
	soft, hard uint64
}

// parseOrder returns the order in a run frame's payload, or what is wrong with it.
func parseOrder(payload []byte) (*order, error) {
	value, err := decode(payload)
	if err != nil {
		return nil, fmt.Errorf("the order cannot be read: %w", err)
	}
	f := &fields{err: new(error)}
	f.members = f.object("order", value)
	o := &order{
		argv: f.texts("argv"), env: f.texts("env"), dir: f.text("dir"),
		umask: int(f.count("umask", 0o777)), uid: f.id("uid"), gid: f.id("gid"),
		groups:   []uint32{},
		streams:  [3]string{f.text("stdin"), f.text("stdout"), f.text("stderr")},
		hostname: f.text("hostname"), hosts: f.text("hosts"), timeNS: f.number("time_ns"), entropy: []byte(f.text("entropy")),
		setup: f.commands("setup"), teardown: f.commands("teardown"), network: f.flag("network"),
		warmUp: f.flag("warm_up"), gdbPause: f.flag("gdb_pause"),
	}
	for _, group := range f.list("groups") {
		o.groups = append(o.groups, uint32(f.bounded("groups", group, maxID)))
	}
	if f.members.get("pty") != nil {
		p := f.within("pty")
		o.pty = &size{uint16(p.count("rows", math.MaxUint16)), uint16(p.count("cols", math.MaxUint16))}
	}
	f.mounts(o)
	for _, m := range f.within("sysctls").members {
		o.sysctls = append(o.sysctls, sysctl{m.name, f.str("sysctls", m.value)})
	}
	for _, m := range f.within("rlimits").members {
		o.rlimits = append(o.rlimits, f.limit(m))
	}
	if version := f.number("protocol"); version != protocolVersion {
		return nil, fmt.Errorf("the order has protocol %d, this agent speaks %d", version, protocolVersion)
	}
	if *f.err == nil && len(o.argv) == 0 {
		f.wrong("argv")
	}
	return o, *f.err
}

// mounts reads the parts about the root, the shares and the views.
func (f *fields) mounts(o *order) {
	root := f.within("root")
	o.root = rootOrder{
		fs: root.text("fs"), tag: root.text("tag"), image: root.text("image"),
		tmpfsPercent: int(root.count("tmpfs_percent", 100)), msize: int(root.count("msize", math.MaxInt32)),
	}
	for _, value := range f.list("shares") {
		s := &fields{members: f.object("shares", value), err: f.err}
		o.shares = append(o.shares, share{
			fs: s.text("fs"), tag: s.text("tag"), path: s.text("path"), readonly: s.flag("readonly"),
		})
	}
	for _, value := range f.list("links") {
		l := &fields{members: f.object("links", value), err: f.err}
		o.links = append(o.links, link{l.text("path"), l.text("target")})
	}
	for _, value := range f.list("views") {
		v := &fields{members: f.object("views", value), err: f.err}
		o.views = append(o.views, view{v.text("path"), v.text("source")})
	}
}

// limit reads a pair of soft and hard limit; -1 is "unlimited".
func (f *fields) limit(m member) rlimit {
	pair := f.array("rlimits", m.value)
	if len(pair) != 2 {
		f.wrong("rlimits")
		return rlimit{}
	}
	return rlimit{m.name, uint64(f.integer("rlimits", pair[0])), uint64(f.integer("rlimits", pair[1]))}
}

// fields reads an object's members by name and type. A member that is missing is its type's zero value;
// the first one of another type becomes the error that all objects of one message share.
type fields struct {
	members object
	err     *error
}

func (f *fields) wrong(name string) {
	if *f.err == nil {
		*f.err = fmt.Errorf("field `%s` has a wrong value", name)
	}
}

func (f *fields) object(name string, value any) object {
	members, ok := value.(object)
	if !ok && value != nil {
		f.wrong(name)
	}
	return members
}

func (f *fields) within(name string) *fields {
	return &fields{members: f.object(name, f.members.get(name)), err: f.err}
}

func (f *fields) integer(name string, value any) int64 {
	n, ok := value.(int64)
	if !ok && value != nil {
		f.wrong(name)
	}
	return n
}

func (f *fields) number(name string) int64 { return f.integer(name, f.members.get(name)) }

// count reads a number from 0 to most; a conversion to a smaller type would make another one of it.
func (f *fields) count(name string, most int64) int64 {
	return f.bounded(name, f.members.get(name), most)
}

func (f *fields) bounded(name string, value any, most int64) int64 {
	n := f.integer(name, value)
	if n < 0 || n > most {
		f.wrong(name)
		return 0
	}
	return n
}

func (f *fields) id(name string) uint32 { return uint32(f.count(name, maxID)) }

func (f *fields) str(name string, value any) string {
	s, ok := value.(string)
	if !ok && value != nil {
		f.wrong(name)
	}
	return s
}

func (f *fields) text(name string) string { return f.str(name, f.members.get(name)) }

func (f *fields) flag(name string) bool {
	value := f.members.get(name)
	b, ok := value.(bool)
	if !ok && value != nil {
		f.wrong(name)
	}
	return b
}

func (f *fields) array(name string, value any) []any {
	list, ok := value.([]any)
	if !ok && value != nil {
		f.wrong(name)
	}
	return list
}

func (f *fields) list(name string) []any { return f.array(name, f.members.get(name)) }

func (f *fields) words(name string, value any) []string {
	list := f.array(name, value)
	out := make([]string, len(list))
	for i, element := range list {
		out[i] = f.str(name, element)
	}
	return out
}

func (f *fields) texts(name string) []string { return f.words(name, f.members.get(name)) }

func (f *fields) commands(name string) [][]string {
	var out [][]string
	for _, command := range f.list(name) {
		out = append(out, f.words(name, command))
	}
	return out
}
