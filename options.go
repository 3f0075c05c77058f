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

// Options change how Obtain and Refresh behave. A nil *Options means all defaults. Many calls may
// use one Options, even at the same time. Note that the strategies of [LimitRetry] and
// [ExponentialBackoff] count how often they were asked: calls that share one share its count.
type Options struct {
	// RetryStrategy says how long to wait before the next try.
	// Default (nil): try once.
	RetryStrategy RetryStrategy

	// Metadata is stored after the token in the lock's value, for whoever looks at the key. It
	// may contain any bytes.
	// Default (""): none.
	Metadata string

	// Token identifies the holder. Obtaining a lock with the token that already holds it
	// succeeds, and replaces its metadata and its TTL.
	//
	// Redis cannot tell where in a value the token ends and the metadata begins. Of the tokens
	// that compete for a lock, none may therefore be a prefix of another. Tokens of the same
	// length are safe, and so are tokens that end in a character that occurs nowhere else in
	// them.
	//
	// What one call does with a token may affect another call with the same token:
	//
	//   - A call that fails may leave the lock with its token until the TTL has passed, because
	//     an earlier call may hold it. A quorum gives back what the failed call obtained and
	//     the token had not held before, on the nodes that answered. FairQueue passes on what
	//     it handed to just that call.
	//   - A Release that was not answered, or answered so late that the Redis client had sent
	//     it again, may still be in flight. It then releases a lock that the token has obtained
	//     since.
	//   - A Refresh that was not answered, or not by all nodes of a quorum, may still be in
	//     flight for some seconds. It then sets its TTL, even a shorter one, on a lock that the
	//     token has obtained since. The refreshes of a TickWatchdog never shorten a TTL.
	//   - Obtaining again with a shorter TTL, or with other metadata, shortens or ends the lock
	//     that was obtained before. Its ValidUntil and Done do not know of that.
	//   - For one lock, either all calls with a token use FairQueue or none does, and all have the
	//     same Shared and Limit. Obtaining with another Limit replaces the place that the token
	//     has, and its earlier Lock is lost. A token that holds a lock exclusively does not hold
	//     it as one of several, and the other way round.
	//
	// Default (""): 22 random characters for each lock.
	Token string

	// FenceKey is the key of a counter that is incremented each time the lock is newly
	// acquired; [Lock.FenceToken] returns its value. [Client.Do] and [Election.Run] do not pass
	// that to their function: where it is needed, use Obtain. Use a separate counter for each
	// lock. It has no TTL and must not be the key of a lock. On Redis Cluster it must be in the
	// lock's slot: use a {hash tag}.
	// Default (""): no fencing token.
	FenceKey string

	// Shared asks for a reader's lock: any number of shared holders may hold the lock at a time,
	// or one exclusive holder. It does not work with several keys or on a quorum. Readers without
	// [FairQueue] are let in beside other readers whoever is waiting, and can starve a writer: use
	// FairQueue for all callers.
	// Default (false): an exclusive lock.
	Shared bool

	// Limit asks for a place in a semaphore: the lock is obtained if fewer than Limit holders
	// hold it already. Each caller's own limit counts for that caller, so all should use the same.
	// It does not work with several keys, on a quorum, or together with Shared. Obtaining is an
	// error while the lock has shared holders.
	//
	// Each holder has a TTL of its own: the place of a holder that has died is free when its TTL
	// has passed. With [FairQueue], callers of all kinds wait in one queue. Obtaining with a custom Token
	// takes time in proportion to the number of holders.
	// Default (0), and 1: an exclusive lock.
	Limit int

	// MinReplicas is how many replicas must confirm a write (by Redis' WAIT) before the lock
	// counts as obtained, or as refreshed. If one of these replicas becomes the master, it has the
	// lock. Sentinel or Cluster is certain to promote one of them only if all replicas have
	// confirmed.
	//
	// If fewer confirm within a second, half of the TTL, or the context, Obtain returns an error
	// that says how many did, and the key is released unless Token is a custom one. The Redis
	// client must be one of go-redis' own types, not a wrapper. Script and confirmation take
	// one round trip, or two with [FairQueue].
	// Default (0): the master's word is enough.
	MinReplicas int

	// MaxWait bounds the waiting of one call, including its tries, whatever the TTL: a context
	// without a deadline gets one after MaxWait instead of after the TTL. An earlier deadline of
	// the context still applies. When the time is over, the error is ErrNotObtained joined with
	// context.DeadlineExceeded. What Do runs under the lock is not bounded. Use math.MaxInt64 to
	// wait without end.
	// Default (0): until the context's deadline or, without one, for the TTL.
	MaxWait time.Duration

	// HoldAtLeast is how long nobody else gets the lock after it was obtained, even if it is
	// released earlier. The key then stays, with what is left of that time as its TTL, and with
	// a value that matches no token. A job that many machines start thus runs once per interval,
	// however soon it ends, if their clocks are less than this time apart. The time is counted in
	// milliseconds, rounded up, from when the lock was obtained.
	//
	// It affects only Release, which otherwise works as usual: the lock is given back, and
	// whoever waits for it gets it when the time is over. A waiter in a [FairQueue] may learn
	// of that up to a second late. A lock that was lost, for example by its TTL, does not stay.
	// If Redis does not answer Release, the release continues in the background, unless Token
	// is a custom one. A custom Token must not begin with a zero byte. MinReplicas does not confirm
	// that the key stays.
	//
	// With a Limit the holder's place stays taken, so that no more than Limit callers obtain the
	// lock within that time. With Shared it is an error: other readers would be let in anyway.
	// Default (0): the key is deleted at once.
	HoldAtLeast time.Duration

	// HoldAtMost is the longest that the lock is held, even if it is refreshed: a stuck holder
	// does not keep it forever while its process and its Watchdog live. Every TTL is cut to
	// what is left of that time, including the one that the lock is obtained with. After that
	// no refresh succeeds, by the watchdog or by the holder, and the lock is lost: the cause of
	// its context says that HoldAtMost was the reason, and how long it is.
	//
	// The time is counted in whole milliseconds, at least one, from just before the command that
	// obtained the lock. [Lock.Done] closes at [Lock.ValidUntil], which is earlier by one percent
	// of the last TTL. A call with the same custom Token starts the time again. Waiting that would
	// end with the TTL ends with HoldAtMost if that is shorter; see MaxWait.
	// Default (0): for as long as it is refreshed.
	HoldAtMost time.Duration

	// Watchdog refreshes the lock until it is released.
	// Default (nil): the lock expires after its TTL.
	Watchdog Watchdog

	// Logger logs what happens in the background: failed refreshes by a watchdog, and lost
	// locks.
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

// check reports options that cannot be met, whatever servers the keys are on.
func (o *Options) check(keys []string) error {
	switch {
	case slices.Contains(keys, o.FenceKey):
		return fmt.Errorf("redislock: FenceKey %q is also the key of a lock: use a different key for the counter", o.FenceKey)
	case o.MinReplicas < 0:
		return fmt.Errorf("redislock: MinReplicas of %d is negative: use the number of replicas, or 0 for none", o.MinReplicas)
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

// RetryStrategy says how long to wait between the tries to obtain a lock. Implementations must
// be safe for concurrent use if their Options are shared.
type RetryStrategy interface {
	// NextBackoff returns the time until the next try. Zero or less means that there is no
	// next try.
	NextBackoff() time.Duration
}

// NoRetry tries once.
func NoRetry() RetryStrategy {
	return linearBackoff(0)
}

// LinearBackoff waits for the same time before each further try. With a backoff of 0 or less
// it tries once.
func LinearBackoff(backoff time.Duration) RetryStrategy {
	return linearBackoff(backoff)
}

type linearBackoff time.Duration

func (b linearBackoff) NextBackoff() time.Duration {
	return time.Duration(b)
}

// ExponentialBackoff waits for times that double: 4 ms, 8 ms, 16 ms and so on, each raised to
// min if it is shorter, and cut to max if it is longer. A max of 0 means no limit. Use a min of
// at least 16 ms to spare Redis.
//
// The strategy counts the waits of all calls that use it. Give each call a strategy of its own,
// unless all should slow down together.
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

// LimitRetry waits as strategy says, but at most max times. All calls that use the returned
// strategy share the limit: give each call its own. A nil strategy means [NoRetry].
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
	vary     bool      // the waits by half, so that callers that collided separate
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
