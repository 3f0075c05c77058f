package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/bsm/redislock"
)

// A catalogue is a cache that many processes read, and that one of them rebuilds now and then. While
// it is rebuilt nobody reads it, so that nobody sees half of it.
type catalogue struct {
	locker   *redislock.Client
	key      string // the lock's: not that of the data
	watchdog *redislock.TickWatchdog
}

// lockTTL is how long the others wait if a process dies while it reads or rebuilds.
const lockTTL = 10 * time.Second

// read runs fn beside any number of other readers. ctx bounds the waiting too.
func (c *catalogue) read(ctx context.Context, fn func(ctx context.Context) error) error {
	return c.locker.Do(ctx, c.key, lockTTL, c.options(true), fn)
}

// rebuild runs fn alone. It waits for those who read already; readers that come later wait for it, so
// that it has its turn however many they are.
func (c *catalogue) rebuild(ctx context.Context, fn func(ctx context.Context) error) error {
	return c.locker.Do(ctx, c.key, lockTTL, c.options(false), fn)
}

func (c *catalogue) options(shared bool) *redislock.Options {
	return &redislock.Options{
		Shared:        shared,
		RetryStrategy: redislock.FairQueue(),
		Watchdog:      c.watchdog,
		Logger:        slog.Default(),
	}
}
