package main

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/rlprome"
)

// observed returns a locker whose locks are timed, and the handler to serve at /metrics. Call it
// once for a Redis client: the counters are those of the process.
func observed(client redis.UniversalClient) (*redislock.Client, http.Handler) {
	times := rlprome.NewObserver(nil)
	registry := prometheus.NewRegistry()
	registry.MustRegister(rlprome.NewDefaultCollector(), times)
	return redislock.New(client).WithObserver(times),
		promhttp.HandlerFor(registry, promhttp.HandlerOpts{Registry: registry})
}
