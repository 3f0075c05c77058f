// Command mutate changes the library in one place at a time, and sees whether its tests find
// out. It is run in the directory above this one:
//
//	go run ./mutate -list                              # the mutants
//	go run ./mutate -log mutants.log -report report.md # all of them: hours
//	go run ./mutate -every 40 -only 'lease.go'         # some of them
//
// Mutants in the log are not tried again, as long as the file that they change is the same. To try a
// new test, remove the lines with "survived" from the log.
//
// The exit status is 1 if a mutant survives that is not named in the file of -equivalent. Each line of
// that file is the last field of the mutant's line in the log, " | ", and why nobody can see the
// mutant.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const library = ".."

var (
	files      = flag.String("files", "lease.go,scheduler.go,background.go,queue.go,waiter.go,subscription.go,watchdog.go,undo.go,single.go,deletion.go,quorum.go,quorum_claim.go,quorum_refresh.go,lua/*.lua", "patterns of the files to change")
	only       = flag.String("only", "", "a regular expression of the mutants to try")
	every      = flag.Int("every", 1, "try one of so many")
	offset     = flag.Int("offset", 0, "which one of these")
	list       = flag.Bool("list", false, "only list the mutants")
	jobs       = flag.Int("jobs", 3, "how many to try at a time")
	brief      = flag.String("brief", "-simulated 10m -seed 1", "arguments of the simulation that runs first; none: it does not")
	short      = flag.String("short", "-test.short -test.failfast", "arguments of the library's tests that run then")
	simulation = flag.String("simulation", "-simulated 30m -seed 2", "arguments of the simulation that runs after these")
	full       = flag.String("full", "-test.failfast", "arguments of the library's tests that run last: those that have not run before")
	trust      = flag.Bool("trust", false, "do not try the mutants that are named in the file of -equivalent: count them as survivors")
	equivalent = flag.String("equivalent", "mutate/equivalent.txt", "the file of survivors that nobody can see")
	logTo      = flag.String("log", "", "a file of results, to be resumed from")
	reportTo   = flag.String("report", "", "a file to write the table to")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	survivors, err := mutate(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if survivors > 0 {
		os.Exit(1)
	}
}

func mutate(ctx context.Context) (survivors int, _ error) {
	sources, err := readSources()
	if err != nil {
		return 0, err
	}
	mutants, err := choose(sources)
	if err != nil {
		return 0, err
	}
	if *list {
		for _, m := range mutants {
			fmt.Println(m)
		}
		return 0, nil
	}
	named, err := readNamed(*equivalent)
	if err != nil {
		return 0, err
	}
	journal, err := openJournal(*logTo)
	if err != nil {
		return 0, err
	}
	if *trust {
		for _, m := range mutants {
			if _, ok := named[m.key()]; ok {
				journal.known[digest(m)+m.key()] = outcome{result: survived}
			}
		}
	}
	stages := stages()
	outcomes, err := tryAll(ctx, sources, mutants, stages, journal)
	report, survivors := table(mutants, outcomes, named, stages)
	fmt.Print("\n", report)
	if *reportTo != "" {
		err = errors.Join(err, os.WriteFile(*reportTo, []byte(report), 0o600))
	}
	return survivors, err
}

// readSources finds the mutants of the files that the flags ask for.
func readSources() ([]*source, error) {
	var sources []*source
	for pattern := range strings.SplitSeq(*files, ",") {
		paths, err := filepath.Glob(filepath.Join(library, pattern))
		if err != nil || len(paths) == 0 {
			return nil, errors.Join(err, fmt.Errorf("no file is like %s; is this run in verify?", pattern))
		}
		for _, path := range paths {
			code, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			name, _ := filepath.Rel(library, path)
			source, err := newSource(name, string(code))
			if err != nil {
				return nil, err
			}
			sources = append(sources, source)
		}
	}
	return sources, nil
}

// choose returns the mutants that the flags ask for.
func choose(sources []*source) ([]*mutant, error) {
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return nil, err
	}
	var chosen []*mutant
	n := 0
	for _, source := range sources {
		for _, m := range source.mutants {
			if !wanted.MatchString(m.String()) {
				continue
			}
			if n%max(*every, 1) == *offset {
				chosen = append(chosen, m)
			}
			n++
		}
	}
	return chosen, nil
}

func stages() []*stage {
	var all []*stage
	for _, s := range []struct{ name, in, pattern, args string }{
		{"short simulation", "verify", "^TestSimulation$", *brief}, {"short tests", ".", ".", *short},
		{"simulation", "verify", "^TestSimulation$", *simulation}, {"long tests", ".", ".", *full},
	} {
		if s.args != "" {
			all = append(all, &stage{name: s.name, in: s.in, pattern: s.pattern, args: strings.Fields(s.args)})
		}
	}
	return all
}

// tryAll tries the mutants that the journal does not know.
func tryAll(ctx context.Context, sources []*source, mutants []*mutant, stages []*stage, journal *journal) (map[*mutant]outcome, error) {
	outcomes := make(map[*mutant]outcome)
	var open []*mutant
	for _, m := range mutants {
		if o, ok := journal.find(m); ok {
			outcomes[m] = o
		} else {
			open = append(open, m)
		}
	}
	fmt.Printf("%d mutants, %d of them known from the log\n", len(mutants), len(outcomes))
	if len(open) == 0 {
		return outcomes, nil
	}
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return outcomes, err
	}
	defer os.RemoveAll(dir)
	combined, err := newWorker(library, filepath.Join(dir, "combined"), stages)
	if err != nil {
		return outcomes, err
	}
	if err := combined.prepare(ctx, sources); err != nil {
		return outcomes, err
	}
	workers := make([]*worker, *jobs)
	for i := range workers {
		w, err := newWorker(library, filepath.Join(dir, strconv.Itoa(i)), stages)
		if err != nil {
			return outcomes, err
		}
		if err := errors.Join(os.CopyFS(w.cache, os.DirFS(combined.cache)), w.eachCached(w.keep)); err != nil {
			return outcomes, err
		}
		workers[i], w.tests = w, combined.tests
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan *mutant)
	var mu sync.Mutex
	var running sync.WaitGroup
	for _, w := range workers {
		running.Go(func() {
			for m := range next {
				start := time.Now()
				result, by, err := w.try(ctx, m)
				o := outcome{result: result, by: by, took: time.Since(start).Round(100 * time.Millisecond)}
				mu.Lock()
				if err == nil {
					outcomes[m] = o
					err = journal.add(m, o)
					fmt.Printf("%d/%d %v: %s %s (%v)\n", len(outcomes), len(mutants), m, o.result, o.by, o.took)
				}
				mu.Unlock()
				if err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, m := range open {
		select {
		case next <- m:
		case <-ctx.Done():
		}
	}
	close(next)
	running.Wait()
	return outcomes, context.Cause(ctx)
}
