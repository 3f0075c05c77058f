package rlprome_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
	"github.com/bsm/redislock/rlprome"
)

func Example() {
	addr, stop, err := redistest.RunEmbedded() // stands for your server
	if err != nil {
		log.Fatal(err)
	}
	defer stop()
	client := redis.NewClient(&redis.Options{Addr: addr})
	defer client.Close()

	registry := prometheus.NewRegistry() // or prometheus.DefaultRegisterer
	observer := rlprome.NewObserver(nil)
	registry.MustRegister(rlprome.NewDefaultCollector(), observer)

	ctx := context.Background()
	locker := redislock.New(client).WithObserver(observer)
	err = locker.Do(ctx, "my-key", time.Minute, nil, func(context.Context) error { return nil })
	if err != nil {
		log.Fatal(err)
	}

	families, err := registry.Gather()
	if err != nil {
		log.Fatal(err)
	}
	for _, family := range families {
		fmt.Println(family.GetName(), family.GetType())
	}

	// Output:
	// redislock_count COUNTER
	// redislock_hold_seconds HISTOGRAM
	// redislock_wait_seconds HISTOGRAM
}
