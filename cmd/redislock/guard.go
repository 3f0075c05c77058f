//go:build unix

package main

import (
	"syscall"
	"time"
)

// A guard says when a child has to end, so that it is gone before its lock can be somebody else's.
type guard struct {
	grace  time.Duration // before the end of the lock it is asked to end
	margin time.Duration // before the end of the lock it is killed

	until time.Time // ValidUntil of the lock, when it was last held
	asked time.Time // zero: not yet
}

// goneGrace is the longest that a child has to end if its lock is gone already.
const goneGrace = time.Second

// newGuard returns the guard for a lock with the given TTL, which is held for at most atMost if that is
// not 0. A lock that is refreshed in time always has more than half of its TTL left.
func newGuard(ttl, atMost time.Duration) *guard {
	if atMost > 0 {
		ttl = min(ttl, atMost)
	}
	return &guard{grace: ttl / 3, margin: ttl / 10}
}

// look is told until when the lock is held, or that it is gone. It returns the signal to send, if any,
// and how long to wait before looking again; after SIGKILL there is nothing left to do.
func (g *guard) look(now, validUntil time.Time, gone bool) (sig syscall.Signal, again time.Duration) {
	if !gone {
		g.until = validUntil
	}
	askAt, killAt := g.until.Add(-g.grace), g.until.Add(-g.margin)
	asked := !g.asked.IsZero()
	if gone {
		askAt = now
		start := now
		if asked {
			start = g.asked
		}
		if end := start.Add(min(g.grace, goneGrace)); end.Before(killAt) {
			killAt = end
		}
	}
	switch {
	case !now.Before(killAt):
		return syscall.SIGKILL, 0
	case asked:
		return 0, killAt.Sub(now)
	case !now.Before(askAt):
		g.asked = now
		return syscall.SIGTERM, killAt.Sub(now)
	default:
		return 0, askAt.Sub(now)
	}
}
