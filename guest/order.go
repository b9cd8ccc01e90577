package main

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// octets is a byte string. In JSON each byte is one code point U+0000 to U+00FF (Latin-1), so that
// paths, arguments and environment entries that are no UTF-8 survive the journey.
type octets string

func (o *octets) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	ascii := true
	for i := 0; i < len(text) && ascii; i++ {
		ascii = text[i] < utf8.RuneSelf
	}
	if ascii {
		*o = octets(text)
		return nil
	}
	raw := make([]byte, 0, len(text))
	for _, r := range text {
		if r > 0xff {
			return fmt.Errorf("code point %U in a byte string", r)
		}
		raw = append(raw, byte(r))
	}
	*o = octets(raw)
	return nil
}

// order is the run frame: everything the host wants done, fully resolved.
type order struct {
	Protocol int      `json:"protocol"`
	Argv     []octets `json:"argv"`
	Env      []octets `json:"env"`
	Dir      octets   `json:"dir"`
	Umask    int      `json:"umask"`
	UID      uint32   `json:"uid"`
	GID      uint32   `json:"gid"`
	Groups   []uint32 `json:"groups"`

	Stdin  string `json:"stdin"`
	Stdout string `json:"stdout"`
	Stderr string `json:"stderr"`
	Pty    *size  `json:"pty"`

	Hostname string `json:"hostname"`
	TimeNS   int64  `json:"time_ns"`
	Entropy  []byte `json:"entropy"`

	Root     rootOrder            `json:"root"`
	Shares   []share              `json:"shares"`
	Sysctls  map[string]string    `json:"sysctls"`
	Rlimits  map[string][2]rlimit `json:"rlimits"`
	Setup    [][]octets           `json:"setup"`
	Teardown [][]octets           `json:"teardown"`
	Network  bool                 `json:"network"`
	GDBPause bool                 `json:"gdb_pause"`
}

// size is a terminal's, in character cells.
type size struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

type rootOrder struct {
	FS           string `json:"fs"`
	Tag          string `json:"tag"`
	Image        string `json:"image"`
	TmpfsPercent int    `json:"tmpfs_percent"`
	Msize        int    `json:"msize"`
}

type share struct {
	FS       string `json:"fs"`
	Tag      string `json:"tag"`
	Path     octets `json:"path"`
	Readonly bool   `json:"readonly"`
}

// rlimit is a resource limit; -1 is "unlimited".
type rlimit uint64

func (r *rlimit) UnmarshalJSON(data []byte) error {
	var signed int64
	if err := json.Unmarshal(data, &signed); err == nil {
		*r = rlimit(uint64(signed))
		return nil
	}
	var unsigned uint64
	if err := json.Unmarshal(data, &unsigned); err != nil {
		return err
	}
	*r = rlimit(unsigned)
	return nil
}

// parseOrder returns the order in a run frame's payload, with its defaults filled in.
func parseOrder(payload []byte) (*order, error) {
	var o order
	if err := json.Unmarshal(payload, &o); err != nil {
		return nil, fmt.Errorf("the order cannot be read: %w", err)
	}
	if o.Protocol != protocolVersion {
		return nil, fmt.Errorf("the order has protocol %d, this agent speaks %d", o.Protocol, protocolVersion)
	}
	if len(o.Argv) == 0 {
		return nil, fmt.Errorf("the order has no command")
	}
	if o.Dir == "" {
		o.Dir = "/"
	}
	if o.Root.FS == "" {
		o.Root.FS = "9p"
	}
	if o.Root.Tag == "" {
		o.Root.Tag = "root"
	}
	if o.Root.Msize == 0 {
		o.Root.Msize = 512000
	}
	return &o, nil
}

func plain(list []octets) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = string(s)
	}
	return out
}
