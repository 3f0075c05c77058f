package main

import (
	"fmt"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
)

const goCode = `package p

const (
	wait = 250 * time.Millisecond // for long
	most = 512
)

func (t *task) stop(n int) (int, bool) {
	if t.index < 0 || n == 1 {
		return 0, false
	}
	if t.over == true {
		t.calls++
		return min(n, 20), true
	}
	switch {
	case n > 3:
		i := 1e15
		_ = i
		defer t.run(func() { close(t.done) })
	}
	return n, t.ok
}
`

var goWanted = []string{
	"p.go:4:9 doubled: wait = 250 * time.Millisecond -> 2 * (250 * time.Millisecond)",
	"p.go:5:9 512 became 1024: most = 512 -> 1024",
	"p.go:9:5 condition negated: t.index < 0 || n == 1 -> !(t.index < 0 || n == 1)",
	"p.go:9:13 < became <=: t.index < 0 -> <=",
	"p.go:9:15 0 became 1: if t.index < 0 || n == 1 { -> 1",
	"p.go:9:17 || became &&: t.index < 0 || n == 1 -> &&",
	"p.go:9:22 == became !=: n == 1 -> !=",
	"p.go:9:25 1 became 2: if t.index < 0 || n == 1 { -> 2",
	"p.go:10:3 left out: return 0, false -> ",
	"p.go:10:13 false became true: return 0, false -> true",
	"p.go:12:5 condition negated: t.over == true -> !(t.over == true)",
	"p.go:12:15 true became false: if t.over == true { -> false",
	"p.go:13:3 left out: t.calls++ -> ",
	"p.go:14:3 left out: return min(n, 20), true -> ",
	"p.go:14:10 min became max: return min(n, 20), true -> max",
	"p.go:14:17 20 became 40: return min(n, 20), true -> 40",
	"p.go:14:22 true became false: return min(n, 20), true -> false",
	"p.go:17:7 condition negated: n > 3 -> !(n > 3)",
	"p.go:17:9 > became >=: n > 3 -> >=",
	"p.go:17:11 3 became 4: case n > 3: -> 4",
	"p.go:18:8 1e15 became (2 * 1e15): i := 1e15 -> (2 * 1e15)",
	"p.go:19:3 left out: _ = i -> ",
	"p.go:20:3 left out: defer t.run(func() { close(t.done) }) -> ",
	"p.go:20:24 left out: close(t.done) -> ",
}

const luaCode = `-- ARGV[1]  1 if true == false
local function tell(value)
	if redis.call('get', KEYS[1]) ~= ' == 1' then -- not ours
		return 0
	elseif a >= b and not c then
		mine[#mine + 1] = math.max(left, 100)
	end
	redis.call('del', KEYS[1])
end
pass_on()
return 1
`

var luaWanted = []string{
	"p.lua:3:5 condition negated: redis.call('get', KEYS[1]) ~= ' == 1' -> not (redis.call('get', KEYS[1]) ~= ' == 1')",
	"p.lua:4:3 left out: return 0 -> ",
	"p.lua:4:10 0 became 1: return 0 -> 1",
	"p.lua:5:9 condition negated: a >= b and not c -> not (a >= b and not c)",
	"p.lua:5:11 >= became >: elseif a >= b and not c then -> >",
	"p.lua:5:16 and became or: elseif a >= b and not c then -> or",
	"p.lua:6:3 left out: mine[#mine + 1] = math.max(left, 100) -> ",
	"p.lua:6:16 1 became 2: mine[#mine + 1] = math.max(left, 100) -> 2",
	"p.lua:6:26 max became min: mine[#mine + 1] = math.max(left, 100) -> min",
	"p.lua:6:36 100 became 200: mine[#mine + 1] = math.max(left, 100) -> 200",
	"p.lua:8:2 left out: redis.call('del', KEYS[1]) -> ",
	"p.lua:10:1 left out: pass_on() -> ",
	"p.lua:11:8 1 became 0: return 1 -> 0",
}

func TestMutants(t *testing.T) {
	for _, test := range []struct {
		file, code string
		want       []string
	}{
		{"p.go", goCode, goWanted},
		{"p.lua", luaCode, luaWanted},
	} {
		source, err := newSource(test.file, test.code)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range source.mutants {
			got = append(got, fmt.Sprintf("%v -> %s", m, m.with))
			if test.file == "p.go" {
				if _, err := parser.ParseFile(token.NewFileSet(), "", m.apply(), 0); err != nil {
					t.Errorf("%v: %v", m, err)
				}
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
		}
	}
}

func TestMutants_keyStaysWhereLinesAreMoved(t *testing.T) {
	const function = "func f() {\n\tg()\n\tg()\n}\n"
	keys := func(code string) (keys []string) {
		source, err := newSource("p.go", code)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range source.mutants {
			keys = append(keys, m.key())
		}
		return keys
	}
	got := keys("package p\n\n// More.\n\n" + function)
	if want := []string{"p.go f: left out: g()", "p.go f: left out: g() (2)"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if before := keys("package p\n" + function); !slices.Equal(got, before) {
		t.Errorf("got %q, before %q", got, before)
	}
}

// What is nested stays as it is where the mutant around it is in force, and the other way round.
func TestCombined(t *testing.T) {
	const code = `package p

const most = 512

func (t *task) stop(n int) bool {
	if n > 3 && t.ok {
		t.run(20)
	}
	first := min(n, 1)
	second := t.all[0]
	return first == second
}
`
	const want = `package p

const most = 512

func (t *task) stop(n int) bool {
	if (mutant(5) && (n > 3 || t.ok) || !mutant(5) && ((mutant(2) && (!(n > 3 && t.ok)) || !mutant(2) && ((mutant(4) && (n > 4) || !mutant(4) && ((mutant(3) && (n >= 3) || !mutant(3) && (n > 3)))) && t.ok)))) {
		if mutant(7) { t.run(40) } else { if mutant(6) {  } else { t.run(20) } }
	}
	first := mutantValue(9, min(n, 2), mutantValue(8, max(n, 1), min(n, 1)))
	second := t.all[0]
	return (mutant(11) && (first != second) || !mutant(11) && (first == second))
}
`
	source, err := newSource("p.go", code)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range source.mutants {
		m.number = i + 1
	}
	got := source.combined()
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if _, err := parser.ParseFile(token.NewFileSet(), "", got, 0); err != nil {
		t.Error(err)
	}
	var alone []int
	for _, m := range source.mutants {
		if m.unit == nil {
			alone = append(alone, m.number)
		}
	}
	if !slices.Equal(alone, []int{1, 10}) {
		t.Errorf("compiled by themselves: %v", alone)
	}
}

func TestRefusedOf(t *testing.T) {
	files := map[string]string{"p.go": "package p\n\nif mutant(1) {} else { a }; if mutant(23) {} else { return }\n}\n"}
	got := refusedOf("# p\n./p.go:4:1: missing return\np.go:3:20: undefined: a\n", files)
	if !slices.Equal(got, []int{23, 1}) {
		t.Errorf("got %v", got)
	}
}

func TestFailure(t *testing.T) {
	for output, want := range map[string]string{
		"ok\n    --- FAIL: TestA/b (0.1s)\n": "TestA",
		"x\npanic: nil map\n\ngoroutine 1":   "panic: nil map",
		"exit":                               "no test's name",
	} {
		if got := failure(output); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
