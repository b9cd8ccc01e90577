package wire

import (
	"encoding/json"
	"reflect"
	"testing"
)

func TestDecodeAgreesWithEncodingJSON(t *testing.T) {
	for _, text := range []string{
		`{}`, `[]`, `null`, ` true `, `"a"`, `-1`, `9223372036854775807`, `{"a":[1,"x",{"b":null}],"c":false}`,
		`"\"\\\/\b\f\n\r\t\u0041"`, `{"a" : [ ] , "b":{ }}`, "\"\x7f\"",
		``, `{`, `[1,]`, `{"a":1,}`, `{"a"}`, `{a:1}`, `"`, `"\x"`, `"\u00"`, `[1 2]`, `tru`, `{}x`, `,`, `"` + "\n" + `"`, `-`,
	} {
		var want any
		wantErr := json.Unmarshal([]byte(text), &want)
		got, err := decode([]byte(text))
		if (err == nil) != (wantErr == nil) {
			t.Errorf("%s: error %v, encoding/json has %v", text, err, wantErr)
			continue
		}
		if err == nil && !reflect.DeepEqual(floats(got), want) {
			t.Errorf("%s: %#v, want %#v", text, got, want)
		}
	}
}

// floats gives numbers and objects the types that encoding/json gives them.
func floats(v any) any {
	switch v := v.(type) {
	case int64:
		return float64(v)
	case []any:
		for i := range v {
			v[i] = floats(v[i])
		}
	case object:
		members := map[string]any{}
		for _, m := range v {
			members[m.name] = floats(m.value)
		}
		return members
	}
	return v
}

func TestDecodeReadsLatin1(t *testing.T) {
	for text, want := range map[string]string{
		`"é"`: "\xe9", `"a\u00ffb"`: "a\xffb", `"Ã©"`: "é", `"\u0000"`: "\x00",
	} {
		if got, err := decode([]byte(text)); err != nil || got != want {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{`"\u0100"`, `"Ā"`, "\"\xff\""} {
		if got, err := decode([]byte(text)); err == nil {
			t.Errorf("%s was read as %q", text, got)
		}
	}
}

func TestDecodeRefusesDeepNesting(t *testing.T) {
	deep := make([]byte, 1<<20)
	for i := range deep {
		deep[i] = '['
	}
	if _, err := decode(deep); err == nil {
		t.Error("no error")
	}
}

func TestMessageIsJSON(t *testing.T) {
	texts := []string{"", `quote " and \`, "tab\tnewline\n\x00\x1f", "grün 日本 \u2028", "bad \xff utf-8"}
	for _, text := range texts {
		frame := newMessage().text("text", text).texts("list", texts).flag("yes", true).number("n", -5).frame(KindNotice)
		var got struct {
			Text string
			List []string
			Yes  bool
			N    int
		}
		if err := json.Unmarshal(frame[HeaderSize:], &got); err != nil {
			t.Fatalf("%q: %v", frame, err)
		}
		if want := string([]rune(text)); got.Text != want || len(got.List) != len(texts) || !got.Yes || got.N != -5 {
			t.Errorf("%q: %+v", text, got)
		}
	}
}
