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

func TestReleaseByToken(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		locker := redislock.New(rdb) // not that of the locks
		opts := map[string]redislock.Options{"exclusive": {}, "exclusive, in turn": {RetryStrategy: redislock.FairQueue()}}
		for name, opt := range severalHolders {
			opts[name] = opt
		}
		for name, opt := range opts {
			opt.Metadata = " and more"
			lock := obtain(t, rdb, &opt)
			var others []*redislock.Lock
			if opt.Shared || opt.Limit > 0 {
				others = append(others, obtain(t, rdb, &opt), obtain(t, rdb, &opt))
			}
			assert.Equal(t, redislock.ErrLockNotHeld, locker.ReleaseByToken(t.Context(), key, "x"+lock.Token()), name)
			require.NoError(t, locker.ReleaseByToken(t.Context(), key, lock.Token()), name)
			assert.Equal(t, redislock.ErrLockNotHeld, locker.ReleaseByToken(t.Context(), key, lock.Token()), name)
			assert.Equal(t, redislock.ErrNotObtained, lock.Refresh(t.Context(), ttl, nil), name)
			assert.Equal(t, redislock.ErrLockNotHeld, lock.Release(t.Context()), name)
			for _, other := range others {
				require.NoError(t, locker.ReleaseByToken(t.Context(), key, other.Token()), name)
			}
			awaitNoKeys(t, rdb)
		}
		assert.Equal(t, redislock.ErrLockNotHeld, locker.ReleaseByToken(t.Context(), key, "me"))
	})
}

// Waiters are told as by a release.
func TestReleaseByToken_queueMovesOn(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		locker := redislock.New(rdb)
		lock := obtain(t, rdb, &redislock.Options{Token: "the first"})
		results := make(chan obtained, 4)
		for i, opt := range []*redislock.Options{fair(), reader(), reader(), fair()} {
			waitInLine(t, t.Context(), rdb, rdb, fmt.Sprint(i), opt, results)
		}
		awaitChannels(t, rdb, 4)
		release := func(lock *redislock.Lock) {
			start := time.Now()
			require.NoError(t, locker.ReleaseByToken(t.Context(), key, lock.Token()))
			require.Less(t, time.Since(start), 10*time.Second)
		}
		release(lock)
		writer := receive(t, results)
		require.NoError(t, writer.err)
		require.Equal(t, "0", writer.name)
		release(writer.lock)
		one, other := receive(t, results), receive(t, results)
		require.NoError(t, one.err)
		require.NoError(t, other.err)
		require.ElementsMatch(t, []string{"1", "2"}, []string{one.name, other.name})
		release(one.lock)
		require.EqualValues(t, 1, queued(t, rdb))
		release(other.lock)
		last := receive(t, results)
		require.NoError(t, last.err)
		release(last.lock)
		awaitNoKeys(t, rdb)
	})
}

// A holder with a watchdog learns of it by its next refresh.
func TestReleaseByToken_watched(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	for _, opt := range []*redislock.Options{{}, {Shared: true}} {
		opt.Watchdog = redislock.NewTickWatchdog(10 * time.Millisecond)
		lock := obtain(t, rdb, opt)
		require.NoError(t, redislock.New(rdb).ReleaseByToken(t.Context(), key, lock.Token()))
		select {
		case <-lock.Done():
		case <-time.After(20 * time.Second):
			require.Fail(t, "it has not learned of it")
		}
		awaitNoKeys(t, rdb)
	}
}

func TestReleaseMultiByToken(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		locker := redislock.New(rdb)
		keys := []string{"a", "b", "c"}
		obtain := func() *redislock.Lock {
			lock, err := locker.ObtainMulti(t.Context(), keys, ttl, &redislock.Options{Metadata: "!"})
			require.NoError(t, err)
			return lock
		}
		lock := obtain()
		require.NoError(t, locker.ReleaseMultiByToken(t.Context(), keys, lock.Token()))
		requireGone(t, rdb, keys...)
		assert.Equal(t, redislock.ErrLockNotHeld, locker.ReleaseMultiByToken(t.Context(), keys, lock.Token()))

		lock = obtain()
		require.NoError(t, rdb.Set(t.Context(), "b", "somebody else's", 0).Err())
		assert.Equal(t, redislock.ErrLockNotHeld, locker.ReleaseMultiByToken(t.Context(), keys, lock.Token()))
		requireGone(t, rdb, "a", "c")
		assert.Equal(t, "somebody else's", rdb.Get(t.Context(), "b").Val())
		require.NoError(t, rdb.Del(t.Context(), "b").Err())

		shared, err := locker.Obtain(t.Context(), "a", ttl, reader())
		require.NoError(t, err)
		require.NoError(t, locker.ReleaseMultiByToken(t.Context(), keys[:1], shared.Token()), "one key is a lock of any kind")
		awaitNoKeys(t, rdb)
	})
}

func TestReleaseByToken_quorum(t *testing.T) {
	t.Parallel()
	var clients []redislock.RedisClient
	var nodes []*redis.Client
	for range 3 {
		node := redistest.Client(t, redistest.Embedded(t).Addr())
		nodes, clients = append(nodes, node), append(clients, node)
	}
	locker := redislock.NewQuorum(clients...)
	obtain := func() (lock *redislock.Lock) {
		require.NoError(t, decided(t, func() (err error) {
			lock, err = locker.ObtainMulti(t.Context(), []string{"a", "b"}, ttl, nil)
			return err
		}))
		return lock
	}
	release := func(lock *redislock.Lock) error {
		return locker.ReleaseMultiByToken(t.Context(), lock.Keys(), lock.Token())
	}
	lock := obtain()
	require.NotErrorIs(t, release(lock), redislock.ErrLockNotHeld)
	for _, node := range nodes {
		awaitNoKeys(t, node)
	}
	assert.Equal(t, redislock.ErrLockNotHeld, decided(t, func() error { return release(lock) }))

	lock = obtain()
	require.NoError(t, nodes[0].FlushAll(t.Context()).Err())
	require.NotErrorIs(t, release(lock), redislock.ErrLockNotHeld, "a majority held it")
	lock = obtain()
	require.NoError(t, nodes[0].FlushAll(t.Context()).Err())
	require.NoError(t, nodes[1].FlushAll(t.Context()).Err())
	assert.ErrorIs(t, decided(t, func() error { return release(lock) }), redislock.ErrLockNotHeld)
	for _, node := range nodes {
		awaitNoKeys(t, node)
	}
	assert.ErrorContains(t, locker.ReleaseByToken(t.Context(), "a", ""), "token")
}

// It is a release, to observers and in the statistics.
func TestReleaseByToken_observed(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	var tally tally
	var kinds begunKinds
	locker := redislock.New(rdb).WithObserver(&tally).WithObserver(&kinds)
	lock := obtain(t, rdb, reader())
	require.NoError(t, locker.ReleaseByToken(t.Context(), key, lock.Token()))
	require.Error(t, locker.ReleaseByToken(t.Context(), key, lock.Token()))
	require.Error(t, locker.ReleaseByToken(t.Context(), key, ""))
	over, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, locker.ReleaseByToken(over, key, "me"), context.Canceled)
	tally.require(t, map[string]int{"release success": 1, "release failed": 1, "release error": 1, "release cancel": 1})
	assert.Equal(t, map[string]int{"release ": 4}, kinds.begun)
}

func TestStats_releaseByToken(t *testing.T) {
	onBothInTurn(t, func(t *testing.T, rdb *redis.Client) {
		lock := obtain(t, rdb, nil)
		got := counted(func() {
			locker := redislock.New(rdb)
			assert.NoError(t, locker.ReleaseByToken(t.Context(), key, lock.Token()))
			assert.Error(t, locker.ReleaseMultiByToken(t.Context(), []string{key, "b"}, lock.Token()))
			assert.Error(t, locker.ReleaseByToken(t.Context(), "", lock.Token()))
		})
		assert.Equal(t, redislock.Stats{Release: redislock.Status{Success: 1, Failed: 1, Error: 1}}, got)
	})
}

func TestReleaseByToken_badInput(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	locker := redislock.New(server.Client())
	for want, err := range map[string]error{
		"key 1 of 1 is empty": locker.ReleaseByToken(t.Context(), "", "token"),
		"key 2 of 2 is empty": locker.ReleaseMultiByToken(t.Context(), []string{key, ""}, "token"),
		"no keys":             locker.ReleaseMultiByToken(t.Context(), nil, "token"),
		"token to release by": locker.ReleaseByToken(t.Context(), key, ""),
		"no Redis client":     redislock.New(nil).ReleaseByToken(t.Context(), key, "token"),
	} {
		assert.ErrorContains(t, err, want)
		assert.ErrorContains(t, err, "redislock: ")
		assert.NotErrorIs(t, err, redislock.ErrLockNotHeld)
	}
	assert.Error(t, (*redislock.Client)(nil).ReleaseByToken(t.Context(), key, "token"))
	assert.Zero(t, server.Calls("evalsha"), "nothing was sent")

	keys := []string{"a", "b"}
	_ = locker.ReleaseMultiByToken(t.Context(), keys, "token")
	assert.Equal(t, []string{"a", "b"}, keys)
}
