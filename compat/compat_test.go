// Package compat tests what processes of upstream's module and of this one do to each other's locks.
package compat

import (
	"context"
	"errors"
	"testing"
	"time"

	upstream "example.com/upstream"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

const (
	key = "lock"
	ttl = time.Minute
)

// several are the options by which a lock has several holders.
var several = map[string]redislock.Options{
	"shared":           {Shared: true},
	"limited":          {Limit: 2},
	"shared, in turn":  {Shared: true, RetryStrategy: redislock.FairQueue()},
	"limited, in turn": {Limit: 2, RetryStrategy: redislock.FairQueue()},
}

// testEach runs a test for each of them, on a server of its own.
func testEach(t *testing.T, test func(t *testing.T, rdb *redis.Client, opt *redislock.Options)) {
	t.Parallel()
	for name, opt := range several {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, redistest.Start(t).Client(), &opt)
		})
	}
}

func obtain(t *testing.T, rdb *redis.Client, opt *redislock.Options) *redislock.Lock {
	t.Helper()
	lock, err := redislock.Obtain(t.Context(), rdb, key, ttl, opt)
	require.NoError(t, err)
	return lock
}

// While this module has several holders, upstream's callers are refused, however they ask.
func TestUpstream_isRefused(t *testing.T) {
	testEach(t, func(t *testing.T, rdb *redis.Client, opt *redislock.Options) {
		locks := []*redislock.Lock{obtain(t, rdb, opt), obtain(t, rdb, opt)}
		old := upstream.New(rdb)
		for range 2 {
			for _, options := range []*upstream.Options{
				nil,
				{Token: locks[0].Token()},
				{Token: "0", Metadata: "more"},
				{RetryStrategy: upstream.LimitRetry(upstream.LinearBackoff(time.Millisecond), 3)},
			} {
				_, err := old.Obtain(t.Context(), key, ttl, options)
				assert.Equal(t, upstream.ErrNotObtained, err, "%+v", options)
				_, err = old.ObtainMulti(t.Context(), []string{"free", key}, ttl, options)
				assert.Equal(t, upstream.ErrNotObtained, err, "%+v", options)
			}
			for _, lock := range locks {
				require.NoError(t, lock.Refresh(t.Context(), ttl, nil))
			}
			require.NoError(t, locks[len(locks)-1].Release(t.Context()))
			locks = locks[:1]
		}
		lock, err := old.Obtain(t.Context(), key, ttl, nil)
		require.NoError(t, err, "after the last of them")
		require.NoError(t, lock.Release(t.Context()))
	})
}

// While upstream holds a lock, nobody else joins it; [redislock.Inspect] knows who it is.
func TestUpstream_holds(t *testing.T) {
	testEach(t, func(t *testing.T, rdb *redis.Client, opt *redislock.Options) {
		lock, err := upstream.Obtain(t.Context(), rdb, key, ttl, &upstream.Options{Metadata: " and more"})
		require.NoError(t, err)
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			_, err := redislock.Obtain(ctx, rdb, key, ttl, opt)
			cancel()
			if opt.RetryStrategy == nil {
				assert.Equal(t, redislock.ErrNotObtained, err)
			}
			assert.Error(t, err)
			require.NoError(t, lock.Refresh(t.Context(), ttl, nil))
		}
		info, err := redislock.Inspect(t.Context(), rdb, key)
		require.NoError(t, err)
		require.Len(t, info.Holders, 1)
		assert.Equal(t, lock.Token()+" and more", info.Holders[0].Value)
		assert.Greater(t, info.Holders[0].TTL, ttl/2)
		assert.False(t, info.Holders[0].Shared)
		assert.Equal(t, 1, info.Limit)
		assert.Empty(t, info.Waiters)

		locker := redislock.New(rdb)
		assert.Equal(t, redislock.ErrLockNotHeld, locker.ReleaseByToken(t.Context(), key, "another"))
		require.NoError(t, locker.ReleaseByToken(t.Context(), key, lock.Token()))
		assert.Equal(t, upstream.ErrLockNotHeld, lock.Release(t.Context()))
		require.NoError(t, obtain(t, rdb, opt).Release(t.Context()))
	})
}

// A holder of upstream's that comes late changes nothing for those who hold the lock now.
func TestUpstream_isLate(t *testing.T) {
	testEach(t, func(t *testing.T, rdb *redis.Client, opt *redislock.Options) {
		late, err := upstream.Obtain(t.Context(), rdb, key, ttl, nil)
		require.NoError(t, err)
		require.NoError(t, rdb.Del(t.Context(), key).Err()) // as if its TTL had passed
		locks := []*redislock.Lock{obtain(t, rdb, opt), obtain(t, rdb, opt)}
		assert.Equal(t, upstream.ErrNotObtained, late.Refresh(t.Context(), ttl/4, nil))
		assert.Equal(t, upstream.ErrLockNotHeld, late.Release(t.Context()))
		left, err := late.TTL(t.Context())
		require.NoError(t, err)
		assert.Zero(t, left)
		for _, lock := range locks {
			left, err := lock.TTL(t.Context())
			require.NoError(t, err)
			assert.Greater(t, left, ttl/2)
			require.NoError(t, lock.Release(t.Context()))
		}
	})
}

// Upstream's release wakes nobody: who waits in turn finds out by asking.
func TestUpstream_releases(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	lock, err := upstream.Obtain(t.Context(), rdb, key, ttl, nil)
	require.NoError(t, err)
	results := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := redislock.Obtain(t.Context(), rdb, key, ttl, &redislock.Options{Shared: true, RetryStrategy: redislock.FairQueue()})
			results <- err
		}()
	}
	require.Eventually(t, func() bool {
		info, err := redislock.Inspect(t.Context(), rdb, key)
		return err == nil && len(info.Waiters) == 2
	}, 10*time.Second, time.Millisecond)
	require.NoError(t, lock.Release(t.Context()))
	for range 2 {
		select {
		case err := <-results:
			require.NoError(t, err)
		case <-time.After(20 * time.Second):
			require.Fail(t, "no waiter was served")
		}
	}
	_, err = upstream.Obtain(t.Context(), rdb, key, ttl, nil)
	assert.True(t, errors.Is(err, upstream.ErrNotObtained))
}
