package redislock_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func confirmed(replicas int) *redislock.Options {
	return &redislock.Options{MinReplicas: replicas}
}

func TestMinReplicas(t *testing.T) {
	t.Parallel()
	replicated := redistest.StartReplicas(t)
	rdb := replicated.Master.Client()
	opts := map[string]func() *redislock.Options{
		"plain": func() *redislock.Options { return confirmed(2) },
		"fenced": func() *redislock.Options {
			return &redislock.Options{MinReplicas: 2, FenceKey: "fence", Token: "custom"}
		},
		"fair": func() *redislock.Options {
			return &redislock.Options{MinReplicas: 2, RetryStrategy: redislock.FairQueue()}
		},
		"fair and custom": func() *redislock.Options {
			return &redislock.Options{MinReplicas: 2, RetryStrategy: redislock.FairQueue(), Token: "custom"}
		},
	}
	for name, opt := range opts {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, rdb.ScriptFlush(t.Context()).Err())
			lock := obtain(t, rdb, opt())
			for _, replica := range replicated.Replicas {
				assert.Equal(t, lock.Token(), replica.Client().Get(t.Context(), key).Val(), "already there")
			}
			_, err := redislock.Obtain(t.Context(), rdb, key, ttl, confirmed(2))
			assert.Equal(t, redislock.ErrNotObtained, err)
			require.NoError(t, lock.Refresh(t.Context(), 2*ttl, nil))
			for _, replica := range replicated.Replicas {
				requireTTL(t, replica.Client(), key, 2*ttl)
			}
			require.NoError(t, lock.Release(t.Context()))
		})
	}
	for name, opt := range opts {
		t.Run("not enough/"+name, func(t *testing.T) {
			opt := opt()
			opt.MinReplicas = 3
			start := time.Now()
			var tally tally
			_, err := redislock.New(rdb).WithObserver(&tally).Obtain(t.Context(), key, ttl, opt)
			assert.ErrorContains(t, err, "2 of 3 replicas")
			assert.NotErrorIs(t, err, redislock.ErrNotObtained)
			assert.Less(t, time.Since(start), 10*time.Second)
			if opt.Token == "" {
				requireGone(t, rdb, key, queueKey, waitersKey)
			} else {
				assert.Equal(t, opt.Token, rdb.Get(t.Context(), key).Val(), "it may have held the lock before")
				require.NoError(t, rdb.Del(t.Context(), key).Err())
			}
			tally.require(t, map[string]int{"obtain error": 1})
		})
	}
	t.Run("bounded by the TTL and by the context", func(t *testing.T) {
		_, err := redislock.Obtain(t.Context(), rdb, key, time.Second, confirmed(3))
		assert.ErrorContains(t, err, "within 500ms")
		start := time.Now()
		for i := range 8 { // of a second each, without the context
			ctx, cancel := context.WithTimeout(t.Context(), 80*time.Millisecond)
			_, err = redislock.Obtain(ctx, rdb, fmt.Sprint("brief ", i), ttl, confirmed(3))
			cancel()
			assert.Error(t, err)
			assert.NotErrorIs(t, err, redislock.ErrNotObtained)
		}
		assert.Less(t, time.Since(start), 6*time.Second)
	})
}

// A refresh that replicas do not confirm is not known to have happened.
func TestMinReplicas_refresh(t *testing.T) {
	t.Parallel()
	replicated := redistest.StartReplicas(t)
	rdb := replicated.Master.Client()
	const ttl = 3 * time.Second
	lock, err := redislock.Obtain(t.Context(), rdb, key, ttl, &redislock.Options{
		MinReplicas: 2,
		Watchdog:    redislock.NewTickWatchdog(100 * time.Millisecond),
	})
	require.NoError(t, err)
	later := time.Now().Add(ttl)
	require.Eventually(t, func() bool { return lock.ValidUntil().After(later) }, 20*time.Second, time.Millisecond)
	replicated.Replicas[0].Pause()
	defer replicated.Replicas[0].Resume()
	assert.ErrorContains(t, lock.Refresh(t.Context(), ttl, nil), "1 of 2 replicas")
	select {
	case <-lock.Done():
	case <-time.After(3 * ttl):
		require.Fail(t, "the lock is believed in although no refresh is confirmed")
	}
	assert.EqualValues(t, 1, rdb.Exists(t.Context(), key).Val(), "the master has it")
}

func TestMinReplicas_handover(t *testing.T) {
	t.Parallel()
	replicated := redistest.StartReplicas(t)
	rdb := replicated.Master.Client()
	opt := func() *redislock.Options {
		return &redislock.Options{MinReplicas: 2, RetryStrategy: redislock.FairQueue()}
	}
	lock := obtain(t, rdb, opt())
	results := make(chan obtained, 2)
	waitInLine(t, t.Context(), rdb, rdb, "first", opt(), results)
	waitInLine(t, t.Context(), rdb, rdb, "second", opt(), results)
	awaitChannels(t, rdb, 2)
	require.NoError(t, lock.Release(t.Context()))
	first := receive(t, results)
	require.NoError(t, first.err)
	for _, replica := range replicated.Replicas {
		assert.Equal(t, first.lock.Token(), replica.Client().Get(t.Context(), key).Val())
	}
	requireOrder(t, first.lock, results, "second")
}

func TestMinReplicas_unsuitableClients(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	_, err := redislock.Obtain(t.Context(), struct{ redis.Scripter }{server.Client()}, key, ttl, confirmed(1))
	assert.ErrorContains(t, err, "MinReplicas of 1 with a struct { redis.Scripter }")
	_, err = redislock.Obtain(t.Context(), server.Client(), key, ttl, confirmed(-1))
	assert.ErrorContains(t, err, "-1")
	awaitNoKeys(t, server.Client())
}

func TestMinReplicas_cluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, true)
	rdb := cluster.Client()
	require.NoError(t, rdb.Exists(t.Context(), key).Err()) // on a busy machine it takes a while to learn of all nodes
	locker := redislock.New(rdb)
	var obtaining sync.WaitGroup
	for _, key := range []string{"a", "b", "c", "d", "e", "f"} {
		obtaining.Go(func() {
			lock, err := locker.Obtain(t.Context(), key, ttl, confirmed(1))
			if !assert.NoError(t, err) {
				return
			}
			assert.NoError(t, lock.Refresh(t.Context(), ttl, nil))
			assert.NoError(t, lock.Release(t.Context()))
			_, err = locker.Obtain(t.Context(), key, ttl, confirmed(2))
			assert.ErrorContains(t, err, "1 of 2 replicas")
			assert.Zero(t, rdb.Exists(t.Context(), key).Val())
		})
	}
	obtaining.Wait()

	// A client that has not heard yet of a slot's new node.
	lock, err := locker.Obtain(t.Context(), key, ttl, confirmed(1))
	require.NoError(t, err)
	i := cluster.MasterOf(key)
	cluster.Migrate(key, cluster.Masters[i], cluster.Masters[(i+1)%3])
	require.NoError(t, lock.Refresh(t.Context(), ttl, nil))
	require.NoError(t, lock.Release(t.Context()))

	// What hides that it is a Cluster.
	hidden, err := cluster.Client().AutoPipeline()
	require.NoError(t, err)
	defer hidden.Close()
	_, err = redislock.Obtain(t.Context(), hidden, key, ttl, confirmed(1))
	assert.ErrorContains(t, err, "MasterForKey")
	require.Eventually(t, func() bool { return rdb.Exists(t.Context(), key).Val() == 0 }, 20*time.Second, time.Millisecond)
}

// A lock that all replicas have confirmed survives its master.
func TestMinReplicas_failover(t *testing.T) {
	t.Parallel()
	replicated := redistest.StartSentinel(t, 1)
	rdb := replicated.Client()
	lock, err := redislock.Obtain(t.Context(), rdb, key, ttl, confirmed(2))
	require.NoError(t, err)
	replicated.Master.Kill()
	require.Eventually(t, func() bool {
		return rdb.Set(t.Context(), "written", "after the failover", 0).Err() == nil
	}, ttl, 10*time.Millisecond)
	_, err = redislock.Obtain(t.Context(), rdb, key, ttl, nil)
	assert.Equal(t, redislock.ErrNotObtained, err)
	assert.Equal(t, lock.Token(), rdb.Get(t.Context(), key).Val())
	require.Eventually(t, func() bool { // the other replica follows the new master; the old one is gone
		err := lock.Refresh(t.Context(), ttl, nil)
		return err != nil && strings.Contains(err.Error(), "1 of 2 replicas")
	}, ttl, 10*time.Millisecond)
	require.NoError(t, lock.Release(t.Context()))
}

// The token holds the lock already: it keeps it if this time too few replicas confirm.
func TestMinReplicas_customTokenIsLeftAlone(t *testing.T) {
	t.Parallel()
	replicated := redistest.StartReplicas(t)
	rdb := replicated.Master.Client()
	for name, strategy := range map[string]redislock.RetryStrategy{"plain": nil, "fair": redislock.FairQueue()} {
		t.Run(name, func(t *testing.T) {
			opt := redislock.Options{MinReplicas: 2, Token: "me", RetryStrategy: strategy}
			lock := obtain(t, rdb, &opt)
			more := opt
			more.MinReplicas = 3
			_, err := redislock.Obtain(t.Context(), rdb, key, ttl, &more)
			require.ErrorContains(t, err, "2 of 3 replicas")
			requireStays(t, 300*time.Millisecond, func() bool { return rdb.Get(t.Context(), key).Val() == "me" })
			require.False(t, isClosed(lock.Done()))
			require.NoError(t, lock.Release(t.Context()))
		})
	}
}

// A wrapper is not gone around.
func TestMinReplicas_clientThatChangesKeys(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	_, err := redislock.Obtain(t.Context(), prefixer{rdb}, key, ttl, confirmed(1))
	assert.ErrorContains(t, err, "redislock_test.prefixer")
	awaitNoKeys(t, rdb)
}

// The lock counts from when it was confirmed, not from when its holder began to wait for it.
func TestMinReplicas_validUntilInAQueue(t *testing.T) {
	t.Parallel()
	replicated := redistest.StartReplicas(t)
	rdb := replicated.Master.Client()
	opt := &redislock.Options{MinReplicas: 1, RetryStrategy: redislock.FairQueue()}
	lock := obtain(t, rdb, opt)
	results := make(chan obtained, 1)
	waitInLine(t, t.Context(), rdb, replicated.Master.Client(), "waiter", opt, results)
	awaitChannels(t, rdb, 1) // it asks no more now, but once a second
	released := time.Now()
	require.NoError(t, lock.Release(t.Context()))
	served := receive(t, results)
	require.NoError(t, served.err)
	assert.GreaterOrEqual(t, served.lock.ValidUntil().Sub(released), ttl-ttl/100)
	require.NoError(t, served.lock.Release(t.Context()))
}

// losing is a hook that has a lock be gone just before it is confirmed.
type losing struct {
	rdb  *redis.Client
	once sync.Once
}

func (l *losing) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (l *losing) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (l *losing) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		digest, _ := cmds[0].Args()[1].(string)
		if redislock.ScriptName(digest) == "refresh" {
			l.once.Do(func() { l.rdb.Del(ctx, key) })
		}
		return next(ctx, cmds)
	}
}

func TestMinReplicas_goneBeforeItIsConfirmed(t *testing.T) {
	t.Parallel()
	replicated := redistest.StartReplicas(t)
	rdb, other := replicated.Master.Client(), replicated.Master.Client()
	rdb.AddHook(&losing{rdb: other})
	lock := obtain(t, rdb, &redislock.Options{MinReplicas: 2, RetryStrategy: redislock.FairQueue()})
	assert.Equal(t, lock.Token(), other.Get(t.Context(), key).Val(), "obtained once more")
	require.NoError(t, lock.Release(t.Context()))
}
