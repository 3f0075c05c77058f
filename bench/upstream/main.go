// Command upstream measures bsm/redislock. It is a module of its own because that has the
// same import path as the library that the other participants are compared with.
package main

import (
	"context"
	"time"

	"github.com/bsm/redislock"

	"github.com/bsm/redislock/bench/scenario"
)

func main() {
	scenario.Main(scenario.Participant{
		Name:    "bsm/redislock",
		Module:  "github.com/bsm/redislock",
		Connect: connect,
	})
}

type locker struct {
	client *redislock.Client
	close  func()
}

func connect(setup scenario.Setup) (scenario.Locker, error) {
	client, closeClient, err := setup.Client()
	if err != nil {
		return nil, err
	}
	return locker{redislock.New(client), closeClient}, nil
}

func (l locker) With(ctx context.Context, key string, held func()) error {
	var opt *redislock.Options
	if held != nil {
		opt = &redislock.Options{
			RetryStrategy: redislock.ExponentialBackoff(16*time.Millisecond, 128*time.Millisecond),
		}
	}
	lock, err := l.client.Obtain(ctx, key, scenario.TTL, opt)
	if err != nil {
		return err
	}
	if held != nil {
		held()
	}
	return lock.Release(ctx)
}

func (l locker) Keep(ctx context.Context, key string) (func() error, func() bool, error) {
	lock, err := l.client.Obtain(ctx, key, scenario.TTL, nil)
	if err != nil {
		return nil, nil, err
	}
	release, lost := scenario.KeepByTicker(
		func() error { return lock.Refresh(ctx, scenario.TTL, nil) },
		func() error { return lock.Release(ctx) },
	)
	return release, lost, nil
}

func (l locker) Close() { l.close() }
