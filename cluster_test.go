package redislock_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, false)
	rdb := cluster.Client()
	locker := redislock.New(rdb)

	t.Run("locks on all nodes", func(t *testing.T) {
		nodes := make(map[int]int)
		for i := range 60 {
			key := fmt.Sprint("key ", i)
			nodes[cluster.MasterOf(key)]++
			for _, opt := range []*redislock.Options{nil, fair(), {FenceKey: "{" + key + "}:fence"}} {
				lock, err := locker.Obtain(t.Context(), key, ttl, opt)
				require.NoError(t, err)
				_, err = locker.Obtain(t.Context(), key, ttl, nil)
				require.Equal(t, redislock.ErrNotObtained, err)
				require.NoError(t, lock.Refresh(t.Context(), 2*ttl, nil))
				left, err := lock.TTL(t.Context())
				require.NoError(t, err)
				require.Greater(t, left, ttl)
				require.NoError(t, lock.Release(t.Context()))
			}
		}
		assert.Len(t, nodes, 3)
	})

	t.Run("several keys", func(t *testing.T) {
		lock, err := locker.ObtainMulti(t.Context(), []string{"{tag}a", "{tag}b"}, ttl, nil)
		require.NoError(t, err)
		require.NoError(t, lock.Release(t.Context()))

		var tally tally
		locker := locker.WithObserver(&tally)
		_, err = locker.ObtainMulti(t.Context(), []string{"a", "b", "c"}, ttl, nil)
		assert.ErrorContains(t, err, `"a" and "b"`)
		assert.ErrorContains(t, err, "{hash tag}")
		_, err = locker.Obtain(t.Context(), "a", ttl, &redislock.Options{FenceKey: "fence"})
		assert.ErrorContains(t, err, `"a" and "fence"`)
		opt := fair()
		opt.FenceKey = "fence"
		_, err = locker.Obtain(t.Context(), "a", ttl, opt)
		assert.ErrorContains(t, err, "fence")
		assert.ErrorContains(t, err, "{hash tag}")
		tally.require(t, map[string]int{"obtain error": 3})
	})

	t.Run("several holders", func(t *testing.T) {
		requireBracesWork(t, rdb)
		for _, tag := range []string{"a", "b", "c"} { // on all nodes
			joinReadersAndWriter(t, tag, rdb, func() redislock.RedisClient { return rdb }).requireServed(t, rdb)
		}
	})

	t.Run("watched locks", func(t *testing.T) {
		const ttl = 10 * time.Second
		watchdog := redislock.NewTickWatchdog(500 * time.Millisecond)
		var locks []*redislock.Lock
		for i := range 100 {
			lock, err := locker.Obtain(t.Context(), fmt.Sprint("watched ", i), ttl, watched(watchdog))
			require.NoError(t, err)
			locks = append(locks, lock)
		}
		// A new life of each of them has begun twice.
		for range 2 {
			later := time.Now().Add(ttl)
			for _, lock := range locks {
				require.Eventually(t, func() bool { return lock.ValidUntil().After(later) }, 5*ttl, time.Millisecond)
			}
		}
		for _, lock := range locks {
			require.False(t, isClosed(lock.Done()))
			require.NoError(t, lock.Release(t.Context()))
		}
	})

	t.Run("waiters in order", func(t *testing.T) {
		var checking sync.WaitGroup
		for i := range 6 {
			key := fmt.Sprint("crowd ", i)
			lock, err := locker.Obtain(t.Context(), key, ttl, fair())
			require.NoError(t, err)
			names := manyNames()
			results := make(chan obtained, len(names))
			for j, name := range names {
				go func() {
					lock, err := locker.Obtain(t.Context(), key, ttl, fair())
					results <- obtained{name, lock, err, time.Now()}
				}()
				require.Eventually(t, func() bool {
					return rdb.ZCard(t.Context(), "{"+key+"}:redislock:queue").Val() == int64(j+1)
				}, 10*time.Second, time.Millisecond)
			}
			awaitChannelsOf(t, rdb, "{"+key+"}:redislock:waiters", len(names))
			checking.Go(func() { requirePromptness(t, lock, results, names...) })
		}
		checking.Wait()
	})
}

// awaitShardListeners waits until n clients are subscribed to channels of the node.
func awaitShardListeners(t *testing.T, node *redis.Client, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		channels, err := node.PubSubShardChannels(t.Context(), "*").Result()
		return err == nil && len(channels) == n
	}, 20*time.Second, time.Millisecond)
}

func TestCluster_migration(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, false)
	rdb := cluster.Client()
	lock, err := redislock.Obtain(t.Context(), rdb, key, ttl, fair())
	require.NoError(t, err)
	fenced, err := redislock.Obtain(t.Context(), rdb, "{"+key+"}fenced", ttl, &redislock.Options{
		FenceKey: "{" + key + "}fence",
		Watchdog: redislock.NewTickWatchdog(100 * time.Millisecond),
	})
	require.NoError(t, err)
	results := make(chan obtained, 2)
	from := cluster.Masters[cluster.MasterOf(key)]
	to := cluster.Masters[(cluster.MasterOf(key)+1)%3]
	names := []string{"first", "second"}
	for _, name := range names {
		waitInLine(t, t.Context(), from.Client(), cluster.Client(), name, fair(), results)
	}
	readers := joinReadersAndWriter(t, key, from.Client(), func() redislock.RedisClient { return cluster.Client() })
	for range 2 { // there, and back again
		cluster.Migrate(key, from, to)
		from, to = to, from
		readers.requireRefreshed(t)
		until := fenced.ValidUntil()
		require.Eventually(t, func() bool { return fenced.ValidUntil().After(until) }, 20*time.Second, time.Millisecond)
	}
	awaitShardListeners(t, from.Client(), 2+waitingInAll)
	awaitAlive(t, from.Client(), 2)
	awaitAliveOf(t, from.Client(), readers.waiters, waitingInAll)
	readers.requireServed(t, rdb)
	requireOrder(t, lock, results, names...)
	require.NoError(t, fenced.Release(t.Context()))
}

func TestCluster_failover(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, true)
	rdb := cluster.Client()
	const ttl = 20 * time.Second
	lock, err := redislock.Obtain(t.Context(), rdb, key, ttl, &redislock.Options{
		RetryStrategy: redislock.FairQueue(),
		Watchdog:      redislock.NewTickWatchdog(200 * time.Millisecond),
	})
	require.NoError(t, err)
	i := cluster.MasterOf(key)
	master, replica := cluster.Masters[i], cluster.Replicas[i]
	results := make(chan obtained, 2)
	names := []string{"first", "second"}
	for _, name := range names {
		waitInLine(t, t.Context(), master.Client(), cluster.Client(), name, fair(), results)
	}
	readers := joinReadersAndWriter(t, key, master.Client(), func() redislock.RedisClient { return cluster.Client() })
	require.Eventually(t, func() bool { // it is replicated
		return rdb.Exists(t.Context(), key).Val() == 1 && replica.Client().ZCard(t.Context(), queueKey).Err() != nil
	}, 10*time.Second, time.Millisecond)
	require.EqualValues(t, 1, master.Client().Wait(t.Context(), 1, 5*time.Second).Val())
	master.Kill()
	cluster.AwaitFailover(i)

	until := lock.ValidUntil()
	require.Eventually(t, func() bool { return lock.ValidUntil().After(until) }, ttl, time.Millisecond, "it is refreshed again")
	readers.requireRefreshed(t)
	awaitShardListeners(t, replica.Client(), 2+waitingInAll)
	awaitAlive(t, replica.Client(), 2)
	awaitAliveOf(t, replica.Client(), readers.waiters, waitingInAll)
	readers.requireServed(t, rdb)
	requireOrder(t, lock, results, names...)
}

func TestSentinel_failover(t *testing.T) {
	t.Parallel()
	replicated := redistest.StartSentinel(t, 1)
	rdb := replicated.Client()
	const ttl = 20 * time.Second
	lock, err := redislock.Obtain(t.Context(), rdb, key, ttl, &redislock.Options{
		RetryStrategy: redislock.FairQueue(),
		Watchdog:      redislock.NewTickWatchdog(200 * time.Millisecond),
	})
	require.NoError(t, err)
	results := make(chan obtained, 2)
	names := []string{"first", "second"}
	for _, name := range names {
		waitInLine(t, t.Context(), replicated.Master.Client(), replicated.Client(), name, fair(), results)
	}
	readers := joinReadersAndWriter(t, key, replicated.Master.Client(), func() redislock.RedisClient { return replicated.Client() })
	require.EqualValues(t, 2, replicated.Master.Client().Wait(t.Context(), 2, 5*time.Second).Val())
	replicated.Master.Kill()

	until := lock.ValidUntil().Add(time.Second)
	require.Eventually(t, func() bool { return lock.ValidUntil().After(until) }, ttl, time.Millisecond, "it is refreshed again")
	readers.requireRefreshed(t)
	awaitListeners(t, rdb, 2+waitingInAll)
	awaitAlive(t, rdb, 2)
	awaitAliveOf(t, rdb, readers.waiters, waitingInAll)
	readers.requireServed(t, rdb)
	requireOrder(t, lock, results, names...)
}

// A client that reads from replicas must not wait for messages there.
func TestCluster_readOnly(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, true)
	readOnly := func(o *redis.ClusterOptions) { o.ReadOnly = true }
	master := cluster.Masters[cluster.MasterOf(key)].Client()
	lock, err := redislock.Obtain(t.Context(), cluster.Client(readOnly), key, ttl, fair())
	require.NoError(t, err)
	names := manyNames()
	results := make(chan obtained, len(names))
	clients := []redislock.RedisClient{cluster.Client(readOnly), cluster.Client(readOnly), cluster.Client(readOnly)}
	for i, name := range names {
		waitInLine(t, t.Context(), master, clients[i%len(clients)], name, fair(), results)
	}
	awaitShardListeners(t, master, len(clients))
	awaitChannels(t, master, len(names))
	requirePromptness(t, lock, results, names...)
}

// Clients that do not show that they are of a Cluster ask instead of waiting for messages.
func TestCluster_hidden(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, false)
	rdb := cluster.Client()
	pipeliner, err := cluster.Client().AutoPipeline()
	require.NoError(t, err)
	defer pipeliner.Close()
	for name, client := range map[string]redislock.RedisClient{
		"auto pipeline": pipeliner,
		"wrapper":       struct{ redis.UniversalClient }{rdb},
	} {
		t.Run(name, func(t *testing.T) {
			lock, err := redislock.Obtain(t.Context(), client, key, ttl, fair())
			require.NoError(t, err)
			master := cluster.Masters[cluster.MasterOf(key)].Client()
			names := manyNames()
			results := make(chan obtained, len(names))
			for _, name := range names {
				waitInLine(t, t.Context(), master, client, name, fair(), results)
			}
			requirePromptness(t, lock, results, names...)
		})
	}
}

func TestRing(t *testing.T) {
	t.Parallel()
	servers := []*redistest.Server{redistest.Start(t), redistest.Start(t)}
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": servers[0].Addr, "b": servers[1].Addr}})
	defer ring.Close()
	locker := redislock.New(ring)
	watchdog := redislock.NewTickWatchdog(0)
	for i := range 20 {
		key := fmt.Sprint("key ", i)
		lock, err := locker.Obtain(t.Context(), key, ttl, &redislock.Options{RetryStrategy: redislock.FairQueue(), Watchdog: watchdog})
		require.NoError(t, err)
		results := make(chan obtained, 1)
		go func() {
			lock, err := locker.Obtain(t.Context(), key, ttl, fair())
			results <- obtained{"waiter", lock, err, time.Now()}
		}()
		require.Eventually(t, func() bool {
			return ring.ZCard(t.Context(), "{"+key+"}:redislock:queue").Val() == 1
		}, 10*time.Second, time.Millisecond)
		requireOrder(t, lock, results, "waiter")
	}
	for i := range 6 {
		joinReadersAndWriter(t, fmt.Sprint("readers ", i), ring, func() redislock.RedisClient { return ring }).requireServed(t, ring)
	}
	for _, server := range servers {
		assert.NotZero(t, server.Calls("evalsha"))
	}

	_, err := locker.ObtainMulti(t.Context(), []string{"a", "b"}, ttl, nil)
	assert.ErrorContains(t, err, `"a" and "b"`)
	assert.ErrorContains(t, err, "{hash tag}")
	_, err = locker.Obtain(t.Context(), "a", ttl, &redislock.Options{FenceKey: "fence"})
	assert.ErrorContains(t, err, `"a" and "fence"`)
	_, err = locker.Obtain(t.Context(), "a}", ttl, fair())
	assert.ErrorContains(t, err, `"a}"`)
	for _, server := range servers {
		awaitNoKeys(t, server.Client())
	}

	lock, err := locker.ObtainMulti(t.Context(), []string{"{tag}a", "{tag}b"}, ttl, &redislock.Options{FenceKey: "{tag}fence"})
	require.NoError(t, err)
	assert.EqualValues(t, 1, lock.FenceToken())
	require.NoError(t, lock.Release(t.Context()))
}

func TestRing_allNodesDown(t *testing.T) {
	t.Parallel()
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}, MaxRetries: -1})
	defer ring.Close()
	_, err := redislock.Obtain(t.Context(), ring, key, ttl, fair())
	require.Error(t, err)
	assert.NotErrorIs(t, err, redislock.ErrNotObtained)
}

// The clients that are no *redis.Client do what that does.
func TestClients(t *testing.T) {
	t.Parallel()
	clients := map[string]func(t *testing.T, server *redistest.Server) redislock.RedisClient{
		"universal": func(t *testing.T, server *redistest.Server) redislock.RedisClient {
			client := redis.NewUniversalClient(&redis.UniversalOptions{Addrs: []string{server.Addr}})
			t.Cleanup(func() { _ = client.Close() })
			return client
		},
		"auto pipeline": func(t *testing.T, server *redistest.Server) redislock.RedisClient {
			pipeliner, err := server.Client().AutoPipeline()
			require.NoError(t, err)
			t.Cleanup(func() { _ = pipeliner.Close() })
			return pipeliner
		},
		"async auto pipeline": func(t *testing.T, server *redistest.Server) redislock.RedisClient {
			pipeliner, err := server.Client().AsyncAutoPipeline()
			require.NoError(t, err)
			t.Cleanup(func() { _ = pipeliner.Close() })
			return pipeliner
		},
		"ring": func(t *testing.T, server *redistest.Server) redislock.RedisClient {
			ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"only": server.Addr}})
			t.Cleanup(func() { _ = ring.Close() })
			return ring
		},
		"wrapper": func(t *testing.T, server *redistest.Server) redislock.RedisClient {
			return struct{ *redis.Client }{server.Client()}
		},
		"not comparable": func(t *testing.T, server *redistest.Server) redislock.RedisClient {
			return struct {
				*redis.Client
				notComparable []int
			}{Client: server.Client()}
		},
		"script runner": func(t *testing.T, server *redistest.Server) redislock.RedisClient {
			return struct{ redis.Scripter }{server.Client()}
		},
	}
	for name, connect := range clients {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			rdb := server.Client()
			client := connect(t, server)
			requireReentrant(t, rdb, client)
			joinReadersAndWriter(t, "readers", rdb, func() redislock.RedisClient { return client }).requireServed(t, client)
			lock := obtain(t, client, &redislock.Options{
				RetryStrategy: redislock.FairQueue(),
				Watchdog:      redislock.NewTickWatchdog(20 * time.Millisecond),
			})
			until := lock.ValidUntil()
			require.Eventually(t, func() bool { return lock.ValidUntil().After(until) }, 20*time.Second, time.Millisecond)
			names := manyNames()
			results := make(chan obtained, len(names))
			for _, name := range names {
				waitInLine(t, t.Context(), rdb, client, name, fair(), results)
			}
			requirePromptness(t, lock, results, names...)
			awaitNoKeys(t, rdb)
		})
	}
}

// requireReentrant requires that the lock can be obtained, again by the same token, and by
// no other.
func requireReentrant(t *testing.T, rdb *redis.Client, client redislock.RedisClient) {
	t.Helper()
	opt := &redislock.Options{Token: "me", Metadata: "first"}
	lock := obtain(t, client, opt)
	assert.Equal(t, "mefirst", rdb.Get(t.Context(), key).Val())
	_, err := redislock.Obtain(t.Context(), client, key, ttl, nil)
	assert.True(t, err == redislock.ErrNotObtained, "got %v", err)

	opt.Metadata = "second"
	again, err := redislock.Obtain(t.Context(), client, key, time.Hour, opt)
	require.NoError(t, err)
	assert.Equal(t, "mesecond", rdb.Get(t.Context(), key).Val())
	requireTTL(t, rdb, key, time.Hour)
	assert.ErrorIs(t, lock.Release(t.Context()), redislock.ErrLockNotHeld)
	require.NoError(t, again.Release(t.Context()))
	requireGone(t, rdb, key)
}

// A script runs on the shard of its first key alone: the other keys would not be locked.
func TestRing_quorum(t *testing.T) {
	rings := make([]redislock.RedisClient, 3)
	for i := range rings {
		ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{
			"one": redistest.Embedded(t).Addr(), "other": redistest.Embedded(t).Addr(),
		}})
		t.Cleanup(func() { assert.NoError(t, ring.Close()) })
		rings[i] = ring
	}
	locker := redislock.NewQuorum(rings...)
	for _, opt := range []*redislock.Options{nil, {Token: "me"}} {
		_, err := locker.ObtainMulti(t.Context(), []string{"a", "b"}, ttl, opt)
		require.ErrorContains(t, err, `keys "a" and "b"`)
	}
	lock, err := locker.ObtainMulti(t.Context(), []string{"{a}", "b{a}"}, ttl, nil)
	require.NoError(t, err)
	require.NoError(t, lock.Release(t.Context()))
}
