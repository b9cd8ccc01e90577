package wire

import (
	"fmt"
	"math"
)

// maxID is the largest uid and gid. To setreuid(2) and its like the number after it means "unchanged": root.
const maxID = math.MaxUint32 - 1

// Order is the content of a run frame: everything that the host wants done, fully resolved.
type Order struct {
	Argv, Env []string
	Dir       string
	Umask     int
	UID, GID  uint32
	Groups    []uint32

	Streams  [3]string // what stdin, stdout and stderr are: "pipe", "null", "closed"; stderr also "stdout"
	Terminal *Size     // not nil: a terminal instead of the streams

	Hostname string
	Hosts    string // the content of /etc/hosts; if empty, it is the host's
	Links    []Link
	TimeNS   int64
	Entropy  []byte

	Root            rootOrder
	Shares          []Share
	Views           []View
	Sysctls         []Sysctl
	Limits          []Limit
	Setup, Teardown [][]string
	Network         bool
	Devices         bool // the machine has devices whose drivers are still to be found
	Disks           int
	WriteBack       bool // what is written to disks stays
	WarmUp          bool // the host has a processor to spare: see package warmup
	GDBPause        bool // wait for a resume frame before the command is started
}

// Link is a symbolic link that the guest gets.
type Link struct{ Path, Target string }

// Size is the size of a terminal, in character cells.
type Size struct{ Rows, Cols uint16 }

// rootOrder says where the root's parts come from; image is "" if the kernel brings no files.
type rootOrder struct {
	FS, Tag, Image        string
	TmpfsPercent, MsgSize int
}

// Share is a directory of the host that appears in the guest at the same path.
type Share struct {
	FS, Tag, Path string
	Readonly      bool
}

// View shows what the host has at Source, a real path, at Path in one of the guest's private directories.
type View struct{ Path, Source string }

// Sysctl is a kernel parameter; a dot or a slash separates the parts of its name.
type Sysctl struct{ Name, Value string }

// Limit is a resource limit by its name in getrlimit(2), in lower case.
type Limit struct {
	Name       string
	Soft, Hard uint64
}

// ParseOrder returns the order in a run frame's payload, or what is wrong with it.
func ParseOrder(payload []byte) (*Order, error) {
	f := parseObject(KindRun, payload)
	if *f.err != nil {
		return nil, *f.err
	}
	o := &Order{
		Argv: f.texts("argv"), Env: f.texts("env"), Dir: f.text("dir"),
		Umask: int(f.count("umask", 0o777)), UID: f.id("uid"), GID: f.id("gid"),
		Groups:   []uint32{},
		Streams:  [3]string{f.text("stdin"), f.text("stdout"), f.text("stderr")},
		Hostname: f.text("hostname"), Hosts: f.text("hosts"), TimeNS: f.number("time_ns"), Entropy: []byte(f.text("entropy")),
		Setup: f.commands("setup"), Teardown: f.commands("teardown"), Network: f.flag("network"),
		Devices: f.flag("devices"), Disks: int(f.count("disks", math.MaxInt16)), WriteBack: f.flag("write_back"),
		WarmUp: f.flag("warm_up"), GDBPause: f.flag("gdb_pause"),
	}
	for _, group := range f.list("groups") {
		o.Groups = append(o.Groups, uint32(f.bounded("groups", group, maxID)))
	}
	if f.members.get("pty") != nil {
		p := f.within("pty")
		o.Terminal = &Size{uint16(p.count("rows", math.MaxUint16)), uint16(p.count("cols", math.MaxUint16))}
	}
	f.mounts(o)
	for _, m := range f.within("sysctls").members {
		o.Sysctls = append(o.Sysctls, Sysctl{m.name, f.str("sysctls", m.value)})
	}
	for _, m := range f.within("rlimits").members {
		o.Limits = append(o.Limits, f.limit(m))
	}
	if version := f.number("protocol"); version != protocolVersion {
		return nil, fmt.Errorf("the order is of protocol version %d, this guest program speaks %d", version, protocolVersion)
	}
	if *f.err == nil && len(o.Argv) == 0 {
		f.wrong("argv")
	}
	return o, *f.err
}

// mounts reads the parts about the root, the shares and the views.
func (f *fields) mounts(o *Order) {
	root := f.within("root")
	o.Root = rootOrder{
		FS: root.text("fs"), Tag: root.text("tag"), Image: root.text("image"),
		TmpfsPercent: int(root.count("tmpfs_percent", 100)), MsgSize: int(root.count("msize", math.MaxInt32)),
	}
	for _, value := range f.list("shares") {
		s := &fields{members: f.object("shares", value), err: f.err}
		o.Shares = append(o.Shares, Share{
			FS: s.text("fs"), Tag: s.text("tag"), Path: s.text("path"), Readonly: s.flag("readonly"),
		})
	}
	for _, value := range f.list("links") {
		l := &fields{members: f.object("links", value), err: f.err}
		o.Links = append(o.Links, Link{l.text("path"), l.text("target")})
	}
	for _, value := range f.list("views") {
		v := &fields{members: f.object("views", value), err: f.err}
		o.Views = append(o.Views, View{v.text("path"), v.text("source")})
	}
}

// limit reads a pair, the soft and the hard limit; -1 means "unlimited".
func (f *fields) limit(m member) Limit {
	pair := f.array("rlimits", m.value)
	if len(pair) != 2 {
		f.wrong("rlimits")
		return Limit{}
	}
	return Limit{m.name, uint64(f.integer("rlimits", pair[0])), uint64(f.integer("rlimits", pair[1]))}
}

// fields reads an object's members by name and type. A missing member is its type's zero value; the first one
// of a wrong type becomes the error, which all objects of one message share.
type fields struct {
	members object
	err     *error
}

func (f *fields) wrong(name string) {
	if *f.err == nil {
		*f.err = fmt.Errorf("field `%s` has an invalid value", name)
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

// count reads a number from 0 to most, which is the largest that the caller's type holds.
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

func (f *fields) stringsOf(name string, value any) []string {
	list := f.array(name, value)
	out := make([]string, len(list))
	for i, element := range list {
		out[i] = f.str(name, element)
	}
	return out
}

func (f *fields) texts(name string) []string { return f.stringsOf(name, f.members.get(name)) }

func (f *fields) commands(name string) [][]string {
	var out [][]string
	for _, command := range f.list(name) {
		out = append(out, f.stringsOf(name, command))
	}
	return out
}
