package scenario

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// takers is how many goroutines take and release the locks that are kept.
const takers = 64

// settle is how long to wait for goroutines left from the warm-up to end.
const settle = 500 * time.Millisecond

// kept takes many locks and keeps them alive for a while.
func (p Participant) kept(ctx context.Context, server *redis.Client, job Job) (map[string]float64, error) {
	locker, err := p.Connect(job.Setup)
	if err != nil {
		return nil, err
	}
	defer locker.Close()
	if err := locker.With(ctx, "bench:warm", nil); err != nil {
		return nil, err
	}
	time.Sleep(settle)
	type lock struct {
		release func() error
		lost    func() bool
	}
	locks := make([]lock, job.Locks)
	heap, goroutines := heapInUse(), runtime.NumGoroutine()
	err = each(job.Locks, func(i int) (err error) {
		locks[i].release, locks[i].lost, err = locker.Keep(ctx, fmt.Sprintf("bench:%d", i))
		return err
	})
	if err != nil {
		return nil, err
	}
	ours, theirs := cpuTime(), serverTime(ctx, server)
	start, most := time.Now(), 0
	for time.Since(start) < job.Time {
		time.Sleep(100 * time.Millisecond)
		most = max(most, runtime.NumGoroutine())
	}
	took := time.Since(start).Seconds()
	ours, theirs = cpuTime()-ours, serverTime(ctx, server)-theirs
	grown := float64(heapInUse()) - float64(heap)

	lost := 0
	for _, lock := range locks {
		if lock.lost() {
			lost++
		}
	}
	// Those that were lost cannot be released.
	_ = each(job.Locks, func(i int) error {
		_ = locks[i].release()
		return nil
	})
	return map[string]float64{
		"goroutines": float64(most - goroutines),
		"heap/lock":  grown / float64(job.Locks),
		"CPU":        ours.Seconds() / took,
		"server CPU": theirs.Seconds() / took,
		"lost":       float64(lost),
	}, nil
}

// each calls do for all numbers below n, several at a time.
func each(n int, do func(i int) error) error {
	var group sync.WaitGroup
	errs := make([]error, takers)
	for t := range takers {
		group.Go(func() {
			for i := t; i < n && errs[t] == nil; i += takers {
				errs[t] = do(i)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func heapInUse() uint64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc + stats.StackInuse
}

// cpuTime is the CPU time that this process has used.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
