package redislock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// A node that does not answer costs a tenth of the TTL, within these bounds.
	leastNodeWait = 5 * time.Millisecond
	mostNodeWait  = 500 * time.Millisecond
	// straggle is how long, at least, the others may take after the majority has decided.
	straggle = 10 * time.Millisecond
	// mostCallWait bounds the waiting for nodes without pipelines, whose calls wait for one
	// another.
	mostCallWait = 3 * time.Second
	// maxNodeCalls is how many calls a node may have under way, answered or not.
	maxNodeCalls = 1024
	// healGrace is how long a command that heals a node may be under way.
	healGrace = 250 * time.Millisecond
)

// NewQuorum returns a Client that obtains locks from a majority of independent Redis
// masters, by the Redlock algorithm
// (https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/): a lock is
// held if more than half of the nodes granted it while it was still valid. It stays
// available while less than half of the nodes fail, and exclusive as long as none forgets:
// a node that comes back without its data can give others the majority that a lock had by
// just this node. So have nodes write to disk (appendfsync always), or start one that has
// crashed only after the longest TTL. Each client must be of a server, or Sentinel, or
// Cluster of its own.
//
// All nodes are asked at the same time. One that does not answer is not waited for
// longer than a tenth of the TTL, at most half a second; and once the majority has
// decided, not longer than it took for that or 10 ms. A failed try is undone; with a custom
// token only where the token had not held the key before ([Options].Token). So that tries
// which get in each other's way part again, the waits of the retry strategy are varied by
// half.
//
// Refresh needs a majority, and takes the lock again on nodes that have lost it. If one of the
// clients has no pipelines ([RedisClient]), a TickWatchdog's refresh may take half of the TTL,
// at most three seconds. TTL is what a majority still grants. Where nodes fail, errors.As
// finds a [*NodeError].
//
// FenceKey and MinReplicas are errors: neither means anything across independent nodes.
// [FairQueue] cannot keep the order and tries again every 50 ms or so. With one client it
// is the same as [New]; without any, Obtain returns an error.
func NewQuorum(clients ...RedisClient) *Client {
	switch len(clients) {
	case 0:
		return New(nil)
	case 1:
		return New(clients[0])
	}
	q := &quorum{}
	for _, client := range clients {
		q.nodes = append(q.nodes, &node{Client: New(client), calls: make(chan struct{}, maxNodeCalls), batches: make(chan struct{}, maxPipelines)})
	}
	return &Client{quorum: q}
}

// NodeError is what went wrong with one node of a quorum.
type NodeError struct {
	Node int // its index among the arguments of NewQuorum, from 0
	Err  error
}

// Error names the node and the error.
func (e *NodeError) Error() string {
	return fmt.Sprintf("node %d: %v", e.Node, e.Err)
}

// Unwrap returns the error without the node.
func (e *NodeError) Unwrap() error {
	return e.Err
}

type quorum struct {
	nodes []*node
}

type node struct {
	*Client
	calls   chan struct{} // one for each that is under way
	batches chan struct{} // the same of pipelines
}

// ballot is what a quorum's lock has to remember of the nodes.
type ballot struct {
	// unsure are the nodes on which a command that takes the lock may still be under
	// way, because it was not answered in time.
	unsure []atomic.Bool

	// Guarded by the mutex of the lease.
	healing  int           // commands that heal a node and are not answered yet
	healedBy time.Duration // since epoch: when none of them can come into effect any more
}

var errSilent = errors.New("no answer in time")

// An answer is what one node said.
type answer struct {
	node  int
	reply int64
	err   error
}

type answerAt struct {
	at int
	answer
}

func (q *quorum) majority() int {
	return len(q.nodes)/2 + 1
}

func nodeWait(ttl time.Duration) time.Duration {
	return min(max(ttl/10, leastNodeWait), mostNodeWait)
}

// ask asks all nodes at the same time.
func (q *quorum) ask(ctx context.Context, wait time.Duration, ask func(ctx context.Context, i int) (int64, error)) []answer {
	answers := q.allNodes()
	q.askThese(ctx, wait, answers, ask)
	return answers
}

// allNodes returns an answer of each node, which is yet to be asked for.
func (q *quorum) allNodes() []answer {
	answers := make([]answer, len(q.nodes))
	for i := range answers {
		answers[i].node = i
	}
	return answers
}

// askThese asks the nodes that the answers name, at the same time. Those that have not
// answered in time have errSilent as their answer. It does not outlast ctx.
func (q *quorum) askThese(ctx context.Context, wait time.Duration, answers []answer, ask func(ctx context.Context, i int) (int64, error)) {
	start := sinceEpoch()
	arrived := make(chan answerAt, len(answers))
	for at := range answers {
		answers[at].err = errSilent
		i := answers[at].node
		go func() {
			// Also of a client that does not heed it, the caller will not wait for longer.
			ctx, cancel := context.WithTimeout(ctx, wait)
			defer cancel()
			reply, err := ask(ctx, i)
			arrived <- answerAt{at, answer{i, reply, err}}
		}()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	decided := false
	for range answers {
		select {
		case a := <-arrived:
			answers[a.at] = a.answer
			if !decided && (count(answers, granted) >= q.majority() || q.impossible(answers)) {
				decided = true
				took := sinceEpoch() - start
				timer.Reset(min(max(took, straggle), wait-took))
			}
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// run runs a script on one node, if that is not busy with calls that it does not answer.
func (n *node) run(ctx context.Context, script *redis.Script, keys []string, args ...any) (int64, error) {
	if !enter(ctx, n.calls) {
		return 0, errSilent
	}
	defer func() { <-n.calls }()
	return call{script: script, keys: keys, args: args}.run(ctx, n.Client)
}

// enter takes a place among those that are under way, if there is one before ctx ends.
func enter(ctx context.Context, places chan<- struct{}) bool {
	select {
	case places <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// runAll runs scripts on one node: in a pipeline if it has any. It tells of the results as
// they come, several that follow one another at a time, and returns after the last.
func (n *node) runAll(ctx context.Context, calls []call, tell func(first int, results []result)) {
	if len(calls) > 1 && n.own {
		if !enter(ctx, n.batches) {
			tell(0, silent(len(calls)))
			return
		}
		defer func() { <-n.batches }()
		tell(0, runAll(ctx, n.pipelines(), calls))
		return
	}
	var running sync.WaitGroup
	defer running.Wait()
	for i, c := range calls {
		if !enter(ctx, n.calls) {
			tell(i, silent(len(calls)-i))
			return
		}
		running.Go(func() {
			defer func() { <-n.calls }()
			reply, err := c.run(ctx, n.Client)
			tell(i, []result{{reply, err}})
		})
	}
}

// silent returns the results of n calls that were not sent.
func silent(n int) []result {
	results := make([]result, n)
	for i := range results {
		results[i].err = errSilent
	}
	return results
}

// silence returns an error that names the nodes without an answer.
func (q *quorum) silence(ctx context.Context, answers []answer) error {
	var errs []error
	fine := 0
	for _, a := range answers {
		if a.err != nil {
			errs = append(errs, &NodeError{Node: a.node, Err: a.err})
		} else {
			fine++
		}
	}
	err := fmt.Errorf("redislock: %d of %d nodes answered, a majority is %d: %w",
		fine, len(q.nodes), q.majority(), errors.Join(errs...))
	if ctx.Err() != nil {
		err = errors.Join(err, ctx.Err())
	}
	return err
}

func count(answers []answer, is func(answer) bool) int {
	n := 0
	for _, a := range answers {
		if is(a) {
			n++
		}
	}
	return n
}

func fine(a answer) bool    { return a.err == nil }
func granted(a answer) bool { return fine(a) && a.reply > 0 }
func denied(a answer) bool  { return fine(a) && a.reply <= 0 }

// untouched reports whether a node that was to take the lock is sure not to have done so.
func untouched(a answer) bool { return denied(a) || refused(a.err) }

// impossible reports whether so many nodes said no that no majority can say yes.
func (q *quorum) impossible(answers []answer) bool {
	return count(answers, denied) > len(q.nodes)-q.majority()
}

// try asks all nodes once. It returns neither lock nor error if not enough of them are
// free.
func (q *quorum) try(ctx context.Context, lock *Lock, ttl time.Duration) (*Lock, error) {
	ttl = ttl.Truncate(time.Millisecond)
	lock.lease.begin(sinceEpoch(), ttl)
	keys, mark := lock.quorumKeys(), ""
	if !lock.unique {
		mark = randomToken()
	}
	answers := q.ask(ctx, nodeWait(ttl), func(ctx context.Context, i int) (int64, error) {
		return q.nodes[i].run(ctx, quorumObtainScript, keys, lock.value, ttl.Milliseconds(), lock.tokenArg(), mark)
	})
	lock.noteUnsure(answers)
	if count(answers, granted) >= q.majority() && lock.lease.remaining() > 0 {
		return lock, nil
	}
	q.undo(ctx, lock, ttl, answers, mark)
	if q.impossible(answers) || count(answers, fine) >= q.majority() && ctx.Err() == nil {
		return nil, nil
	}
	return nil, q.silence(ctx, answers)
}

// undo gives back what a failed try took. It goes on in the background when ctx ends.
func (q *quorum) undo(ctx context.Context, lock *Lock, ttl time.Duration, answers []answer, mark string) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		ctx := context.WithoutCancel(ctx)
		if lock.unique {
			q.releaseOn(ctx, lock, ttl, slices.DeleteFunc(slices.Clone(answers), untouched))
			return
		}
		// By a custom token the lock may have been held before, on any node, and other
		// calls may count on what this one took: only that goes, and only if they do not.
		taken := slices.DeleteFunc(slices.Clone(answers), func(a answer) bool { return a.err != nil || a.reply < 2 })
		q.askThese(ctx, nodeWait(ttl), taken, func(ctx context.Context, i int) (int64, error) {
			return q.nodes[i].run(ctx, quorumUndoScript, lock.quorumKeys(), lock.value, mark)
		})
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// quorumKeys are the keys that the scripts of a quorum take: with a custom token, also those
// of the marks on what a try has newly taken. Each key has its own: calls with the same token
// may have some of their keys in common.
func (l *Lock) quorumKeys() []string {
	keys := slices.Clip(l.keys)
	if l.unique {
		return keys
	}
	for _, key := range l.keys {
		prefix, _ := queuePrefix(key)
		keys = append(keys, prefix+":redislock:try")
	}
	return keys
}

// unmarkable returns a key whose mark would be in another slot; "" if there is none.
func (q *quorum) unmarkable(keys []string) string {
	if !slices.ContainsFunc(q.nodes, func(n *node) bool { return n.sharded() }) {
		return ""
	}
	for _, key := range keys {
		if _, sameSlot := queuePrefix(key); !sameSlot {
			return key
		}
	}
	return ""
}

// noteUnsure notes on which nodes the lock may yet be taken.
func (l *Lock) noteUnsure(answers []answer) {
	for _, a := range answers {
		if a.err != nil && !refused(a.err) {
			l.watch.ballot.unsure[a.node].Store(true)
		}
	}
}

// releaseOn releases the lock on the nodes that the answers name, and replaces these. It
// goes on in the background with nodes that do not answer, or may take the lock yet.
func (q *quorum) releaseOn(ctx context.Context, lock *Lock, ttl time.Duration, answers []answer) {
	q.askThese(ctx, nodeWait(ttl), answers, func(ctx context.Context, i int) (int64, error) {
		return q.nodes[i].run(ctx, releaseScript, lock.keys, lock.value)
	})
	for _, a := range answers {
		if a.err != nil && !refused(a.err) || a.reply == 0 && lock.watch.ballot.unsure[a.node].Load() {
			there := &Lock{Client: q.nodes[a.node].Client, keys: lock.keys, value: lock.value, unique: lock.unique}
			there.releaseOrphan()
		}
	}
}

// abandon releases a lock that nobody holds any more, if it is unique.
func (q *quorum) abandon(lock *Lock, ttl time.Duration) {
	if lock.unique {
		time.Sleep(lock.untilHealed())
		q.releaseOn(context.Background(), lock, ttl, q.allNodes())
	}
}

// releaseHeld releases the lock of a holder, and reports whether a majority had it.
//
// No refresh brings back what is deleted here. Only a command that heals could: it sets a
// key. None is sent once the lease has ended, which it has by now. One that was sent
// before, and not answered yet, refuses to do anything healGrace after the moment at which
// its own node, by its own clock, had last answered; that has passed when the waiting
// here is over.
func (q *quorum) releaseHeld(ctx context.Context, lock *Lock) (held bool, _ error) {
	time.Sleep(lock.untilHealed())
	answers := q.allNodes()
	q.releaseOn(ctx, lock, undoTimeout, answers)
	if count(answers, granted) >= q.majority() {
		return true, nil
	}
	if q.impossible(answers) {
		return false, nil
	}
	return false, q.silence(ctx, answers)
}

// ttl returns what a majority still grants, in milliseconds.
func (q *quorum) ttl(ctx context.Context, lock *Lock) (int64, error) {
	answers := q.ask(ctx, mostNodeWait, func(ctx context.Context, i int) (int64, error) {
		return q.nodes[i].run(ctx, ttlScript, lock.keys, lock.value)
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
