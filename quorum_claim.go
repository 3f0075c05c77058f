package redislock

import (
	"context"
	"slices"
	"sync"
	"time"
)

// A quorumClaim is a lock on a quorum.
type quorumClaim struct {
	Lock

	// unsure are the nodes on which a command that takes the lock may still be under way,
	// because it was not answered in time. It does not change once the lock is held.
	unsure []bool

	mu       sync.Mutex
	ended    bool          // the lock: no node is healed any more
	healing  int           // commands that heal a node and are not answered yet
	healedBy time.Duration // since epoch: when none of them can come into effect any more
}

func (q *quorum) newLock(c *Client, keys []string, opt *Options) *Lock {
	claim := &quorumClaim{unsure: make([]bool, len(q.nodes))}
	claim.init(c, claim, keys, opt)
	return &claim.Lock
}

func (c *quorumClaim) quorum() *quorum { return c.servers.(*quorum) }

func (c *quorumClaim) take(ctx context.Context, ttl time.Duration, _ *Options, _ bool) (held bool, _ error) {
	q := c.quorum()
	ttl = ttl.Truncate(time.Millisecond)
	c.lease.begin(sinceEpoch(), ttl)
	keys, mark := c.nodeKeys(), ""
	if !c.unique {
		mark = randomToken()
	}
	answers := q.askNodes(ctx, nodeWait(ttl), q.allNodes(), func(ctx context.Context, i int) (int64, error) {
		return q.nodes[i].run(ctx, quorumObtainScript, keys, c.value(), ttl.Milliseconds(), c.tokenArg(), mark)
	})
	c.noteUnsure(answers)
	if count(answers, granted) >= q.majority() && c.lease.remaining() > 0 {
		return true, nil
	}
	c.undo(ctx, ttl, answers, mark)
	if q.impossible(answers) || count(answers, fine) >= q.majority() && ctx.Err() == nil {
		return false, nil
	}
	return false, q.silence(ctx, answers)
}

// undo gives back what a failed try took. It goes on in the background when ctx ends.
func (c *quorumClaim) undo(ctx context.Context, ttl time.Duration, answers []answer, mark string) {
	q := c.quorum()
	done := make(chan struct{})
	go func() {
		defer close(done)
		ctx := context.WithoutCancel(ctx)
		if c.unique {
			c.releaseOn(ctx, ttl, slices.DeleteFunc(slices.Clone(answers), untouched))
			return
		}
		// By a custom token the lock may have been held before, on any node, and other
		// calls may count on what this one took: only that goes, and only if they do not.
		taken := slices.DeleteFunc(slices.Clone(answers), func(a answer) bool { return a.err != nil || a.reply < 2 })
		q.askNodes(ctx, nodeWait(ttl), taken, func(ctx context.Context, i int) (int64, error) {
			return q.nodes[i].run(ctx, quorumUndoScript, c.nodeKeys(), c.value(), mark)
		})
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// nodeKeys are the keys that the scripts of a quorum take: with a custom token, also those
// of the marks on what a try has newly taken. Each key has its own: calls with the same token
// may have some of their keys in common.
func (c *quorumClaim) nodeKeys() []string {
	keys := slices.Clip(c.keys)
	if c.unique {
		return keys
	}
	for _, key := range c.keys {
		prefix, _ := prefixOf(key)
		keys = append(keys, prefix+"try")
	}
	return keys
}

// noteUnsure notes on which nodes the lock may yet be taken.
func (c *quorumClaim) noteUnsure(answers []answer) {
	for _, a := range answers {
		if a.err != nil && !refused(a.err) {
			c.unsure[a.node] = true
		}
	}
}

// releaseOn releases the lock on the nodes that the answers name, and replaces these. It
// goes on in the background with nodes that do not answer, or may take the lock yet.
func (c *quorumClaim) releaseOn(ctx context.Context, ttl time.Duration, answers []answer) {
	q := c.quorum()
	release := c.releasing()
	q.askNodes(ctx, nodeWait(ttl), answers, func(ctx context.Context, i int) (int64, error) {
		return q.nodes[i].run(ctx, release.script, release.keys, release.args...)
	})
	for _, a := range answers {
		if c.unique && (a.err != nil && !refused(a.err) || a.reply == 0 && c.unsure[a.node]) {
			u := newUndo(orphan, release, true)
			u.renew = c.releasing
			q.nodes[a.node].undo(c.Key(), u)
		}
	}
}

// releasing is the call that releases the lock on one node.
func (c *quorumClaim) releasing() call {
	if keep, ok := c.keeping(); ok {
		return keep
	}
	return call{script: releaseScript, keys: c.keys, args: c.args[:]}
}

// abandon releases the lock if nobody else may hold it.
func (c *quorumClaim) abandon(ttl time.Duration) {
	if !c.unique {
		return
	}
	go func() {
		time.Sleep(c.untilHealed())
		c.releaseOn(context.Background(), ttl, c.quorum().allNodes())
	}()
}

// release reports whether a majority had the lock.
//
// No refresh brings back what is deleted here. Only a command that heals could: it sets a
// key. None is sent once the lease has ended, which it has by now. One that was sent
// before, and not answered yet, refuses to do anything healGrace after the moment at which
// its own node, by its own clock, had last answered; that has passed when the waiting
// here is over.
func (c *quorumClaim) release(ctx context.Context) (held bool, _ error) {
	q := c.quorum()
	time.Sleep(c.untilHealed())
	answers := q.allNodes()
	c.releaseOn(ctx, undoTimeout, answers)
	return q.released(ctx, answers)
}

// released reports whether a majority says that it had what is released.
func (q *quorum) released(ctx context.Context, answers []answer) (held bool, _ error) {
	if count(answers, granted) >= q.majority() {
		return true, nil
	}
	if q.impossible(answers) {
		return false, nil
	}
	return false, q.silence(ctx, answers)
}

// ttl returns what a majority still grants, in milliseconds.
func (c *quorumClaim) ttl(ctx context.Context) (int64, error) {
	q := c.quorum()
	answers := q.askNodes(ctx, mostNodeWait, q.allNodes(), func(ctx context.Context, i int) (int64, error) {
		return q.nodes[i].run(ctx, ttlScript, c.keys, c.value())
	})
	if count(answers, fine) < q.majority() {
		return 0, q.silence(ctx, answers)
	}
	var ttls []int64
	for _, a := range answers {
		ttls = append(ttls, a.reply) // 0 of one that did not answer
	}
	slices.Sort(ttls)
	return ttls[len(ttls)-q.majority()], nil
}

func (c *quorumClaim) renew(ctx context.Context, ttl time.Duration) (held bool, _ error) {
	results := make(chan result, 1)
	c.quorum().refresh(ctx, []refreshing{{
		lock: c, ttl: ttl, shorten: true, wait: nodeWait(ttl),
		done: func(r result) { results <- r },
	}})
	r := <-results
	return r.reply == 1, r.err
}

func (c *quorumClaim) refreshing(ttl time.Duration) call { return call{quorum: c, ttl: ttl} }

func (c *quorumClaim) laneKey() laneKey { return laneKey{} }

// everywhere is false: slower nodes are not waited for.
func (c *quorumClaim) everywhere() bool { return false }

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
			args:   []any{h.lock.value(), h.ttl.Milliseconds(), h.now + healGrace.Milliseconds(), len(h.lock.keys)},
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
	if c.lease.remaining() <= 0 {
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

func (c *quorumClaim) forget() {}
