package redislock_test

import (
	"slices"
	"testing"
	"time"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What calls with the same custom token do to each other.

// mine is a custom token.
func mine() *redislock.Options {
	return &redislock.Options{Token: "me"}
}

// What a failed try took is given back key by key: not those that a call which has other keys
// as well, or the same in another order, counts on.
func TestToken_undoOfOtherKeys(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name           string
		failed, counts []string
		left           []string
	}{
		{"fewer keys", []string{"a", "b"}, []string{"b"}, []string{"b"}},
		{"more keys", []string{"a"}, []string{"b", "a"}, []string{"a", "b"}},
		{"another order", []string{"a", "b"}, []string{"b", "a"}, []string{"a", "b"}},
		{"one twice", []string{"a", "b", "a"}, []string{"b", "b"}, []string{"b"}},
	}
	nodes := startNodes(t, 3)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			again := func() {
				for _, node := range nodes {
					require.NoError(t, node.Client().FlushAll(t.Context()).Err()) // but not the scripts
				}
				others(t, nodes[:2], "a")
			}
			slow := slowly{UniversalClient: nodes[2].Client()}
			locker := redislock.NewQuorum(nodes[0].Client(), nodes[1].Client(), &slow)
			obtain := func() error {
				_, err := locker.ObtainMulti(t.Context(), test.failed, ttl, mine())
				return err
			}
			awaitUndone(t, nodes[2], again, obtain) // the script is known
			again()
			failed := slow.holdUndo(t, again, obtain)
			for _, node := range nodes[:2] {
				require.NoError(t, node.Client().Del(t.Context(), "a").Err())
			}
			var lock *redislock.Lock
			require.Eventually(t, func() (everywhere bool) { // on a busy machine the last node may be too slow
				var err error
				lock, err = locker.ObtainMulti(t.Context(), test.counts, 2*ttl, mine())
				return err == nil && !slices.ContainsFunc(test.left, func(key string) bool { return ttlOf(t, nodes[2], key) <= ttl })
			}, 20*time.Second, time.Millisecond)
			slow.letGo()
			slow.wait()
			require.Equal(t, redislock.ErrNotObtained, <-failed)
			assert.Equal(t, test.left, locked(t, nodes[2], "a", "b"))
			releaseOnQuorum(t, lock)
		})
	}
}

// Of the keys of a failed try the token keeps those that it had before.
func TestToken_undoOfSomeKeys(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	locker := quorumOf(nodes)
	lock := obtainAtLast(t, locker, "a", ttl, mine())
	others(t, nodes[:2], "b")
	awaitUndone(t, nodes[2], func() {
		require.NoError(t, nodes[2].Client().Del(t.Context(), "b", "c").Err())
	}, func() error {
		_, err := locker.ObtainMulti(t.Context(), []string{"a", "b", "c"}, ttl, mine())
		return err
	}, "a")
	releaseOnQuorum(t, lock)
}

// awaitUndone tries to obtain keys, which others have to have, until a node that granted them is
// left with those that it should be. (What it grants late is not undone. Then it is again as before.)
func awaitUndone(t *testing.T, node *redistest.Server, again func(), obtain func() error, left ...string) {
	t.Helper()
	for start := time.Now(); ; {
		again()
		if obtain() == redislock.ErrNotObtained && slices.Equal(left, locked(t, node, "a", "b", "c")) {
			return
		}
		require.Less(t, time.Since(start), 10*time.Second, "it is not undone, or too much is")
	}
}

// A watchdog's refresh comes after its lock was released, and obtained by the same token for
// longer.
func TestToken_lateRefresh(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	for name, locker := range map[string]func(*slowly) *redislock.Client{
		"one server": func(slow *slowly) *redislock.Client { return redislock.New(slow) },
		"quorum": func(slow *slowly) *redislock.Client {
			return redislock.NewQuorum(nodes[0].Client(), nodes[1].Client(), slow)
		},
	} {
		t.Run(name, func(t *testing.T) {
			slow := &slowly{UniversalClient: nodes[2].Client()}
			locker := locker(slow)
			opt := mine()
			opt.Watchdog = redislock.NewTickWatchdog(50 * time.Millisecond)
			lock := obtainAtLast(t, locker, key, 10*time.Second, opt)
			awaitRefresh(t, nodes[2]) // the script is known

			slow.hold("refresh")
			<-slow.held
			releaseOnQuorum(t, lock)
			eventuallyHolding(t, nodes, 0) // also on the last node
			again := obtainForAnHour(t, locker, nodes[2])
			slow.letGo()
			slow.wait()
			requireTTL(t, nodes[2].Client(), key, time.Hour)
			require.Eventually(t, func() bool { // the holder itself may shorten it
				return again.Refresh(t.Context(), time.Minute, nil) == nil && ttlOf(t, nodes[2], key) <= time.Minute
			}, 10*time.Second, time.Millisecond)
			releaseOnQuorum(t, again)
		})
	}
}

// obtainForAnHour obtains a lock by a custom token, again until the node has it too: on a busy
// machine a quorum does not wait for its slowest.
func obtainForAnHour(t *testing.T, locker *redislock.Client, node *redistest.Server) (lock *redislock.Lock) {
	t.Helper()
	require.Eventually(t, func() bool {
		lock = obtainAtLast(t, locker, key, time.Hour, mine())
		return ttlOf(t, node, key) > 59*time.Minute
	}, 20*time.Second, time.Millisecond)
	return lock
}

// A node is healed of a lock that was obtained by the same token, for longer, meanwhile.
func TestToken_lateHealing(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	slow := slowly{UniversalClient: nodes[2].Client()}
	locker := redislock.NewQuorum(nodes[0].Client(), nodes[1].Client(), &slow)
	lock := obtainAtLast(t, locker, key, ttl, mine())
	lose := func() {
		require.NoError(t, nodes[2].Client().FlushAll(t.Context()).Err())
		require.NoError(t, decided(t, func() error { return lock.Refresh(t.Context(), ttl, nil) }))
	}
	lose()
	require.Eventually(t, func() bool { // the script is known then; on a busy machine it may come too late
		return lock.Refresh(t.Context(), ttl, nil) == nil && holding(t, nodes) == 3
	}, 20*time.Second, 100*time.Millisecond)
	slow.hold("heal")
	lose()
	<-slow.held
	again := obtainForAnHour(t, locker, nodes[2])
	slow.letGo()
	slow.wait()
	requireTTL(t, nodes[2].Client(), key, time.Hour)
	releaseOnQuorum(t, again)
}

// awaitRefresh waits until a server has refreshed a lock.
func awaitRefresh(t *testing.T, server *redistest.Server) {
	t.Helper()
	refreshed := server.Calls("pexpire") + 1
	require.Eventually(t, func() bool { return server.Calls("pexpire") >= refreshed }, 10*time.Second, 10*time.Millisecond)
}

// ttlOf returns the TTL that a key has on a node; none if it does not exist.
func ttlOf(t *testing.T, node *redistest.Server, key string) time.Duration {
	t.Helper()
	return node.Client().PTTL(t.Context(), key).Val()
}

func TestToken_keyThatCannotBeMarked(t *testing.T) {
	t.Parallel()
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"one": redistest.Embedded(t).Addr()}})
	defer ring.Close()
	locker := redislock.NewQuorum(ring, ring, ring)
	_, err := locker.ObtainMulti(t.Context(), []string{"a", "a}"}, ttl, mine())
	assert.ErrorContains(t, err, `key "a}"`)
}

// others has somebody else hold a key on nodes.
func others(t *testing.T, nodes []*redistest.Server, key string) {
	t.Helper()
	for _, node := range nodes {
		require.NoError(t, node.Client().Set(t.Context(), key, "somebody else", 0).Err())
	}
}

// locked returns those of the keys that a node has.
func locked(t *testing.T, node *redistest.Server, keys ...string) (exist []string) {
	t.Helper()
	for _, key := range keys {
		n, err := node.Client().Exists(t.Context(), key).Result()
		require.NoError(t, err)
		if n > 0 {
			exist = append(exist, key)
		}
	}
	return exist
}

// A watchdog does not shorten the TTL that a custom token has, but Refresh does.
func TestToken_refreshShorter(t *testing.T) {
	t.Parallel()
	for name, n := range map[string]int{"one server": 1, "quorum": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			nodes := startNodes(t, n)
			var clients []redislock.RedisClient
			for _, node := range nodes {
				clients = append(clients, node.Client())
			}
			lock := obtainAtLast(t, redislock.NewQuorum(clients...), key, time.Hour, mine())
			require.Eventually(t, func() bool { // on a busy machine a node may be too slow
				return lock.Refresh(t.Context(), time.Minute, nil) == nil &&
					!slices.ContainsFunc(nodes, func(node *redistest.Server) bool { return ttlOf(t, node, key) > time.Minute })
			}, 10*time.Second, time.Millisecond)
			releaseOnQuorum(t, lock)
		})
	}
}
