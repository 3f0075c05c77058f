package redislock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bsm/redislock"
)

// A service bears two calls at a time, whichever processes they come from. Those that have to wait are served in
// order.
func ExampleOptions_limit() {
	client, closeClient := connect()
	defer closeClient()
	locker := redislock.New(client)
	ctx := context.Background()

	var calling, most atomic.Int64
	call := func(context.Context) error {
		now := calling.Add(1)
		defer calling.Add(-1)
		if now > most.Load() {
			most.Store(now)
		}
		time.Sleep(10 * time.Millisecond) // the service is slow
		return nil
	}

	opt := &redislock.Options{Limit: 2, RetryStrategy: redislock.FairQueue()}
	var callers sync.WaitGroup
	for range 6 {
		callers.Go(func() {
			if err := locker.Do(ctx, "slow-service", time.Minute, opt, call); err != nil {
				log.Println(err)
			}
		})
	}
	callers.Wait()
	fmt.Println("more than two at a time:", most.Load() > 2)

	// Output:
	// more than two at a time: false
}

// Many may read a cache at a time, but nobody while it is rebuilt.
func ExampleOptions_shared() {
	client, closeClient := connect()
	defer closeClient()
	locker := redislock.New(client)
	ctx := context.Background()
	readers := &redislock.Options{Shared: true}

	first, err := locker.Obtain(ctx, "cache", time.Minute, readers)
	if err != nil {
		log.Fatalln(err)
	}
	second, err := locker.Obtain(ctx, "cache", time.Minute, readers)
	if err != nil {
		log.Fatalln(err)
	}
	fmt.Println("two read")
	_, err = locker.Obtain(ctx, "cache", time.Minute, nil)
	fmt.Println("rebuild:", err)

	_ = first.Release(ctx)
	_ = second.Release(ctx)
	rebuild, err := locker.Obtain(ctx, "cache", time.Minute, nil)
	if err != nil {
		log.Fatalln(err)
	}
	defer rebuild.Release(ctx)
	_, err = locker.Obtain(ctx, "cache", time.Minute, readers)
	fmt.Println("read:", err)

	// Output:
	// two read
	// rebuild: redislock: not obtained
	// read: redislock: not obtained
}

func ExampleInspect() {
	client, closeClient := connect()
	defer closeClient()
	locker := redislock.New(client)
	ctx := context.Background()

	// A separator shows where in the value the token ends.
	lock, err := locker.Obtain(ctx, "printer", time.Minute, &redislock.Options{Limit: 2, Token: "job-1", Metadata: " on host-a"})
	if err != nil {
		log.Fatalln(err)
	}
	defer lock.Release(ctx)

	info, err := redislock.Inspect(ctx, client, "printer")
	if err != nil {
		log.Fatalln(err)
	}
	fmt.Printf("%d of %d places are taken, %d wait\n", len(info.Holders), info.Limit, len(info.Waiters))
	for _, holder := range info.Holders {
		fmt.Printf("%s for %v\n", holder.Value, holder.TTL.Round(time.Minute))
	}

	// Output:
	// 1 of 2 places are taken, 0 wait
	// job-1 on host-a for 1m0s
}

// One process obtains the lock, another finishes the work that was done under it.
func ExampleClient_ReleaseByToken() {
	client, closeClient := connect()
	defer closeClient()
	ctx := context.Background()

	lock, err := redislock.Obtain(ctx, client, "import", time.Hour, nil)
	if err != nil {
		log.Fatalln(err)
	}
	token := lock.Token() // is passed on with the work

	other := redislock.New(client)
	fmt.Println("released:", other.ReleaseByToken(ctx, "import", token))
	err = other.ReleaseByToken(ctx, "import", token)
	fmt.Println("once more:", errors.Is(err, redislock.ErrLockNotHeld))

	// Output:
	// released: <nil>
	// once more: true
}
