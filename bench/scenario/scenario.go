// Package scenario measures a distributed lock. Each measurement runs in a process of its
// own, so that goroutines, memory and CPU time are those of one lock alone.
package scenario

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// TTL is the TTL of all locks; RefreshInterval is how often locks that are kept alive are refreshed.
const (
	TTL             = 15 * time.Second
	RefreshInterval = 5 * time.Second
)

// A Participant is a library that is measured.
type Participant struct {
	Name string
	// Module is the path of the library's module, for its version.
	Module string
	// Plain names the commands that it sends besides scripts, in lower case, to take and to
	// release a free lock.
	Plain []string
	// Connect returns a client of the server.
	Connect func(Setup) (Locker, error)
}

// A Setup says how a client should work.
type Setup struct {
	Addr string
	// Pipelined makes commands of several goroutines share round trips.
	Pipelined bool
	// Connections is how many connections a client that is not pipelined may have at a time.
	Connections int
	// Waits is whether callers wait for locks.
	Waits bool
	// Count counts the commands that were sent, if it is not nil.
	Count func(commands int) `json:"-"`
}

// A Locker takes locks through one client.
type Locker interface {
	// With waits for the lock, calls held (unless it is nil), and releases the lock.
	With(ctx context.Context, key string, held func()) error
	// Keep takes a free lock and keeps it alive until release is called. Lost reports
	// whether it was lost.
	Keep(ctx context.Context, key string) (release func() error, lost func() bool, _ error)
	Close()
}

// A Sharer takes locks that have several holders through one client. Both methods work like Locker.With.
type Sharer interface {
	// WithPlace takes one of n places.
	WithPlace(ctx context.Context, key string, n int, held func()) error
	// WithAccess takes a lock that readers hold together, and a writer alone.
	WithAccess(ctx context.Context, key string, write bool, held func()) error
}

// A Job is one measurement.
type Job struct {
	Kind    string // one of those below
	Setup   Setup
	Clients int           // Contended, Places, Readers
	Workers int           // Uncontended: goroutines; where there are Clients: for each
	Hold    time.Duration // where there are Clients
	Places  int           // Places
	Locks   int           // Kept
	WarmUp  time.Duration // before the measurement, but of Kept
	Time    time.Duration // of the measurement
}

// The kinds of jobs.
const (
	Uncontended = "uncontended"
	Contended   = "contended"
	Places      = "places"  // a semaphore
	Readers     = "readers" // 90 %; the others are writers
	Kept        = "kept"
)

// A Result is what a measurement found, by the names of its figures.
type Result struct {
	Version string // of the participant
	Figures map[string]float64
}

// Main is the main function of a program that measures participants: its arguments are the
// name of one and a Job. It prints the Result.
func Main(participants ...Participant) {
	if err := run(os.Args[1:], participants, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, strings.Join(os.Args[1:], " ")+":", err)
		os.Exit(1)
	}
}

func run(args []string, participants []Participant, out io.Writer) error {
	if len(args) != 2 {
		return fmt.Errorf("%d arguments: want a participant and a job", len(args))
	}
	var job Job
	if err := json.Unmarshal([]byte(args[1]), &job); err != nil {
		return err
	}
	for _, p := range participants {
		if p.Name != args[0] {
			continue
		}
		figures, err := p.measure(job)
		if err != nil {
			return err
		}
		return json.NewEncoder(out).Encode(Result{Version: version(p.Module), Figures: figures})
	}
	return fmt.Errorf("no participant %q", args[0])
}

func (p Participant) measure(job Job) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), job.Time+3*time.Minute)
	defer cancel()
	server := redis.NewClient(&redis.Options{Addr: job.Setup.Addr})
	defer server.Close()
	if err := server.FlushAll(ctx).Err(); err != nil {
		return nil, err
	}
	switch job.Kind {
	case Uncontended:
		return p.uncontended(ctx, server, job)
	case Contended, Places, Readers:
		return p.contended(ctx, server, job)
	case Kept:
		return p.kept(ctx, server, job)
	default:
		return nil, fmt.Errorf("no measurement %q", job.Kind)
	}
}

// version returns the version of a module that this program was built with.
func version(module string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, dependency := range info.Deps {
		if dependency.Path != module {
			continue
		}
		if dependency.Replace != nil {
			return "this version" // a directory
		}
		return dependency.Version
	}
	return ""
}
