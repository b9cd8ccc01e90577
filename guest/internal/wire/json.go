package wire

import (
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// The wire's JSON is read and written without encoding/json. In a restored machine an emulator translates each
// instruction when it is first executed, so code costs by its length: with that package, parsing the same
// order took 26 ms the first time and under 1 ms the second time (6.12, emulated).

// maxDepth bounds the nesting of what is read; an order has 3 levels.
const maxDepth = 16

var errJSON = errors.New("malformed JSON")

// object holds a JSON object's members in their order. A map would take more code than it saves for so few. If
// a name comes twice, the first one counts.
type object []member

type member struct {
	name  string
	value any
}

// get returns the value of a member, or nil.
func (o object) get(name string) any {
	for i := range o {
		if o[i].name == name {
			return o[i].value
		}
	}
	return nil
}

// decode returns the value of a JSON text: nil, bool, int64, string, []any or object. Strings are byte strings:
// each code point, U+0000 to U+00FF, is one byte (Latin-1), so that paths, arguments and environment entries
// need not be UTF-8. Numbers are integers.
func decode(text []byte) (any, error) {
	d := decoder{text: text}
	value, err := d.value(0)
	if err == nil && d.peek() != 0 {
		err = errJSON
	}
	if err != nil {
		return nil, fmt.Errorf("%w (byte %d)", err, d.at)
	}
	return value, nil
}

type decoder struct {
	text []byte
	at   int
}

// peek skips white space and returns the next byte, or 0 at the end.
func (d *decoder) peek() byte {
	for ; d.at < len(d.text); d.at++ {
		switch c := d.text[d.at]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

func (d *decoder) accept(c byte) bool {
	if d.peek() != c {
		return false
	}
	d.at++
	return true
}

func (d *decoder) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, errJSON
	}
	switch c := d.peek(); {
	case c == '"':
		return d.str()
	case c == '{':
		return d.object(depth)
	case c == '[':
		return d.array(depth)
	case c == '-' || c >= '0' && c <= '9':
		return d.number()
	}
	switch {
	case d.literal("true"):
		return true, nil
	case d.literal("false"):
		return false, nil
	case d.literal("null"):
		return nil, nil
	}
	return nil, errJSON
}

func (d *decoder) literal(word string) bool {
	end := d.at + len(word)
	if end > len(d.text) || string(d.text[d.at:end]) != word {
		return false
	}
	d.at = end
	return true
}

func (d *decoder) object(depth int) (any, error) {
	d.at++
	members := object{}
	for first := true; !d.accept('}'); first = false {
		if !first && !d.accept(',') || d.peek() != '"' {
			return nil, errJSON
		}
		key, err := d.str()
		if err != nil {
			return nil, err
		}
		if !d.accept(':') {
			return nil, errJSON
		}
		value, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		members = append(members, member{key, value})
	}
	return members, nil
}

func (d *decoder) array(depth int) (any, error) {
	d.at++
	elements := []any{}
	for first := true; !d.accept(']'); first = false {
		if !first && !d.accept(',') {
			return nil, errJSON
		}
		element, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		elements = append(elements, element)
	}
	return elements, nil
}

func (d *decoder) number() (any, error) {
	start := d.at
	for d.at++; d.at < len(d.text) && d.text[d.at] >= '0' && d.text[d.at] <= '9'; d.at++ {
	}
	return strconv.ParseInt(string(d.text[start:d.at]), 10, 64)
}

func (d *decoder) str() (string, error) {
	d.at++
	start := d.at
	for ; d.at < len(d.text); d.at++ {
		switch c := d.text[d.at]; {
		case c == '"':
			d.at++
			return string(d.text[start : d.at-1]), nil
		case c == '\\' || c >= utf8.RuneSelf:
			return d.unusual(start)
		case c < ' ':
			return "", errJSON
		}
	}
	return "", errJSON
}

// unusual reads the rest of a string that is not plain ASCII; what came since start is plain.
func (d *decoder) unusual(start int) (string, error) {
	raw := append([]byte(nil), d.text[start:d.at]...)
	for d.at < len(d.text) {
		switch c := d.text[d.at]; {
		case c == '"':
			d.at++
			return string(raw), nil
		case c == '\\':
			b, err := d.escape()
			if err != nil {
				return "", err
			}
			raw = append(raw, b)
		case c < ' ':
			return "", errJSON
		default:
			r, size := utf8.DecodeRune(d.text[d.at:])
			if r > 0xff || r == utf8.RuneError {
				return "", fmt.Errorf("code point %U in a byte string", r)
			}
			raw = append(raw, byte(r))
			d.at += size
		}
	}
	return "", errJSON
}

func (d *decoder) escape() (byte, error) {
	const names, bytes = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
	rest := d.text[d.at+1:]
	if len(rest) >= 5 && rest[0] == 'u' {
		code, err := strconv.ParseUint(string(rest[1:5]), 16, 16)
		if err == nil && code > 0xff {
			err = fmt.Errorf("code point %U in a byte string", code)
		}
		d.at += 6
		return byte(code), err
	}
	for i := 0; len(rest) > 0 && i < len(names); i++ {
		if rest[0] == names[i] {
			d.at += 2
			return bytes[i], nil
		}
	}
	return 0, errJSON
}

// message is a JSON object under construction, with room for a frame's header before it.
type message []byte

func newMessage() message { return make(message, HeaderSize, 128) }

func (m message) key(name string) message {
	before := byte(',')
	if len(m) == HeaderSize {
		before = '{'
	}
	m = append(m, before)
	return append(m.quote(name), ':')
}

func (m message) number(name string, n int64) message {
	return strconv.AppendInt(m.key(name), n, 10)
}

func (m message) flag(name string, value bool) message {
	return strconv.AppendBool(m.key(name), value)
}

func (m message) text(name, value string) message { return m.key(name).quote(value) }

func (m message) texts(name string, values []string) message {
	m = append(m.key(name), '[')
	for i, value := range values {
		if i > 0 {
			m = append(m, ',')
		}
		m = m.quote(value)
	}
	return append(m, ']')
}

// quote appends a string; bytes that are not UTF-8 become U+FFFD.
func (m message) quote(s string) message {
	const digits = "0123456789abcdef"
	m = append(m, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			m = append(m, '\\', byte(r))
		case r < ' ':
			m = append(m, '\\', 'u', '0', '0', digits[r>>4], digits[r&15])
		default:
			m = utf8.AppendRune(m, r)
		}
	}
	return append(m, '"')
}

// frame finishes the object and returns it as a whole frame.
func (m message) frame(k Kind) []byte {
	m = append(m, '}')
	Seal(m, k)
	return m
}
