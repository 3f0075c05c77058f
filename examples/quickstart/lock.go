package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock"
)

// ttl is how long the lock outlives a holder that has crashed.
const ttl = 15 * time.Second

// locks are what a service needs: one of them for the whole process.
type locks struct {
	locker   *redislock.Client
	watchdog *redislock.TickWatchdog
}

func newLocks(client *redis.Client) *locks {
	return &locks{
		locker:   redislock.New(client),
		watchdog: redislock.NewTickWatchdog(0), // refreshes every third of the TTL
	}
}

// ifFree runs work if nobody holds the lock, and reports whether it did.
func (l *locks) ifFree(ctx context.Context, key string, work func(ctx context.Context) error) (ran bool, err error) {
	err = l.locker.Do(ctx, key, ttl, &redislock.Options{
		Watchdog: l.watchdog,
		Logger:   slog.Default(),
	}, func(ctx context.Context) error {
		ran = true
		return work(ctx)
	})
	if !ran && errors.Is(err, redislock.ErrNotObtained) {
		return false, nil
	}
	return ran, err
}

// inTurn waits for the lock, first come, first served, and runs work. The context of work ends
// if the lock is lost. Waiting ends with ctx, or after the TTL if ctx has no deadline.
func (l *locks) inTurn(ctx context.Context, key string, work func(ctx context.Context) error) error {
	return l.locker.Do(ctx, key, ttl, &redislock.Options{
		RetryStrategy: redislock.FairQueue(),
		Watchdog:      l.watchdog,
		Logger:        slog.Default(), // logs failed refreshes and lost locks
	}, work)
}
