package redislock_test

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

// Options that cannot be met are an error that names the value, and nothing is taken.
func TestOptions_bounds(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	for message, opt := range map[string]redislock.Options{
		"MaxWait of -1s":          {MaxWait: -time.Second},
		"HoldAtLeast of -1ns":     {HoldAtLeast: -1},
		"HoldAtMost of -1s":       {HoldAtMost: -time.Second},
		"HoldAtMost of 999.999µs": {HoldAtMost: time.Millisecond - 1},
		"HoldAtLeast of 1m1s is longer than HoldAtMost of 1m0s": {HoldAtLeast: 61 * time.Second, HoldAtMost: time.Minute},
		`Token "\x00mine" with HoldAtLeast`:                     {HoldAtLeast: time.Second, Token: "\x00mine"},
	} {
		_, err := redislock.Obtain(t.Context(), rdb, key, ttl, &opt)
		assert.ErrorContains(t, err, "redislock: "+message)
		assert.ErrorContains(t, redislock.NewElection(redislock.New(rdb), key, ttl, &opt).
			Run(t.Context(), func(context.Context) error { return nil }), "redislock: "+message)
	}
	requireGone(t, rdb, key)
	longest := &redislock.Options{MaxWait: math.MaxInt64, HoldAtLeast: math.MaxInt64, HoldAtMost: math.MaxInt64}
	lock := obtain(t, rdb, longest)
	require.NoError(t, lock.Refresh(t.Context(), ttl, nil))
	require.NoError(t, lock.Release(t.Context()))
	require.Greater(t, rdb.PTTL(t.Context(), key).Val(), 290*365*24*time.Hour)
}

// A lock that is released stays for what is left of HoldAtLeast: nobody has it before, not even by the
// same token, and no other release frees it.
func TestOptions_holdAtLeast(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		const hour = time.Hour
		opt := &redislock.Options{HoldAtLeast: hour, Token: "mine", Metadata: " is this"}
		lock := obtain(t, rdb, opt)
		requireTTL(t, rdb, key, ttl)
		require.NoError(t, lock.Release(t.Context()))
		requireTTL(t, rdb, key, hour)
		value := rdb.Get(t.Context(), key).Val()
		require.Regexp(t, `^\x00[\w-]{22}mine is this$`, value)

		_, err := redislock.Obtain(t.Context(), rdb, key, ttl, opt)
		require.Equal(t, redislock.ErrNotObtained, err)
		require.Equal(t, redislock.ErrLockNotHeld, lock.Release(t.Context()))
		require.Equal(t, value, rdb.Get(t.Context(), key).Val())
		left, err := lock.TTL(t.Context())
		require.NoError(t, err)
		require.Zero(t, left)
	})
}
