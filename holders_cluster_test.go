package redislock_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

// readersAndWriter are two readers of one lock, and a writer that holds another, for which more of both wait in
// turn. Those who hold locks are refreshed.
type readersAndWriter struct {
	keptKey string
	kept    []*redislock.Lock
	writer  *redislock.Lock
	waiters string // the key of those who wait
	results chan obtained
}

// waitingInAll is how many wait, each with a client of its own.
const waitingInAll = 4

// joinReadersAndWriter has them come to keys with that hash tag. rdb sees their node.
func joinReadersAndWriter(t *testing.T, tag string, rdb redis.Cmdable, connect func() redislock.RedisClient) *readersAndWriter {
	t.Helper()
	key := "{" + tag + "}writer"
	r := &readersAndWriter{keptKey: "{" + tag + "}kept", waiters: key + "::redislock:waiters", results: make(chan obtained, waitingInAll)}
	hold := func(key string, opt *redislock.Options) *redislock.Lock {
		opt.Watchdog = redislock.NewTickWatchdog(200 * time.Millisecond)
		lock, err := redislock.Obtain(t.Context(), connect(), key, ttl, opt)
		require.NoError(t, err)
		return lock
	}
	r.kept = []*redislock.Lock{hold(r.keptKey, reader()), hold(r.keptKey, &redislock.Options{Shared: true})}
	r.writer = hold(key, fair())
	for i, opt := range []*redislock.Options{reader(), reader(), fair(), reader()} {
		client := connect()
		go func() {
			lock, err := redislock.Obtain(t.Context(), client, key, ttl, opt)
			r.results <- obtained{fmt.Sprint(i), lock, err, time.Now()}
		}()
		require.Eventually(t, func() bool {
			return rdb.ZCard(t.Context(), key+"::redislock:queue").Val() == int64(i+1)
		}, 10*time.Second, time.Millisecond)
	}
	return r
}

// requireRefreshed requires that those who hold locks are refreshed from now on.
func (r *readersAndWriter) requireRefreshed(t *testing.T) {
	t.Helper()
	for _, lock := range append(r.kept, r.writer) {
		until := lock.ValidUntil()
		require.Eventually(t, func() bool { return lock.ValidUntil().After(until) }, 20*time.Second, time.Millisecond)
	}
}

// requireServed requires that those who wait are let in in order, readers together, and that the other lock has
// both its readers still.
func (r *readersAndWriter) requireServed(t *testing.T, client redislock.RedisClient) {
	t.Helper()
	requireGroups(t, r.writer, r.results, []string{"0", "1"}, []string{"2"}, []string{"3"})
	for _, lock := range r.kept {
		_, err := redislock.Obtain(t.Context(), client, r.keptKey, ttl, nil)
		require.Equal(t, redislock.ErrNotObtained, err)
		require.NoError(t, lock.Release(t.Context()))
	}
	lock, err := redislock.Obtain(t.Context(), client, r.keptKey, ttl, nil)
	require.NoError(t, err)
	require.NoError(t, lock.Release(t.Context()))
}

// Locks with several holders have keys beside their own, which have to be in its slot. Those of which it is not
// known what they are have at least one key that is.
func TestHolders_keyWithBrace(t *testing.T) {
	t.Parallel()
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{
		"one": redistest.Embedded(t).Addr(), "other": redistest.Embedded(t).Addr(),
	}})
	t.Cleanup(func() { assert.NoError(t, ring.Close()) })
	requireBracesWork(t, ring)
}

func requireBracesWork(t *testing.T, client redislock.RedisClient) {
	t.Helper()
	locker := redislock.New(client)
	for _, strategy := range []redislock.RetryStrategy{nil, redislock.FairQueue()} {
		_, err := locker.Obtain(t.Context(), "a}", ttl, &redislock.Options{Shared: true, RetryStrategy: strategy})
		assert.ErrorContains(t, err, `redislock: key "a}" cannot be used with Shared`)
		assert.ErrorContains(t, err, "{hash tag}")
		_, err = locker.Obtain(t.Context(), "a}", ttl, &redislock.Options{Limit: 4, RetryStrategy: strategy})
		assert.ErrorContains(t, err, `redislock: key "a}" cannot be used with Limit of 4`)
		for _, opt := range []*redislock.Options{{Shared: true}, {Limit: 2}} {
			opt.RetryStrategy = strategy
			lock, err := locker.Obtain(t.Context(), "{tag}a}", ttl, opt)
			require.NoError(t, err)
			info, err := redislock.Inspect(t.Context(), client, "{tag}a}")
			require.NoError(t, err)
			requireHeldBy(t, info, lock)
			require.NoError(t, lock.Release(t.Context()))
		}
	}
	lock, err := locker.Obtain(t.Context(), "a}", ttl, nil)
	require.NoError(t, err)
	info, err := redislock.Inspect(t.Context(), client, "a}")
	require.NoError(t, err)
	requireHeldBy(t, info, lock)
	assert.Equal(t, 1, info.Limit)
	require.NoError(t, locker.ReleaseByToken(t.Context(), "a}", lock.Token()))
	info, err = redislock.Inspect(t.Context(), client, "a}")
	require.NoError(t, err)
	assert.Equal(t, redislock.Info{}, info)
	assert.Equal(t, redislock.ErrLockNotHeld, locker.ReleaseByToken(t.Context(), "a}", lock.Token()))
}
