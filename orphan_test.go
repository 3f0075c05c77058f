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

// A node that is silent leaves as many orphans as are looked after. That is no reason not to
// look after those of other servers.
func TestObtain_orphansOfASilentServer(t *testing.T) {
	redistest.NoLeaks(t)
	nodes := startNodes(t, 3)
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	rdb := redistest.Client(t, proxy.Addr, impatient)
	require.NoError(t, obtain(t, rdb, nil).Release(t.Context()))

	locker := quorumOf(nodes, impatient)
	_, err := locker.Obtain(t.Context(), key, ttl, nil)
	require.NoError(t, err)
	nodes[0].Pause()
	defer nodes[0].Resume()
	ctx, cancel := context.WithCancel(t.Context())
	var polling sync.WaitGroup
	for range 20 {
		polling.Go(func() {
			for ctx.Err() == nil {
				_, _ = locker.Obtain(ctx, key, 30*time.Second, nil)
			}
		})
	}
	require.Eventually(t, func() bool { return redislock.Orphans() >= 256 }, 20*time.Second, time.Millisecond)
	proxy.LoseReplies(1)
	_, err = redislock.Obtain(t.Context(), rdb, key, time.Hour, nil)
	require.Error(t, err)
	eventuallyFree(t, server.Client())
	cancel()
	polling.Wait()
}

// A call whose context is over sends nothing, so that there is nothing to release either.
func TestObtain_contextOverSendsNothing(t *testing.T) {
	redistest.NoLeaks(t)
	nodes := startNodes(t, 3)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	scripts := func() (n int) {
		for _, node := range nodes {
			n += node.Calls("evalsha") + node.Calls("eval") + node.Calls("set")
		}
		return n
	}
	got := counted(func() {
		for range 25 {
			for _, obtain := range []func() (*redislock.Lock, error){
				func() (*redislock.Lock, error) { return redislock.Obtain(ctx, nodes[0].Client(), key, ttl, nil) },
				func() (*redislock.Lock, error) { return redislock.Obtain(ctx, nodes[0].Client(), key, ttl, fair()) },
				func() (*redislock.Lock, error) {
					return redislock.ObtainMulti(ctx, nodes[0].Client(), []string{"a", "b"}, ttl, nil)
				},
				func() (*redislock.Lock, error) { return quorumOf(nodes).Obtain(ctx, key, ttl, nil) },
			} {
				_, err := obtain()
				require.ErrorIs(t, err, context.Canceled)
			}
		}
	})
	assert.Equal(t, redislock.Stats{Obtain: redislock.Status{Cancel: 100}}, got)
	time.Sleep(100 * time.Millisecond) // several times as long as an orphan is left alone
	assert.Zero(t, scripts())
}
