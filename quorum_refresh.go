package redislock

import (
	"context"
	"sync"
	"time"
)

// refreshing is a lock of a quorum that is to be refreshed.
type refreshing struct {
	lock    *Lock
	ttl     time.Duration
	shorten bool // as for renew

	answers []answer // of all nodes
}

// refreshes are locks of a quorum that are refreshed together, by one pipeline a node.
type refreshes struct {
	*quorum
	mu      sync.Mutex // guards the answers
	locks   []refreshing
	decided chan struct{} // closed once it is known of each lock whether a majority has it
}

// refresh gives locks new TTLs. The result of one is 1 if a majority has it, 0 if no majority
// can have it any more. It does not outlast ctx, nor wait for nodes that take longer than a
// majority: their answers are seen to in the background.
func (q *quorum) refresh(ctx context.Context, locks []refreshing) []result {
	r := &refreshes{quorum: q, locks: locks, decided: make(chan struct{})}
	for i := range locks {
		locks[i].answers = q.allNodes()
		for n := range locks[i].answers {
			locks[i].answers[n].err = errSilent
		}
	}
	go r.ask(context.WithoutCancel(ctx))
	select {
	case <-r.decided:
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	results := make([]result, len(locks))
	for i, lock := range locks {
		switch {
		case lock.granted(q):
			results[i].reply = 1
		case !q.impossible(lock.answers):
			results[i].err = q.silence(ctx, lock.answers)
		}
	}
	return results
}

func (l *refreshing) granted(q *quorum) bool {
	return count(l.answers, granted) >= q.majority()
}

// ask asks all nodes at the same time, and takes in what they answer in time.
func (r *refreshes) ask(ctx context.Context) {
	wait := time.Duration(0)
	calls := make([]call, len(r.locks))
	for i, l := range r.locks {
		wait = max(wait, nodeWait(l.ttl))
		calls[i] = call{
			script: quorumRefreshScript,
			keys:   l.lock.quorumKeys(),
			args:   l.lock.refreshArgs(l.shorten, l.lock.value, l.ttl.Milliseconds(), len(l.lock.keys)),
		}
	}
	type answers struct {
		node    int
		results []result
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	arrived := make(chan answers, len(r.nodes))
	for i, node := range r.nodes {
		go func() { arrived <- answers{i, node.runAll(ctx, calls)} }()
	}
	open := true
	for range r.nodes {
		select {
		case a := <-arrived:
			decided := r.note(a.node, a.results)
			if open && decided {
				open = false
				close(r.decided)
			}
		case <-ctx.Done():
		}
	}
	if open {
		close(r.decided)
	}
}

// note takes in the answers of one node, and has nodes healed that have lost a lock which a
// majority has. It reports whether no other answer is needed.
func (r *refreshes) note(node int, results []result) (decided bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	decided = true
	missing := make(map[int][]healing)
	for i := range r.locks {
		l := &r.locks[i]
		l.answers[node].reply, l.answers[node].err = results[i].reply, results[i].err
		if !l.granted(r.quorum) {
			decided = decided && r.impossible(l.answers)
			continue
		}
		for n := range l.answers {
			if a := &l.answers[n]; a.err == nil && a.reply < 0 {
				missing[n] = append(missing[n], healing{l.lock, l.ttl, -a.reply})
				a.reply = 0 // seen to
			}
		}
	}
	for n, locks := range missing {
		go r.nodes[n].heal(locks)
	}
	return decided
}

// healing is a lock that a node has lost, or never had. It is taken there again: else one
// restart after the other would wear the majority down.
type healing struct {
	lock *Lock
	ttl  time.Duration
	now  int64 // by the node's clock, in milliseconds, when it said so
}

// heal takes locks on a node that has lost them.
func (n *node) heal(locks []healing) {
	var calls []call
	var healed []*Lock
	for _, h := range locks {
		if !h.lock.beginHealing() {
			continue
		}
		healed = append(healed, h.lock)
		calls = append(calls, call{
			script: quorumHealScript,
			keys:   h.lock.quorumKeys(),
			args:   []any{h.lock.value, h.ttl.Milliseconds(), h.now + healGrace.Milliseconds(), len(h.lock.keys)},
		})
	}
	ctx, cancel := context.WithTimeout(context.Background(), mostNodeWait)
	defer cancel()
	for i, result := range n.runAll(ctx, calls) {
		if result.err == nil || refused(result.err) {
			healed[i].endHealing()
		}
	}
}

// beginHealing notes that a command that heals is about to be sent, unless the lock has ended.
func (l *Lock) beginHealing() bool {
	l.lease.mu.Lock()
	defer l.lease.mu.Unlock()
	if l.lease.cause != nil {
		return false
	}
	l.watch.ballot.healing++
	l.watch.ballot.healedBy = sinceEpoch() + healGrace + healGrace/100 + time.Millisecond
	return true
}

// untilHealed is how long a command that heals and was not answered may yet come into effect.
func (l *Lock) untilHealed() time.Duration {
	l.lease.mu.Lock()
	defer l.lease.mu.Unlock()
	if l.watch.ballot.healing == 0 {
		return 0
	}
	return l.watch.ballot.healedBy - sinceEpoch()
}

// endHealing notes that such a command was answered.
func (l *Lock) endHealing() {
	l.lease.mu.Lock()
	defer l.lease.mu.Unlock()
	l.watch.ballot.healing--
}
