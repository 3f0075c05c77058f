//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bsm/redislock"
)

// ttl is for how long the others wait for a leader that has died.
const ttl = time.Second

// candidate is one of the processes that can do the job. This is what you want in yours.
type candidate struct {
	name   string
	locker *redislock.Client
	key    string
}

// stand has the candidate lead whenever it holds the lock, until ctx ends. Then it gives the
// lock back, and the next need not wait for the TTL.
func (c *candidate) stand(ctx context.Context) {
	opt := &redislock.Options{
		RetryStrategy: redislock.FairQueue(),
		Watchdog:      redislock.NewTickWatchdog(0),
	}
	for ctx.Err() == nil {
		// A deadline would end the leading too. Without one it waits for as long as the TTL.
		err := c.locker.Do(ctx, c.key, ttl, opt, c.lead)
		switch {
		case err == nil, ctx.Err() != nil:
		case errors.Is(err, redislock.ErrLockNotHeld):
			fmt.Println(c.name, "has lost the lead:", err)
		case errors.Is(err, redislock.ErrNotObtained): // another leads: stand by again
		default: // Redis is away, or the job failed
			pause(ctx, 100*time.Millisecond)
		}
	}
}

// lead is the job. It has to end with its context, which ends no later than the lock. (A
// process that was stopped learns of the end when it goes on. If a bit of the job that it has
// begun could do harm, let a fencing token prevent that.)
func (c *candidate) lead(ctx context.Context) error {
	fmt.Println(c.name, "leads")
	for ctx.Err() == nil {
		pause(ctx, 50*time.Millisecond) // a bit of the job
	}
	fmt.Println(c.name, "stops the job")
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
