package scenario

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// patience is how long to wait for workers that are not served.
const patience = 5 * time.Second

// crowd is workers who want one lock.
type crowd struct {
	job        Job
	plain      []string // of the participant
	start, end time.Time

	inside     atomic.Int32
	violations atomic.Int64
	released   atomic.Int64 // when, in nanoseconds since start
	commands   atomic.Int64
}

// alone is the weight of a holder that must be the only one.
const alone = 1000

// writes says which of a worker's turns, in order, are a writer's.
func writes(turn int) bool { return turn%10 == 0 }

// worker is what one of them has seen.
type worker struct {
	waits, handovers []time.Duration
	err              error
}

// contended makes workers want one lock again and again, of one of the kinds for which they wait.
func (p Participant) contended(ctx context.Context, server *redis.Client, job Job) (map[string]float64, error) {
	c := &crowd{job: job, plain: p.Plain}
	job.Setup.Count = func(commands int) { c.commands.Add(int64(commands)) }
	job.Setup.Connections, job.Setup.Waits = job.Workers+2, true
	var lockers []Locker
	for range job.Clients {
		locker, err := p.Connect(job.Setup)
		if err != nil {
			return nil, err
		}
		defer locker.Close()
		lockers = append(lockers, locker)
	}
	c.start = time.Now().Add(job.WarmUp)
	c.end = c.start.Add(job.Time)
	ctx, cancel := context.WithDeadline(ctx, c.end.Add(patience))
	defer cancel()
	workers := make([]worker, job.Clients*job.Workers)
	var group sync.WaitGroup
	for i := range workers {
		group.Go(func() { c.work(ctx, lockers[i%job.Clients], i, &workers[i]) })
	}
	time.Sleep(time.Until(c.start))
	before, err := c.count(ctx, server)
	if err != nil {
		return nil, err
	}
	time.Sleep(time.Until(c.end))
	after, err := c.count(ctx, server)
	if err != nil {
		return nil, err
	}
	group.Wait()
	return c.figures(workers, after-before)
}

// count returns how many commands have been sent so far. A client that does not count them sends scripts and
// plain commands that no script contains.
func (c *crowd) count(ctx context.Context, server *redis.Client) (float64, error) {
	if counted := c.commands.Load(); counted > 0 {
		return float64(counted), nil
	}
	stats, err := commandStats(ctx, server)
	calls := stats["evalsha"].calls + stats["eval"].calls
	for _, command := range c.plain {
		calls += stats[command].calls
	}
	return calls, err
}

// with takes the lock for a worker's turn of that number. weight is the holder's weight.
func (c *crowd) with(ctx context.Context, locker Locker, turn int, held func(weight int32)) error {
	const key = "bench:one"
	switch c.job.Kind {
	case Places:
		return locker.(Sharer).WithPlace(ctx, key, c.job.Places, func() { held(1) })
	case Readers:
		weight := int32(1)
		if writes(turn) {
			weight = alone
		}
		return locker.(Sharer).WithAccess(ctx, key, writes(turn), func() { held(weight) })
	default:
		return locker.With(ctx, key, func() { held(alone) })
	}
}

// admits reports whether those inside, the last of whom has that weight, may be there together.
func (c *crowd) admits(inside, weight int32) bool {
	switch {
	case weight == alone:
		return inside == alone
	case c.job.Kind == Places:
		return inside <= int32(c.job.Places)
	default:
		return inside < alone
	}
}

// hold returns when a holder of that weight has to release. One that is alone is busy until then, because a
// process that sleeps wakes up late, and the later the less else happens in it: a library that waits
// would seem slower than one that polls.
func hold(weight int32, until time.Time) {
	if weight != alone {
		time.Sleep(time.Until(until))
	}
	for time.Now().Before(until) {
	}
}

func (c *crowd) work(ctx context.Context, locker Locker, number int, w *worker) {
	for turn := number; time.Now().Before(c.end) && w.err == nil; turn++ {
		asked := time.Now()
		w.err = c.with(ctx, locker, turn, func(weight int32) {
			now := time.Now()
			if !c.admits(c.inside.Add(weight), weight) {
				c.violations.Add(1)
			}
			if asked.After(c.start) && now.Before(c.end) {
				w.waits = append(w.waits, now.Sub(asked))
				w.handovers = append(w.handovers, now.Sub(c.start)-time.Duration(c.released.Load()))
			}
			hold(weight, now.Add(c.job.Hold))
			c.inside.Add(-weight)
			c.released.Store(int64(time.Since(c.start)))
		})
		if late := time.Now(); late.After(c.end) {
			// It did not have its turn within the time. That is no error: it shows in the
			// longest wait.
			w.waits = append(w.waits, late.Sub(asked))
			if ctx.Err() != nil {
				w.err = nil
			}
		}
	}
}

func (c *crowd) figures(workers []worker, commands float64) (map[string]float64, error) {
	var all, waits []time.Duration
	fewest, most := len(workers[0].handovers), 0
	for _, w := range workers {
		if w.err != nil {
			return nil, w.err
		}
		all = append(all, w.handovers...)
		waits = append(waits, w.waits...)
		fewest = min(fewest, len(w.handovers))
		most = max(most, len(w.handovers))
	}
	slices.Sort(all)
	n := float64(len(all))
	return map[string]float64{
		"handovers/s":     n / c.job.Time.Seconds(),
		"commands":        commands / n,
		"p50 µs":          micro(percentile(all, .5)),
		"p99 µs":          micro(percentile(all, .99)),
		"longest wait ms": micro(slices.Max(waits)) / 1000,
		"fewest":          float64(fewest),
		"most":            float64(most),
		"violations":      float64(c.violations.Load()),
	}, nil
}
