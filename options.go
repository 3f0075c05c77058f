package redislock

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"
)

// Options are what a caller may ask of Obtain and Refresh beyond the defaults.
// A nil *Options is all defaults. One Options may be used by many calls, at the
// same time too; note that the strategies of [LimitRetry] and
// [ExponentialBackoff] remember how often they were asked, so that such calls
// share one count.
type Options struct {
	// RetryStrategy says how long to wait before trying again.
	// Default (nil): do not try again.
	RetryStrategy RetryStrategy

	// Metadata is stored behind the token in the lock's value, for whoever looks
	// at the key. Any bytes will do.
	Metadata string

	// Token identifies the holder. Whoever obtains a lock with the token that it
	// is held by already succeeds, and replaces its metadata and its TTL.
	//
	// Redis cannot tell where in a value the token ends and the metadata begins:
	// of tokens that contend for a lock, none may be a prefix of another. Tokens
	// of one length, or that end in a character that occurs nowhere else in them,
	// are safe.
	//
	// What one call does with a token may meet what another does with the same:
	//
	//   - A call that fails may leave the lock to its token until the TTL has passed,
	//     because an earlier call may hold it. A quorum gives back what the failed call
	//     took and the token had not held before, on the nodes that answered. FairQueue
	//     passes on what it handed to just that call.
	//   - A Release that was not answered, or so late that the Redis client had sent it
	//     again, may still be on its way, and then releases the lock that the token has
	//     obtained since.
	//   - A Refresh that was not answered, or not by all nodes of a quorum, may be on its
	//     way for seconds more, and then gives its TTL, also a shorter one, to the lock that
	//     the token has obtained since. The refreshes of a TickWatchdog never shorten it.
	//   - Obtaining again with a shorter TTL, or with other metadata, shortens or ends the
	//     lock that was obtained before, unknown to its ValidUntil and Done.
	//   - For one lock, either all calls with a token use FairQueue or none does.
	//
	// Default (""): 22 random characters for each lock.
	Token string

	// FenceKey is the key of a counter that is incremented each time the lock is
	// newly acquired; [Lock.FenceToken] returns its value. Use a counter of its
	// own for each lock. It has no TTL, must not be the key of a lock, and on
	// Redis Cluster must be in the lock's slot: use a {hash tag}.
	// Default (""): no fencing token.
	FenceKey string

	// Shared asks for a reader's lock: any number of shared holders may hold it at a time, or
	// one exclusive holder. Not for several keys, nor on a quorum.
	// Default (false): an exclusive lock.
	Shared bool

	// Limit asks for a place of a semaphore: the lock is obtained if fewer than Limit hold it
	// already. Each caller goes by its own limit. Not for several keys, nor on a quorum, nor
	// together with Shared; callers with a Limit and shared ones do not mix on one key.
	//
	// The holders' TTLs count each by itself: the place of one that has died is free when its own
	// TTL has passed. See [Options.Shared] for the other kind of lock with several holders; with
	// [FairQueue] callers of all kinds stand in one queue.
	// Default (0), and 1: an exclusive lock.
	Limit int

	// MinReplicas is how many replicas must have confirmed the write (by Redis' WAIT)
	// before the lock counts as obtained, or as refreshed. It is then known to them
	// should one of them become the master; that a Sentinel or Cluster promotes one of
	// those that know it is certain only if all replicas have confirmed.
	//
	// If fewer confirm within a second, half of the TTL, or the context, Obtain returns an
	// error that says how many did, and the key is released unless Token is a custom one.
	// The Redis client must be one of go-redis itself, not a wrapper. Script and
	// confirmation take one round trip, two with [FairQueue].
	// Default (0): the master's word is enough.
	MinReplicas int

	// MaxWait bounds the waiting of one call, with its tries at Redis, whatever the context and
	// the TTL say: a context without a deadline gets one after MaxWait, not after the TTL. That
	// of a context which has an earlier one counts. Once it is over the error is
	// ErrNotObtained joined with context.DeadlineExceeded. What Do runs under the lock is not
	// bounded. For waiting without an end, use math.MaxInt64.
	// Default (0): the context's deadline, without one the TTL.
	MaxWait time.Duration

	// HoldAtLeast is for how long nobody else has the lock after it was obtained, even if
	// it is released before: the key stays, with what is left of that time as its TTL, and
	// another value, by which no token holds it. So a job that all of many machines start runs
	// once an interval, however short it is and however far their clocks are apart. It
	// counts in milliseconds, rounded up, from when the lock was obtained.
	//
	// It has an effect on Release alone, which does what it otherwise does: the lock is given
	// back, and whoever waits for it has it when the time is over. A waiter in a [FairQueue]
	// may learn of that up to a second late. A lock that was lost, by its TTL for example,
	// does not stay. If Redis does not answer to Release, the release goes on in the
	// background, unless Token is a custom one. That has to begin with another byte than zero.
	//
	// With a Limit the holder's place stays taken, so that no more than Limit callers obtain the lock
	// within that time. With Shared it is an error: other readers would come in all the same.
	// Default (0): the key is deleted at once.
	HoldAtLeast time.Duration

	// HoldAtMost is for how long the lock is held at most, though it is refreshed: a holder
	// that is stuck does not keep it for ever, even if its process and its Watchdog live. The
	// TTL that a refresh sets is cut to what is left of that time, and so is the one that the
	// lock is obtained with. Then no refresh succeeds any more, neither the watchdog's nor
	// one's own, and the lock is lost: its context's cause says that it was held for its
	// longest, and for how long that is.
	//
	// It counts in whole milliseconds, of which there must be one, from just before the command
	// that obtained the lock. [Lock.Done] closes as early as [Lock.ValidUntil] does, by a
	// hundredth of the last TTL. A call with the same custom Token begins anew.
	// Default (0): for as long as it is refreshed.
	HoldAtMost time.Duration

	// Watchdog refreshes the lock until it is released.
	// Default (nil): the lock expires after its TTL.
	Watchdog Watchdog

	// Logger is told what goes on behind the caller's back: refreshes by a
	// watchdog that failed, locks that were lost.
	// Default (nil): nothing is logged.
	Logger *slog.Logger
}

// noOptions stand for nil ones.
var noOptions Options

func (o *Options) retryStrategy() RetryStrategy {
	if o == nil || o.RetryStrategy == nil {
		return NoRetry()
	}
	return o.RetryStrategy
}

func (o *Options) logger() *slog.Logger {
	if o.Logger == nil {
		return discardLogger
	}
	return o.Logger
}

// check finds out that options cannot be met, whatever servers the keys are on.
func (o *Options) check(keys []string) error {
	switch {
	case slices.Contains(keys, o.FenceKey):
		return fmt.Errorf("redislock: FenceKey %q is also the key of a lock: use another for the counter", o.FenceKey)
	case o.MinReplicas < 0:
		return fmt.Errorf("redislock: MinReplicas of %d: it counts replicas, 0 is none", o.MinReplicas)
	default:
		if err := o.checkHolders(keys); err != nil {
			return err
		}
		return o.checkBounds()
	}
}

var discardLogger = slog.New(slog.DiscardHandler)

// DiscardLogger returns a logger that logs nothing.
func DiscardLogger() *slog.Logger {
	return discardLogger
}

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
