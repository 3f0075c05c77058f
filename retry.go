package redislock

import (
	"context"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// RetryStrategy says how long to wait before a lock is tried for again.
// Implementations must be safe for concurrent use if their Options are shared.
type RetryStrategy interface {
	// NextBackoff returns the time until the next try. Less than a nanosecond
	// means that there is no next try.
	NextBackoff() time.Duration
}

// NoRetry tries once.
func NoRetry() RetryStrategy {
	return linearBackoff(0)
}

// LinearBackoff tries again each time after the same wait. With a wait of 0 or
// less it tries once.
func LinearBackoff(backoff time.Duration) RetryStrategy {
	return linearBackoff(backoff)
}

type linearBackoff time.Duration

func (b linearBackoff) NextBackoff() time.Duration {
	return time.Duration(b)
}

// ExponentialBackoff tries again after waits that double: 4 ms, 8 ms, 16 ms and
// so on, each raised to min if it is shorter, and cut to max if it is longer. A
// max of 0 means no limit. A min of at least 16 ms is kind to Redis.
//
// The strategy counts the waits of all calls that use it: give each call a
// strategy of its own unless all shall slow down together.
func ExponentialBackoff(min, max time.Duration) RetryStrategy {
	return &exponentialBackoff{min: min, max: max}
}

type exponentialBackoff struct {
	count    atomic.Uint64
	min, max time.Duration
}

func (b *exponentialBackoff) NextBackoff() time.Duration {
	const mostDoublings = 25 // 18 hours, far from overflow
	doublings := min(b.count.Add(1), mostDoublings)
	backoff := 2 * time.Millisecond << doublings

	switch {
	case backoff < b.min:
		return b.min
	case b.max != 0 && backoff > b.max:
		return b.max
	default:
		return backoff
	}
}

// LimitRetry waits as strategy says, but at most max times. The limit is one for
// all calls that use the returned strategy: give each call its own. A nil
// strategy is [NoRetry].
func LimitRetry(strategy RetryStrategy, max int) RetryStrategy {
	if strategy == nil {
		strategy = NoRetry()
	}
	return &limitedRetry{strategy: strategy, max: int64(max)}
}

type limitedRetry struct {
	strategy RetryStrategy
	count    atomic.Int64
	max      int64
}

func (r *limitedRetry) NextBackoff() time.Duration {
	// Counted and compared in one step: of many goroutines that ask for the last
	// retry only one gets it.
	if r.count.Add(1) > r.max {
		return 0
	}
	return r.strategy.NextBackoff()
}

// pause is the waiting between the tries of one call.
type pause struct {
	strategy RetryStrategy
	end      time.Time // of all waiting; zero if the context has a deadline
	vary     bool      // the waits by half, so that callers that collided part
	observed *observation
	timer    *time.Timer
}

func newPause(ctx context.Context, ttl time.Duration, opt *Options) pause {
	p := pause{strategy: opt.retryStrategy()}
	if _, ok := ctx.Deadline(); !ok {
		p.end = time.Now().Add(ttl)
	}
	return p
}

// wait waits for the next try. It reports whether there is one, or why the
// waiting had to end.
func (p *pause) wait(ctx context.Context) (more bool, _ error) {
	backoff := p.strategy.NextBackoff()
	if backoff < 1 {
		return false, nil
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	stats.backoff.Add(1)
	p.observed.waits()
	if p.vary {
		backoff = min(backoff, math.MaxInt64/2) // half as much again is a Duration too
		backoff = backoff/2 + rand.N(backoff)
	}

	endsFirst := false
	if !p.end.IsZero() {
		left := time.Until(p.end)
		endsFirst = left <= backoff
		backoff = min(backoff, left)
	}
	if p.timer == nil {
		p.timer = time.NewTimer(backoff)
	} else {
		p.timer.Reset(backoff)
	}
	select {
	case <-ctx.Done():
		p.timer.Stop()
		return false, ctx.Err()
	case <-p.timer.C:
	}
	if endsFirst {
		return false, context.DeadlineExceeded
	}
	return true, nil
}
