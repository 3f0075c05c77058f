package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock"
)

const (
	crowded = "redislock-metrics-crowded" // many want this lock
	long    = "redislock-metrics-long"    // this one is held for a long time
	ttl     = 2 * time.Second
)

// work uses locks in all the ways that the metrics distinguish, until ctx ends.
func work(ctx context.Context, client *redis.Client, locker *redislock.Client) {
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() { every(ctx, 10*time.Millisecond, func() { inTurn(ctx, locker) }) })
	}
	workers.Go(func() { every(ctx, 50*time.Millisecond, func() { once(ctx, locker) }) })
	workers.Go(func() { every(ctx, 100*time.Millisecond, func() { impatient(ctx, locker) }) })
	workers.Go(func() { every(ctx, 500*time.Millisecond, func() { wrong(ctx, locker) }) })
	workers.Go(func() { every(ctx, 100*time.Millisecond, func() { watched(ctx, client, locker) }) })
	workers.Wait()
}

// every calls do again and again, at an interval that varies by half.
func every(ctx context.Context, interval time.Duration, do func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(interval/2 + rand.N(interval)):
			do()
		}
	}
}

// inTurn waits for the crowded lock and holds it for a moment.
func inTurn(ctx context.Context, locker *redislock.Client) {
	lock, err := locker.Obtain(ctx, crowded, ttl, &redislock.Options{RetryStrategy: redislock.FairQueue()})
	if err != nil {
		return
	}
	defer lock.Release(ctx)
	time.Sleep(10 * time.Millisecond)
}

// once obtains that lock with two retries.
func once(ctx context.Context, locker *redislock.Client) {
	lock, err := locker.Obtain(ctx, crowded, ttl, &redislock.Options{
		RetryStrategy: redislock.LimitRetry(redislock.LinearBackoff(5*time.Millisecond), 2),
	})
	if err == nil {
		_ = lock.Release(ctx)
	}
}

// impatient gives up waiting for that lock after a moment.
func impatient(ctx context.Context, locker *redislock.Client) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
	defer cancel()
	inTurn(ctx, locker)
}

// wrong makes a call that is an error.
func wrong(ctx context.Context, locker *redislock.Client) {
	_, _ = locker.Obtain(ctx, crowded, 0, nil)
}

// watched holds a lock for longer than its TTL. Half of the time somebody deletes the key.
func watched(ctx context.Context, client *redis.Client, locker *redislock.Client) {
	lock, err := locker.Obtain(ctx, long, ttl/10, &redislock.Options{
		Watchdog: redislock.NewTickWatchdog(ttl / 40),
	})
	if err != nil {
		return
	}
	defer lock.Release(ctx)
	if rand.N(2) == 0 {
		_ = client.Del(ctx, long).Err()
	}
	select {
	case <-lock.Done():
	case <-ctx.Done():
	case <-time.After(ttl / 4):
	}
}
