package redislock_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

// dumps is all that the server has, each key with how long it lives yet.
func dumps(t testing.TB, rdb *redis.Client) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for _, key := range rdb.Keys(t.Context(), "*").Val() {
		expires, err := rdb.Do(t.Context(), "pexpiretime", key).Int64()
		require.NoError(t, err)
		dump, err := rdb.Dump(t.Context(), key).Result()
		require.NoError(t, err)
		all[key] = fmt.Sprint(expires, " ", dump)
	}
	return all
}

// requireHeldBy requires that these, in any order, hold the lock for a minute, and nobody else.
func requireHeldBy(t testing.TB, info redislock.Info, locks ...*redislock.Lock) {
	t.Helper()
	var want, got []string
	for _, lock := range locks {
		want = append(want, lock.Token()+lock.Metadata())
	}
	for _, holder := range info.Holders {
		got = append(got, holder.Value)
		assert.LessOrEqual(t, holder.TTL, ttl)
		assert.Greater(t, holder.TTL, ttl/2)
	}
	require.ElementsMatch(t, want, got)
}

func TestInspect(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		inspect := func() redislock.Info {
			info, err := redislock.Inspect(t.Context(), rdb, key)
			require.NoError(t, err)
			return info
		}
		assert.Equal(t, redislock.Info{}, inspect())
		requireGone(t, rdb, key, queueKey, waitersKey, holdersKey)

		for _, opt := range []*redislock.Options{nil, fair(), {Metadata: " and more"}} {
			lock := obtain(t, rdb, opt)
			info := inspect()
			requireHeldBy(t, info, lock)
			assert.Equal(t, 1, info.Limit)
			assert.False(t, info.Holders[0].Shared)
			assert.Empty(t, info.Waiters)
			releasedAll(t, rdb, lock)
		}
		for name, opt := range severalHolders {
			locks := []*redislock.Lock{obtain(t, rdb, &opt), obtain(t, rdb, &opt)}
			info := inspect()
			requireHeldBy(t, info, locks...)
			assert.Equal(t, opt.Limit, info.Limit, name)
			for _, holder := range info.Holders {
				assert.Equal(t, opt.Shared, holder.Shared, name)
			}
			releasedAll(t, rdb, locks...)
			assert.Equal(t, redislock.Info{}, inspect())
		}
		several, err := redislock.ObtainMulti(t.Context(), rdb, []string{key, "other"}, ttl, nil)
		require.NoError(t, err)
		requireHeldBy(t, inspect(), several)
		releasedAll(t, rdb, several)
	})
}

// It tells who waits, since when by the server's clock, and in order. Asking changes nothing.
func TestInspect_waiters(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	before := rdb.Time(t.Context()).Val()
	holder := obtain(t, rdb, reader())
	results := make(chan obtained, 3)
	for i, opt := range []*redislock.Options{fair(), reader(), fair()} {
		opt.Metadata = fmt.Sprint(" number ", i)
		waitInLine(t, t.Context(), rdb, rdb, fmt.Sprint(i), opt, results)
	}
	awaitChannels(t, rdb, 3)
	var info redislock.Info
	require.Eventually(t, func() bool { // the waiters ask now and then, and write that
		all := dumps(t, rdb)
		var err error
		info, err = redislock.Inspect(t.Context(), rdb, key)
		require.NoError(t, err)
		return assert.ObjectsAreEqual(all, dumps(t, rdb))
	}, 10*time.Second, time.Millisecond)
	after := rdb.Time(t.Context()).Val()

	requireHeldBy(t, info, holder)
	require.Len(t, info.Waiters, 3)
	since := before
	for i, waiter := range info.Waiters {
		assert.Regexp(t, fmt.Sprintf("^.{22} number %d$", i), waiter.Value)
		assert.True(t, waiter.Since.After(since), "%v is after %v", waiter.Since, since)
		since = waiter.Since
	}
	assert.True(t, since.Before(after))

	require.NoError(t, holder.Release(t.Context()))
	for i := range 3 {
		result := receive(t, results)
		require.NoError(t, result.err)
		require.Equal(t, fmt.Sprint(i), result.name)
		info, err := redislock.Inspect(t.Context(), rdb, key)
		require.NoError(t, err)
		requireHeldBy(t, info, result.lock)
		require.Len(t, info.Waiters, 2-i)
		require.NoError(t, result.lock.Release(t.Context()))
	}
	awaitNoKeys(t, rdb)
}

// A script that only reads is let through where nothing may be written.
func TestInspect_withoutMemory(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	lock := obtain(t, rdb, reader())
	require.NoError(t, rdb.ConfigSet(t.Context(), "maxmemory", "1").Err())
	info, err := redislock.Inspect(t.Context(), rdb, key)
	require.NoError(t, err)
	requireHeldBy(t, info, lock)
}

func TestInspect_badInput(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	_, err := redislock.Inspect(t.Context(), rdb, "")
	assert.ErrorContains(t, err, "redislock: the key to inspect is empty")
	for _, client := range []redislock.RedisClient{nil, (*redis.Client)(nil)} {
		_, err = redislock.Inspect(t.Context(), client, key)
		assert.ErrorContains(t, err, "redislock: no Redis client")
	}
	require.NoError(t, rdb.HSet(t.Context(), key, "no", "lock").Err())
	_, err = redislock.Inspect(t.Context(), rdb, key)
	assert.ErrorContains(t, err, "WRONGTYPE")
	_, err = redislock.Inspect(t.Context(), answering(1), key)
	assert.Error(t, err)
	replying := func(reply ...any) scripter {
		return scripter{answer: func(context.Context, string) (any, error) { return reply, nil }}
	}
	for _, reply := range [][]any{{}, {1}, {1, 2, 3}} {
		_, err = redislock.Inspect(t.Context(), replying(reply...), key)
		assert.ErrorContains(t, err, "is not the reply of inspect.lua")
	}
	info, err := redislock.Inspect(t.Context(), replying([]any{1, []any{"short"}}, "no list"), key)
	require.NoError(t, err)
	assert.Equal(t, redislock.Info{}, info)

	over, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = redislock.Inspect(over, rdb, key)
	assert.ErrorIs(t, err, context.Canceled)
}
