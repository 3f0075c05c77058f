package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/bsm/redislock"
)

// A renderer calls a slow service that bears only so many calls at a time, over all processes.
type renderer struct {
	locker   *redislock.Client
	key      string // the same in all processes
	limit    int
	watchdog *redislock.TickWatchdog
	call     func(ctx context.Context, document string) error
}

// render calls the service once there is room. Calls are let in in the order in which they came; ctx
// bounds both the waiting and the call. Should a process die in its call, its place is free again
// when the TTL has passed.
func (r *renderer) render(ctx context.Context, document string) error {
	return r.locker.Do(ctx, r.key, 10*time.Second, &redislock.Options{
		Limit:         r.limit,
		RetryStrategy: redislock.FairQueue(),
		Watchdog:      r.watchdog, // the call may take longer than the TTL
		Logger:        slog.Default(),
	}, func(ctx context.Context) error {
		return r.call(ctx, document)
	})
}
