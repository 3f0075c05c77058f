package scenario

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// uncontended has goroutines obtain and release locks, each its own, again and again.
func (p Participant) uncontended(ctx context.Context, server *redis.Client, job Job) (map[string]float64, error) {
	locker, err := p.Connect(job.Setup)
	if err != nil {
		return nil, err
	}
	defer locker.Close()
	if _, err := lockAll(ctx, locker, job.Workers, job.WarmUp); err != nil {
		return nil, err
	}
	if err := server.ConfigResetStat(ctx).Err(); err != nil {
		return nil, err
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	times, err := lockAll(ctx, locker, job.Workers, job.Time)
	if err != nil {
		return nil, err
	}
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	stats, err := commandStats(ctx, server)
	if err != nil {
		return nil, err
	}
	micros := 0.
	for _, command := range append([]string{"eval", "evalsha"}, p.Plain...) {
		micros += stats[command].micros
	}
	slices.Sort(times)
	n := float64(len(times))
	return map[string]float64{
		"ops/s":     n / took.Seconds(),
		"p50 µs":    micro(percentile(times, .5)),
		"p99 µs":    micro(percentile(times, .99)),
		"allocs":    float64(after.Mallocs-before.Mallocs) / n,
		"bytes":     float64(after.TotalAlloc-before.TotalAlloc) / n,
		"server µs": micros / n,
	}, nil
}

// lockAll returns how long each obtaining and releasing took.
func lockAll(ctx context.Context, locker Locker, workers int, duration time.Duration) ([]time.Duration, error) {
	var group sync.WaitGroup
	times := make([][]time.Duration, workers)
	errs := make([]error, workers)
	end := time.Now().Add(duration)
	for i := range workers {
		// The measurement itself must not allocate.
		times[i] = make([]time.Duration, 0, int(duration.Seconds()*30000)/min(workers, 8)+1000)
		group.Go(func() {
			key := fmt.Sprintf("bench:%d", i)
			for now := time.Now(); now.Before(end); {
				if errs[i] = locker.With(ctx, key, nil); errs[i] != nil {
					return
				}
				next := time.Now()
				times[i] = append(times[i], next.Sub(now))
				now = next
			}
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return slices.Concat(times...), nil
}

func percentile(sorted []time.Duration, share float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)]
}

func micro(d time.Duration) float64 {
	return float64(d) / float64(time.Microsecond)
}
