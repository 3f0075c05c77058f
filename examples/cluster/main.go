// Command cluster shows locks on Redis Cluster. What you would copy is in cart.go. It uses an
// embedded server that behaves like a Cluster of one node, or with -redis host:port,host:port
// a real Cluster.
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
	addrs := flag.String("redis", "", "addresses of a Redis Cluster, host:port,host:port (default: an embedded server)")
	flag.Parse()
	if err := run(context.Background(), *addrs); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addrs string) error {
	onCluster := addrs != ""
	if !onCluster {
		embedded, stop, err := redistest.RunEmbedded()
		if err != nil {
			return err
		}
		defer stop()
		addrs = embedded
	}
	client := connect(strings.Split(addrs, ","))
	defer client.Close()
	locker := redislock.New(client)
	// The process ID keeps the runs of this example apart.
	name := func(what string) string { return fmt.Sprintf("redislock-cluster-%d-%s", os.Getpid(), what) }

	fmt.Println("Locks of one key spread over the nodes by themselves.")
	for _, order := range []string{"1", "2", "3"} {
		key := "{" + name(order) + "}"
		if err := locker.Do(ctx, key, time.Minute, nil, func(ctx context.Context) error {
			fmt.Printf("  %s is held.\n", key)
			return nil
		}); err != nil {
			return err
		}
	}

	fmt.Println("\nLocks of several keys need a common hash tag.")
	if onCluster {
		_, err := locker.ObtainMulti(ctx, []string{name("1"), name("2")}, time.Minute, nil)
		if err == nil {
			return errors.New("keys in two slots were not refused")
		}
		fmt.Printf("  Without: %v\n", err)
	} else {
		fmt.Println("  Without: a real Cluster would refuse them. The embedded server has only one node.")
	}
	lock, err := lockCart(ctx, locker, name("cart"))
	if err != nil {
		return err
	}
	fmt.Printf("  With: %v are held; the fencing token is %d.\n", lock.Keys(), lock.FenceToken())
	if err := lock.Release(ctx); err != nil {
		return err
	}
	// Only an example deletes its fencing counter: it must outlive the locks.
	if err := client.Del(ctx, "{"+name("cart")+"}:fence").Err(); err != nil {
		return err
	}

	fmt.Println("\nA queue works as it does on one server.")
	return queue(ctx, client, locker, name("queue"))
}

// queue has three callers wait for a lock in order.
func queue(ctx context.Context, client redis.Cmdable, locker *redislock.Client, key string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	opt := &redislock.Options{RetryStrategy: redislock.FairQueue()}
	held, err := locker.Obtain(ctx, key, time.Minute, opt)
	if err != nil {
		return err
	}
	done := make(chan error, 3)
	for i, who := range []string{"Anna", "Ben", "Cleo"} {
		go func() {
			done <- locker.Do(ctx, key, time.Minute, opt, func(context.Context) error {
				fmt.Printf("  %s has it.\n", who)
				return nil
			})
		}()
		if err := redistest.AwaitQueue(ctx, client, key, i+1); err != nil {
			return err
		}
		fmt.Printf("  %s waits.\n", who)
	}
	err = held.Release(ctx)
	for range 3 {
		err = errors.Join(err, <-done)
	}
	return err
}
