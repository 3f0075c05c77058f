package redislock_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

// eventuallyFree waits until nobody holds the lock: much sooner than its TTL.
func eventuallyFree(t *testing.T, rdb *redis.Client) {
	t.Helper()
	require.Eventually(t, func() bool {
		return rdb.Exists(t.Context(), key).Val() == 0
	}, 20*time.Second, 5*time.Millisecond)
}

func impatient(o *redis.Options) {
	o.ReadTimeout = 100 * time.Millisecond
	o.MaxRetries = -1
}

func TestObtain_replyTooLate(t *testing.T) {
	redistest.NoLeaks(t)
	server := redistest.Start(t)
	direct := server.Client()
	proxy := redistest.StartProxy(t, server.Addr)
	rdb := redistest.Client(t, proxy.Addr)
	require.NoError(t, rdb.Ping(t.Context()).Err())

	// The server has the request only after the pause, so that the key is there
	// with all of its TTL when the reply arrives.
	server.Pause()
	const ttl = 400 * time.Millisecond
	time.AfterFunc(2*ttl, server.Resume)
	before := redislock.GetStats().Obtain
	lock, err := redislock.Obtain(t.Context(), rdb, key, ttl, nil)
	assert.True(t, err == redislock.ErrNotObtained, "got %v", err)
	assert.Nil(t, lock)
	before.Failed++
	assert.Equal(t, before, redislock.GetStats().Obtain)
	requireGone(t, direct, key)

	// The next try is on time.
	server.Pause()
	time.AfterFunc(2*ttl, server.Resume)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	lock, err = redislock.Obtain(ctx, rdb, key, ttl, &redislock.Options{
		RetryStrategy: redislock.LinearBackoff(time.Millisecond),
	})
	require.NoError(t, err)
	assert.Positive(t, time.Until(lock.ValidUntil()))
	require.NoError(t, lock.Release(t.Context()))
}

func TestObtain_ambiguousFailureLeavesNoOrphan(t *testing.T) {
	redistest.NoLeaks(t)
	server := redistest.Start(t)
	direct := server.Client()
	proxy := redistest.StartProxy(t, server.Addr)
	rdb := redistest.Client(t, proxy.Addr, impatient)

	t.Run("connection lost", func(t *testing.T) {
		warm := obtain(t, rdb, nil)
		require.NoError(t, warm.Release(t.Context()))
		proxy.LoseReplies(1)
		_, err := redislock.Obtain(t.Context(), rdb, key, time.Hour, nil)
		require.Error(t, err)
		eventuallyFree(t, direct)
	})
	t.Run("replies lost", func(t *testing.T) {
		warm := obtain(t, rdb, nil)
		require.NoError(t, warm.Release(t.Context()))
		proxy.DropReplies(true)
		_, err := redislock.Obtain(t.Context(), rdb, key, time.Hour, nil)
		require.Error(t, err)
		require.EqualValues(t, 1, direct.Exists(t.Context(), key).Val(), "it has arrived")
		proxy.DropReplies(false)
		eventuallyFree(t, direct)
	})
	t.Run("server paused", func(t *testing.T) {
		warm := obtain(t, rdb, nil)
		require.NoError(t, warm.Release(t.Context()))
		calls := server.Calls("set")
		server.Pause()
		_, err := redislock.Obtain(t.Context(), rdb, key, time.Hour, nil)
		server.Resume()
		require.Error(t, err)
		require.Eventually(t, func() bool { return server.Calls("set") > calls },
			20*time.Second, 5*time.Millisecond, "the command was only late")
		eventuallyFree(t, direct)
	})
}

func TestObtain_orphanOfARestart(t *testing.T) {
	redistest.NoLeaks(t)
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	proxy := redistest.StartProxy(t, server.Addr)
	rdb := redistest.Client(t, proxy.Addr, impatient)
	warm := obtain(t, rdb, nil)
	require.NoError(t, warm.Release(t.Context()))

	calls := server.Calls("set")
	proxy.DropReplies(true)
	failed := make(chan error, 1)
	go func() {
		_, err := redislock.Obtain(t.Context(), rdb, key, time.Hour, nil)
		failed <- err
	}()
	require.Eventually(t, func() bool { return server.Calls("set") > calls }, 20*time.Second, time.Millisecond)
	server.Kill()
	require.Error(t, <-failed)
	proxy.DropReplies(false)
	server.Restart()
	eventuallyFree(t, server.Client())
}

func TestObtain_customTokenIsLeftAlone(t *testing.T) {
	redistest.NoLeaks(t)
	server := redistest.Start(t)
	direct := server.Client()
	proxy := redistest.StartProxy(t, server.Addr)
	rdb := redistest.Client(t, proxy.Addr, impatient)
	opt := &redislock.Options{Token: "me"}
	lock := obtain(t, rdb, opt)

	released := server.Calls("del")
	proxy.LoseReplies(1)
	_, err := redislock.Obtain(t.Context(), rdb, key, time.Hour, opt)
	require.Error(t, err)
	// That nothing happens cannot be waited for. This is several times as long as
	// the release of an orphan takes above.
	time.Sleep(200 * time.Millisecond)
	assert.Equal(t, "me", direct.Get(t.Context(), key).Val())
	assert.Equal(t, released, server.Calls("del"))
	require.NoError(t, lock.Release(t.Context()))
}

// A refusal leaves nothing behind: nothing is asked afterwards.
func TestObtain_refusedLeavesNoOrphan(t *testing.T) {
	redistest.NoLeaks(t)
	server := redistest.Start(t)
	rdb := server.Client()
	require.NoError(t, rdb.RPush(t.Context(), key, "a list").Err())
	_, err := redislock.Obtain(t.Context(), rdb, key, time.Hour, nil)
	require.ErrorContains(t, err, "WRONGTYPE")
	calls := server.Calls("evalsha") + server.Calls("eval")
	time.Sleep(100 * time.Millisecond)
	assert.Equal(t, calls, server.Calls("evalsha")+server.Calls("eval"))
}

// When Redis is away every call fails. What looks after orphans stays bounded.
func TestObtain_orphansAreBounded(t *testing.T) {
	redistest.NoLeaks(t)
	server := redistest.Start(t)
	rdb := server.Client(impatient)
	server.Kill()
	for range 1000 {
		_, err := redislock.Obtain(t.Context(), rdb, key, 2*time.Second, nil)
		require.Error(t, err)
	}
	assert.LessOrEqual(t, redislock.Orphans(), 256)
}
