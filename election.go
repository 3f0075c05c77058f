package redislock

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// ErrNoLeader is returned by [Election.Leader] if nobody leads.
var ErrNoLeader = errors.New("redislock: nobody leads")

// Waits between the tries of a candidate that Redis does not answer.
const (
	leastCampaignWait = 50 * time.Millisecond
	mostCampaignWait  = time.Second
)

// An Election makes one of many candidates the leader: the one that holds a lock. Each process that
// may lead has an Election with the same key, and is a candidate while Run runs. An Election is
// safe for concurrent use.
type Election struct {
	client *Client
	keys   []string
	ttl    time.Duration
	opt    Options

	mu      sync.Mutex
	running bool  // Run
	leading *Lock // nil: it does not
}

// NewElection returns a candidate. Whichever candidate holds the lock of the given key leads. If the
// leader dies, another candidate takes over within ttl. Unless opt says otherwise, candidates wait in
// order and the leadership is renewed: the default RetryStrategy is [FairQueue], and the default
// Watchdog a [TickWatchdog] that refreshes every third of ttl. opt.Metadata says who the candidate is
// ([Election.Leader]). HoldAtMost limits a term; HoldAtLeast is the least time between the beginnings
// of two terms.
//
// A RetryStrategy that counts, such as [LimitRetry], counts over all campaigns. A Watchdog of your own must
// serve one term after the other, and its Stop ends it for everything that shares it.
//
// opt is copied, and may be nil. Run and Leader return an error if an argument is invalid.
func NewElection(client *Client, key string, ttl time.Duration, opt *Options) *Election {
	e := &Election{keys: []string{key}, ttl: ttl}
	if client != nil {
		candidate := *client
		candidate.election = true
		e.client = &candidate
	}
	if opt != nil {
		e.opt = *opt
	}
	if e.opt.RetryStrategy == nil {
		e.opt.RetryStrategy = FairQueue()
	}
	if e.opt.Watchdog == nil {
		e.opt.Watchdog = NewTickWatchdog(0)
	}
	return e
}

// Run waits until the candidate leads, for as long as ctx allows, and runs fn. The context passed to
// fn ends with the leadership or with ctx; context.Cause says which, as for [Lock.Context]. The
// leadership is given up only after fn has returned or panicked: while fn still works with a lock
// that is not lost, nobody else leads.
//
// If the leadership is lost before fn returns, Run waits until fn does, logs what it returned, and
// campaigns again. So fn may run several times, one after the other, and must return when its
// context ends. It never runs without the leadership.
//
// While Redis does not answer, Run logs that and keeps trying. It returns
//
//   - what fn returned, if fn returned of its own accord or because ctx ended; joined with an
//     error in which errors.Is finds ErrLockNotHeld, if the leadership then turns out to be
//     somebody else's;
//   - ctx's error, if ctx ends while the candidate does not lead;
//   - ErrNotObtained, as [Client.Obtain] does, if a campaign has taken opt.MaxWait, or its
//     RetryStrategy has no more tries;
//   - a clear error if fn is nil, an argument of NewElection is invalid, the Redis client is
//     closed, or Run is already running. For several candidates in one process, use several
//     Elections.
func (e *Election) Run(ctx context.Context, fn func(ctx context.Context) error) error {
	if fn == nil {
		return errors.New("redislock: Run needs a function to run: fn is nil")
	}
	if err := e.begin(); err != nil {
		return err
	}
	defer e.end()
	for {
		lock, held, err := e.campaign(ctx)
		if err != nil {
			return err
		}
		lost, err := e.lead(ctx, lock, held, fn)
		switch {
		case !lost:
			return err
		case ctx.Err() != nil && !errors.Is(err, ctx.Err()):
			return errors.Join(err, ctx.Err()) // nil would say that the work is done
		case ctx.Err() != nil:
			return err
		}
	}
}

// begin notes that the candidate runs.
func (e *Election) begin() error {
	if err := e.check(); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running {
		return fmt.Errorf("redislock: Run for key %q is already running: use one Election for each candidate", e.keys[0])
	}
	e.running = true
	return nil
}

func (e *Election) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.running = false
}

// check finds out that no campaign can succeed.
func (e *Election) check() error {
	if err := e.client.check(e.keys, e.ttl, &e.opt); err != nil {
		return err
	}
	if several := e.opt.several(); several != "" {
		return fmt.Errorf("redislock: %s in an Election: only one candidate can lead; leave it out", several)
	}
	if server, ok := e.client.servers.(*server); ok && isFair(&e.opt) {
		return server.checkBeside(e.keys[0], "FairQueue")
	}
	return nil
}

// campaign waits until the candidate has the lock. It also returns the context for what is done
// under it.
func (e *Election) campaign(ctx context.Context) (*Lock, context.Context, error) {
	opt := e.opt
	end := later(sinceEpoch(), math.MaxInt64)
	if opt.MaxWait > 0 {
		end = later(sinceEpoch(), opt.MaxWait)
	}
	for wait := leastCampaignWait; ; wait = min(2*wait, mostCampaignWait) {
		opt.MaxWait = max(end-sinceEpoch(), 1)
		lock, held, err := e.client.obtainAndCount(ctx, e.keys, e.ttl, &opt)
		switch {
		case err == nil:
			return lock, held, nil
		case ctx.Err() != nil:
			return nil, nil, ctx.Err()
		case errors.Is(err, ErrNotObtained), errors.Is(err, redis.ErrClosed), redis.HasErrorPrefix(err, "CROSSSLOT"):
			return nil, nil, err
		}
		opt.logger().Warn("redislock: campaign failed, trying again", "key", e.keys[0], "error", err)
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(min(wait/2+rand.N(wait), end-sinceEpoch())):
		}
		if sinceEpoch() >= end {
			return nil, nil, errors.Join(ErrNotObtained, context.DeadlineExceeded, err)
		}
	}
}

// lead runs fn under the lock, and gives it up. It reports whether it was lost before fn returned.
func (e *Election) lead(ctx context.Context, lock *Lock, holding context.Context, fn func(ctx context.Context) error) (lost bool, err error) {
	held := lock.Context(holding)
	ended := lock.ended()
	e.setLeading(lock)
	defer func() {
		e.setLeading(nil)
		cause := lock.finish(ctx)
		switch {
		case lost:
			lock.log().Warn("redislock: leadership lost", "key", e.keys[0], "cause", cause, "returned", err)
		case cause != nil:
			err = errors.Join(err, cause)
		}
	}()
	if err = held.Err(); err != nil { // it has ended on the way here
		lock.lease.keepNothing()
	} else {
		err = fn(held)
	}
	return ended.Err() != nil, err
}

func (e *Election) setLeading(lock *Lock) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.leading = lock
}

// IsLeader reports whether the candidate leads: whether Run is running fn, and the lock is certain
// to be held ([Lock.ValidUntil]). It does not ask Redis.
func (e *Election) IsLeader() bool {
	e.mu.Lock()
	lock := e.leading
	e.mu.Unlock()
	return lock != nil && lock.lease.remaining() > 0
}

// Leader asks Redis which candidate leads, and returns the metadata of its Options. It returns
// ErrNoLeader if nobody leads, or the error of the Redis client. The answer may be outdated when it
// arrives. On a quorum it is what a majority of the nodes says.
//
// Redis cannot tell where in a value the token ends and the metadata begins: if candidates have
// custom tokens ([Options].Token), all of these must have the same length.
func (e *Election) Leader(ctx context.Context) (metadata string, err error) {
	if err := e.check(); err != nil {
		return "", err
	}
	value, err := e.client.servers.holder(ctx, e.keys[0])
	if err != nil {
		return "", err
	}
	if value == "" || strings.HasPrefix(value, keepMark) {
		return "", ErrNoLeader
	}
	length := tokenLength
	if e.opt.Token != "" {
		length = len(e.opt.Token)
	}
	return value[min(length, len(value)):], nil
}

func (s *server) holder(ctx context.Context, key string) (value string, _ error) {
	value, err := holderScript.Run(ctx, s.client, []string{key}).Text()
	if err == redis.Nil {
		return "", nil
	}
	return value, err
}

// holder returns the value that a majority has.
func (q *quorum) holder(ctx context.Context, key string) (value string, _ error) {
	values := make([]atomic.Pointer[string], len(q.nodes))
	answers := q.askNodes(ctx, mostNodeWait, q.allNodes(), func(ctx context.Context, i int) (int64, error) {
		value, err := q.nodes[i].holder(ctx, key)
		values[i].Store(&value)
		return 1, err
	})
	if count(answers, fine) < q.majority() {
		return "", q.silence(ctx, answers)
	}
	have := make(map[string]int)
	most := 0 // nodes with the same value
	for _, a := range answers {
		if fine(a) {
			v := *values[a.node].Load()
			have[v]++
			if have[v] > most {
				value, most = v, have[v]
			}
		}
	}
	switch silent := len(answers) - count(answers, fine); {
	case most >= q.majority():
		return value, nil
	case most+silent >= q.majority():
		return "", q.silence(ctx, answers) // which may make up the majority
	default:
		return "", nil
	}
}
