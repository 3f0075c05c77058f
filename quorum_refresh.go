package redislock

import (
	"context"
	"slices"
	"time"
)

// refreshing is a lock of a quorum that is to be refreshed.
type refreshing struct {
	lock    *quorumClaim
	ttl     time.Duration
	shorten bool          // as for renew
	wait    time.Duration // for how long at most, until it is decided

	// done is called once, when it is decided or the wait is over: the result is 1 if a
	// majority has the lock, 0 if no majority can have it any more.
	done func(result)

	answers []answer // of all nodes
	awaited int      // answers that are yet to come
	ended   bool     // done was called
	heard   bool     // by a majority of nodes, or it has ended
}

// refreshes are locks of a quorum that are refreshed together, by one pipeline a node. Only
// the goroutine of run changes them.
type refreshes struct {
	*quorum
	locks   []refreshing
	open    int // locks that have not ended
	unheard int
	heard   chan struct{} // closed once all are
	arrived chan nodeResults
}

// nodeResults are what a node said of some of the locks, one after the other.
type nodeResults struct {
	node, first int
	results     []result
}

// refresh gives locks new TTLs, and tells of each as soon as it is decided. The channel that
// it returns is closed when a majority of nodes has answered. Slower ones, and locks that
// are not decided by then, are seen to in the background. If ctx ends before all is decided,
// all is over.
func (q *quorum) refresh(ctx context.Context, locks []refreshing) (heard <-chan struct{}) {
	r := &refreshes{
		quorum:  q,
		locks:   locks,
		open:    len(locks),
		unheard: len(locks),
		heard:   make(chan struct{}),
		arrived: make(chan nodeResults, len(q.nodes)),
	}
	for i := range locks {
		locks[i].awaited = len(q.nodes)
		locks[i].answers = q.allNodes()
	}
	go r.run(ctx)
	return r.heard
}

// refreshWait is how long a watchdog's refresh may take. To a node without pipelines it is
// a call of its own, which waits for a connection until those of other locks are answered.
func (q *quorum) refreshWait(ttl time.Duration) time.Duration {
	wait := nodeWait(ttl)
	if slices.ContainsFunc(q.nodes, func(n *node) bool { return !n.pipelined }) {
		wait = max(wait, min(ttl/2, mostCallWait))
	}
	return wait
}

// run asks all nodes at the same time, and takes in what they answer in time.
func (r *refreshes) run(ctx context.Context) {
	wait := time.Duration(0)
	for _, l := range r.locks {
		wait = max(wait, l.wait)
	}
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), wait)
	defer cancel()
	r.ask(asking)
	start := sinceEpoch()
	timer := time.NewTimer(r.expire(ctx, 0))
	defer timer.Stop()
	ended := ctx.Done()
	for awaited := len(r.nodes) * len(r.locks); awaited > 0; {
		select {
		case a := <-r.arrived:
			awaited -= len(a.results)
			r.note(ctx, a)
		case <-timer.C:
			timer.Reset(r.expire(ctx, sinceEpoch()-start))
		case <-ended:
			if r.open > 0 {
				cancel() // first: once its caller has its answer, nothing more is sent
				r.expire(ctx, wait)
				return
			}
			ended = nil
		case <-asking.Done():
			r.expire(ctx, wait)
			return
		}
	}
}

// ask asks all nodes, whose answers arrive unless ctx ends before.
func (r *refreshes) ask(ctx context.Context) {
	calls := make([]call, len(r.locks))
	for i, l := range r.locks {
		calls[i] = call{
			script: refreshScript,
			keys:   l.lock.nodeKeys(),
			args:   append(l.lock.refreshArgs(l.shorten, l.ttl), len(l.lock.keys)),
		}
	}
	for i, node := range r.nodes {
		go node.runAll(ctx, calls, func(first int, results []result) {
			select {
			case r.arrived <- nodeResults{i, first, results}:
			case <-ctx.Done():
			}
		})
	}
}

// note takes in answers of one node, ends the locks that are decided by them, and has nodes
// healed that have lost a lock which a majority has.
func (r *refreshes) note(ctx context.Context, a nodeResults) {
	missing := make(map[int][]healing)
	for i, said := range a.results {
		l := &r.locks[a.first+i]
		l.answers[a.node].reply, l.answers[a.node].err = said.reply, said.err
		l.awaited--
		switch {
		case count(l.answers, granted) >= r.majority():
			r.end(l, result{reply: 1})
			for n := range l.answers {
				if lost := &l.answers[n]; lost.err == nil && lost.reply < 0 {
					missing[n] = append(missing[n], healing{l.lock, l.ttl, -lost.reply})
					lost.reply = 0 // seen to
				}
			}
		case r.impossible(l.answers):
			r.end(l, result{})
		case l.awaited == 0:
			r.end(l, result{err: r.silence(ctx, l.answers)})
		}
		r.hear(l)
	}
	for n, locks := range missing {
		go r.nodes[n].heal(locks)
	}
}

// expire ends the locks that have waited for long enough, and returns how long it is until
// others have.
func (r *refreshes) expire(ctx context.Context, waited time.Duration) (next time.Duration) {
	next = time.Hour
	for i := range r.locks {
		l := &r.locks[i]
		switch {
		case l.ended:
		case l.wait <= waited:
			r.end(l, result{err: r.silence(ctx, l.answers)})
			r.hear(l)
		default:
			next = min(next, l.wait-waited)
		}
	}
	return next
}

func (r *refreshes) end(l *refreshing, result result) {
	if l.ended {
		return
	}
	l.ended = true
	r.open--
	l.done(result)
}

// hear notes whether a majority of nodes has answered.
func (r *refreshes) hear(l *refreshing) {
	if l.heard || !l.ended && l.awaited > len(r.nodes)-r.majority() {
		return
	}
	l.heard = true
	if r.unheard--; r.unheard == 0 {
		close(r.heard)
	}
}
