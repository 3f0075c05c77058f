package main

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock"
)

// connect returns a client of a Redis Cluster. Any of its nodes' addresses will do.
func connect(addrs []string) *redis.ClusterClient {
	return redis.NewClusterClient(&redis.ClusterOptions{
		Addrs:                 addrs,
		ContextTimeoutEnabled: true, // the deadline of a context ends commands too
	})
}

// lockCart locks the items and the total of a cart together. Keys with the same {hash tag} are
// in the same slot, which the lock and its fencing counter require.
func lockCart(ctx context.Context, locker *redislock.Client, cart string) (*redislock.Lock, error) {
	tag := "{" + cart + "}"
	return locker.ObtainMulti(ctx, []string{tag + ":items", tag + ":total"}, time.Minute, &redislock.Options{
		FenceKey: tag + ":fence",
	})
}
