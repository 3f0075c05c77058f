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
			lock, err := locker.ObtainMulti(t.Context(), test.counts, 2*ttl, mine())
			require.NoError(t, err)
			for _, key := range test.left { // that call has come to the last node, too
				awaitTTLOf(t, nodes[2], key, ttl, 2*ttl)
			}
			slow.letGo()
			slow.wait()
			require.Equal(t, redislock.ErrNotObtained, <-failed)
			assert.Equal(t, test.left, locked(t, nodes[2], "a", "b"))
			require.NoError(t, lock.Release(t.Context()))
		})
	}
}

// Of the keys of a failed try the token keeps those that it had before.
func TestToken_undoOfSomeKeys(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	locker := quorumOf(nodes)
	lock, err := locker.Obtain(t.Context(), "a", ttl, mine())
	require.NoError(t, err)
	others(t, nodes[:2], "b")
	awaitUndone(t, nodes[2], func() {
		require.NoError(t, nodes[2].Client().Del(t.Context(), "b", "c").Err())
	}, func() error {
		_, err := locker.ObtainMulti(t.Context(), []string{"a", "b", "c"}, ttl, mine())
		return err
	}, "a")
	require.NoError(t, lock.Release(t.Context()))
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
			lock, err := locker.Obtain(t.Context(), key, 10*time.Second, opt)
			require.NoError(t, err)
			awaitRefresh(t, nodes[2]) // the script is known

			slow.hold("refresh")
			<-slow.held
			require.NoError(t, lock.Release(t.Context()))
			eventuallyHolding(t, nodes, 0) // also on the last node
			again, err := locker.Obtain(t.Context(), key, time.Hour, mine())
			require.NoError(t, err)
			awaitTTL(t, nodes[2], 59*time.Minute, time.Hour)
			slow.letGo()
			slow.wait()
			requireTTL(t, nodes[2].Client(), key, time.Hour)
			require.NoError(t, again.Refresh(t.Context(), time.Minute, nil))
			awaitTTL(t, nodes[2], 0, time.Minute) // the holder itself may shorten it
			require.NoError(t, again.Release(t.Context()))
		})
	}
}

// A node is healed of a lock that was obtained by the same token, for longer, meanwhile.
func TestToken_lateHealing(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	slow := slowly{UniversalClient: nodes[2].Client()}
	locker := redislock.NewQuorum(nodes[0].Client(), nodes[1].Client(), &slow)
	lock, err := locker.Obtain(t.Context(), key, ttl, mine())
	require.NoError(t, err)
	lose := func() {
		require.NoError(t, nodes[2].Client().FlushAll(t.Context()).Err())
		require.NoError(t, lock.Refresh(t.Context(), ttl, nil))
	}
	lose()
	require.Eventually(t, func() bool { // the script is known then; on a busy machine it may come too late
		assert.NoError(t, lock.Refresh(t.Context(), ttl, nil))
		return holding(t, nodes) == 3
	}, 20*time.Second, 100*time.Millisecond)
	slow.hold("heal")
	lose()
	<-slow.held
	again, err := locker.Obtain(t.Context(), key, time.Hour, mine())
	require.NoError(t, err)
	awaitTTL(t, nodes[2], 59*time.Minute, time.Hour)
	slow.letGo()
	slow.wait()
	requireTTL(t, nodes[2].Client(), key, time.Hour)
	require.NoError(t, again.Release(t.Context()))
}

// awaitRefresh waits until a server has refreshed a lock.
func awaitRefresh(t *testing.T, server *redistest.Server) {
	t.Helper()
	refreshed := server.Calls("pexpire") + 1
	require.Eventually(t, func() bool { return server.Calls("pexpire") >= refreshed }, 10*time.Second, 10*time.Millisecond)
}

func awaitTTL(t *testing.T, server *redistest.Server, more, most time.Duration) {
	t.Helper()
	awaitTTLOf(t, server, key, more, most)
}

// awaitTTLOf waits until a key's TTL is more than one, and no more than the other.
func awaitTTLOf(t *testing.T, server *redistest.Server, key string, more, most time.Duration) {
	t.Helper()
	require.Eventually(t, func() bool {
		ttl := server.Client().PTTL(t.Context(), key).Val()
		return ttl > more && ttl <= most
	}, 10*time.Second, time.Millisecond)
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
			lock, err := redislock.NewQuorum(clients...).Obtain(t.Context(), key, time.Hour, mine())
			require.NoError(t, err)
			eventuallyHolding(t, nodes, n)
			require.NoError(t, lock.Refresh(t.Context(), time.Minute, nil))
			for _, node := range nodes {
				awaitTTL(t, node, 0, time.Minute)
			}
			require.NoError(t, lock.Release(t.Context()))
		})
	}
}
