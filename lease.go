package redislock

import (
	"sync"
	"time"
)

// epoch is the zero of the clock that leases are measured by. It is monotonic:
// setting the machine's clock does not move it.
var epoch = time.Now()

func sinceEpoch() time.Duration {
	return time.Since(epoch)
}

// A lease is what a holder may believe of its lock without asking Redis.
type lease struct {
	mu         sync.Mutex
	validUntil time.Duration // since epoch
	done       chan struct{} // closed at the end; nil until somebody asks for it

	// Refreshes that are under way, and the shortest TTL among those that
	// overlapped since there was none.
	shortestTTL time.Duration
	refreshes   int32

	ended bool
}

// validity is how long a lock may be believed in, from the moment that the
// command which set its TTL was sent. The server starts counting later than
// that; a hundredth is left for its clock running faster than ours.
func validity(ttl time.Duration) time.Duration {
	return ttl - ttl/100
}

// beginRefresh notes that a command that sets the TTL is about to be sent and
// returns the moment. From here on the server may have the new TTL, though the
// reply may be long in coming or never come: if that is the shorter life, it is
// the one to count on.
func (l *lease) beginRefresh(ttl time.Duration) (sent time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sent = sinceEpoch()
	l.validUntil = min(l.validUntil, sent+validity(ttl))
	if l.refreshes == 0 || ttl < l.shortestTTL {
		l.shortestTTL = ttl
	}
	l.refreshes++
	return sent
}

// endRefresh notes how that command ended. If another overlapped with it, the
// server may have run the two in either order. Whichever was last, it ran after
// this one was sent and set at least the shortest TTL.
func (l *lease) endRefresh(sent time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refreshes--
	if ok {
		l.validUntil = max(l.validUntil, sent+validity(l.shortestTTL))
	}
}

// remaining is the time until validUntil, negative after it.
func (l *lease) remaining() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.validUntil - sinceEpoch()
}

// end ends the lease for good and reports whether it had not ended before.
func (l *lease) end() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.ended = true
	if l.done != nil {
		close(l.done)
	}
	return true
}

// doneChan returns the channel that is closed when the lease ends.
func (l *lease) doneChan() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done == nil {
		l.done = make(chan struct{})
		if l.ended {
			close(l.done)
		}
	}
	return l.done
}

// ValidUntil is a time until which the lock is sure to be held unless it is
// released, which takes no call to Redis to know: when the command that set the
// TTL was about to be sent, plus the TTL, less a hundredth of it for a clock of the
// server that runs fast. Each refresh that succeeds moves it. It is the zero time
// for a nil lock.
//
// What it cannot cover is data that the server loses, and the time that passes in
// this process between looking at it and acting on it.
func (l *Lock) ValidUntil() time.Time {
	if l == nil {
		return time.Time{}
	}
	l.lease.mu.Lock()
	defer l.lease.mu.Unlock()
	return epoch.Add(l.lease.validUntil)
}
