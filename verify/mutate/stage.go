package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A stage is a run of tests of one package. Against a mutant only those run that reach it.
type stage struct {
	name    string
	in      string // the package's directory in the library
	pattern string // of the tests
	args    []string
	longest time.Duration
	tests   []reaching
}

// reaching is a test, and the mutants that it reaches, by their numbers.
type reaching struct {
	test    string
	mutants map[int]bool
}

// simulated reports whether the tests do not mind how busy the machine is.
func (s *stage) simulated() bool { return s.in == "verify" }

// against returns the arguments of a run against a mutant; nil if no test reaches it.
func (s *stage) against(m *mutant) []string {
	var names []string
	for _, t := range s.tests {
		if m.unit == nil || t.mutants[m.number] {
			names = append(names, t.test)
		}
	}
	if names == nil {
		return nil
	}
	return s.run(names...)
}

func (s *stage) run(tests ...string) []string {
	return append(slices.Clip(s.args), "-test.run=^("+strings.Join(tests, "|")+")$")
}

// surveying is how many tests run at a time while it is found out what they reach.
const surveying = 6

// survey runs the tests of a stage one by one, to find out what they reach. Those that skip
// themselves are left out, and those that an earlier stage runs.
func (w *worker) survey(ctx context.Context, s *stage) error {
	output, err := w.run(ctx, time.Minute, s.in, w.environment(0), w.tests[s.in], "-test.list", s.pattern)
	if err != nil {
		return fmt.Errorf("the tests for the %s cannot be listed: %w\n%s", s.name, err, output)
	}
	names := make(chan string)
	var surveyors sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for range surveying {
		surveyors.Go(func() {
			for name := range names {
				t, ran, err := w.surveyTest(ctx, s, name)
				mu.Lock()
				if ran {
					s.tests = append(s.tests, t)
				}
				if err != nil {
					failed = err
				}
				mu.Unlock()
			}
		})
	}
	for _, name := range testName.FindAllString(output, -1) {
		if !w.runsBefore(s, name) {
			names <- name
		}
	}
	close(names)
	surveyors.Wait()
	if len(s.tests) == 0 && failed == nil {
		failed = fmt.Errorf("the %s are none: %v", s.name, s.args)
	}
	return failed
}

var testName = regexp.MustCompile(`(?m)^Test\w+$`)

func (w *worker) runsBefore(s *stage, name string) bool {
	if s.simulated() {
		return false // with another seed
	}
	for _, earlier := range w.stages[:slices.Index(w.stages, s)] {
		if earlier.in == s.in && slices.ContainsFunc(earlier.tests, func(t reaching) bool { return t.test == name }) {
			return true
		}
	}
	return false
}

func (w *worker) surveyTest(ctx context.Context, s *stage, name string) (t reaching, ran bool, _ error) {
	dir, err := os.MkdirTemp(w.temp, "survey")
	if err != nil {
		return t, false, err
	}
	defer os.RemoveAll(dir)
	reached := filepath.Join(dir, "reached")
	environment := append(w.environment(0), reachedVariable+"="+reached)
	output, err := w.run(ctx, 10*time.Minute, s.in, environment, w.tests[s.in], append(s.run(name), "-test.v")...)
	if err != nil {
		return t, false, fmt.Errorf("the library without a mutant does not pass %s: %w\n%s", name, err, output)
	}
	if strings.Contains(output, "--- SKIP: "+name+" ") {
		return t, false, nil
	}
	numbers, _ := os.ReadFile(reached) // there is none if it reaches nothing
	t = reaching{name, make(map[int]bool)}
	for field := range strings.FieldsSeq(string(numbers)) {
		number, err := strconv.Atoi(field)
		if err != nil {
			return t, false, err
		}
		t.mutants[number] = true
	}
	return t, true, nil
}
