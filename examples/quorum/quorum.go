package main

import (
	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock"
)

// connect returns a locker on independent Redis servers, and their clients, to be closed in the
// end. Three servers survive the failure of one, five that of two.
func connect(addrs []string) (locker *redislock.Client, clients []*redis.Client) {
	var nodes []redislock.RedisClient
	for _, addr := range addrs {
		client := redis.NewClient(&redis.Options{
			Addr:                  addr,
			ContextTimeoutEnabled: true, // the deadline of a context ends commands too
			// Do not retry a node that is down: the others will do.
			MaxRetries:    -1,
			DialerRetries: 1,
		})
		clients, nodes = append(clients, client), append(nodes, client)
	}
	return redislock.NewQuorum(nodes...), clients
}
