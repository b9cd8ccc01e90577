package run

import (
	"vimto/guest/internal/process"
	"vimto/guest/internal/wire"
)

// failure is an error as the exit frame reports it; stage is where it happened.
type failure struct {
	stage  string
	status int
	err    error
	hint   string
}

func (f *failure) Error() string { return f.err.Error() }

func failed(stage string, err error) *failure {
	return &failure{stage: stage, status: wire.StatusLost, err: err}
}

func notStarted(e *process.StartError) *failure {
	return &failure{stage: "start", status: e.Status, err: e.Err, hint: e.Hint}
}
