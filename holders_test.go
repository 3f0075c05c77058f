package redislock_test

import (
	"context"
	"errors"
	"fmt"
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

const holdersKey = "{" + key + "}:redislock:holders"

func reader() *redislock.Options {
	return &redislock.Options{Shared: true, RetryStrategy: redislock.FairQueue()}
}

// atMost asks for a place among so many.
func atMost(n int) *redislock.Options {
	return &redislock.Options{Limit: n, RetryStrategy: redislock.FairQueue()}
}

// severalHolders are the options by which three can hold a lock, in turn and at once.
var severalHolders = map[string]redislock.Options{
	"shared":           {Shared: true},
	"limited":          {Limit: 3},
	"shared, in turn":  {Shared: true, RetryStrategy: redislock.FairQueue()},
	"limited, in turn": {Limit: 3, RetryStrategy: redislock.FairQueue()},
}

// releasedAll releases locks; then nothing is left on the server.
func releasedAll(t testing.TB, rdb *redis.Client, locks ...*redislock.Lock) {
	t.Helper()
	for _, lock := range locks {
		require.NoError(t, lock.Release(t.Context()))
	}
	awaitNoKeys(t, rdb)
}

func TestHolders(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		for name, opt := range severalHolders {
			t.Run(name, func(t *testing.T) {
				var locks []*redislock.Lock
				for i := range 3 {
					opt := opt
					opt.Metadata, opt.FenceKey = fmt.Sprint(" of ", i), "fence"
					lock := obtain(t, rdb, &opt)
					assert.Equal(t, key, lock.Key())
					assert.Equal(t, fmt.Sprint(" of ", i), lock.Metadata())
					assert.EqualValues(t, i+1, lock.FenceToken())
					locks = append(locks, lock)
				}
				for _, strategy := range []redislock.RetryStrategy{nil, redislock.LimitRetry(redislock.LinearBackoff(time.Millisecond), 2)} {
					_, err := redislock.Obtain(t.Context(), rdb, key, ttl, &redislock.Options{RetryStrategy: strategy})
					assert.True(t, err == redislock.ErrNotObtained, "an exclusive caller got %v", err)
				}
				_, err := redislock.ObtainMulti(t.Context(), rdb, []string{"free", key}, ttl, nil)
				assert.True(t, err == redislock.ErrNotObtained, "a caller for several keys got %v", err)
				if opt.Limit > 0 {
					_, err := redislock.Obtain(t.Context(), rdb, key, ttl, &redislock.Options{Limit: opt.Limit})
					assert.True(t, err == redislock.ErrNotObtained, "one more got %v", err)
				}

				first, rest := locks[0], locks[1:]
				require.NoError(t, first.Refresh(t.Context(), 2*ttl, nil))
				left, err := first.TTL(t.Context())
				require.NoError(t, err)
				assert.Greater(t, left, ttl)
				assert.WithinDuration(t, time.Now().Add(2*ttl), first.ValidUntil(), 30*time.Second)
				requireTTL(t, rdb, key, 2*ttl+time.Millisecond) // whole ones
				for _, lock := range rest {
					left, err := lock.TTL(t.Context())
					require.NoError(t, err)
					assert.LessOrEqual(t, left, ttl)
					assert.Greater(t, left, ttl/2)
				}

				require.NoError(t, first.Release(t.Context()))
				left, err = first.TTL(t.Context())
				require.NoError(t, err)
				assert.Zero(t, left)
				assert.Equal(t, redislock.ErrNotObtained, first.Refresh(t.Context(), ttl, nil))
				assert.Equal(t, redislock.ErrLockNotHeld, first.Release(t.Context()))
				assert.EqualValues(t, 2, rdb.ZCard(t.Context(), holdersKey).Val())
				requireTTL(t, rdb, key, ttl+time.Millisecond)
				for _, lock := range rest {
					require.NoError(t, lock.Refresh(t.Context(), ttl, nil))
				}
				require.NoError(t, rdb.Del(t.Context(), "fence").Err())
				releasedAll(t, rdb, rest...)
			})
		}
	})
}

// A Limit of 1 is no other lock than that without one.
func TestHolders_limitOfOne(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		lock := obtain(t, rdb, &redislock.Options{Limit: 1})
		assert.Equal(t, lock.Token(), rdb.Get(t.Context(), key).Val())
		assert.Zero(t, rdb.Exists(t.Context(), holdersKey).Val())
		for _, opt := range []*redislock.Options{{Limit: 1}, {Limit: 2}, {Shared: true}} {
			_, err := redislock.Obtain(t.Context(), rdb, key, ttl, opt)
			assert.True(t, err == redislock.ErrNotObtained, "%+v got %v", opt, err)
		}
		releasedAll(t, rdb, lock)
	})
}

// An exclusive holder has nobody beside it, however they ask.
func TestHolders_behindExclusive(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		for _, exclusive := range []*redislock.Options{nil, fair()} {
			for name, opt := range severalHolders {
				lock := obtain(t, rdb, exclusive)
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
				_, err := redislock.Obtain(ctx, rdb, key, ttl, &opt)
				cancel()
				require.Error(t, err, name)
				left, err := lock.TTL(t.Context())
				require.NoError(t, err)
				require.Positive(t, left, name)
				releasedAll(t, rdb, lock)
			}
		}
	})
}

func TestHolders_do(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	locker := redislock.New(rdb)
	for name, opt := range severalHolders {
		var inside, done sync.WaitGroup
		inside.Add(3)
		for range 3 {
			done.Go(func() {
				assert.NoError(t, locker.Do(t.Context(), key, ttl, &opt, func(context.Context) error {
					inside.Done()
					inside.Wait() // all at a time
					return nil
				}), name)
			})
		}
		done.Wait()
		awaitNoKeys(t, rdb)
	}
}

// A watchdog keeps the place of its holder, not those of others. A holder that has lost its place learns of
// it; the others keep theirs.
func TestHolders_watchdog(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	const ttl = 10 * time.Second
	for name, opt := range severalHolders {
		t.Run(name, func(t *testing.T) {
			watched, unwatched := opt, opt
			watched.Watchdog = redislock.NewTickWatchdog(50 * time.Millisecond)
			obtain := func(opt redislock.Options) *redislock.Lock {
				lock, err := redislock.Obtain(t.Context(), rdb, t.Name(), ttl, &opt)
				require.NoError(t, err)
				return lock
			}
			lost, kept, plain := obtain(watched), obtain(watched), obtain(unwatched)
			until := plain.ValidUntil()
			for _, lock := range []*redislock.Lock{lost, kept} {
				was := lock.ValidUntil()
				require.Eventually(t, func() bool { return lock.ValidUntil().After(was.Add(100 * time.Millisecond)) }, ttl, time.Millisecond)
			}
			assert.Equal(t, until, plain.ValidUntil())
			left, err := plain.TTL(t.Context())
			require.NoError(t, err)
			assert.LessOrEqual(t, left, time.Until(until)+time.Second)

			ctx := lost.Context(t.Context())
			holders := "{" + t.Name() + "}:redislock:holders"
			require.NoError(t, rdb.ZRem(t.Context(), holders, fmt.Sprint(opt.Limit, " ", lost.Token())).Err())
			select {
			case <-lost.Done():
			case <-time.After(ttl):
				require.Fail(t, "it believes in a place that it has not")
			}
			<-ctx.Done()
			assert.Equal(t, redislock.ErrLockNotHeld, lost.Release(t.Context()))
			was := kept.ValidUntil()
			require.Eventually(t, func() bool { return kept.ValidUntil().After(was) }, ttl, time.Millisecond)
			assert.False(t, isClosed(kept.Done()))
			assert.False(t, isClosed(plain.Done()))
			require.NoError(t, kept.Release(t.Context()))
			require.NoError(t, plain.Release(t.Context()))
			requireGone(t, rdb, t.Name(), holders)
		})
	}
}

// begunKinds is an observer that notes of which kind operations are.
type begunKinds struct {
	mu    sync.Mutex
	begun map[string]int
}

func (k *begunKinds) Begin(ctx context.Context, op redislock.Operation) (context.Context, func(redislock.Outcome)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.begun == nil {
		k.begun = make(map[string]int)
	}
	k.begun[op.Name+" "+op.Kind]++
	return ctx, nil
}

func TestHolders_observed(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		var kinds begunKinds
		var tally tally
		locker := redislock.New(rdb).WithObserver(&kinds).WithObserver(&tally)
		for _, strategy := range []redislock.RetryStrategy{nil, redislock.FairQueue()} {
			for _, opt := range []redislock.Options{{}, {Limit: 1}, {Shared: true}, {Limit: 2}} {
				opt.RetryStrategy = strategy
				lock, err := locker.Obtain(t.Context(), key, ttl, &opt)
				require.NoError(t, err)
				_, err = locker.Obtain(t.Context(), key, ttl, nil)
				require.Equal(t, redislock.ErrNotObtained, err)
				require.NoError(t, lock.Release(t.Context()))
			}
		}
		_, err := locker.Obtain(t.Context(), key, ttl, &redislock.Options{Limit: -1})
		require.Error(t, err)
		assert.Equal(t, map[string]int{
			"obtain exclusive": 4 + 8 + 1, "hold exclusive": 4, "release exclusive": 4,
			"obtain shared": 2, "hold shared": 2, "release shared": 2,
			"obtain limited": 2, "hold limited": 2, "release limited": 2,
		}, kinds.begun)
		tally.require(t, map[string]int{"obtain success": 8, "obtain failed": 8, "obtain error": 1, "hold success": 8, "release success": 8})
	})
}

func TestStats_severalHolders(t *testing.T) {
	onBothInTurn(t, func(t *testing.T, rdb *redis.Client) {
		got := counted(func() {
			for _, opt := range severalHolders {
				lock := obtain(t, rdb, &opt)
				_, err := redislock.Obtain(t.Context(), rdb, key, ttl, &redislock.Options{Limit: 2, Shared: true})
				assert.Error(t, err)
				assert.NoError(t, lock.Refresh(t.Context(), ttl, nil))
				assert.NoError(t, lock.Release(t.Context()))
				assert.Error(t, lock.Refresh(t.Context(), ttl, nil))
				assert.Error(t, lock.Release(t.Context()))
			}
		})
		n := int64(len(severalHolders))
		assert.Equal(t, redislock.Stats{
			Obtain:  redislock.Status{Success: n, Error: n},
			Refresh: redislock.Status{Success: n, Failed: n},
			Release: redislock.Status{Success: n, Failed: n},
		}, got)
	})
}

func TestHolders_minReplicas(t *testing.T) {
	t.Parallel()
	replicated := redistest.StartReplicas(t)
	rdb := replicated.Master.Client()
	for name, opt := range severalHolders {
		t.Run(name, func(t *testing.T) {
			opt := opt
			opt.MinReplicas, opt.FenceKey = 2, "fence"
			lock := obtain(t, rdb, &opt)
			for _, replica := range replicated.Replicas {
				assert.Equal(t, []string{fmt.Sprint(opt.Limit, " ", lock.Token())}, replica.Client().ZRange(t.Context(), holdersKey, 0, -1).Val(), "already there")
			}
			require.NoError(t, lock.Refresh(t.Context(), 2*ttl, nil))
			for _, replica := range replicated.Replicas {
				requireTTL(t, replica.Client(), key, 2*ttl+time.Millisecond)
			}
			more := opt
			more.MinReplicas = 3
			const brief = 600 * time.Millisecond // half of it is waited for them
			alone := func() bool {
				info, err := redislock.Inspect(t.Context(), rdb, key)
				return err == nil && len(info.Holders) == 1
			}
			for try := 1; ; try++ {
				_, err := redislock.Obtain(t.Context(), rdb, key, brief, &more)
				assert.ErrorContains(t, err, "2 of 3 replicas")
				if alone() {
					break // the place is given back before Obtain returns
				}
				require.Less(t, try, 5) // a busy machine may take longer than Obtain waits for that
				require.Eventually(t, alone, 10*time.Second, time.Millisecond)
			}

			more.Shared, more.Limit = !opt.Shared, 3-opt.Limit
			_, err := redislock.Obtain(t.Context(), rdb, key, brief, &more)
			assert.ErrorContains(t, err, "cannot have both")
			require.NoError(t, lock.Release(t.Context()))
			requireGone(t, rdb, key, holdersKey)
		})
	}
}

func TestHolders_badInput(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	for _, test := range []struct {
		keys  []string
		opt   redislock.Options
		parts []string
	}{
		{[]string{key}, redislock.Options{Limit: -3}, []string{"Limit of -3", "0 or 1"}},
		{[]string{key}, redislock.Options{Limit: 1 << 31}, []string{"Limit of 2147483648", "2147483647"}},
		{[]string{key}, redislock.Options{Limit: 2, Shared: true}, []string{"Limit of 2 with Shared"}},
		{[]string{key}, redislock.Options{Limit: 1, Shared: true}, []string{"Limit of 1 with Shared"}},
		{[]string{key, "b"}, redislock.Options{Limit: 2}, []string{"Limit of 2", "2 keys", `"lock"`}},
		{[]string{"a", "b", "c"}, redislock.Options{Shared: true}, []string{"Shared", "3 keys", `"a"`}},
	} {
		for _, strategy := range []redislock.RetryStrategy{nil, redislock.FairQueue()} {
			test.opt.RetryStrategy = strategy
			lock, err := redislock.ObtainMulti(t.Context(), rdb, test.keys, ttl, &test.opt)
			require.Nil(t, lock)
			for _, part := range append(test.parts, "redislock: ") {
				assert.ErrorContains(t, err, part)
			}
			assert.NotErrorIs(t, err, redislock.ErrNotObtained)
		}
	}
	quorum := redislock.NewQuorum(rdb, rdb, rdb)
	_, err := quorum.Obtain(t.Context(), key, ttl, &redislock.Options{Limit: 7})
	assert.ErrorContains(t, err, "redislock: Limit of 7 with NewQuorum")
	_, err = quorum.Obtain(t.Context(), key, ttl, &redislock.Options{Shared: true})
	assert.ErrorContains(t, err, "redislock: Shared with NewQuorum")
	awaitNoKeys(t, rdb)

	lock, err := redislock.Obtain(t.Context(), rdb, "a}", ttl, &redislock.Options{Limit: 1<<31 - 1})
	require.NoError(t, err, "on one server there are no slots")
	releasedAll(t, rdb, lock)
}

func TestHolders_kindsDoNotMix(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		for held, opt := range severalHolders {
			lock := obtain(t, rdb, &opt)
			for _, strategy := range []redislock.RetryStrategy{nil, redislock.FairQueue(), redislock.LinearBackoff(time.Hour)} {
				other := redislock.Options{Shared: true, RetryStrategy: strategy}
				want := `redislock: Shared for key "lock", which is held with a Limit`
				if opt.Shared {
					other = redislock.Options{Limit: 5, RetryStrategy: strategy}
					want = `redislock: Limit of 5 for key "lock", which is held with Shared`
				}
				_, err := redislock.Obtain(t.Context(), rdb, key, ttl, &other)
				assert.ErrorContains(t, err, want, held)
				assert.NotErrorIs(t, err, redislock.ErrNotObtained)
			}
			releasedAll(t, rdb, lock)
		}
	})
}

// One who waits learns of it too, and those behind it go on.
func TestHolders_kindsDoNotMixInTheQueue(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	lock := obtain(t, rdb, fair())
	readers, limited, behind := make(chan obtained, 1), make(chan obtained, 1), make(chan obtained, 1)
	waitInLine(t, t.Context(), rdb, rdb, "reader", reader(), readers)
	waitInLine(t, t.Context(), rdb, rdb, "limited", atMost(2), limited)
	waitInLine(t, t.Context(), rdb, rdb, "behind", reader(), behind)
	require.NoError(t, lock.Release(t.Context()))
	first := receive(t, readers)
	require.NoError(t, first.err)
	start := time.Now()
	second := receive(t, limited)
	assert.ErrorContains(t, second.err, `redislock: Limit of 2 for key "lock", which is held with Shared`)
	assert.Less(t, time.Since(start), 6*time.Second, "that is not a failure to be waited out")
	last := receive(t, behind)
	require.NoError(t, last.err)
	releasedAll(t, rdb, first.lock, last.lock)
}

// requireGroups is requireOrder for waiters of which several are let in by one release: the last of those before.
func requireGroups(t testing.TB, lock *redislock.Lock, results <-chan obtained, groups ...[]string) {
	t.Helper()
	for _, group := range groups {
		require.NoError(t, lock.Release(t.Context()))
		var locks []*redislock.Lock
		var names []string
		for range group {
			result := receive(t, results)
			require.NoError(t, result.err)
			names = append(names, result.name)
			locks = append(locks, result.lock)
		}
		require.ElementsMatch(t, group, names)
		lock = locks[0]
		for _, other := range locks[1:] {
			require.NoError(t, lock.Refresh(t.Context(), ttl, nil))
			require.NoError(t, other.Release(t.Context()))
		}
		require.Empty(t, results)
	}
	require.NoError(t, lock.Release(t.Context()))
}

// All kinds of waiters stand in one queue, and are served in its order.
func TestHolders_order(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		for _, opt := range []func() *redislock.Options{reader, func() *redislock.Options { return atMost(2) }} {
			lock := obtain(t, rdb, fair())
			results := make(chan obtained, 7)
			queue := map[string]func() *redislock.Options{"w": fair, "m": opt}
			for _, waiter := range []string{"m1", "m2", "w1", "w2", "m3", "w3"} {
				waitInLine(t, t.Context(), rdb, rdb, waiter, queue[waiter[:1]](), results)
			}
			requireGroups(t, lock, results, []string{"m1", "m2"}, []string{"w1"}, []string{"w2"}, []string{"m3"}, []string{"w3"})
			awaitNoKeys(t, rdb)
		}
	})
}

// Never more than the limit, and never a writer beside a reader, in turn and in no order.
func TestHolders_exclusion(t *testing.T) {
	errTooMany := errors.New("too many")
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		const workers, rounds, limit = 9, 8, 3
		for name, member := range severalHolders {
			member := member
			var members, writers atomic.Int64
			hold := func(opt *redislock.Options) error {
				return redislock.New(rdb).Do(t.Context(), name, ttl, opt, func(context.Context) error {
					count, alone := &members, &writers
					if opt.Limit == 0 && !opt.Shared {
						count, alone = &writers, &members
					}
					n := count.Add(1)
					defer count.Add(-1)
					time.Sleep(200 * time.Microsecond) // so that others come in beside it
					if alone.Load() > 0 || n > 1 && count == &writers || n > limit && opt.Limit > 0 {
						return errTooMany
					}
					return nil
				})
			}
			strategy := member.RetryStrategy
			if strategy == nil {
				strategy = redislock.LinearBackoff(time.Millisecond)
			}
			member.RetryStrategy = strategy
			var working sync.WaitGroup
			for i := range workers {
				working.Go(func() {
					opt := &member
					if i%3 == 0 {
						opt = &redislock.Options{RetryStrategy: strategy}
					}
					for range rounds {
						assert.NoError(t, hold(opt), name)
					}
				})
			}
			working.Wait()
			awaitNoKeys(t, rdb)
		}
	})
}
