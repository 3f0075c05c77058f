//go:build unix

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/bsm/redislock"
)

// ttl is how long the others wait for a leader that has died.
const ttl = time.Second

// candidate is one of the processes that can do the job. This is what you want in yours.
type candidate struct {
	name     string
	election *redislock.Election
}

func newCandidate(locker *redislock.Client, key, name string) *candidate {
	// The metadata is what Leader returns to whoever asks.
	opt := &redislock.Options{Metadata: name}
	return &candidate{name, redislock.NewElection(locker, key, ttl, opt)}
}

// stand has the candidate lead whenever it is elected, until ctx ends. Then it gives up the
// leadership, and the next candidate need not wait for the TTL.
func (c *candidate) stand(ctx context.Context) error {
	return c.election.Run(ctx, c.lead)
}

// lead is the job. It has to end with its context, which ends no later than the leadership. (A
// process that was stopped learns of the end only when it continues. If the part of the job that it
// had begun could do harm then, do that part under a lock of its own with a fencing token.)
func (c *candidate) lead(ctx context.Context) error {
	fmt.Println(c.name, "leads")
	for ctx.Err() == nil {
		doABit(ctx)
	}
	fmt.Println(c.name, "stops the job:", context.Cause(ctx))
	return nil
}

func doABit(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(50 * time.Millisecond):
	}
}
