package redislock

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// An orphan is a lock that Redis may hold for a try whose caller was told that it
// failed. Without further ado everybody would have to wait out its TTL.

const (
	// maxOrphans is how many of a server are looked after at a time. When it is away every
	// call fails: the first are those that may have reached it.
	maxOrphans = 256
	// orphanTimeout is for how long one is looked after.
	orphanTimeout = 30 * time.Second
	// orphanGrace is how long a command may still be under way once Redis
	// answers again.
	orphanGrace = 3 * time.Second
	// orphanWait is how long a first wait is, orphanPatience how long one attempt may take.
	orphanWait     = 20 * time.Millisecond
	orphanPatience = time.Second
)

// orphan is the task that releases one.
type orphan struct {
	task
	call  call
	first chan struct{} // closed after the first attempt

	// Guarded by schedule.mu.
	until time.Duration // since epoch: what is sent then is the last attempt
	wait  time.Duration // before the next attempt
}

// refused reports whether Redis said no to a command, or there was none to ask, so that it
// is sure to have changed nothing. The errors named here say only that the last of the attempts
// that the Redis client made met a server that is not ready; an earlier one may
// have succeeded, unseen, before the server failed.
func refused(err error) bool {
	return err == errNoClient || answered(err) &&
		!redis.IsLoadingError(err) &&
		!redis.IsReadOnlyError(err) &&
		!redis.IsMasterDownError(err) &&
		!redis.IsClusterDownError(err) &&
		!redis.IsTryAgainError(err)
}

// releaseOrphan releases the lock in the background, unless it may be somebody's by a custom
// token. The channel that it returns is closed after the first attempt.
//
// The command that takes the lock may still be under way, on another connection, and more than
// once: the Redis client repeats it. That is why the lock is released again for a while,
// whatever the first answer is.
func (l *Lock) releaseOrphan() (tried <-chan struct{}) {
	first := make(chan struct{})
	if !l.unique || l.Client == nil {
		close(first)
		return first
	}
	script, keys := l.releasing()
	o := &orphan{
		call:  call{script: script, keys: keys, args: []any{l.value}},
		first: first,
		until: sinceEpoch() + orphanTimeout,
		wait:  orphanWait,
	}
	o.task = newTask(o, l, orphanWait, orphanPatience)
	key := laneKeyOf(l)
	key.confirmed = false

	schedule.mu.Lock()
	defer schedule.mu.Unlock()
	lane := openLane(key, l)
	if lane.orphans >= maxOrphans {
		close(first)
		return first
	}
	lane.orphans++
	o.start(key, atOnce)
	return first
}

func (o *orphan) begin() (call, bool) {
	schedule.mu.Lock()
	defer schedule.mu.Unlock()
	now := sinceEpoch()
	if now >= o.until+maxPatience*orphanPatience { // the last attempts are neither answered nor given up
		o.finish()
		return call{}, false
	}
	o.call.sent = now
	return o.call, true
}

// end looks at when the attempt was sent: one that leaves before the time is over may still be
// overtaken by the command that takes the lock.
func (o *orphan) end(call call, _ int64, err error) {
	schedule.mu.Lock()
	defer schedule.mu.Unlock()
	if err == nil {
		o.until = min(o.until, sinceEpoch()+orphanGrace)
	}
	final := err != nil && refused(err) || errors.Is(err, redis.ErrClosed)
	if final || call.sent >= o.until {
		o.finish()
	}
	if !isClosed(o.first) {
		close(o.first)
	}
}

// finish ends the task, with schedule.mu held.
func (o *orphan) finish() {
	if o.stop() {
		o.lane.orphans--
	}
	if !isClosed(o.first) {
		close(o.first)
	}
}

func (o *orphan) next(call, error) (due time.Duration, ok bool) {
	due = min(sinceEpoch()+o.wait, o.until)
	o.wait = min(2*o.wait, time.Second)
	return due, true
}

// releaseFailed is for a lock that Redis holds for a try that failed. The caller may try
// again at once: the key shall not be in its own way.
func (l *Lock) releaseFailed(ctx context.Context) {
	select {
	case <-l.releaseOrphan():
	case <-ctx.Done():
	case <-time.After(releaseTimeout):
	}
}
