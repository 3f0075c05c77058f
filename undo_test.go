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

// once is for a client that tries once: nothing is sent or dialed again.
func once(o *redis.Options) {
	o.MaxRetries = -1
	o.DialerRetries = 1
}

// impatiently returns the client with which a call fails that is not answered soon. It has the
// connections of rdb, which is to open them: on a busy machine the patience is too short for
// calls that have to succeed.
func impatiently(rdb *redis.Client) *redis.Client {
	return rdb.WithTimeout(100 * time.Millisecond)
}

// awaitCalls waits until the server has executed a command more often than so.
func awaitCalls(t *testing.T, server *redistest.Server, command string, before int) {
	t.Helper()
	require.Eventually(t, func() bool { return server.Calls(command) > before }, 20*time.Second, 5*time.Millisecond,
		"the command has not arrived")
}

// pauses is a hook that pauses the server just before a call is sent, and for as long as is
// asked for: whoever made the call has looked at the clock before.
type pauses struct {
	pipelineCounter
	server *redistest.Server
	next   atomic.Int64
}

func (p *pauses) atNextCall(duration time.Duration) { p.next.Store(int64(duration)) }

func (p *pauses) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if duration := p.next.Swap(0); duration > 0 {
			p.server.Pause()
			time.AfterFunc(time.Duration(duration), p.server.Resume)
		}
		return next(ctx, cmd)
	}
}

func TestObtain_replyTooLate(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	server := redistest.Start(t)
	direct := server.Client()
	proxy := redistest.StartProxy(t, server.Addr)
	rdb := redistest.Client(t, proxy.Addr)
	pauses := pauses{server: server}
	rdb.AddHook(&pauses)

	// The server has the request only after the pause, so that the key is there
	// with all of its TTL when the reply arrives.
	const ttl = time.Second
	const tooLong = ttl + ttl/4
	var tally tally
	locker := redislock.New(rdb).WithObserver(&tally)
	pauses.atNextCall(tooLong)
	lock, err := locker.Obtain(t.Context(), key, ttl, nil)
	assert.True(t, err == redislock.ErrNotObtained, "got %v", err)
	assert.Nil(t, lock)
	tally.require(t, map[string]int{"obtain failed": 1})
	requireGone(t, direct, key)

	// The next try is on time.
	pauses.atNextCall(tooLong)
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
	t.Parallel()
	redistest.TakesLong(t)
	for name, fail := range map[string]func(*redistest.Server, *redistest.Proxy) (recover func()){
		"connection lost": func(_ *redistest.Server, proxy *redistest.Proxy) func() {
			proxy.LoseReplies(1)
			return func() {}
		},
		"replies lost": func(_ *redistest.Server, proxy *redistest.Proxy) func() {
			proxy.DropReplies(true)
			return func() { proxy.DropReplies(false) }
		},
		"server paused": func(server *redistest.Server, _ *redistest.Proxy) func() {
			server.Pause()
			return server.Resume
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			proxy := redistest.StartProxy(t, server.Addr)
			rdb := redistest.Client(t, proxy.Addr, once)
			require.NoError(t, obtain(t, rdb, nil).Release(t.Context()))
			awaitNoTasks(t, rdb)
			calls := server.Calls("set")
			recover := fail(server, proxy)
			_, err := redislock.Obtain(t.Context(), impatiently(rdb), key, time.Hour, nil)
			recover()
			require.Error(t, err)
			awaitCalls(t, server, "set", calls)
			eventuallyFree(t, server.Client())
		})
	}
}

func TestObtain_orphanOfARestart(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	proxy := redistest.StartProxy(t, server.Addr)
	rdb := redistest.Client(t, proxy.Addr, once)
	require.NoError(t, obtain(t, rdb, nil).Release(t.Context()))

	calls := server.Calls("set")
	proxy.DropReplies(true)
	failed := make(chan error, 1)
	go func() {
		_, err := redislock.Obtain(t.Context(), rdb, key, time.Hour, nil)
		failed <- err
	}()
	awaitCalls(t, server, "set", calls)
	server.Kill()
	require.Error(t, <-failed)
	proxy.DropReplies(false)
	server.Restart()
	eventuallyFree(t, server.Client())
}

func TestObtain_customTokenIsLeftAlone(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	direct := server.Client()
	proxy := redistest.StartProxy(t, server.Addr)
	rdb := redistest.Client(t, proxy.Addr, once)
	opt := &redislock.Options{Token: "me"}
	lock := obtain(t, rdb, opt)

	released := server.Calls("del")
	proxy.LoseReplies(1)
	_, err := redislock.Obtain(t.Context(), rdb, key, time.Hour, opt)
	require.Error(t, err)
	// This is several times as long as the release of an orphan takes above.
	requireStays(t, 200*time.Millisecond, func() bool { return server.Calls("del") == released })
	assert.Equal(t, "me", direct.Get(t.Context(), key).Val())
	require.NoError(t, lock.Release(t.Context()))
}

// When Redis is away every call fails. What looks after orphans stays bounded.
func TestObtain_orphansAreBounded(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(once)
	server.Kill()
	for range 1000 {
		_, err := redislock.Obtain(t.Context(), rdb, key, time.Hour, nil)
		require.Error(t, err)
	}
	assert.Equal(t, 256, redislock.Orphans(rdb))
}

// A node that is silent leaves as many orphans as are looked after. That is no reason not to
// look after those of other servers.
func TestObtain_orphansOfASilentServer(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	nodes := startNodes(t, 3)
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	rdb := redistest.Client(t, proxy.Addr, once)
	require.NoError(t, obtain(t, rdb, nil).Release(t.Context()))
	awaitNoTasks(t, rdb)

	silent := impatiently(nodes[0].Client(once))
	locker := redislock.NewQuorum(silent, nodes[1].Client(once), nodes[2].Client(once))
	obtainAtLast(t, quorumOf(nodes), key, ttl, nil)
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
	require.Eventually(t, func() bool { return redislock.Orphans(silent) >= 256 }, 20*time.Second, time.Millisecond)
	proxy.LoseReplies(1)
	_, err := redislock.Obtain(t.Context(), rdb, key, time.Hour, nil)
	require.Error(t, err)
	eventuallyFree(t, server.Client())
	cancel()
	polling.Wait()
}

// A call whose context is over sends nothing, so that there is nothing to release either.
func TestObtain_contextOverSendsNothing(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	scripts := func() (n int) {
		for _, node := range nodes {
			n += node.Calls("evalsha") + node.Calls("eval") + node.Calls("set")
		}
		return n
	}
	var tally tally
	one := func() *redislock.Client { return redislock.New(nodes[0].Client()).WithObserver(&tally) }
	for range 25 {
		for _, obtain := range []func() (*redislock.Lock, error){
			func() (*redislock.Lock, error) { return one().Obtain(ctx, key, ttl, nil) },
			func() (*redislock.Lock, error) { return one().Obtain(ctx, key, ttl, fair()) },
			func() (*redislock.Lock, error) { return one().ObtainMulti(ctx, []string{"a", "b"}, ttl, nil) },
			func() (*redislock.Lock, error) {
				return quorumOf(nodes).WithObserver(&tally).Obtain(ctx, key, ttl, nil)
			},
		} {
			_, err := obtain()
			require.ErrorIs(t, err, context.Canceled)
		}
	}
	tally.require(t, map[string]int{"obtain cancel": 100})
	requireStays(t, 100*time.Millisecond, func() bool { return scripts() == 0 }) // several times as long as an orphan is left alone
}

// repeater is a hook that keeps commands that take a lock waiting, as long as a Redis client
// waits before it sends one again, and the copy that it might have sent.
type repeater struct{ sent []any }

func (r *repeater) DialHook(next redis.DialHook) redis.DialHook { return next }

func (r *repeater) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		name := redislock.ScriptName(fmt.Sprint(cmd.Args()[min(1, len(cmd.Args())-1)]))
		if cmd.Name() == "set" || name == "obtain" || name == "ask" {
			r.sent = slices.Clone(cmd.Args())
			time.Sleep(redislock.SlowReply)
		}
		return next(ctx, cmd)
	}
}

func (r *repeater) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// requireTakes sends a command that takes a lock.
func requireTakes(t *testing.T, rdb *redis.Client, command []any) {
	t.Helper()
	reply, err := rdb.Do(t.Context(), command...).Result()
	require.NoError(t, err)
	require.NotEqual(t, int64(0), reply)
}

// A command that takes a lock was answered late, and comes once more when the lock is free.
func TestObtain_sentTwice(t *testing.T) {
	t.Parallel()
	for name, opt := range map[string]*redislock.Options{"plain": nil, "fenced": {FenceKey: "fence"}, "fair": fair()} {
		t.Run("obtained and released, "+name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			client, rdb, hook := server.Client(), server.Client(), &repeater{}
			client.AddHook(hook)
			lock, err := redislock.Obtain(t.Context(), client, key, time.Hour, opt)
			require.NoError(t, err)
			require.NoError(t, lock.Release(t.Context()))
			requireTakes(t, rdb, hook.sent)
			eventuallyFree(t, rdb)
		})
	}
	t.Run("told no", func(t *testing.T) {
		t.Parallel()
		server := redistest.Start(t)
		client, rdb, hook := server.Client(), server.Client(), &repeater{}
		lock := obtain(t, rdb, nil)
		client.AddHook(hook)
		_, err := redislock.Obtain(t.Context(), client, key, time.Hour, nil)
		require.Equal(t, redislock.ErrNotObtained, err)
		require.NoError(t, lock.Release(t.Context()))
		requireTakes(t, rdb, hook.sent)
		eventuallyFree(t, rdb)
	})
}
