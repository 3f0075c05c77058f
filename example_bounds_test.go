package redislock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/bsm/redislock"
)

// A job that every machine starts by the clock runs once per interval, however short it is, even if
// the machines' clocks differ.
func Example_onceAnInterval() {
	client, closeClient := connect()
	defer closeClient()
	ctx := context.Background()

	// A bit less than the interval, so that the next run does not come too early.
	opt := &redislock.Options{HoldAtLeast: 55 * time.Minute}
	hourly := func(machine string) {
		err := redislock.New(client).Do(ctx, "report", time.Minute, opt, func(context.Context) error {
			fmt.Println(machine, "writes the report")
			return nil
		})
		switch {
		case errors.Is(err, redislock.ErrNotObtained):
			fmt.Println(machine, "has nothing to do")
		case err != nil:
			log.Fatal(err)
		}
	}
	hourly("Machine 1")
	hourly("Machine 2")

	// Output:
	// Machine 1 writes the report
	// Machine 2 has nothing to do
}

func ExampleOptions_maxWait() {
	client, closeClient := connect()
	defer closeClient()

	// The context of a job that runs until the program ends: it says nothing about how
	// long to wait. Nor shall the TTL.
	ctx := context.Background()
	locker := redislock.New(client)
	first, err := locker.Obtain(ctx, "my-key", time.Minute, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer first.Release(ctx)

	start := time.Now()
	_, err = locker.Obtain(ctx, "my-key", time.Minute, &redislock.Options{
		RetryStrategy: redislock.FairQueue(),
		MaxWait:       100 * time.Millisecond,
	})
	fmt.Println("not obtained:", errors.Is(err, redislock.ErrNotObtained))
	fmt.Println("waited for less than the TTL:", time.Since(start) < 30*time.Second)

	// Output:
	// not obtained: true
	// waited for less than the TTL: true
}

func ExampleOptions_holdAtMost() {
	client, closeClient := connect()
	defer closeClient()

	// The watchdog would refresh the lock for as long as the process lives.
	opt := &redislock.Options{
		Watchdog:   redislock.NewTickWatchdog(0),
		HoldAtMost: 200 * time.Millisecond,
	}
	err := redislock.New(client).Do(context.Background(), "my-key", 100*time.Millisecond, opt, func(ctx context.Context) error {
		<-ctx.Done() // stuck, for example because a server does not answer
		return nil
	})
	fmt.Println("lost:", errors.Is(err, redislock.ErrLockNotHeld))

	// Output:
	// lost: true
}

func ExampleNewElection() {
	client, closeClient := connect()
	defer closeClient()
	ctx, cancel := context.WithCancel(context.Background()) // until the process is to end
	defer cancel()

	election := redislock.NewElection(redislock.New(client), "leader", 10*time.Second, &redislock.Options{
		Metadata: "host-1",
	})
	err := election.Run(ctx, func(ctx context.Context) error {
		leader, err := election.Leader(ctx)
		fmt.Println("leader:", leader, err)
		fmt.Println("is it me?", election.IsLeader())
		// Work, until ctx ends. To return is to give up the leadership.
		return nil
	})
	fmt.Println("ended:", err)
	_, err = election.Leader(ctx)
	fmt.Println(err)

	// Output:
	// leader: host-1 <nil>
	// is it me? true
	// ended: <nil>
	// redislock: nobody leads
}
