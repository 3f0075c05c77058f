package redislock

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"
)

// bounds are how long a lock is held at least and at most.
type bounds struct {
	keptUntil time.Duration // since epoch: until then its keys stay though it is released
	mark      string        // what they have then; "" without HoldAtLeast

	longest time.Duration // HoldAtMost; 0 without
	ends    time.Duration // since epoch: when HoldAtMost has passed

	givenBack bool // guarded by the lease's mutex
}

// keepMark is what the value of a key begins with that stays after a release.
const keepMark = "\x00"

// unmarked returns the value that a released lock had, if this is the value of a key that stays.
func unmarked(value string) (before string, released bool) {
	if len(value) < len(keepMark)+tokenLength || !strings.HasPrefix(value, keepMark) {
		return value, false
	}
	return value[len(keepMark)+tokenLength:], true
}

// checkBounds finds out that times cannot be met.
func (o *Options) checkBounds() error {
	switch {
	case o.MaxWait < 0:
		return fmt.Errorf("redislock: MaxWait of %v is negative: use a positive time, or 0 for no limit of its own", o.MaxWait)
	case o.HoldAtLeast < 0:
		return fmt.Errorf("redislock: HoldAtLeast of %v is negative: use a positive time, or 0 to free the lock at its release", o.HoldAtLeast)
	case o.HoldAtMost != 0 && o.HoldAtMost < time.Millisecond:
		return fmt.Errorf("redislock: HoldAtMost of %v is too short: use at least 1ms, or 0 for no limit", o.HoldAtMost)
	case o.HoldAtMost != 0 && o.HoldAtLeast > o.HoldAtMost:
		return fmt.Errorf("redislock: HoldAtLeast of %v is longer than HoldAtMost of %v, after which the lock is lost: "+
			"raise HoldAtMost", o.HoldAtLeast, o.HoldAtMost)
	case o.HoldAtLeast > 0 && o.Shared:
		return fmt.Errorf("redislock: HoldAtLeast of %v with Shared: other readers would be let in anyway; use Limit, or an exclusive lock", o.HoldAtLeast)
	case o.HoldAtLeast > 0 && strings.HasPrefix(o.Token, keepMark):
		return fmt.Errorf("redislock: Token %q with HoldAtLeast: it must not begin with a zero byte, which marks released keys", o.Token)
	default:
		return nil
	}
}

// cutTTL is the TTL that a lock is obtained with. It leaves unusable times to checkBounds.
func (o *Options) cutTTL(ttl time.Duration) time.Duration {
	if o.HoldAtMost >= time.Millisecond {
		return min(ttl, o.HoldAtMost)
	}
	return ttl
}

// limitWait bounds the waiting for a lock.
func (o *Options) limitWait(ctx context.Context) (context.Context, context.CancelFunc) {
	if o.MaxWait == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, o.MaxWait)
}

// bound notes for how long the lock is to be held, now that it is.
//
// Both times are counted so that the promise holds: the longest from before the command that took
// the lock, the shortest from after its reply.
func (l *Lock) bound(opt *Options) {
	if opt.HoldAtLeast == 0 && opt.HoldAtMost == 0 {
		return
	}
	l.lease.mu.Lock()
	defer l.lease.mu.Unlock()
	b := &bounds{longest: opt.HoldAtMost}
	if opt.HoldAtLeast > 0 {
		b.keptUntil = later(sinceEpoch(), opt.HoldAtLeast)
		b.mark = keepMark + randomToken() + l.text()
	}
	if opt.HoldAtMost > 0 {
		b.ends = later(l.lease.refreshed, opt.HoldAtMost)
	}
	l.lease.addExtrasLocked().bounds = b
}

// later is a moment plus a time, which may be the longest there is.
func later(moment, d time.Duration) time.Duration {
	if moment > 0 && d > math.MaxInt64-moment {
		return math.MaxInt64
	}
	return moment + d
}

// boundsLocked returns the bounds of the lease; nil if it has none.
func (l *lease) boundsLocked() *bounds {
	if l.extras == nil {
		return nil
	}
	return l.extras.bounds
}

// cut is the TTL that a refresh may set at a moment: less than a millisecond if there must be none.
func (b *bounds) cut(now, ttl time.Duration) time.Duration {
	if b == nil || b.longest == 0 {
		return ttl
	}
	return min(ttl, (b.ends - now).Truncate(time.Millisecond))
}

// exhaustedBy reports whether a TTL that was set at a moment, and is certain until another, lasts for
// as long as the lock may be held. Commands count in whole milliseconds.
func (b *bounds) exhaustedBy(refreshed, validUntil time.Duration) bool {
	return b != nil && b.longest > 0 && validUntil >= refreshed+validity(b.ends-refreshed)-time.Millisecond
}

// An overdueError is why a lock was lost that was held for as long as it may be.
type overdueError time.Duration

func (e overdueError) Error() string {
	return fmt.Sprintf("%v: held for as long as HoldAtMost allows, %v", ErrLockNotHeld, time.Duration(e))
}

func (e overdueError) Unwrap() error { return ErrLockNotHeld }

// loseIfOverdue ends the lock if it must not be refreshed any more.
func (l *Lock) loseIfOverdue() {
	if cause := l.lease.overdue(); cause != nil {
		l.lose(cause)
	}
}

func (l *lease) overdue() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.boundsLocked()
	if b.cut(sinceEpoch(), time.Hour) >= time.Millisecond {
		return nil
	}
	return overdueError(b.longest)
}

// giveBack notes that Redis says the lock was released, and reports whether that is news. A release
// that finds its own mark cannot tell whether it is the same command once more, whose reply was lost,
// or a second call.
func (l *lease) giveBack() (first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.boundsLocked()
	if b == nil {
		return true
	}
	first = !b.givenBack
	b.givenBack = true
	return first
}

// isGivenBack reports whether the lock is known to have been released. Another release would find the lock
// that the same custom token has obtained since.
func (l *lease) isGivenBack() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.boundsLocked()
	return b != nil && b.givenBack
}

// keepNothing has the keys not stay after the release: nothing was done under the lock.
func (l *lease) keepNothing() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b := l.boundsLocked(); b != nil {
		b.mark = ""
	}
}

// keeping returns the call that releases the lock on one server, but has its keys stay for what is
// left of HoldAtLeast; not so if nothing is, or the lock was not released but lost.
//
// The time is counted anew for each attempt, so that one which comes late does not make it longer.
// Twice the same does not either: a mark is left as it is.
func (l *Lock) keeping() (_ call, ok bool) {
	l.lease.mu.Lock()
	defer l.lease.mu.Unlock()
	b := l.lease.boundsLocked()
	if b == nil || b.mark == "" || l.lease.cause != errReleased {
		return call{}, false
	}
	left := b.keptUntil - sinceEpoch()
	if left <= 0 {
		return call{}, false
	}
	ms := (left-1)/time.Millisecond + 1
	return call{script: releaseKeepScript, keys: l.keys, args: []any{l.value(), b.mark, int64(ms)}}, true
}
