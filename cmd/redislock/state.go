//go:build unix

package main

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock"
)

// lookPatience bounds one look at a lock.
const lookPatience = 5 * time.Second

// A state is the state of a lock at one moment.
type state struct {
	limit   int
	holders []entry
	waiters []entry // in order
}

// An entry is a holder of a lock, or a waiter.
type entry struct {
	value    string
	ttl      time.Duration // of a holder; negative if it has no end
	shared   bool          // of a holder
	released bool          // of a holder, whose -at-least is not over yet
	since    time.Time     // of a waiter
}

// look asks for the state of a lock.
func look(ctx context.Context, client redis.UniversalClient, key string) (state, error) {
	ctx, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	info, err := redislock.Inspect(ctx, client, key)
	if err != nil {
		return state{}, err
	}
	s := state{limit: info.Limit}
	for _, h := range info.Holders {
		s.holders = append(s.holders, entry{value: h.Value, ttl: h.TTL, shared: h.Shared, released: h.Released})
	}
	for _, w := range info.Waiters {
		s.waiters = append(s.waiters, entry{value: w.Value, since: w.Since})
	}
	return s, nil
}
