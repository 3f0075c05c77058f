// Command semaphore shows how processes share a service that bears only three calls at a time.
// What you would copy is in renderer.go. The places are on an embedded server, or with
// -redis host:port on a real one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

func main() {
	addr := flag.String("redis", "", "address of a Redis server, host:port (default: an embedded one)")
	flag.Parse()
	if err := run(context.Background(), *addr); err != nil {
		fmt.Fprintln(os.Stderr, "semaphore:", err)
		os.Exit(1)
	}
}

const (
	limit     = 3
	processes = 3
	documents = 4 // of each process
)

func run(ctx context.Context, addr string) error {
	if addr == "" {
		embedded, stop, err := redistest.RunEmbedded()
		if err != nil {
			return err
		}
		defer stop()
		addr = embedded
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	service := &service{}
	var running sync.WaitGroup
	var failures [processes * documents]error
	for p := range processes {
		// Each process has a client of its own.
		client := redis.NewClient(&redis.Options{Addr: addr})
		defer client.Close()
		r := &renderer{
			locker:   redislock.New(client),
			key:      fmt.Sprintf("redislock-semaphore-%d", os.Getpid()),
			limit:    limit,
			watchdog: redislock.NewTickWatchdog(0),
			call:     service.render,
		}
		for d := range documents {
			running.Go(func() {
				failures[p*documents+d] = r.render(ctx, fmt.Sprintf("document %d of process %d", d+1, p+1))
			})
		}
	}
	running.Wait()
	if err := errors.Join(failures[:]...); err != nil {
		return err
	}
	fmt.Printf("%d documents from %d processes; never more than %d calls at a time.\n", processes*documents, processes, service.most)
	return nil
}

// A service is slow, and fails if more than limit calls are under way.
type service struct {
	mu          sync.Mutex
	calls, most int
}

func (s *service) render(ctx context.Context, document string) error {
	if n := s.count(1); n > limit {
		return fmt.Errorf("%d calls at a time are too many", n)
	}
	defer s.count(-1)
	select {
	case <-time.After(100 * time.Millisecond):
		fmt.Printf("%s is rendered.\n", document)
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// count notes that a call begins or ends, and returns how many are under way.
func (s *service) count(change int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls += change
	s.most = max(s.most, s.calls)
	return s.calls
}
