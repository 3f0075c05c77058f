package rlgocron

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bsm/redislock"
)

// ErrNotLeader is returned by [Elector.IsLeader] if another process leads, or nobody.
var ErrNotLeader = errors.New("rlgocron: this process does not lead")

var errClosed = fmt.Errorf("%w: its elector is closed", ErrNotLeader)

// An Elector is for [gocron.WithDistributedElector]: of all processes that have an Elector with the same
// key, only one runs the jobs. It is safe for concurrent use.
type Elector struct {
	election *redislock.Election
	cancel   context.CancelFunc
	ended    chan struct{} // closed when it is no longer a candidate
	err      error         // why; to be read only after that
}

// NewElector returns an Elector that is a candidate from now on, until it is closed. Close it only once
// the scheduler has been shut down and its jobs have ended, because then another process leads.
//
// key is that of the election's lock. If the leader dies, another process takes over within ttl. opt may
// be nil, and is copied; the default Watchdog refreshes every third of ttl, and Metadata says who the
// candidate is. RetryStrategy and MaxWait are ignored: candidates wait in order, for as long as it
// takes. Token, Shared, and a Limit of more than 1 are errors, because with them several processes would
// lead. So are options with which nobody could lead.
//
// Schedulers' clocks differ. If the leader changes between the times at which two of them start a job,
// both run it, or neither does. A job that must run once each time needs [NewLocker]. A job that is
// running when its process loses the leadership goes on.
func NewElector(client *redislock.Client, key string, ttl time.Duration, opt *redislock.Options) (*Elector, error) {
	o := withDefaults(opt)
	o.RetryStrategy, o.MaxWait = redislock.FairQueue(), 0
	switch key {
	case "":
		return nil, errors.New("rlgocron: the key of an election is empty: name it")
	case o.FenceKey:
		return nil, fmt.Errorf("rlgocron: FenceKey %q is also the key of the election: use a different key for the counter", key)
	}
	if err := check(client, ttl, &o); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := &Elector{
		election: redislock.NewElection(client, key, ttl, &o),
		cancel:   cancel,
		ended:    make(chan struct{}),
	}
	go func() {
		defer close(e.ended)
		e.err = e.election.Run(ctx, lead)
	}()
	return e, nil
}

// lead keeps the leadership until ctx ends. The scheduler does the work.
func lead(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// IsLeader implements [gocron.Elector]. It returns nil while this process is certain to lead; it does not
// ask Redis. Otherwise it returns an error in which errors.Is finds [ErrNotLeader], and which says why if
// this process is no longer a candidate.
func (e *Elector) IsLeader(context.Context) error {
	select {
	case <-e.ended:
	default:
		if e.election.IsLeader() {
			return nil
		}
		return ErrNotLeader
	}
	if e.err == nil || errors.Is(e.err, context.Canceled) {
		return errClosed
	}
	return fmt.Errorf("%w, nor is it a candidate: %w", ErrNotLeader, e.err)
}

// Close ends the candidacy, gives up the leadership if this process has it, and waits until that is done.
// If Redis does not answer, that takes about a second, but longer if a command is already under way:
// go-redis then waits for its own timeouts, by default for several seconds. ContextTimeoutEnabled and a
// shorter ReadTimeout of the Redis client shorten that. If the candidacy had already ended, Close returns
// the error that ended it. Closing twice does no harm.
func (e *Elector) Close() error {
	e.cancel()
	<-e.ended
	if errors.Is(e.err, context.Canceled) {
		return nil
	}
	return e.err
}
