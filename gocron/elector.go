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
// key, the scheduler of one runs all jobs. It is safe for concurrent use.
type Elector struct {
	election *redislock.Election
	cancel   context.CancelFunc
	ended    chan struct{} // closed when it is no candidate any more
	err      error         // why; read it after that
}

// NewElector returns an Elector that is a candidate from now on, until it is closed: close it once the
// scheduler has been shut down and its jobs have ended, since another process leads from then on.
//
// key is that of the election's lock. Another process takes over within ttl from one that has died.
// opt may be nil, and is copied; by default it has a Watchdog that refreshes after a third of ttl, and
// Metadata say who the candidate is. RetryStrategy and MaxWait do not matter: candidates wait in order,
// for as long as it takes. Token and Shared are an error, because by them all processes would lead.
//
// A change of the leader may fall between the times at which two schedulers start a job, because their
// clocks differ: then both run it, or neither. A job that must run once each time needs [NewLocker]. A
// job that is running when its process loses the leadership goes on.
func NewElector(client *redislock.Client, key string, ttl time.Duration, opt *redislock.Options) (*Elector, error) {
	o := withDefaults(opt)
	o.RetryStrategy, o.MaxWait = redislock.FairQueue(), 0
	if key == "" {
		return nil, errors.New("rlgocron: the key of an election is empty: name it")
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

// lead is what a leader does: it stays one. The work is the scheduler's.
func lead(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// IsLeader implements [gocron.Elector]. It returns nil while this process leads for sure, without asking
// Redis; else an error that is [ErrNotLeader] to errors.Is, and says why if this process is no candidate
// any more.
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

// Close ends the candidacy, and the leadership if it has that, and waits until that is done: at most
// about a second, if Redis does not answer. It returns the error that has ended the candidacy before, if
// one has. To close twice does no harm.
func (e *Elector) Close() error {
	e.cancel()
	<-e.ended
	if errors.Is(e.err, context.Canceled) {
		return nil
	}
	return e.err
}
