package redislock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
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

// NewQuorum returns a Client that obtains locks from a majority of independent Redis masters, by
// the Redlock algorithm
// (https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/): a lock is held if more
// than half of the nodes granted it while it was still valid. It stays available while fewer than
// half of the nodes fail, and exclusive as long as no node forgets: a node that comes back without
// its data can give others the majority that a lock had only thanks to this node. So have nodes
// write to disk (appendfsync always), or restart a crashed one only after the longest TTL. Each
// client must have a server, Sentinel or Cluster of its own.
//
// All nodes are asked at the same time. A node that does not answer delays a call by at most a tenth
// of the TTL, and never more than half a second. Once the majority has decided, the call waits for
// the others only as long again, or 10 ms. A failed try is undone; with a custom token
// only where the token had not held the key before ([Options].Token). The waits of the retry
// strategy are varied by half, so that tries that got in each other's way separate.
//
// Refresh needs a majority, and obtains the lock again on nodes that have lost it. If one of the
// clients has no pipelines ([RedisClient]), a TickWatchdog's refresh may take half of the TTL, at
// most three seconds. TTL is what a majority still grants. Where nodes fail, errors.As finds a
// [*NodeError].
//
// FenceKey, MinReplicas, Shared and Limit are errors: they do not work across independent nodes.
// [FairQueue] cannot keep the order and tries again about every 50 ms. With one client, NewQuorum
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
		q.nodes = append(q.nodes, &node{server: newServer(client), calls: make(chan struct{}, maxNodeCalls), batches: make(chan struct{}, maxPipelines)})
	}
	return &Client{servers: q}
}

// NodeError is the error of one node of a quorum.
type NodeError struct {
	Node int // index among the arguments of NewQuorum, from 0
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
	*server
	calls   chan struct{} // one for each that is under way
	batches chan struct{} // the same of pipelines
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

// allNodes returns an answer of each node, which is yet to be asked for.
func (q *quorum) allNodes() []answer {
	answers := make([]answer, len(q.nodes))
	for i := range answers {
		answers[i] = answer{node: i, err: errSilent}
	}
	return answers
}

// askNodes asks the nodes that the answers name, at the same time. Those that have not
// answered in time have errSilent as their answer. It does not outlast ctx.
func (q *quorum) askNodes(ctx context.Context, wait time.Duration, answers []answer, ask func(ctx context.Context, i int) (int64, error)) []answer {
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
			return answers
		case <-ctx.Done():
			return answers
		}
	}
	return answers
}

// run runs a script on one node, if that is not busy with calls that it does not answer.
func (n *node) run(ctx context.Context, script *redis.Script, keys []string, args ...any) (int64, error) {
	if !enter(ctx, n.calls) {
		return 0, errSilent
	}
	defer func() { <-n.calls }()
	return call{script: script, keys: keys, args: args}.run(ctx, n.server)
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
	if len(calls) > 1 && n.pipelined {
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
			reply, err := c.run(ctx, n.server)
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
	var failed errorList
	for _, a := range answers {
		if a.err != nil {
			failed = append(failed, &NodeError{Node: a.node, Err: a.err})
		}
	}
	answered := len(answers) - len(failed)
	if ctx.Err() != nil {
		failed = append(failed, ctx.Err())
	}
	return fmt.Errorf("redislock: %d of %d nodes answered, a majority is %d: %w",
		answered, len(q.nodes), q.majority(), failed)
}

// errorList is several errors on one line, for logs.
type errorList []error

func (l errorList) Error() string {
	var b strings.Builder
	for i, err := range l {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(err.Error())
	}
	return b.String()
}

func (l errorList) Unwrap() []error { return l }

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

func (q *quorum) check(keys []string, opt *Options) error {
	switch {
	case opt.Token != "" && q.unmarkable(keys) != "":
		return fmt.Errorf("redislock: key %q with Token %q: the key's closing brace would put the mark of a try "+
			"into another slot; give the key a {hash tag}", q.unmarkable(keys), opt.Token)
	case opt.FenceKey != "":
		return fmt.Errorf("redislock: FenceKey %q with NewQuorum: independent nodes cannot agree on a number; leave it out", opt.FenceKey)
	case opt.several() != "":
		return fmt.Errorf("redislock: %s with NewQuorum: different majorities could let in too many holders; use one server", opt.several())
	case opt.MinReplicas != 0:
		return fmt.Errorf("redislock: MinReplicas of %d with NewQuorum: a quorum replaces replicas; leave it out", opt.MinReplicas)
	default:
		return nil
	}
}

func (q *quorum) checkTags(keys []string) error {
	for _, n := range q.nodes {
		if err := n.checkTags(keys); err != nil {
			return err
		}
	}
	return nil
}

// unmarkable returns a key whose mark would be in another slot; "" if there is none.
func (q *quorum) unmarkable(keys []string) string {
	if !slices.ContainsFunc(q.nodes, func(n *node) bool { return n.sharded() }) {
		return ""
	}
	for _, key := range keys {
		if _, sameSlot := prefixOf(key); !sameSlot {
			return key
		}
	}
	return ""
}

// bound leaves it to the nodes, none of which is waited for.
func (q *quorum) bound(ctx context.Context, _ time.Duration) (context.Context, context.CancelFunc) {
	return ctx, func() {}
}

func (q *quorum) identity() any { return q }

func (q *quorum) together(bool) bool { return true }

// ask has locks refreshed, each of which ends as soon as it is decided. It returns when a majority
// of nodes has answered: locks that are not decided by that must not hold up the others.
func (q *quorum) ask(attempts []attempt) {
	locks := make([]refreshing, len(attempts))
	for i, a := range attempts {
		locks[i] = refreshing{lock: a.quorum, ttl: a.ttl, wait: q.refreshWait(a.ttl), done: a.end}
	}
	<-q.refresh(context.Background(), locks)
}
