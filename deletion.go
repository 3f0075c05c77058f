package redislock

import (
	"context"
	"sync"
)

// A deletion is the release of a lock for a caller whose context may end before the reply arrives.
type deletion struct {
	claim claim
	ctx   context.Context
	held  bool
	err   error
	done  chan struct{} // holds one
}

var unusedDeletions sync.Pool

// delete deletes the keys and reports whether the lock was held. It does not outlast ctx,
// although the Redis client may, while it waits for a reply. What was sent then continues on its
// own, and is repeated if it fails; but not for a custom token, by which another call may have
// obtained the lock meanwhile.
func (l *Lock) delete(ctx context.Context) (held bool, _ error) {
	if ctx.Done() == nil {
		return l.claim.release(ctx)
	}
	reusable := !inBubble()
	d, used := unusedDeletions.Get().(*deletion)
	if !used || !reusable {
		d = &deletion{done: make(chan struct{}, 1)}
	}
	d.claim, d.ctx = l.claim, ctx
	go d.run()
	select {
	case <-d.done:
		held, err := d.held, d.err
		if reusable {
			unusedDeletions.Put(d)
		}
		return held, err
	case <-ctx.Done():
		return false, ctx.Err() // run still uses the deletion
	}
}

func (d *deletion) run() {
	d.held, d.err = d.claim.release(d.ctx)
	d.claim, d.ctx = nil, nil
	d.done <- struct{}{}
}

// inBubble reports whether this is a test in simulated time, by testing/synctest: only there may it
// be before the process's start, since the clock of such a bubble starts in the year 2000. Its
// channels must not be used outside.
func inBubble() bool {
	return sinceEpoch() < 0
}
