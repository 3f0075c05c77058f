package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Compiling a mutant takes longer than testing it. So most of them are compiled together: the place
// that a mutant changes exists twice, and an environment variable says which of the two is in force.

// A unit is the part of a file that exists twice.
type unit struct {
	from, to int // offsets
	kind     unitKind
}

type unitKind int

const (
	asCondition unitKind = iota // an expression of type bool
	asStatement
	asValue // an expression without side effects that decides on its type itself
)

const (
	numberVariable  = "MUTANT"         // the number of the mutant that is in force
	libraryVariable = "MUTANT_LIBRARY" // where the scripts are read from
	reachedVariable = "MUTANT_REACHED" // a file that the numbers of the mutants are written to which are reached
)

// switchFile is the file that the combined library has in addition to the library's.
const switchFile = `package redislock

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

var (
	mutantInForce, _ = strconv.Atoi(os.Getenv("` + numberVariable + `"))
	mutantsReached   = os.Getenv("` + reachedVariable + `")
	mutantsSeen      sync.Map
)

func mutant(number int) bool {
	if mutantsReached != "" {
		noteMutant(number)
	}
	return number == mutantInForce
}

func noteMutant(number int) {
	if _, seen := mutantsSeen.LoadOrStore(number, true); seen {
		return
	}
	file, err := os.OpenFile(mutantsReached, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer file.Close()
	fmt.Fprintln(file, number)
}

func mutantValue[T any](number int, with, without T) T {
	if mutant(number) {
		return with
	}
	return without
}

func mutantScript(path string) ([]byte, error) {
	return os.ReadFile(filepath.Join(os.Getenv("` + libraryVariable + `"), path))
}
`

// How the library reads a script, and how the combined library does.
const (
	scriptsFile    = "scripts.go"
	readsScript    = "lua.ReadFile("
	readsItMutated = "mutantScript("
)

// combined returns the file with all its mutants that are combined.
func (s *source) combined() string {
	var mutants []*mutant
	for _, m := range s.mutants {
		if m.unit != nil {
			mutants = append(mutants, m)
		}
	}
	slices.SortStableFunc(mutants, func(a, b *mutant) int {
		return cmp.Or(cmp.Compare(a.unit.from, b.unit.from), cmp.Compare(b.unit.to, a.unit.to))
	})
	return s.combine(0, len(s.code), mutants)
}

// combine returns a part of the file with mutants, which are in the order of their units: those
// of one that encloses others come first.
func (s *source) combine(from, to int, mutants []*mutant) string {
	var out strings.Builder
	for len(mutants) > 0 {
		u := mutants[0].unit
		same, within := 0, 0
		for within < len(mutants) && mutants[within].unit.from < u.to {
			if *mutants[within].unit == *u {
				same++
			}
			within++
		}
		text := s.combine(u.from, u.to, mutants[same:within])
		for _, m := range mutants[:same] {
			text = m.combine(text)
		}
		out.WriteString(s.code[from:u.from] + text)
		from, mutants = u.to, mutants[within:]
	}
	return out.String() + s.code[from:to]
}

// combine returns what the mutant makes of its unit, beside what there is without it.
func (m *mutant) combine(without string) string {
	code, u := m.source.code, m.unit
	with := code[u.from:m.from] + m.with + code[m.to:u.to]
	switch u.kind {
	case asCondition:
		return fmt.Sprintf("(mutant(%[1]d) && (%[2]s) || !mutant(%[1]d) && (%[3]s))", m.number, with, without)
	case asStatement:
		return fmt.Sprintf("if mutant(%d) { %s } else { %s }", m.number, with, without)
	default:
		return fmt.Sprintf("mutantValue(%d, %s, %s)", m.number, with, without)
	}
}

var compilerError = regexp.MustCompile(`(?m)^(?:\./)?(\S+\.go):(\d+):(\d+): .*`)

// combineAll makes the worker's library the combined one. Mutants that the compiler refuses in
// there are compiled by themselves.
func (w *worker) combineAll(ctx context.Context, sources []*source) error {
	scripts := filepath.Join(w.root, scriptsFile)
	code, err := os.ReadFile(scripts)
	if err != nil {
		return err
	}
	if strings.Count(string(code), readsScript) != 1 {
		return fmt.Errorf("%s should have once: %s", scriptsFile, readsScript)
	}
	files := map[string]string{
		scriptsFile:        strings.Replace(string(code), readsScript, readsItMutated, 1),
		"mutant_switch.go": switchFile,
	}
	number := 0
	byNumber := make(map[int]*mutant)
	for _, s := range sources {
		for _, m := range s.mutants {
			number++
			m.number, byNumber[number] = number, m
		}
	}
	for {
		for _, s := range sources {
			if filepath.Ext(s.file) == ".go" {
				files[s.file] = s.combined()
			}
		}
		for name, code := range files {
			if err := os.WriteFile(filepath.Join(w.root, name), []byte(code), 0o600); err != nil {
				return err
			}
		}
		output, err := w.compile(ctx)
		if err == nil {
			fmt.Printf("%d mutants have to be compiled by themselves\n", uncombined(sources))
			return nil
		}
		refused := refusedOf(output, files)
		if len(refused) == 0 {
			return fmt.Errorf("the combined library does not compile: %w\n%s", err, output)
		}
		for _, number := range refused {
			byNumber[number].unit = nil
		}
	}
}

func uncombined(sources []*source) (n int) {
	for _, s := range sources {
		for _, m := range s.mutants {
			if m.unit == nil && filepath.Ext(s.file) == ".go" {
				n++
			}
		}
	}
	return n
}

var mutantNumber = regexp.MustCompile(`mutant(?:Value)?\((\d+)`)

// refusedOf returns the numbers of the mutants that the compiler complains of: for each
// complaint the last mutant before it. If that is the wrong one, it complains again.
func refusedOf(output string, files map[string]string) (numbers []int) {
	for _, complaint := range compilerError.FindAllStringSubmatch(output, -1) {
		line, _ := strconv.Atoi(complaint[2])
		column, _ := strconv.Atoi(complaint[3])
		lines := strings.SplitAfterN(files[complaint[1]], "\n", line+1)
		if len(lines) < line {
			continue
		}
		before := strings.Join(lines[:line-1], "") + lines[line-1][:min(column-1, len(lines[line-1]))]
		if all := mutantNumber.FindAllStringSubmatch(before, -1); len(all) > 0 {
			number, _ := strconv.Atoi(all[len(all)-1][1])
			numbers = append(numbers, number)
		}
	}
	return numbers
}
