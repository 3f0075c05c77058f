package redislock_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
)

// counted returns what the counters have grown by while f ran.
func counted(f func()) redislock.Stats {
	before := redislock.GetStats()
	f()
	after := redislock.GetStats()
	status := func(a, b redislock.Status) redislock.Status {
		return redislock.Status{
			Success: a.Success - b.Success,
			Failed:  a.Failed - b.Failed,
			Error:   a.Error - b.Error,
			Cancel:  a.Cancel - b.Cancel,
		}
	}
	return redislock.Stats{
		Obtain:       status(after.Obtain, before.Obtain),
		Release:      status(after.Release, before.Release),
		Refresh:      status(after.Refresh, before.Refresh),
		Backoff:      after.Backoff - before.Backoff,
		Watchdog:     after.Watchdog - before.Watchdog,
		WatchdogDone: after.WatchdogDone - before.WatchdogDone,
		WatchdogTick: after.WatchdogTick - before.WatchdogTick,
		Lost:         after.Lost - before.Lost,
	}
}

// countedWithLosses is counted for what loses locks: one is counted just after its Done has closed.
func countedWithLosses(t testing.TB, lost int64, f func()) redislock.Stats {
	t.Helper()
	before := redislock.GetStats().Lost
	return counted(func() {
		f()
		require.Eventually(t, func() bool { return redislock.GetStats().Lost-before >= lost }, 10*time.Second, time.Millisecond)
	})
}

func TestStats(t *testing.T) {
	onBothInTurn(t, func(t *testing.T, rdb *redis.Client) {
		const workers, rounds = 8, 10
		got := counted(func() {
			var wg sync.WaitGroup
			for range workers {
				wg.Go(func() {
					for range rounds {
						lock, err := redislock.Obtain(t.Context(), rdb, key, ttl, &redislock.Options{
							RetryStrategy: redislock.LinearBackoff(time.Millisecond),
						})
						assert.NoError(t, err)
						assert.NoError(t, lock.Refresh(t.Context(), ttl, nil))
						assert.NoError(t, lock.Release(t.Context()))
						assert.Error(t, lock.Refresh(t.Context(), ttl, nil))
						assert.Error(t, lock.Release(t.Context()))
					}
				})
			}
			wg.Wait()
		})
		got.Backoff = 0 // as many as the machine's speed makes
		const n = workers * rounds
		assert.Equal(t, redislock.Stats{
			Obtain:  redislock.Status{Success: n},
			Refresh: redislock.Status{Success: n, Failed: n},
			Release: redislock.Status{Success: n, Failed: n},
		}, got)
	})
}

func TestStats_eachOutcome(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	failing := scripter{answer: func(ctx context.Context, _ string) (any, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return nil, redis.ErrClosed
	}}
	lockOn := func(rdb *scripter) *redislock.Lock {
		*rdb = answering(1)
		return obtain(t, rdb, nil)
	}
	var rdb scripter
	held, gone, down, late := lockOn(&rdb), lockOn(&rdb), lockOn(&rdb), lockOn(&rdb)

	got := counted(func() {
		rdb = answering(1)
		require.NoError(t, held.Refresh(t.Context(), ttl, nil))
		require.NoError(t, held.Release(t.Context()))
		rdb = answering(0)
		require.Error(t, gone.Refresh(t.Context(), ttl, nil))
		require.Error(t, gone.Release(t.Context()))
		rdb = failing
		require.Error(t, down.Refresh(t.Context(), ttl, nil))
		require.Error(t, down.Release(t.Context()))
		require.Error(t, late.Refresh(ended, ttl, nil))
	})
	assert.Equal(t, redislock.Stats{
		Refresh: redislock.Status{Success: 1, Failed: 1, Error: 1, Cancel: 1},
		Release: redislock.Status{Success: 1, Failed: 1, Error: 1},
		Lost:    1, // found gone by the refresh that failed
	}, got)
}
