package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

// What a mutant can come to, beside the name of the stage that found it.
const (
	survived    = "survived"
	timedOut    = "timeout"
	notCompiled = "not compiled"
)

// A worker has a copy of the library to itself, in which it tries one mutant after another, and a
// build cache: compiling a mutant leaves tens of megabytes that are of no use later.
type worker struct {
	root, cache, temp string
	stages            []*stage
	kept              map[string]bool   // of the cache
	tests             map[string]string // of the combined library: the binary by its package
}

// newWorker copies the library, so that it may be worked on meanwhile.
func newWorker(library, dir string, stages []*stage) (*worker, error) {
	w := &worker{
		root: filepath.Join(dir, "library"), cache: filepath.Join(dir, "cache"), temp: filepath.Join(dir, "temp"),
		stages: stages, kept: make(map[string]bool), tests: make(map[string]string),
	}
	if err := os.MkdirAll(w.temp, 0o700); err != nil {
		return nil, err
	}
	return w, filepath.WalkDir(library, func(path string, entry fs.DirEntry, err error) error {
		relative, _ := filepath.Rel(library, path)
		switch {
		case err != nil:
			return err
		case entry.Name() == ".git":
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		case entry.IsDir():
			return os.MkdirAll(filepath.Join(w.root, relative), 0o700)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(w.root, relative), content, 0o600)
	})
}

// prepare compiles the combined library, and runs all stages without a mutant. It sets their time
// limits by how long that took.
func (w *worker) prepare(ctx context.Context, sources []*source) error {
	if err := w.combineAll(ctx, sources); err != nil {
		return err
	}
	for _, s := range w.stages {
		if w.tests[s.in] == "" {
			binary := filepath.Join(filepath.Dir(w.root), fmt.Sprintf("%d.test", len(w.tests)))
			if output, err := w.build(ctx, s.in, binary); err != nil {
				return fmt.Errorf("the tests for the %s do not compile: %w\n%s", s.name, err, output)
			}
			w.tests[s.in] = binary
		}
		if err := w.survey(ctx, s); err != nil {
			return err
		}
		start := time.Now()
		s.longest = 30 * time.Minute
		var all []string
		for _, t := range s.tests {
			all = append(all, t.test)
		}
		output, err := w.test(ctx, s, w.tests[s.in], s.run(all...), 0)
		took := time.Since(start)
		if err != nil {
			return fmt.Errorf("the library without a mutant does not pass the %s: %w\n%s", s.name, err, output)
		}
		s.longest = 5*took + 20*time.Second
		fmt.Printf("without a mutant the %s take %v\n", s.name, took.Round(time.Second))
	}
	return nil
}

func (w *worker) eachCached(do func(path string) error) error {
	return filepath.WalkDir(w.cache, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		return do(path)
	})
}

// keep keeps in the cache what is there without a mutant.
func (w *worker) keep(path string) error {
	w.kept[path] = true
	return nil
}

func (w *worker) forget(path string) error {
	if w.kept[path] {
		return nil
	}
	return os.Remove(path)
}

// try puts the mutant in force, and runs the stages until one fails. It returns what the
// mutant came to, and which test found it. An error means that this is not known.
func (w *worker) try(ctx context.Context, m *mutant) (result, by string, _ error) {
	if err := errors.Join(os.RemoveAll(w.temp), os.MkdirAll(w.temp, 0o700)); err != nil {
		return "", "", err
	}
	if m.unit == nil {
		file := filepath.Join(w.root, m.source.file)
		if err := os.WriteFile(file, []byte(m.apply()), 0o600); err != nil {
			return "", "", err
		}
		defer func() {
			err := errors.Join(os.WriteFile(file, []byte(m.source.code), 0o600), w.eachCached(w.forget))
			if err != nil {
				panic(err) // the next mutant would be two
			}
		}()
	}
	for _, s := range w.stages {
		args := s.against(m)
		if args == nil {
			continue
		}
		binary, output, err := w.binary(ctx, s, m)
		if ctx.Err() != nil {
			return "", "", ctx.Err()
		}
		if err != nil && compilerError.MatchString(output) {
			return notCompiled, "", nil
		}
		if err != nil {
			return "", "", fmt.Errorf("%v: %w\n%s", m, err, output)
		}
		output, err = w.test(ctx, s, binary, args, m.number)
		switch {
		case ctx.Err() != nil:
			return "", "", ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
			return timedOut, s.name, nil
		case err != nil:
			return s.name, failure(output), nil
		}
	}
	return survived, "", nil
}

// binary returns the tests to run against a mutant. A script is not compiled.
func (w *worker) binary(ctx context.Context, s *stage, m *mutant) (binary, output string, err error) {
	if m.unit != nil || filepath.Ext(m.source.file) == ".lua" {
		return w.tests[s.in], "", nil
	}
	binary = filepath.Join(w.temp, "mutant.test")
	output, err = w.build(ctx, s.in, binary)
	return binary, output, err
}

// test runs tests of a stage against a mutant. If one fails it has to fail alone too: it may
// have failed because the machine was busy.
func (w *worker) test(ctx context.Context, s *stage, binary string, args []string, number int) (output string, err error) {
	output, err = w.run(ctx, s.longest, s.in, w.environment(number), binary, args...)
	if errors.Is(err, context.DeadlineExceeded) || s.simulated() {
		return output, err
	}
	if test := failedTest.FindStringSubmatch(output); err != nil && test != nil {
		_, err = w.run(ctx, s.longest, s.in, w.environment(number), binary, s.run(test[1])...)
	}
	return output, err
}

// environment makes the combined library use a mutant.
func (w *worker) environment(number int) []string {
	return []string{fmt.Sprintf("%s=%d", numberVariable, number), libraryVariable + "=" + w.root}
}

var failedTest = regexp.MustCompile(`--- FAIL: ([^\s/]+)`)

var crash = regexp.MustCompile(`(?m)^(?:panic|fatal error): .*`)

// failure returns what the output says of why the tests failed.
func failure(output string) string {
	if test := failedTest.FindStringSubmatch(output); test != nil {
		return test[1]
	}
	if crash := crash.FindString(output); crash != "" {
		return crash
	}
	return "no test's name"
}

// compile compiles the library, to be told of all errors.
func (w *worker) compile(ctx context.Context) (output string, err error) {
	return w.run(ctx, 10*time.Minute, ".", nil, "go", "build", "-trimpath", "-gcflags=-e", ".")
}

// build compiles the tests of a package. The paths of the copies are not in them, so that the
// packages that a mutant does not change are compiled once. Without inlining and without what
// debuggers need it takes half of the time.
func (w *worker) build(ctx context.Context, in, binary string) (output string, err error) {
	return w.run(ctx, 10*time.Minute, in, nil, "go", "test", "-c", "-trimpath", "-vet=off",
		"-gcflags=-dwarf=false -l", "-ldflags=-s -w", "-o", binary, ".")
}

// run runs a command. It ends what the command has started as well, and keeps it from using
// up the machine's memory, as a mutant may do.
func (w *worker) run(ctx context.Context, longest time.Duration, in string, environment []string, name string, args ...string) (output string, err error) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	file, err := os.CreateTemp(w.temp, "output")
	if err != nil {
		return "", err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	command := exec.CommandContext(ctx, "sh", append([]string{"-c", `ulimit -d 4000000; exec "$@"`, "sh", name}, args...)...)
	command.Dir = filepath.Join(w.root, in)
	command.Env = append(append(os.Environ(), "TMPDIR="+w.temp, "GOCACHE="+w.cache), environment...)
	command.Stdout, command.Stderr = file, file
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	err = command.Run()
	if command.Process != nil {
		_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL) // whatever a crash has left
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	start := make([]byte, 1<<20)
	n, _ := file.ReadAt(start, 0)
	return string(start[:n]), err
}
