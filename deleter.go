package redislock

import (
	"context"
	"slices"
	"sync"
	"time"
)

// A deleter is a goroutine that releases locks for callers whose contexts may end before the Redis
// client has its reply. To start one for each call would cost more than all else that a release
// does in this process.
type deleter struct {
	claim claim
	ctx   context.Context
	held  bool
	err   error
	start chan struct{} // holds one
	done  chan struct{} // holds one
}

// idleDeleters wait for the next release, for deleterIdle.
var idleDeleters struct {
	mu  sync.Mutex
	all []*deleter
}

const deleterIdle = 100 * time.Millisecond

// delete deletes the keys and reports whether the lock was held. It does not outlast ctx,
// although the Redis client may while it waits for a reply. The command then goes on by
// itself, and is repeated if need be; but not for a custom token, of which another call may
// have obtained the lock by then.
func (l *Lock) delete(ctx context.Context) (held bool, _ error) {
	if ctx.Done() == nil {
		return l.claim.release(ctx)
	}
	d := takeDeleter()
	d.claim, d.ctx = l.claim, ctx
	if l.unique {
		d.ctx = context.WithoutCancel(ctx)
	}
	d.start <- struct{}{}
	select {
	case <-d.done:
		held, err := d.held, d.err
		d.rest()
		return held, err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

func takeDeleter() *deleter {
	idleDeleters.mu.Lock()
	defer idleDeleters.mu.Unlock()
	if last := len(idleDeleters.all) - 1; last >= 0 && !inBubble() {
		d := idleDeleters.all[last] // whose stack is in the processor's cache
		idleDeleters.all = idleDeleters.all[:last]
		return d
	}
	d := &deleter{start: make(chan struct{}, 1), done: make(chan struct{}, 1)}
	go d.run()
	return d
}

// rest lets others take the deleter.
func (d *deleter) rest() {
	if inBubble() {
		return
	}
	idleDeleters.mu.Lock()
	defer idleDeleters.mu.Unlock()
	idleDeleters.all = append(idleDeleters.all, d)
}

// inBubble reports whether this is a test in simulated time, by testing/synctest: only there may it
// be before the process's start, since the clock of such a bubble starts in the year 2000. Its
// channels must not be used outside, and no goroutine may rest when it ends: so a deleter deletes once.
func inBubble() bool {
	return sinceEpoch() < 0
}

func (d *deleter) run() {
	timer := time.NewTimer(deleterIdle)
	defer timer.Stop()
	for {
		select {
		case <-d.start:
			d.held, d.err = d.claim.release(d.ctx)
			d.claim, d.ctx = nil, nil
			d.done <- struct{}{}
			if inBubble() {
				return
			}
		case <-timer.C:
			if d.isUnused() {
				return
			}
		}
		timer.Reset(deleterIdle)
	}
}

// isUnused reports whether nobody uses the deleter, nor will: it rests, or its caller has gone.
func (d *deleter) isUnused() bool {
	idleDeleters.mu.Lock()
	defer idleDeleters.mu.Unlock()
	i := slices.Index(idleDeleters.all, d)
	if i >= 0 {
		idleDeleters.all = slices.Delete(idleDeleters.all, i, i+1)
	}
	return i >= 0 || len(d.done) > 0
}
