package redislock_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

// endOf returns when a holder's place ends, by the server's clock, in microseconds.
func endOf(t testing.TB, rdb *redis.Client, limit int, lock *redislock.Lock) int64 {
	t.Helper()
	score, err := rdb.ZScore(t.Context(), holdersKey, fmt.Sprint(limit, " ", lock.Token()+lock.Metadata())).Result()
	require.NoError(t, err)
	return int64(score)
}

// obtainFor is obtain with another TTL. If that is short it may have passed before the reply is there.
func obtainFor(t testing.TB, rdb redislock.RedisClient, ttl time.Duration, opt *redislock.Options) (lock *redislock.Lock) {
	t.Helper()
	require.Eventually(t, func() bool {
		var err error
		lock, err = redislock.Obtain(t.Context(), rdb, key, ttl, opt)
		return err == nil
	}, 20*time.Second, time.Millisecond)
	return lock
}

// A holder that has died gives its place back after its own TTL: not before, not when those of others end.
// When that was, and when the next came in, is what the server says.
func TestHolders_crash(t *testing.T) {
	t.Parallel()
	for name, strategy := range map[string]redislock.RetryStrategy{"in turn": redislock.FairQueue(), "plain": redislock.LinearBackoff(5 * time.Millisecond)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rdb := redistest.Start(t).Client()
			opt := &redislock.Options{Limit: 3, RetryStrategy: strategy}
			alive, longer := obtain(t, rdb, opt), obtainFor(t, rdb, time.Hour, opt)
			crashed := obtainFor(t, rdb, 300*time.Millisecond, opt)
			ends := endOf(t, rdb, 3, crashed)
			next := obtain(t, rdb, opt)
			came := endOf(t, rdb, 3, next) - ttl.Microseconds()
			assert.GreaterOrEqual(t, came, ends)
			assert.Less(t, came, ends+(10*time.Second).Microseconds())

			// What it does now is late.
			assert.Equal(t, redislock.ErrNotObtained, crashed.Refresh(t.Context(), ttl, nil))
			assert.Equal(t, redislock.ErrLockNotHeld, crashed.Release(t.Context()))
			assert.EqualValues(t, 3, rdb.ZCard(t.Context(), holdersKey).Val())
			releasedAll(t, rdb, alive, longer, next)
		})
	}
}

// Of readers that have died the last one's TTL counts for a writer.
func TestHolders_crashOfReaders(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	last := obtainFor(t, rdb, 500*time.Millisecond, reader())
	ends := rdb.ZScore(t.Context(), holdersKey, "0 "+last.Token()).Val()
	obtainFor(t, rdb, 200*time.Millisecond, reader())
	alive := obtain(t, rdb, reader())
	results := make(chan obtained, 1)
	waitInLine(t, t.Context(), rdb, rdb, "writer", fair(), results)
	require.NoError(t, alive.Release(t.Context()))
	start := time.Now()
	writer := receive(t, results)
	require.NoError(t, writer.err)
	assert.Less(t, time.Since(start), 10*time.Second)
	assert.NotZero(t, ends)
	assert.GreaterOrEqual(t, float64(rdb.Time(t.Context()).Val().UnixMicro()), ends)
	releasedAll(t, rdb, writer.lock)
}

// What a client thinks the time is does not matter: here the server's is years away from it.
func TestHolders_clocks(t *testing.T) {
	t.Parallel()
	for _, offset := range []time.Duration{-20 * 365 * 24 * time.Hour, 20 * 365 * 24 * time.Hour} {
		for name, opt := range severalHolders {
			embedded := redistest.Embedded(t)
			now := time.Now().Add(offset)
			embedded.SetTime(now)
			rdb := redistest.Client(t, embedded.Addr())
			crashed := obtainFor(t, rdb, time.Second, &opt)
			locks := []*redislock.Lock{obtain(t, rdb, &opt), obtain(t, rdb, &opt)}
			pass := func(d time.Duration) {
				now = now.Add(d)
				embedded.SetTime(now)
				embedded.FastForward(d)
			}
			pass(time.Second - time.Millisecond)
			left, err := crashed.TTL(t.Context())
			require.NoError(t, err)
			assert.Equal(t, time.Millisecond, left, name)
			one := redislock.Options{Shared: opt.Shared, Limit: opt.Limit}
			if opt.Limit > 0 {
				_, err = redislock.Obtain(t.Context(), rdb, key, ttl, &one)
				assert.Equal(t, redislock.ErrNotObtained, err, name)
			}
			pass(time.Millisecond)
			assert.Equal(t, redislock.ErrNotObtained, crashed.Refresh(t.Context(), ttl, nil), name)
			locks = append(locks, obtain(t, rdb, &one))
			require.NoError(t, locks[0].Refresh(t.Context(), 2*ttl, nil))
			left, err = locks[0].TTL(t.Context())
			require.NoError(t, err)
			assert.Equal(t, 2*ttl, left, name)
			releasedAll(t, rdb, locks...)
		}
	}
}

// Each goes by its own limit, also if more hold the lock than that.
func TestHolders_smallerLimit(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		var locks []*redislock.Lock
		for range 4 {
			locks = append(locks, obtain(t, rdb, &redislock.Options{Limit: 4}))
		}
		results := make(chan obtained, 1)
		waitInLine(t, t.Context(), rdb, rdb, "two", atMost(2), results)
		for _, lock := range locks[:2] {
			require.NoError(t, lock.Release(t.Context())) // without the queue: the waiter finds out by asking
			_, err := redislock.Obtain(t.Context(), rdb, key, ttl, &redislock.Options{Limit: 2})
			require.Equal(t, redislock.ErrNotObtained, err)
			require.EqualValues(t, 1, queued(t, rdb))
		}
		require.NoError(t, locks[2].Release(t.Context()))
		two := receive(t, results)
		require.NoError(t, two.err)
		releasedAll(t, rdb, locks[3], two.lock)
	})
}

// Readers that wait behind a writer come in at its release, all of them, and each by a message: nobody
// could ask.
func TestHolders_readersComeInTogether(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	gate, answers := &gate{}, &answers{}
	connect := func() *redis.Client {
		client := server.Client()
		client.AddHook(gate)
		client.AddHook(answers)
		return client
	}
	rdb, shared := connect(), connect()
	writer := obtain(t, rdb, fair())
	const n = 10
	results := make(chan obtained, n)
	for i := range n {
		client := shared
		if i%2 == 0 {
			client = connect()
		}
		waitInLine(t, t.Context(), rdb, client, fmt.Sprint(i), reader(), results)
	}
	awaitChannels(t, rdb, n)
	asks := gate.close("ask")
	defer asks.release()
	gate.awaitPassed(t)
	calls := server.Calls("evalsha")
	require.NoError(t, writer.Release(t.Context()))
	var locks []*redislock.Lock
	for range n {
		result := receive(t, results)
		require.NoError(t, result.err)
		locks = append(locks, result.lock)
	}
	assert.EqualValues(t, n, rdb.ZCard(t.Context(), holdersKey).Val())
	requireCommands(t, 1, func() int { return server.Calls("evalsha") - calls - answers.toCleaning() })
	releasedAll(t, rdb, locks...)
}

// A writer that waits does not starve: readers that come later are behind it, though one of them holds the
// lock. If it gives up, they come in, and nobody has to ask for it.
func TestHolders_writerLeaves(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	first := obtain(t, rdb, reader())
	writers, results := make(chan obtained, 1), make(chan obtained, 2)
	ctx, cancel := context.WithCancel(t.Context())
	waitInLine(t, ctx, rdb, server.Client(), "writer", fair(), writers)
	waitInLine(t, t.Context(), rdb, server.Client(), "one", reader(), results)
	waitInLine(t, t.Context(), rdb, server.Client(), "other", reader(), results)
	awaitChannels(t, rdb, 3)
	cancel()
	writer := receive(t, writers)
	assert.ErrorIs(t, writer.err, redislock.ErrNotObtained)
	locks := []*redislock.Lock{first}
	for range 2 {
		result := receive(t, results)
		require.NoError(t, result.err)
		locks = append(locks, result.lock)
	}
	releasedAll(t, rdb, locks...)
}

// The same token twice is one place, obtained at once or in the queue. A release that is repeated frees
// nobody else's.
func TestHolders_sameToken(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		mine := func(metadata string) *redislock.Options {
			return &redislock.Options{Limit: 2, Token: "me", Metadata: metadata, RetryStrategy: redislock.FairQueue()}
		}
		writer := obtain(t, rdb, fair())
		results := make(chan obtained, 3)
		waitInLine(t, t.Context(), rdb, rdb, "mine", mine(" first"), results)
		waitInLine(t, t.Context(), rdb, rdb, "mine", mine(" second"), results)
		waitInLine(t, t.Context(), rdb, rdb, "other", atMost(2), results)
		require.NoError(t, writer.Release(t.Context()))
		locks := make(map[string]*redislock.Lock)
		for range 3 {
			result := receive(t, results)
			require.NoError(t, result.err)
			locks[result.name+result.lock.Metadata()] = result.lock
		}
		require.Len(t, locks, 3)
		assert.EqualValues(t, 2, rdb.ZCount(t.Context(), holdersKey, "(0", "+inf").Val())
		_, err := redislock.Obtain(t.Context(), rdb, key, ttl, &redislock.Options{Limit: 2})
		require.Equal(t, redislock.ErrNotObtained, err)

		again := obtain(t, rdb, mine(" third"))
		for _, replaced := range []string{"mine first", "mine second"} {
			assert.Equal(t, redislock.ErrLockNotHeld, locks[replaced].Release(t.Context()))
		}
		require.NoError(t, again.Release(t.Context()))
		assert.Equal(t, redislock.ErrLockNotHeld, again.Release(t.Context()))
		left, err := locks["other"].TTL(t.Context())
		require.NoError(t, err)
		assert.Positive(t, left)
		releasedAll(t, rdb, locks["other"])
	})
}

// queueDead puts one in front of the queue that seems to be alive, and will never say anything again.
func queueDead(t testing.TB, rdb *redis.Client, ttl time.Duration, limit int, channel string) {
	t.Helper()
	alive := time.Now().Add(time.Minute).UnixMicro()
	require.NoError(t, rdb.ZAdd(t.Context(), queueKey, redis.Z{Score: 1, Member: "dead"}).Err())
	require.NoError(t, rdb.HSet(t.Context(), waitersKey, "dead", fmt.Sprintf("%d %d 1:1:1:bG9jaw %d -4 %s", alive, ttl.Milliseconds(), limit, channel)).Err())
}

// One that is let in although it is dead keeps its place for its TTL; one that nobody could tell gets none.
func TestHolders_deadIsLetIn(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		limit   int
		next    func() *redislock.Options
		channel string
	}{
		"a reader before a writer":         {0, fair, ""},
		"a place, before one for the same": {2, func() *redislock.Options { return atMost(1 + 1) }, ""},
		"nobody listens, a reader":         {0, fair, "predislock:nobody"},
		"nobody listens, a place":          {2, func() *redislock.Options { return atMost(2) }, "predislock:nobody"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			rdb := server.Client()
			opt := &redislock.Options{Shared: test.limit == 0, Limit: test.limit, RetryStrategy: redislock.FairQueue()}
			holders := []*redislock.Lock{obtain(t, rdb, opt)}
			if test.limit > 0 {
				holders = append(holders, obtain(t, rdb, opt))
			}
			results := make(chan obtained, 1)
			waitInLine(t, t.Context(), rdb, server.Client(), "next", test.next(), results)
			awaitChannels(t, rdb, 1)
			const deadTTL = 700 * time.Millisecond
			queueDead(t, rdb, deadTTL, test.limit, test.channel)
			calls := server.Calls("publish")
			require.NoError(t, holders[0].Release(t.Context()))
			ends, err := rdb.ZScore(t.Context(), holdersKey, fmt.Sprint(test.limit, " dead")).Result()
			assert.Equal(t, test.channel == "", err == nil, "%v", err)
			start := time.Now()
			next := receive(t, results)
			require.NoError(t, next.err)
			assert.Less(t, time.Since(start), deadTTL+8*time.Second)
			now := rdb.Time(t.Context()).Val().UnixMicro()
			assert.GreaterOrEqual(t, now, int64(ends))
			if test.channel != "" {
				assert.Equal(t, 1, server.Calls("publish")-calls, "the next was told, by the release")
			}
			releasedAll(t, rdb, append(holders[1:], next.lock)...)
		})
	}
}

// Without memory a server takes no more locks, and says why. Those that are held can be kept and given back,
// also to those who wait.
func TestHolders_outOfMemory(t *testing.T) {
	t.Parallel()
	for name, opt := range severalHolders {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			rdb, waiting, gate := server.Client(), server.Client(), &gate{}
			waiting.AddHook(gate)
			locks := []*redislock.Lock{obtain(t, rdb, &opt), obtain(t, rdb, &opt)}
			results := make(chan obtained, 2)
			if opt.RetryStrategy != nil {
				waitInLine(t, t.Context(), rdb, waiting, "writer", fair(), results)
				waitInLine(t, t.Context(), rdb, waiting, "member", &opt, results)
				awaitChannels(t, rdb, 2)
			}
			asks := gate.close("ask") // an ask would be told that there is no memory
			defer asks.release()
			for _, script := range []func() error{ // makes them known
				func() error { return locks[0].Refresh(t.Context(), ttl, nil) },
				func() error { _, err := locks[0].TTL(t.Context()); return err },
				func() error {
					return obtain(t, rdb, &redislock.Options{Limit: opt.Limit, Shared: opt.Shared}).Release(t.Context())
				},
			} {
				require.NoError(t, script())
			}
			require.NoError(t, rdb.ConfigSet(t.Context(), "maxmemory", "1").Err())
			before := rdb.Dump(t.Context(), holdersKey).Val()
			for _, obtain := range []*redislock.Options{{Limit: opt.Limit, Shared: opt.Shared}, {Limit: opt.Limit, Shared: opt.Shared, FenceKey: "fence"}} {
				_, err := redislock.Obtain(t.Context(), rdb, key, ttl, obtain)
				assert.ErrorContains(t, err, "OOM")
				_, err = redislock.Obtain(t.Context(), rdb, "other", ttl, obtain)
				assert.ErrorContains(t, err, "OOM")
			}
			assert.Equal(t, before, rdb.Dump(t.Context(), holdersKey).Val())
			requireGone(t, rdb, "fence", "other", "{other}:redislock:holders")

			for _, lock := range locks {
				require.NoError(t, lock.Refresh(t.Context(), 2*ttl, nil))
				left, err := lock.TTL(t.Context())
				require.NoError(t, err)
				require.Greater(t, left, ttl)
			}
			for _, lock := range locks {
				require.NoError(t, lock.Release(t.Context()))
			}
			if opt.RetryStrategy != nil {
				for _, name := range []string{"writer", "member"} {
					next := receive(t, results)
					require.NoError(t, next.err)
					require.Equal(t, name, next.name)
					require.NoError(t, next.lock.Release(t.Context()))
				}
			}
			awaitNoKeys(t, rdb)
		})
	}
}

// Holders learn that their keys are gone, whichever of them, and whoever comes next has the lock.
func TestHolders_keysAreGone(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	for name, remove := range map[string]func() error{
		"flushed": func() error { return rdb.FlushAll(t.Context()).Err() },
		"key":     func() error { return rdb.Del(t.Context(), key).Err() },
		"holders": func() error { return rdb.Del(t.Context(), holdersKey).Err() },
		"taken":   func() error { return rdb.Set(t.Context(), key, "somebody else's", 0).Err() },
	} {
		for kind, opt := range severalHolders {
			opt.Watchdog = redislock.NewTickWatchdog(10 * time.Millisecond)
			unwatched := opt
			unwatched.Watchdog = nil
			locks := []*redislock.Lock{obtain(t, rdb, &opt), obtain(t, rdb, &opt), obtain(t, rdb, &unwatched)}
			require.NoError(t, remove())
			for _, lock := range locks[:2] {
				select {
				case <-lock.Done():
				case <-time.After(20 * time.Second):
					require.Fail(t, "a holder has not learned of it", "%s, %s", name, kind)
				}
			}
			for _, lock := range locks {
				assert.Equal(t, redislock.ErrNotObtained, lock.Refresh(t.Context(), ttl, nil))
				assert.Equal(t, redislock.ErrLockNotHeld, lock.Release(t.Context()))
			}
			if name == "taken" {
				assert.Equal(t, "somebody else's", rdb.Get(t.Context(), key).Val())
			}
			require.NoError(t, rdb.Del(t.Context(), key).Err())
			other := redislock.Options{Shared: !opt.Shared, Limit: 2}
			if other.Shared {
				other.Limit = 0
			}
			lock := obtain(t, rdb, &other)
			assert.EqualValues(t, 1, rdb.ZCard(t.Context(), holdersKey).Val(), "%s, %s", name, kind)
			releasedAll(t, rdb, lock)
		}
	}
}

func TestHolders_scriptsFlushed(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	for name, opt := range severalHolders {
		opt.Watchdog = redislock.NewTickWatchdog(10 * time.Millisecond)
		var lock *redislock.Lock
		for step, do := range []func() error{
			func() (err error) { lock, err = redislock.Obtain(t.Context(), rdb, key, ttl, &opt); return err },
			func() error { return lock.Refresh(t.Context(), ttl, nil) },
			func() error { _, err := lock.TTL(t.Context()); return err },
			func() error {
				was := lock.ValidUntil()
				require.Eventually(t, func() bool { return lock.ValidUntil().After(was) }, 20*time.Second, time.Millisecond)
				return nil
			},
			func() error { return lock.Release(t.Context()) },
		} {
			require.NoError(t, rdb.ScriptFlush(t.Context()).Err())
			require.NoError(t, do(), "%s, step %d", name, step)
		}
		awaitNoKeys(t, rdb)
	}
}

// A command that takes a place and was answered late, or not at all, leaves none behind.
func TestHolders_lostReplies(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	for name, opt := range severalHolders {
		t.Run(name+", sent twice", func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			client, rdb, hook := server.Client(), server.Client(), &repeater{}
			other := obtain(t, rdb, &opt)
			client.AddHook(hook)
			lock := obtain(t, client, &opt)
			requireTakes(t, rdb, hook.sent)
			assert.EqualValues(t, 2, rdb.ZCard(t.Context(), holdersKey).Val())
			require.NoError(t, lock.Release(t.Context()))
			requireTakes(t, rdb, hook.sent)
			require.Eventually(t, func() bool { return rdb.ZCard(t.Context(), holdersKey).Val() == 1 }, 20*time.Second, time.Millisecond)
			awaitNoTasks(t, client)
			releasedAll(t, rdb, other)
		})
		t.Run(name+", lost", func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t)
			rdb, proxy := server.Client(), redistest.StartProxy(t, server.Addr)
			client := redistest.Client(t, proxy.Addr, once)
			other := obtain(t, rdb, &opt)
			require.NoError(t, obtain(t, client, &opt).Release(t.Context()))
			awaitNoTasks(t, client)
			calls := server.Calls("zadd")
			proxy.LoseReplies(1)
			_, err := redislock.Obtain(t.Context(), client, key, time.Hour, &opt)
			require.Error(t, err)
			awaitCalls(t, server, "zadd", calls)
			require.Eventually(t, func() bool { return rdb.ZCard(t.Context(), holdersKey).Val() == 1 }, 20*time.Second, time.Millisecond)
			left, err := other.TTL(t.Context())
			require.NoError(t, err)
			assert.Positive(t, left)
			require.NoError(t, other.Release(t.Context()))
		})
	}
}

// Many come and go, and many of them give up while they wait, some just as they are let in.
func TestHolders_contextsEnd(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb, other := server.Client(), server.Client()
	var working sync.WaitGroup
	for i := range 12 {
		working.Go(func() {
			for j := range 12 {
				opt, client := reader(), rdb
				if i%3 == 0 {
					opt = fair()
				}
				if i%2 == 0 {
					client = other
				}
				ctx, cancel := context.WithTimeout(t.Context(), ttl)
				if j%2 == 0 {
					time.AfterFunc(time.Duration(i*j%7)*time.Millisecond, cancel)
				}
				lock, err := redislock.Obtain(ctx, client, key, ttl, opt)
				cancel()
				if err != nil {
					assert.ErrorIs(t, err, context.Canceled)
					continue
				}
				time.Sleep(200 * time.Microsecond) // so that others come to wait
				assert.NoError(t, lock.Release(t.Context()))
			}
		})
	}
	working.Wait()
	awaitNoKeys(t, rdb)
}
