package redislock

import (
	"context"
	"slices"
	"time"
)

// An Observer is told what happens to the locks of a [Client], for traces and histograms. The
// modules github.com/bsm/redislock/otel and github.com/bsm/redislock/rlprome each have one. The
// goroutines that use the locks call it, so it must be safe for concurrent use, and fast.
type Observer interface {
	// Begin is called before an operation. It returns the context for the operation (ctx, or
	// one derived from it) and a function that is called once the operation has ended, by any
	// goroutine. The function may be nil.
	Begin(ctx context.Context, op Operation) (context.Context, func(Outcome))
}

// Names of an [Operation].
const (
	OpObtain  = "obtain"  // a call of Obtain or ObtainMulti, including the one in Do
	OpHold    = "hold"    // from then until Release is called or the lock is lost
	OpRelease = "release" // a call of Release, including the one in Do
)

// Values of [Operation].Kind.
const (
	KindExclusive = "exclusive"
	KindShared    = "shared"   // with Options.Shared
	KindLimited   = "limited"  // with an Options.Limit of more than 1
	KindElection  = "election" // the leadership of an Election
)

// An Operation is something that an [Observer] is told about.
type Operation struct {
	// Name is OpObtain, OpHold or OpRelease. There may be more in the future.
	Name string
	// Keys are the lock's keys. Do not change them.
	Keys []string
	// Kind is the kind of lock: KindExclusive, KindShared, KindLimited or KindElection. There may
	// be more in the future. It is "" for a release by token, which does not know the kind.
	Kind string
	// TTL is the TTL that was asked for; 0 for OpRelease.
	TTL time.Duration
}

// An Outcome is how an [Operation] ended.
type Outcome struct {
	// Result is "success", "failed", "error" or "cancel", after the counter of [Status] that the
	// call moved. For a hold it is "success" if the lock was released, "overdue" if it was lost
	// because of [Options].HoldAtMost, and otherwise "lost".
	Result string
	// Err is the error that the call returned; for a hold, why the lock was lost.
	Err error
	// Waited is how long an obtain waited for a lock that somebody else held, from the first
	// answer that said so. It is 0 if the call did not have to wait.
	Waited time.Duration
}

// WithObserver returns a client that does what c does and also calls o. A client may have several
// observers. A nil o changes nothing.
//
// An observed lock ends like one on which [Lock.Done] was called: without a release or a refresh it
// is lost when its [Lock.ValidUntil] passes. Without an observer there is no cost.
func (c *Client) WithObserver(o Observer) *Client {
	if c == nil || o == nil {
		return c
	}
	observed := *c
	observed.observers = append(slices.Clip(c.observers), o)
	return &observed
}

// An observation is an operation that observers were told of. It is nil if there are none.
type observation struct {
	ends         []func(Outcome)
	waitingSince time.Time
}

// observe tells the observers that an operation begins.
func (c *Client) observe(ctx context.Context, op Operation) (context.Context, *observation) {
	if c == nil || c.observers == nil {
		return ctx, nil
	}
	if c.election {
		op.Kind = KindElection
	}
	o := &observation{}
	for _, observer := range c.observers {
		var end func(Outcome)
		if ctx, end = observer.Begin(ctx, op); end != nil {
			o.ends = append(o.ends, end)
		}
	}
	return ctx, o
}

// waits notes that the call waits for somebody else's lock.
func (o *observation) waits() {
	if o != nil && o.waitingSince.IsZero() {
		o.waitingSince = time.Now()
	}
}

// end tells the observers how the operation ended, the innermost first.
func (o *observation) end(result string, err error) {
	if o == nil {
		return
	}
	outcome := Outcome{Result: result, Err: err}
	if !o.waitingSince.IsZero() {
		outcome.Waited = time.Since(o.waitingSince)
	}
	for _, end := range slices.Backward(o.ends) {
		end(outcome)
	}
}

// observeHold tells the observers that the lock is held from now on. What is done with it
// is done in the context that is returned.
func (l *Lock) observeHold(ctx context.Context, ttl time.Duration) context.Context {
	held, hold := l.observe(ctx, Operation{Name: OpHold, Keys: l.keys, Kind: l.kind(), TTL: ttl})
	if hold != nil {
		l.hold = hold
		l.ended() // a hold has to end without anybody's asking
	}
	return held
}

// endHold tells the observers that the lock has ended: was released, or lost because of
// cause. It is called once, by whoever ended the lease.
func (l *Lock) endHold(cause error) {
	result := resultSuccess
	if cause != nil {
		result = "lost"
		if _, overdue := cause.(overdueError); overdue {
			result = "overdue"
		}
	}
	l.hold.end(result, cause)
}
