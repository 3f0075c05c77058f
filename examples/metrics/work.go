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
	crowded = "redislock-metrics-crowded" // a lock that many want
	long    = "redislock-metrics-long"    // one that is held for long
	ttl     = 2 * time.Second
)

// work uses locks in all the ways that the metrics tell apart, until ctx ends.
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

// inTurn waits for the lock that many want, and holds it for a moment.
func inTurn(ctx context.Context, locker *redislock.Client) {
	lock, err := locker.Obtain(ctx, crowded, ttl, &redislock.Options{RetryStrategy: redislock.FairQueue()})
	if err != nil {
		return
	}
	defer lock.Release(ctx)
	time.Sleep(10 * time.Millisecond)
}

// once takes that lock if it is free, and tries again a few times if it is not.
func once(ctx context.Context, locker *redislock.Client) {
	lock, err := locker.Obtain(ctx, crowded, ttl, &redislock.Options{
		RetryStrategy: redislock.LimitRetry(redislock.LinearBackoff(5*time.Millisecond), 2),
	})
	if err == nil {
		_ = lock.Release(ctx)
	}
}

// impatient does not want to wait for that lock for as long as it takes.
func impatient(ctx context.Context, locker *redislock.Client) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
	defer cancel()
	inTurn(ctx, locker)
}

// wrong asks for what cannot be.
func wrong(ctx context.Context, locker *redislock.Client) {
	_, _ = locker.Obtain(ctx, crowded, 0, nil)
}

// watched holds a lock for longer than its TTL. Sometimes somebody deletes the key.
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
