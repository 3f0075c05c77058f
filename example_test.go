package redislock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

// connect stands for redis.NewClient with the address of your server. The examples
// run on an embedded one.
func connect() (client *redis.Client, closeClient func()) {
	addr, stop, err := redistest.RunEmbedded()
	if err != nil {
		log.Fatal(err)
	}
	client = redis.NewClient(&redis.Options{Addr: addr})
	return client, func() {
		_ = client.Close()
		stop()
	}
}

func Example() {
	client, closeClient := connect()
	defer closeClient()
	ctx := context.Background()

	locker := redislock.New(client)
	lock, err := locker.Obtain(ctx, "my-key", 10*time.Second, nil)
	if errors.Is(err, redislock.ErrNotObtained) {
		fmt.Println("somebody else has it")
		return
	} else if err != nil {
		log.Fatal(err)
	}
	defer lock.Release(ctx)
	fmt.Println("I have the lock")

	_, err = locker.Obtain(ctx, "my-key", time.Second, nil)
	fmt.Println("a second caller:", err)

	if err := lock.Refresh(ctx, 300*time.Millisecond, nil); err != nil {
		log.Fatal(err)
	}
	left, err := lock.TTL(ctx)
	fmt.Println("refreshed:", left > 0 && left <= 300*time.Millisecond, err)

	for left > 0 && err == nil { // until it expires
		time.Sleep(10 * time.Millisecond)
		left, err = lock.TTL(ctx)
	}
	fmt.Println("expired:", left == 0, err)

	// Output:
	// I have the lock
	// a second caller: redislock: not obtained
	// refreshed: true <nil>
	// expired: true <nil>
}

func ExampleClient_Obtain_retry() {
	client, closeClient := connect()
	defer closeClient()
	ctx := context.Background()

	locker := redislock.New(client)
	first, err := locker.Obtain(ctx, "my-key", time.Minute, nil)
	if err != nil {
		log.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { _ = first.Release(ctx) })

	// Every 20 ms, 500 times at the most.
	second, err := locker.Obtain(ctx, "my-key", time.Minute, &redislock.Options{
		RetryStrategy: redislock.LimitRetry(redislock.LinearBackoff(20*time.Millisecond), 500),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer second.Release(ctx)
	fmt.Println("obtained once the first was released")

	// Output:
	// obtained once the first was released
}

func ExampleClient_Obtain_customDeadline() {
	client, closeClient := connect()
	defer closeClient()

	locker := redislock.New(client)
	first, err := locker.Obtain(context.Background(), "my-key", time.Minute, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer first.Release(context.Background())

	// An endless strategy tries until the deadline. Without one it would try for
	// the TTL.
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err = locker.Obtain(ctx, "my-key", time.Minute, &redislock.Options{
		RetryStrategy: redislock.ExponentialBackoff(16*time.Millisecond, time.Second),
	})
	fmt.Println("not obtained:", errors.Is(err, redislock.ErrNotObtained))
	fmt.Println("because of the deadline:", errors.Is(err, context.DeadlineExceeded))

	// Output:
	// not obtained: true
	// because of the deadline: true
}

func ExampleFairQueue() {
	client, closeClient := connect()
	defer closeClient()
	locker := redislock.New(client)
	ctx := context.Background()
	opt := &redislock.Options{RetryStrategy: redislock.FairQueue()}

	lock, err := locker.Obtain(ctx, "my-key", time.Minute, opt)
	if err != nil {
		log.Fatalln(err)
	}
	done := make(chan struct{})
	for i := range 3 {
		go func() {
			_ = locker.Do(ctx, "my-key", time.Minute, opt, func(context.Context) error {
				fmt.Println("waiter", i)
				return nil
			})
			done <- struct{}{}
		}()
		// For this example only: each asks after the one before it.
		if err := redistest.AwaitQueue(ctx, client, "my-key", i+1); err != nil {
			log.Fatalln(err)
		}
	}
	if err := lock.Release(ctx); err != nil {
		log.Fatalln(err)
	}
	for range 3 {
		<-done
	}

	// Output:
	// waiter 0
	// waiter 1
	// waiter 2
}

func ExampleTickWatchdog() {
	client, closeClient := connect()
	defer closeClient()

	// One watchdog may serve many locks. The context bounds the obtaining only: the
	// watchdog goes on.
	watchdog := redislock.NewTickWatchdog(100 * time.Millisecond)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	lock, err := redislock.New(client).Obtain(ctx, "my-key", 500*time.Millisecond, &redislock.Options{
		Watchdog: watchdog,
		Logger:   slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		log.Fatal(err)
	}

	time.Sleep(600 * time.Millisecond)
	left, err := lock.TTL(context.Background())
	fmt.Println("held for longer than the TTL:", left > 0, err)
	fmt.Println("released:", lock.Release(context.Background()))

	// Output:
	// held for longer than the TTL: true <nil>
	// released: <nil>
}

func ExampleClient_Do() {
	client, closeClient := connect()
	defer closeClient()
	ctx := context.Background()

	locker := redislock.New(client)
	err := locker.Do(ctx, "my-key", time.Minute, nil, func(ctx context.Context) error {
		fmt.Println("working with the lock:", ctx.Err())
		return nil
	})
	fmt.Println("done:", err)

	// If the lock is lost the context of the work ends.
	opt := &redislock.Options{Watchdog: redislock.NewTickWatchdog(50 * time.Millisecond)}
	err = locker.Do(ctx, "my-key", time.Minute, opt, func(ctx context.Context) error {
		client.Del(ctx, "my-key") // as a restart of the server might
		<-ctx.Done()
		return fmt.Errorf("interrupted: %w", ctx.Err())
	})
	fmt.Println(err)
	fmt.Println("lost:", errors.Is(err, redislock.ErrLockNotHeld))

	// Output:
	// working with the lock: <nil>
	// done: <nil>
	// interrupted: context canceled
	// redislock: lock not held: its key is gone or somebody else's
	// lost: true
}

func ExampleLock_Done() {
	client, closeClient := connect()
	defer closeClient()
	ctx := context.Background()

	lock, err := redislock.New(client).Obtain(ctx, "my-key", 400*time.Millisecond, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer lock.Release(ctx)
	if time.Until(lock.ValidUntil()) > 100*time.Millisecond {
		fmt.Println("time enough for something short")
	}

	work := time.NewTimer(time.Minute)
	defer work.Stop()
	select {
	case <-work.C:
		fmt.Println("worked for a minute")
	case <-lock.Done():
		fmt.Println("the lock has expired: stop")
	}

	// Output:
	// time enough for something short
	// the lock has expired: stop
}

func ExampleLock_Context() {
	client, closeClient := connect()
	defer closeClient()

	lock, err := redislock.New(client).Obtain(context.Background(), "my-key", time.Minute, nil)
	if err != nil {
		log.Fatal(err)
	}
	ctx := lock.Context(context.Background())
	fmt.Println("while it is held:", ctx.Err())

	_ = lock.Release(context.Background())
	<-ctx.Done()
	fmt.Println("afterwards:", context.Cause(ctx))

	// Output:
	// while it is held: <nil>
	// afterwards: redislock: lock not held: released
}

func ExampleGetStats() {
	client, closeClient := connect()
	defer closeClient()
	ctx := context.Background()
	before := redislock.GetStats()

	locker := redislock.New(client)
	lock, err := locker.Obtain(ctx, "my-key", time.Minute, nil)
	if err != nil {
		log.Fatal(err)
	}
	_, _ = locker.Obtain(ctx, "my-key", time.Minute, nil)
	_ = lock.Release(ctx)
	_ = lock.Release(ctx)

	// The counters are those of the process, since it started.
	now := redislock.GetStats()
	fmt.Println("obtained:", now.Obtain.Success-before.Obtain.Success)
	fmt.Println("held by somebody else:", now.Obtain.Failed-before.Obtain.Failed)
	fmt.Println("released:", now.Release.Success-before.Release.Success)
	fmt.Println("not held any more:", now.Release.Failed-before.Release.Failed)

	// Output:
	// obtained: 1
	// held by somebody else: 1
	// released: 1
	// not held any more: 1
}

// A resource that remembers the greatest fencing token it has seen can tell a
// holder from one whose lock has expired without its noticing.
func ExampleLock_FenceToken() {
	client, closeClient := connect()
	defer closeClient()
	ctx := context.Background()

	greatest := int64(0)
	write := func(fence int64, text string) {
		if fence < greatest {
			fmt.Printf("%s rejected: %d is older than %d\n", text, fence, greatest)
			return
		}
		greatest = fence
		fmt.Printf("%s accepted with %d\n", text, fence)
	}

	locker := redislock.New(client)
	// The hash tag puts lock and counter in one slot of a Redis Cluster.
	opt := &redislock.Options{FenceKey: "{report}:fence"}
	slow, err := locker.Obtain(ctx, "{report}", 100*time.Millisecond, opt)
	if err != nil {
		log.Fatal(err)
	}
	time.Sleep(150 * time.Millisecond) // a pause that was not planned

	quick, err := locker.Obtain(ctx, "{report}", time.Minute, opt)
	if err != nil {
		log.Fatal(err)
	}
	defer quick.Release(ctx)
	write(quick.FenceToken(), "the new holder")
	write(slow.FenceToken(), "the old holder")

	// Output:
	// the new holder accepted with 2
	// the old holder rejected: 1 is older than 2
}

func ExampleClient_ObtainMulti() {
	client, closeClient := connect()
	defer closeClient()
	ctx := context.Background()

	locker := redislock.New(client)
	transfer, err := locker.ObtainMulti(ctx, []string{"account:1", "account:2"}, time.Minute, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("obtained", transfer.Keys())

	_, err = locker.ObtainMulti(ctx, []string{"account:2", "account:3"}, time.Minute, nil)
	fmt.Println("both or none:", err)
	third, err := locker.Obtain(ctx, "account:3", time.Minute, nil)
	fmt.Println("obtained", third.Key(), err)

	fmt.Println(transfer.Release(ctx), third.Release(ctx))

	// Output:
	// obtained [account:1 account:2]
	// both or none: redislock: not obtained
	// obtained account:3 <nil>
	// <nil> <nil>
}

// Whoever knows the token of a lock can obtain it again, from another process too.
func ExampleOptions_token() {
	client, closeClient := connect()
	defer closeClient()
	ctx := context.Background()

	locker := redislock.New(client)
	_, err := locker.Obtain(ctx, "job", time.Minute, &redislock.Options{Token: "worker-17;", Metadata: "step 1"})
	if err != nil {
		log.Fatal(err)
	}
	lock, err := locker.Obtain(ctx, "job", time.Minute, &redislock.Options{Token: "worker-17;", Metadata: "step 2"})
	if err != nil {
		log.Fatal(err)
	}
	defer lock.Release(ctx)
	fmt.Println(client.Get(ctx, "job").Val())

	// Output:
	// worker-17;step 2
}

// Three independent servers: the lock survives the failure of any one of them.
func ExampleNewQuorum() {
	var clients []redislock.RedisClient
	for range 3 {
		client, closeClient := connect()
		defer closeClient()
		clients = append(clients, client)
	}
	locker := redislock.NewQuorum(clients...)
	ctx := context.Background()

	lock, err := locker.Obtain(ctx, "my-key", time.Minute, &redislock.Options{
		RetryStrategy: redislock.LinearBackoff(50 * time.Millisecond),
	})
	var node *redislock.NodeError
	if errors.As(err, &node) {
		log.Fatalf("no majority; one of those that failed is node %d: %v", node.Node, node.Err)
	} else if err != nil {
		log.Fatal(err)
	}
	defer lock.Release(ctx)
	fmt.Println("held by a majority")

	_, err = locker.Obtain(ctx, "my-key", time.Minute, nil)
	fmt.Println("a second caller:", err)

	// Output:
	// held by a majority
	// a second caller: redislock: not obtained
}

// A Redis Cluster: keys that are locked together, and a fencing counter, share a
// {hash tag}.
func ExampleNew_cluster() {
	client := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: []string{"redis-1:6379", "redis-2:6379", "redis-3:6379"},
	})
	defer client.Close()
	ctx := context.Background()
	lock, err := redislock.New(client).ObtainMulti(ctx, []string{"{user:1}:mail", "{user:1}:profile"}, time.Minute,
		&redislock.Options{FenceKey: "{user:1}:fence"})
	if err != nil {
		log.Fatal(err)
	}
	defer lock.Release(ctx)
}

// Sentinel, with a master and two replicas: the lock counts once both replicas know it,
// so that it is still held whichever of them becomes the master.
func ExampleNew_sentinel() {
	client := redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName:    "primary",
		SentinelAddrs: []string{"sentinel-1:26379", "sentinel-2:26379", "sentinel-3:26379"},
	})
	defer client.Close()
	ctx := context.Background()
	lock, err := redislock.New(client).Obtain(ctx, "my-key", time.Minute, &redislock.Options{
		MinReplicas: 2,
		Watchdog:    redislock.NewTickWatchdog(0),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer lock.Release(ctx)
}

// story is an observer that tells what it sees.
type story struct{}

func (story) Begin(ctx context.Context, op redislock.Operation) (context.Context, func(redislock.Outcome)) {
	return ctx, func(outcome redislock.Outcome) {
		fmt.Println(op.Name, op.Keys, outcome.Result, "waited:", outcome.Waited > 0)
	}
}

func ExampleClient_WithObserver() {
	client, closeClient := connect()
	defer closeClient()
	ctx := context.Background()

	locker := redislock.New(client).WithObserver(story{})
	lock, err := locker.Obtain(ctx, "my-key", time.Minute, nil)
	if err != nil {
		log.Fatal(err)
	}
	_, _ = locker.Obtain(ctx, "my-key", time.Minute, &redislock.Options{
		RetryStrategy: redislock.LimitRetry(redislock.LinearBackoff(20*time.Millisecond), 2),
	})
	if err := lock.Release(ctx); err != nil {
		log.Fatal(err)
	}

	// Output:
	// obtain [my-key] success waited: false
	// obtain [my-key] failed waited: true
	// hold [my-key] success waited: false
	// release [my-key] success waited: false
}
