package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/bsm/redislock/bench/scenario"
)

// A plan says what is measured, and how often.
type plan struct {
	uncontended []scenario.Job
	contended   []scenario.Job
	shared      []scenario.Job // several holders at a time
	kept        []scenario.Job
	rounds      int // kept jobs have only one
}

func uncontended(workers int, pipelined bool, duration time.Duration) scenario.Job {
	setup := scenario.Setup{Pipelined: pipelined, Connections: workers}
	return scenario.Job{Kind: scenario.Uncontended, Setup: setup, Workers: workers, WarmUp: 300 * time.Millisecond, Time: duration}
}

func contended(clients, workers int, duration time.Duration) scenario.Job {
	return scenario.Job{
		Kind: scenario.Contended, Clients: clients, Workers: workers,
		Hold: time.Millisecond, WarmUp: time.Second, Time: duration,
	}
}

// places is a semaphore around something slow.
func places(n, clients, workers int, duration time.Duration) scenario.Job {
	job := contended(clients, workers, duration)
	job.Kind, job.Places, job.Hold = scenario.Places, n, 5*time.Millisecond
	return job
}

func readers(clients, workers int, duration time.Duration) scenario.Job {
	job := contended(clients, workers, duration)
	job.Kind = scenario.Readers
	return job
}

// kept is pipelined: otherwise libraries that refresh each lock with a call of its own could not
// keep up.
func kept(locks int, duration time.Duration) scenario.Job {
	return scenario.Job{Kind: scenario.Kept, Setup: scenario.Setup{Pipelined: true}, Locks: locks, Time: duration}
}

func fullPlan(o options) plan {
	return plan{
		uncontended: []scenario.Job{
			uncontended(1, false, o.time), uncontended(1, true, o.time),
			uncontended(64, false, o.time), uncontended(64, true, o.time),
		},
		contended: []scenario.Job{contended(32, 1, 2*o.time), contended(8, 4, 2*o.time), contended(8, 32, 2*o.time)},
		shared:    []scenario.Job{places(8, 8, 8, 2*o.time), readers(8, 8, 2*o.time)},
		kept:      []scenario.Job{kept(1000, o.keepTime), kept(10000, o.keepTime), kept(100000, o.keepTime)},
		rounds:    o.rounds,
	}
}

func quickPlan() plan {
	const short, longer = 100 * time.Millisecond, 300 * time.Millisecond
	p := plan{
		uncontended: []scenario.Job{uncontended(1, false, short), uncontended(8, true, short)},
		contended:   []scenario.Job{contended(4, 2, longer)},
		shared:      []scenario.Job{places(2, 4, 2, longer), readers(4, 2, longer)},
		kept:        []scenario.Job{kept(100, longer)},
		rounds:      1,
	}
	for _, jobs := range [][]scenario.Job{p.uncontended, p.contended, p.shared} {
		for i := range jobs {
			jobs[i].WarmUp = short
		}
	}
	return p
}

func (p plan) jobs() []scenario.Job {
	return slices.Concat(p.uncontended, p.contended, p.shared, p.kept)
}

// title distinguishes a job from others.
func title(job scenario.Job) string {
	switch job.Kind {
	case scenario.Uncontended:
		client := "plain client"
		if job.Setup.Pipelined {
			client = "auto pipeline"
		}
		if job.Workers == 1 {
			return "1 goroutine, " + client
		}
		return fmt.Sprintf("%d goroutines, %s", job.Workers, client)
	case scenario.Contended:
		return fmt.Sprintf("%d × %d", job.Clients, job.Workers)
	case scenario.Places:
		return fmt.Sprintf("semaphore of %d, %d × %d", job.Places, job.Clients, job.Workers)
	case scenario.Readers:
		return fmt.Sprintf("90%% readers, %d × %d", job.Clients, job.Workers)
	default:
		return fmt.Sprintf("%d locks", job.Locks)
	}
}

// takesPart reports whether a participant has something to show in a job.
func takesPart(name string, job scenario.Job) bool {
	switch name {
	case nameBare:
		return job.Kind == scenario.Uncontended
	case nameOursPoll:
		return job.Kind == scenario.Contended
	case nameAsynq:
		return job.Kind == scenario.Places
	case nameUpstream:
		return job.Kind != scenario.Places && job.Kind != scenario.Readers
	default:
		return true
	}
}

// names are the participants in the order in which tables list them.
var names = []string{nameBare, nameOurs, nameOursPoll, nameUpstream, nameRedsync, nameRueidis, nameAsynq}

// findings are the figures of all rounds, by participant and by title of the job.
type findings struct {
	figures  map[string]map[string][]map[string]float64
	versions map[string]string
}

// run lets the participants take turns: each round measures all of them, beginning with a different
// one, so that whatever else the machine does affects them alike.
func (p plan) run(ctx context.Context, programs map[string]string, addr string) (findings, error) {
	found := findings{make(map[string]map[string][]map[string]float64), make(map[string]string)}
	for round := range p.rounds {
		for _, job := range p.jobs() {
			if job.Kind == scenario.Kept && round > 0 {
				continue
			}
			for i := range names {
				name := names[(i+round)%len(names)]
				if !takesPart(name, job) {
					continue
				}
				job.Setup.Addr = addr
				result, err := measure(ctx, programs[name], name, job)
				if err != nil {
					return findings{}, fmt.Errorf("%s, %s: %w", name, title(job), err)
				}
				fmt.Printf("round %d, %s: %s %v\n", round+1, title(job), name, result.Figures)
				found.add(name, title(job), result)
			}
		}
	}
	return found, nil
}

func (f findings) add(name, title string, result scenario.Result) {
	if f.figures[name] == nil {
		f.figures[name] = make(map[string][]map[string]float64)
	}
	f.figures[name][title] = append(f.figures[name][title], result.Figures)
	f.versions[name] = result.Version
}

// A spread is the values of one figure in all rounds.
type spread struct {
	least, median, most float64
}

func (f findings) spread(name, title, figure string) (s spread, ok bool) {
	var values []float64
	for _, figures := range f.figures[name][title] {
		if value, ok := figures[figure]; ok {
			values = append(values, value)
		}
	}
	if len(values) == 0 {
		return spread{}, false
	}
	slices.Sort(values)
	return spread{values[0], values[len(values)/2], values[len(values)-1]}, true
}

// measure lets a process do a job.
func measure(ctx context.Context, program, name string, job scenario.Job) (scenario.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, job.Time+5*time.Minute)
	defer cancel()
	task, err := json.Marshal(job)
	if err != nil {
		return scenario.Result{}, err
	}
	var out, said bytes.Buffer
	command := exec.CommandContext(ctx, program, name, string(task))
	command.Stdout, command.Stderr = &out, &said
	if err := command.Run(); err != nil {
		return scenario.Result{}, fmt.Errorf("%w: %s", err, said.Bytes())
	}
	var result scenario.Result
	return result, json.Unmarshal(out.Bytes(), &result)
}

// buildPrograms returns the program for each participant: this program, except for upstream.
func buildPrograms(ctx context.Context, dir string) (map[string]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	upstream := filepath.Join(dir, "upstream")
	build := exec.CommandContext(ctx, "go", "build", "-C", "upstream", "-o", upstream, ".")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	programs := map[string]string{nameUpstream: upstream}
	for _, name := range names {
		if name != nameUpstream {
			programs[name] = self
		}
	}
	return programs, nil
}
