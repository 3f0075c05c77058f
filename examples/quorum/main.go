// Command quorum shows locks that a majority of independent Redis servers grants. It uses
// three embedded servers, and stops some of them; or with -redis host:port,host:port,host:port
// real ones, which it does not stop.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

func main() {
	addrs := flag.String("redis", "", "addresses of independent Redis servers, host:port,host:port,host:port (default: three embedded ones)")
	flag.Parse()
	if err := run(context.Background(), *addrs); err != nil {
		fmt.Fprintln(os.Stderr, "quorum:", err)
		os.Exit(1)
	}
}

const ttl = 2 * time.Second

func run(ctx context.Context, addrs string) error {
	var nodes []string
	var stops []func()
	if addrs != "" {
		nodes = strings.Split(addrs, ",")
	} else {
		for range 3 {
			addr, stop, err := redistest.RunEmbedded()
			if err != nil {
				return err
			}
			nodes, stops = append(nodes, addr), append(stops, stop)
		}
	}
	defer func() {
		for _, stop := range stops {
			stop()
		}
	}()
	var clients []redislock.RedisClient
	for _, addr := range nodes {
		client := redis.NewClient(&redis.Options{Addr: addr, ContextTimeoutEnabled: true, MaxRetries: -1})
		defer client.Close()
		clients = append(clients, client)
	}
	locker := redislock.NewQuorum(clients...)
	key := fmt.Sprintf("redislock-quorum-%d", os.Getpid())

	lock, err := locker.Obtain(ctx, key, ttl, nil)
	if err != nil {
		return err
	}
	fmt.Printf("The lock is held by a majority of %d servers, for %v.\n", len(nodes), time.Until(lock.ValidUntil()).Round(100*time.Millisecond))
	if _, err := locker.Obtain(ctx, key, ttl, nil); !errors.Is(err, redislock.ErrNotObtained) {
		return fmt.Errorf("a second caller was not refused: %v", err)
	}
	fmt.Println("A second caller is refused.")
	if len(stops) == 0 {
		fmt.Println("These servers are not stopped.")
		return lock.Release(ctx)
	}

	stops[2]()
	stops = stops[:2]
	if err := lock.Refresh(ctx, ttl, nil); err != nil {
		return err
	}
	fmt.Println("Node 2 is stopped: two of three refresh the lock.")

	stops[1]()
	stops = stops[:1]
	err = lock.Refresh(ctx, ttl, nil)
	var node *redislock.NodeError
	if !errors.As(err, &node) {
		return fmt.Errorf("no node was found to have failed: %v", err)
	}
	fmt.Println("Node 1 is stopped too: one of three is no majority.")
	fmt.Printf("  %v\n", err)

	<-lock.Done()
	fmt.Printf("The holder knows: %v.\n", context.Cause(lock.Context(ctx)))
	if _, err = locker.Obtain(ctx, key, ttl, nil); err == nil {
		return errors.New("a lock was obtained without a majority")
	}
	fmt.Println("Nobody else obtains it either.")
	return nil
}
