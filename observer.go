package redislock

import (
	"context"
	"slices"
	"time"
)

// An Observer is told what happens to the locks of a [Client], for traces and histograms.
// The modules github.com/bsm/redislock/otel and github.com/bsm/redislock/rlprome have one
// each. It is called by the goroutines that use the locks, and so must be safe for
// concurrent use and quick.
type Observer interface {
	// Begin is called before an operation begins. It returns the context for the operation,
	// ctx or one derived from it, and a function that is called once the operation has
	// ended, by any goroutine; it may be nil.
	Begin(ctx context.Context, op Operation) (context.Context, func(Outcome))
}

// What an [Operation] may be.
const (
	OpObtain  = "obtain"  // a call of Obtain or ObtainMulti, and that in Do
	OpHold    = "hold"    // from the success of that until Release is called or the lock is lost
	OpRelease = "release" // a call of Release, and that in Do
)

// An Operation is what an [Observer] is told of.
type Operation struct {
	// Name is OpObtain, OpHold or OpRelease; there may be more in the future.
	Name string
	// Keys are the lock's keys. They must not be changed.
	Keys []string
	// Kind is KindExclusive, KindShared or KindLimited; there may be more in the future. It is ""
	// if it is not known: a release by token finds out what it releases.
	Kind string
	// TTL is what was asked for; 0 for OpRelease.
	TTL time.Duration
}

// An Outcome is how an [Operation] ended.
type Outcome struct {
	// Result is "success", "failed", "error" or "cancel", by the counter of [Status] that
	// the call moved. A hold's is "success" if the lock was released, else "lost".
	Result string
	// Err is what the call returned, and of a hold why the lock was lost.
	Err error
	// Waited is how long an obtain waited for a lock that somebody else held: from the
	// first answer that said so. It is 0 if it did not have to wait.
	Waited time.Duration
}

// WithObserver returns a client that does what c does and also tells o of it. A client may
// have several observers. A nil o changes nothing.
//
// An observed lock ends as one does on which [Lock.Done] was called: without a release or
// a refresh it is lost when its [Lock.ValidUntil] passes. Without an observer there is no
// cost.
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
	}
	l.hold.end(result, cause)
}
