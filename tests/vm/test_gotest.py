"""`vimto go test` and `vimto go run`: go's own behaviour, with machines around the programs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import need
from tests.vm.conftest import Module, Vimto

# One package that tells what it met; flags of the tests decide what happens in it.
TESTS = """
var word = flag.String("word", "", "")

func Kernel(t *testing.T) string {
	text, err := os.ReadFile("/proc/sys/kernel/hostname")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func TestIsGuest(t *testing.T) {
	if name := Kernel(t); !strings.HasPrefix(name, "vimto-") {
		t.Fatal("not in a machine:", name)
	}
	t.Log("word", *word, Double(4))
}

func TestShort(t *testing.T) {
	if testing.Short() {
		t.Skip("short")
	}
	t.Log("ran long")
}

func TestFails(t *testing.T) {
	if os.Getenv("FAIL") != "" {
		t.Fatal("as asked")
	}
}

func BenchmarkDouble(b *testing.B) {
	for i := 0; i < b.N; i++ {
		Double(i)
	}
}

func ExampleDouble() {
	fmt.Println(Double(2))
	// Output: 4
}

func FuzzDouble(f *testing.F) {
	f.Add(1)
	f.Fuzz(func(t *testing.T, n int) {
		if n != 1 && n%2 == 0 {
			t.Fatal("even")
		}
	})
}
"""


@pytest.fixture
def filled(module: Module) -> Module:
    module.write("m.go", "package m\n\nfunc Double(n int) int { return 2 * n }\n")
    module.test("m_test.go", TESTS, "flag", "fmt", "os", "strings")
    return module


def actions(text: str) -> list[dict[str, object]]:
    """Return the events of `go test -json`; every line must be one."""
    return [json.loads(line) for line in text.splitlines()]


def test_packages_results_and_statuses(vimto: Vimto, filled: Module) -> None:
    filled.test("sub/a_test.go", "func TestA(t *testing.T) {}")
    filled.test("other/b_test.go", "func TestB(t *testing.T) {}")
    filled.write("none/n.go", "package none\n")
    passed = vimto.go("./...").check()
    assert passed.text.count("ok  \t") == 3
    assert "example.org/m/none\t[no test files]" in passed.text
    failed = vimto.go("-run", "TestFails|TestShort", "-v", ".", env={"FAIL": "1"}).check(1)
    assert "as asked" in failed.text and "--- PASS: TestShort" in failed.text
    assert "TestIsGuest" not in failed.text
    broken = filled.write("broken/b_test.go", "package broken\n\nfunc {\n")
    assert "[setup failed]" in vimto.go("./broken").check(1).text
    broken.unlink()


def test_json_is_parseable_to_the_last_byte(vimto: Vimto, filled: Module) -> None:
    filled.test("sub/a_test.go", "func TestA(t *testing.T) {}")
    outcome = vimto("-v", "-v", "go", "test", "-json", "-count=2", "-short", "./...").check()
    events = actions(outcome.text)
    passed = [e["Test"] for e in events if e["Action"] == "pass" and e.get("Test") == "TestIsGuest"]
    assert len(passed) == 2
    assert [e["Test"] for e in events if e["Action"] == "skip"] == ["TestShort"] * 2
    assert {e["Package"] for e in events} == {"example.org/m", "example.org/m/sub"}


def test_files_appear_where_go_test_puts_them(vimto: Vimto, filled: Module) -> None:
    out = vimto.directory / "out"
    out.mkdir()
    flags = ("-coverprofile=c.out", "-cpuprofile", "cpu.out", "-trace=t.out", "-memprofile=m.out")

    def names() -> set[str]:
        return {str(path.relative_to(vimto.directory)) for path in vimto.directory.rglob("*.out")}

    def run(*words: str) -> set[str]:
        for path in vimto.directory.rglob("*.out"):
            path.unlink()
        vimto.go("-run", "IsGuest|Short", *words).check()
        found = names()
        assert all((vimto.directory / name).stat().st_size for name in found)
        return found

    assert run(*flags, ".") == {"c.out", "cpu.out", "t.out", "m.out"}
    assert run(*flags, "-outputdir", "out", ".") == {
        f"out/{flag}" for flag in ("c.out", "cpu.out", "t.out", "m.out")
    }
    assert run("-coverpkg=./...", "-coverprofile=c.out", "./...") == {"c.out"}
    assert "example.org/m/m.go:3" in (vimto.directory / "c.out").read_text()
    away = vimto.temporary.parent / "profiles"
    away.mkdir()
    vimto.go("-run", "Short", "-coverprofile", str(away / "c"), ".").check()
    assert (away / "c").read_text().startswith("mode: set\n")


def test_arguments_benchmarks_and_examples(vimto: Vimto, filled: Module) -> None:
    verbose = vimto.go("-v", "-run", "IsGuest|Example", ".", "-args", "-word=a b,c").check()
    assert "word a b,c 8" in verbose.text and "--- PASS: ExampleDouble" in verbose.text
    bench = vimto.go("-run=^$", "-bench", ".", "-benchtime=10x", "-benchmem", "-cpu=1,2", ".")
    text = bench.check().text
    assert "BenchmarkDouble  " in text and "BenchmarkDouble-2" in text and "allocs/op" in text


def test_work_directories(vimto: Vimto, filled: Module) -> None:
    gotmp = vimto.temporary.parent / "go tmp"
    gotmp.mkdir()
    kept = vimto.go("-work", "-run", "IsGuest", ".", env={"GOTMPDIR": str(gotmp)}).check()
    (work,) = gotmp.iterdir()
    assert f"WORK={work}" in kept.errors
    assert (work / "b001/m.test").exists()
    shutil.rmtree(work)
    vimto.go("-run", "IsGuest", ".", env={"GOFLAGS": "-count=3 -v -buildvcs=false"}).check()
    refused = vimto.go("-exec", "sudo", ".").check(125)
    assert "-exec" in refused.errors and "hint: " in refused.errors
    flags = vimto.go(".", env={"GOFLAGS": "-exec=sudo"}).check(125)
    assert "-exec" in flags.errors and "GOFLAGS" in flags.errors


def test_compiling_and_changing_directories(vimto: Vimto, filled: Module) -> None:
    assert vimto.go("-c", "-o", "kept.test", ".").check().text == ""
    assert (vimto.directory / "kept.test").exists()
    assert "ok" in vimto.go("-o", "kept2.test", "-run", "IsGuest", ".").check().text
    assert (vimto.directory / "kept2.test").exists()
    # The binary alone, as `vimto` runs it when go calls it.
    alone = vimto("exec", "./kept.test", "-test.v", "-test.run", "IsGuest").check()
    assert "--- PASS: TestIsGuest" in alone.text
    called = vimto("./kept.test", "-test.v", "-test.run", "IsGuest").check()
    assert "--- PASS: TestIsGuest" in called.text
    sub = filled.test(
        "sub/a_test.go", 'func TestA(t *testing.T) { os.WriteFile("../up", nil, 0o644) }', "os"
    )
    vimto.go("-C", "sub", ".").check()
    assert (vimto.directory / "up").exists()
    (vimto.directory / "up").unlink()
    # From a directory below the module's root: what is above is shared too.
    vimto.directory = sub.parent
    vimto.go(".").check()
    assert (filled.root / "up").exists()


def test_go_calls_vimto(vimto: Vimto, filled: Module) -> None:
    argv = ["go", "test", "-v", "-run", "IsGuest", "-exec"]
    argv += [" ".join([vimto.program, *vimto.flags]), "."]
    done = subprocess.run(
        argv, cwd=vimto.directory, env=vimto.environment(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert b"--- PASS: TestIsGuest" in done.stdout


def test_workspaces_and_vendored_modules(vimto: Vimto, tmp_path: Path) -> None:
    write = """
    func TestW(t *testing.T) {
        if err := os.WriteFile("../NAME/w", nil, 0o644); err != nil {
            t.Fatal(err)
        }
    }"""
    left = Module(vimto.directory, "example.org/left")
    right = Module(tmp_path / "right", "example.org/right")
    left.test("a_test.go", write.replace("NAME", "right"), "os")
    right.test("b_test.go", write.replace("NAME", "module"), "os")
    left.write("go.work", "go 1.21\n\nuse (\n\t.\n\t../right\n)\n")
    vimto.go("example.org/left", "example.org/right").check()
    assert (left.root / "w").exists() and (right.root / "w").exists()
    (left.root / "go.work").unlink()
    left.write("go.mod", "module example.org/left\n\ngo 1.21\n\nrequire example.org/dep v1.0.0\n")
    left.write("vendor/modules.txt", "# example.org/dep v1.0.0\n## explicit\nexample.org/dep\n")
    left.write("vendor/example.org/dep/dep.go", "package dep\n\nconst Name = `vendored`\n")
    left.test("a_test.go", "func TestV(t *testing.T) { t.Log(dep.Name) }", "example.org/dep")
    assert "vendored" in vimto.go("-v", ".").check().text


def test_a_go_of_another_name(vimto: Vimto, filled: Module, tmp_path: Path) -> None:
    go = shutil.which("go")
    assert go
    other = tmp_path / "bin/go1.26.1"
    other.parent.mkdir()
    root = subprocess.run([go, "env", "GOROOT"], capture_output=True, text=True, check=True)
    other.write_text(f'#!/bin/sh\nexec "{root.stdout.strip()}/bin/go" "$@"\n')
    other.chmod(0o755)
    path = {"PATH": f"{other.parent}:{os.environ['PATH']}"}
    assert "ok" in vimto("go1.26.1", "test", "-run", "IsGuest", ".", env=path).check().text
    assert "ok" in vimto(str(other), "test", "-run", "IsGuest", ".").check().text
    assert "go version" in vimto("go", "version").check().text


def test_fuzzing_leaves_its_corpus(vimto: Vimto, filled: Module) -> None:
    outcome = vimto.go("-run=^$", "-fuzz=FuzzDouble", "-fuzztime=20s", "-parallel=1", ".").check(1)
    assert "Failing input written to testdata/fuzz/FuzzDouble/" in outcome.text
    (entry,) = (vimto.directory / "testdata/fuzz/FuzzDouble").iterdir()
    assert entry.read_text().startswith("go test fuzz v1\nint(")


def test_the_race_detector(vimto: Vimto, module: Module) -> None:
    need("gcc")
    module.test(
        "r_test.go",
        "func TestRace(t *testing.T) {\n\tn, done := 0, make(chan bool)\n"
        "\tgo func() { n++; done <- true }()\n\tn++\n\t<-done\n}",
    )
    outcome = vimto.go("-race", ".").check(1)
    assert "WARNING: DATA RACE" in outcome.text


def test_gos_own_timeout_prints_the_goroutines(vimto: Vimto, module: Module) -> None:
    module.test("a_test.go", "func TestEndless(t *testing.T) { select {} }")
    outcome = vimto.go("-timeout", "1s", ".").check(1)
    assert "test timed out after 1s" in outcome.text
    assert "TestEndless" in outcome.text and "goroutine " in outcome.text


# Heeds neither its flags nor SIGQUIT: nothing but SIGKILL ends it.
DEAF = """
func TestMain(*testing.M) {
	signal.Ignore(syscall.SIGQUIT)
	time.Sleep(time.Hour)
}
"""


def test_a_test_beyond_its_timeout_is_killed_as_go_does(vimto: Vimto, module: Module) -> None:
    """Asked to print its goroutines a minute (here 5 s) after its timeout, 5 s later killed."""
    module.test("quit/a_test.go", "func TestMain(*testing.M) { time.Sleep(time.Hour) }", "time")
    module.test("deaf/a_test.go", DEAF, "os/signal", "syscall", "time")
    code = (
        "import vimto.commands.go as go; go.MINUTE = go.SECOND\n"
        "import vimto.__main__; vimto.__main__.main()"
    )
    shorter = [sys.executable, "-c", code, *vimto.flags]
    vimto.program, vimto.flags = shorter[0], tuple(shorter[1:])
    outcome = vimto.go("-json", "-timeout=1s", "./...").check(1)
    events = [json.loads(line) for line in outcome.text.splitlines()]
    said = {
        name: "".join(
            event.get("Output", "") for event in events if event["Package"].endswith(name)
        )
        for name in ("quit", "deaf")
    }
    killed = "*** Test killed with quit: ran too long (6s).\n"
    assert "SIGQUIT: quit" in said["quit"] and "TestMain" in said["quit"]
    assert f"{killed}FAIL\texample.org/m/quit" in said["quit"]
    assert "SIGQUIT" not in said["deaf"]
    assert f"{killed}signal: killed\nFAIL\texample.org/m/deaf" in said["deaf"]
    assert [event["Action"] for event in events if event["Action"] == "fail"] == ["fail"] * 2


def test_go_run(vimto: Vimto, module: Module) -> None:
    module.write(
        "main.go",
        'package main\n\nimport ("bufio"; "fmt"; "os")\n\nfunc main() {\n'
        "\tline, _ := bufio.NewReader(os.Stdin).ReadString('\\n')\n"
        '\tname, _ := os.Hostname()\n\tfmt.Printf("%.6s %s %s", name, os.Args[1], line)\n'
        "\tos.Exit(3)\n}\n",
    )
    outcome = vimto("go", "run", ".", "an arg", input=b"typed\n")
    assert outcome.stdout == b"vimto- an arg typed\n"
    assert outcome.status == 1 and "exit status 3" in outcome.errors


def test_an_unprivileged_user_tests_a_module(stranger: Vimto) -> None:
    module = Module(stranger.directory)
    body = 'func TestWho(t *testing.T) { t.Log("uid", os.Getuid()); os.WriteFile("w", nil, 0o600) }'
    module.test("a_test.go", body, "os")
    for path in stranger.directory.iterdir():
        os.chown(path, stranger.user, stranger.group)
    outcome = stranger.go("-v", ".").check()
    assert f"uid {stranger.user}\n" in outcome.text
    assert (stranger.directory / "w").stat().st_uid == stranger.user
