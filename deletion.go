package redislock

import (
	"context"
	"sync"
	"time"
)

// A deletion is the release of a lock for a caller whose context may end before the reply arrives.
type deletion struct {
	claim claim
	ctx   context.Context
	held  bool
	err   error
	done  chan struct{} // holds one
}

var (
	// Goroutines that have made one deletion wait for another for deletionIdle: starting a
	// goroutine for each would cost more than everything else that a release does in this
	// process.
	deletions       = make(chan *deletion)
	unusedDeletions sync.Pool
)

const deletionIdle = 100 * time.Millisecond

// delete deletes the keys and reports whether the lock was held. It does not outlast ctx,
// although the Redis client may, while it waits for a reply. What was sent then continues on its
// own, and is repeated if it fails; but not for a custom token, by which another call may have
// obtained the lock meanwhile.
func (l *Lock) delete(ctx context.Context) (held bool, _ error) {
	if ctx.Done() == nil {
		return l.claim.release(ctx)
	}
	next := deletions
	d, used := unusedDeletions.Get().(*deletion)
	if inBubble() {
		next, used = nil, false
	}
	if !used {
		d = &deletion{done: make(chan struct{}, 1)}
	}
	d.claim, d.ctx = l.claim, ctx
	select {
	case next <- d:
	default:
		go d.run(next)
	}
	select {
	case <-d.done:
		held, err := d.held, d.err
		if next != nil {
			unusedDeletions.Put(d)
		}
		return held, err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// run makes the deletion, and then those that follow.
func (d *deletion) run(next <-chan *deletion) {
	idle := time.NewTimer(deletionIdle)
	defer idle.Stop()
	for {
		d.held, d.err = d.claim.release(d.ctx)
		d.claim, d.ctx = nil, nil
		d.done <- struct{}{}
		if next == nil {
			return
		}
		idle.Reset(deletionIdle)
		select {
		case d = <-next:
		case <-idle.C:
			return
		}
	}
}

// inBubble reports whether this is a test in simulated time, by testing/synctest: only there may it
// be before the process's start, since the clock of such a bubble starts in the year 2000. Its
// channels must not be used outside, and no goroutine may wait when it ends.
func inBubble() bool {
	return sinceEpoch() < 0
}
