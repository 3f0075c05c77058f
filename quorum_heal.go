package redislock

import (
	"context"
	"time"
)

// healing is a lock that a node has lost, or never had. It is taken there again: else one
// restart after the other would wear the majority down.
type healing struct {
	lock *quorumClaim
	ttl  time.Duration
	now  int64 // by the node's clock, in milliseconds, when it said so
}

// heal takes locks on a node that has lost them.
func (n *node) heal(locks []healing) {
	var calls []call
	var healed []*quorumClaim
	for _, h := range locks {
		if !h.lock.beginHealing() {
			continue
		}
		healed = append(healed, h.lock)
		calls = append(calls, call{
			script: quorumHealScript,
			keys:   h.lock.nodeKeys(),
			args:   []any{h.lock.value, h.ttl.Milliseconds(), h.now + healGrace.Milliseconds(), len(h.lock.keys)},
		})
	}
	ctx, cancel := context.WithTimeout(context.Background(), mostNodeWait)
	defer cancel()
	n.runAll(ctx, calls, func(first int, results []result) {
		for i, r := range results {
			if r.err == nil || refused(r.err) {
				healed[first+i].endHealing()
			}
		}
	})
}

// beginHealing notes that a command that heals is about to be sent, unless the lock has ended.
func (c *quorumClaim) beginHealing() bool {
	if c.lease.hasEnded() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false
	}
	c.healing++
	c.healedBy = sinceEpoch() + healGrace + healGrace/100 + time.Millisecond
	return true
}

// untilHealed is how long a command that heals and was not answered may yet come into effect. No
// more of them are sent: the lock has ended.
func (c *quorumClaim) untilHealed() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.healing == 0 {
		return 0
	}
	return c.healedBy - sinceEpoch()
}

// endHealing notes that such a command was answered.
func (c *quorumClaim) endHealing() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.healing--
}
