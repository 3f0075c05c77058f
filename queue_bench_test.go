package redislock_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

// BenchmarkFairQueue has a crowd contend for one lock and prints a table: the cost of a
// handover, and how evenly the lock goes round. A handover is the time from the call of
// Release to the return of the next holder's Obtain; beside it stands the time from the
// call of a script that sets a key and publishes a message to the arrival of that.
func BenchmarkFairQueue(b *testing.B) {
	fmt.Println("| shape | handovers/s | commands each | longest wait | 1.5 rounds | fewest/most | handover p50 | p99 | bare p50 |")
	fmt.Println("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	for _, c := range []crowd{
		{clients: 32, each: 1, hold: time.Millisecond},
		{clients: 8, each: 32, hold: time.Millisecond},
		{clients: 8, each: 4},
	} {
		c.run(b)
	}
}

// A crowd is workers who want the same lock again and again.
type crowd struct {
	clients, each int
	hold          time.Duration
}

const (
	crowdWarmUp = time.Second
	crowdTime   = 5 * time.Second
)

func (c crowd) run(b *testing.B) {
	server := redistest.Start(b)
	bare := bareHandovers(b, server, c.hold)

	var (
		workers   sync.WaitGroup
		inside    atomic.Int32
		released  atomic.Int64
		start     = time.Now().Add(crowdWarmUp)
		end       = start.Add(crowdTime)
		counts    = make([]int, c.clients*c.each)
		longest   = make([]time.Duration, len(counts))
		handovers = make([][]time.Duration, len(counts))
	)
	work := func(worker int, locker *redislock.Client) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		for time.Now().Before(end) {
			asked := time.Now()
			lock, err := locker.Obtain(ctx, key, 10*time.Second, fair())
			require.NoError(b, err)
			now := time.Now()
			require.EqualValues(b, 1, inside.Add(1), "holders at a time")
			if asked.After(start) {
				counts[worker]++
				longest[worker] = max(longest[worker], now.Sub(asked))
				handovers[worker] = append(handovers[worker], now.Sub(time.Unix(0, released.Load())))
			}
			if c.hold > 0 {
				time.Sleep(c.hold)
			}
			inside.Add(-1)
			released.Store(time.Now().UnixNano())
			require.NoError(b, lock.Release(ctx))
		}
	}
	for i := range c.clients {
		locker := redislock.New(server.Client())
		for j := range c.each {
			workers.Go(func() { work(i*c.each+j, locker) })
		}
	}
	time.Sleep(time.Until(start))
	calls, before := server.Calls("evalsha")+server.Calls("eval"), time.Now()
	time.Sleep(time.Until(end))
	calls, took := server.Calls("evalsha")+server.Calls("eval")-calls, time.Since(before)
	workers.Wait()

	sum := 0
	for _, count := range counts {
		sum += count
	}
	rate := float64(sum) / took.Seconds()
	all := slices.Sorted(slices.Values(slices.Concat(handovers...)))
	fmt.Printf("| %d × %d, %v hold | %.0f | %.2f | %v | %v | %.2f | %v | %v | %v |\n",
		c.clients, c.each, c.hold, rate, float64(calls)/float64(sum),
		slices.Max(longest).Round(time.Millisecond),
		time.Duration(1.5*float64(len(counts))/rate*float64(time.Second)).Round(time.Millisecond),
		float64(slices.Min(counts))/float64(slices.Max(counts)),
		all[len(all)/2].Round(time.Microsecond), all[len(all)*99/100].Round(time.Microsecond),
		bare[len(bare)/2].Round(time.Microsecond))
}

// bareHandovers measures the least that a handover can cost after such a pause.
func bareHandovers(b *testing.B, server *redistest.Server, pause time.Duration) []time.Duration {
	ctx := context.Background()
	rdb := server.Client()
	pubsub := server.Client().Subscribe(ctx, "bare")
	defer pubsub.Close()
	_, err := pubsub.Receive(ctx)
	require.NoError(b, err)
	messages := pubsub.Channel()
	script := redis.NewScript(`
		redis.call('set', KEYS[1], ARGV[1], 'px', 10000)
		return redis.call('publish', 'bare', ARGV[1])`)
	var times []time.Duration
	for range 2000 {
		if pause > 0 {
			time.Sleep(pause)
		}
		done := make(chan error, 1)
		start := time.Now()
		go func() { done <- script.Run(ctx, rdb, []string{"bare"}, "0123456789012345678901").Err() }()
		<-messages
		times = append(times, time.Since(start))
		require.NoError(b, <-done)
	}
	slices.Sort(times)
	return times
}
