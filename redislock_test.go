package redislock_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

const (
	key = "lock"
	ttl = time.Minute
)

func obtain(t testing.TB, rdb redislock.RedisClient, opt *redislock.Options) *redislock.Lock {
	t.Helper()
	lock, err := redislock.Obtain(t.Context(), rdb, key, ttl, opt)
	require.NoError(t, err)
	return lock
}

func requireTTL(t testing.TB, rdb *redis.Client, key string, want time.Duration) {
	t.Helper()
	got, err := rdb.PTTL(t.Context(), key).Result()
	require.NoError(t, err)
	require.LessOrEqual(t, got, want)
	require.Greater(t, got, want-10*time.Second)
}

func requireGone(t testing.TB, rdb *redis.Client, keys ...string) {
	t.Helper()
	n, err := rdb.Exists(t.Context(), keys...).Result()
	require.NoError(t, err)
	require.Zero(t, n, "keys left of %v", keys)
}

// requireStays requires that something is so for a while: that nothing happens cannot be
// waited for.
func requireStays(t testing.TB, duration time.Duration, is func() bool) {
	t.Helper()
	for start := time.Now(); time.Since(start) < duration; time.Sleep(5 * time.Millisecond) {
		require.True(t, is(), "not any more")
	}
}

// scripter is a Redis client that answers every script by a function.
type scripter struct {
	redis.Scripter
	answer func(ctx context.Context, script string) (any, error)
}

func (s scripter) EvalSha(ctx context.Context, digest string, _ []string, _ ...any) *redis.Cmd {
	return redis.NewCmdResult(s.answer(ctx, redislock.ScriptName(digest)))
}

func answering(answer int64) scripter {
	return scripter{answer: func(context.Context, string) (any, error) { return answer, nil }}
}

func TestObtain(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		lock, err := redislock.New(rdb).Obtain(ctx, key, ttl, nil)
		require.NoError(t, err)

		assert.Equal(t, key, lock.Key())
		assert.Equal(t, []string{key}, lock.Keys())
		assert.Regexp(t, `^[A-Za-z0-9_-]{22}$`, lock.Token())
		assert.Empty(t, lock.Metadata())
		assert.Zero(t, lock.FenceToken())
		assert.Equal(t, lock.Token(), rdb.Get(ctx, key).Val())
		requireTTL(t, rdb, key, ttl)
		left, err := lock.TTL(ctx)
		require.NoError(t, err)
		assert.InDelta(t, ttl, left, float64(10*time.Second))

		_, err = redislock.New(rdb).Obtain(ctx, key, ttl, nil)
		assert.True(t, err == redislock.ErrNotObtained, "bare, got %v", err)

		require.NoError(t, lock.Release(ctx))
		requireGone(t, rdb, key)
		left, err = lock.TTL(ctx)
		require.NoError(t, err)
		assert.Zero(t, left)
		assert.True(t, lock.Release(ctx) == redislock.ErrLockNotHeld)

		other := obtain(t, rdb, nil)
		assert.NotEqual(t, lock.Token(), other.Token())
		assert.True(t, lock.Release(ctx) == redislock.ErrLockNotHeld)
		assert.True(t, lock.Refresh(ctx, ttl, nil) == redislock.ErrNotObtained)
		assert.Equal(t, other.Token(), rdb.Get(ctx, key).Val(), "the other's lock is untouched")
	})
}

func TestObtain_onlyOneOfMany(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		locker := redislock.New(rdb)
		var held atomic.Int32
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if _, err := locker.Obtain(t.Context(), key, ttl, nil); err == nil {
					held.Add(1)
				} else {
					assert.True(t, err == redislock.ErrNotObtained)
				}
			})
		}
		wg.Wait()
		assert.EqualValues(t, 1, held.Load())
	})
}

func TestObtain_metadata(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		metadata := "any\x00 bytes \xff\r\n"
		lock := obtain(t, rdb, &redislock.Options{Metadata: metadata})
		assert.Equal(t, metadata, lock.Metadata())
		assert.Len(t, lock.Token(), 22)
		assert.Equal(t, lock.Token()+metadata, rdb.Get(t.Context(), key).Val())
		require.NoError(t, lock.Refresh(t.Context(), ttl, nil))
		require.NoError(t, lock.Release(t.Context()))
	})
}

func TestObtain_sameTokenAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		for _, keys := range [][]string{{"one"}, {"first", "second", "third"}} {
			locker := redislock.New(rdb)
			first, err := locker.ObtainMulti(ctx, keys, time.Hour, &redislock.Options{Token: "me", Metadata: "long metadata"})
			require.NoError(t, err)
			assert.Equal(t, "me", first.Token())

			again, err := locker.ObtainMulti(ctx, keys, ttl, &redislock.Options{Token: "me", Metadata: "new"})
			require.NoError(t, err)
			assert.Equal(t, "new", again.Metadata())
			for _, key := range keys {
				assert.Equal(t, "menew", rdb.Get(ctx, key).Val())
				requireTTL(t, rdb, key, ttl)
			}

			_, err = locker.ObtainMulti(ctx, keys, ttl, &redislock.Options{Token: "you"})
			assert.True(t, err == redislock.ErrNotObtained)
			assert.True(t, first.Release(ctx) == redislock.ErrLockNotHeld, "its metadata has been replaced")
			require.NoError(t, again.Release(ctx))
			requireGone(t, rdb, keys...)
		}
	})
}

func TestObtain_binaryToken(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		token := "\x00\xff{%d}" + strings.Repeat("long", 100)
		opt := &redislock.Options{Token: token, Metadata: "meta"}
		lock := obtain(t, rdb, opt)
		again := obtain(t, rdb, opt)
		assert.Equal(t, token, again.Token())
		assert.Equal(t, "meta", again.Metadata())
		require.NoError(t, lock.Release(t.Context()))
	})
}

func TestObtainMulti(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		obtain := func(keys ...string) (*redislock.Lock, error) {
			return redislock.ObtainMulti(ctx, rdb, keys, ttl, nil)
		}
		ab, err := obtain("a", "b")
		require.NoError(t, err)
		assert.Equal(t, "a", ab.Key())
		assert.Equal(t, []string{"a", "b"}, ab.Keys())
		requireTTL(t, rdb, "a", ttl)
		requireTTL(t, rdb, "b", ttl)

		_, err = obtain("c", "b")
		assert.True(t, err == redislock.ErrNotObtained)
		requireGone(t, rdb, "c")

		require.NoError(t, rdb.PExpire(ctx, "b", 20*time.Second).Err())
		left, err := ab.TTL(ctx)
		require.NoError(t, err)
		assert.InDelta(t, 15*time.Second, left, float64(5*time.Second), "the shortest")
		require.NoError(t, ab.Refresh(ctx, time.Hour, nil))
		requireTTL(t, rdb, "a", time.Hour)
		requireTTL(t, rdb, "b", time.Hour)

		require.NoError(t, ab.Release(ctx))
		requireGone(t, rdb, "a", "b")
		_, err = obtain("c", "b")
		require.NoError(t, err)
	})
}

func TestObtainMulti_partlyLost(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		lock, err := redislock.ObtainMulti(ctx, rdb, []string{"a", "b", "c"}, ttl, nil)
		require.NoError(t, err)
		require.NoError(t, rdb.Set(ctx, "b", "somebody else", time.Hour).Err())

		assert.True(t, lock.Refresh(ctx, 2*ttl, nil) == redislock.ErrNotObtained)
		requireTTL(t, rdb, "a", ttl)
		requireTTL(t, rdb, "c", ttl)
		left, err := lock.TTL(ctx)
		require.NoError(t, err)
		assert.Zero(t, left)

		assert.True(t, lock.Release(ctx) == redislock.ErrLockNotHeld)
		requireGone(t, rdb, "a", "c")
		assert.Equal(t, "somebody else", rdb.Get(ctx, "b").Val())
	})
}

func TestObtainMulti_duplicatesAndOwnSlice(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		keys := []string{"a", "b", "a"}
		lock, err := redislock.ObtainMulti(ctx, rdb, keys, ttl, nil)
		require.NoError(t, err)
		keys[0] = "changed by the caller"
		lock.Keys()[1] = "changed by the caller"
		assert.Equal(t, []string{"a", "b", "a"}, lock.Keys())
		require.NoError(t, lock.Refresh(ctx, ttl, nil))
		require.NoError(t, lock.Release(ctx))
		requireGone(t, rdb, "a", "b")
	})
}

func TestObtainMulti_manyKeys(t *testing.T) {
	t.Parallel()
	keys := make([]string, 20_000) // more than Lua can unpack
	for i := range keys {
		keys[i] = fmt.Sprint("key", i)
	}
	rdb := redistest.Start(t).Client()
	lock, err := redislock.ObtainMulti(t.Context(), rdb, keys, ttl, nil)
	require.NoError(t, err)
	require.NoError(t, lock.Refresh(t.Context(), ttl, nil))
	require.NoError(t, lock.Release(t.Context()))
	requireGone(t, rdb, keys...)
}

func TestFenceToken(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		opt := &redislock.Options{FenceKey: "fence", Token: "me"}
		for want := range int64(3) {
			lock := obtain(t, rdb, opt)
			assert.Equal(t, want+1, lock.FenceToken())
			again := obtain(t, rdb, opt)
			assert.Equal(t, want+1, again.FenceToken(), "not a new acquisition")
			_, err := redislock.Obtain(ctx, rdb, key, ttl, &redislock.Options{FenceKey: "fence"})
			assert.True(t, err == redislock.ErrNotObtained)
			require.NoError(t, lock.Release(ctx))
		}
		assert.Equal(t, "3", rdb.Get(ctx, "fence").Val())
		assert.EqualValues(t, -1, rdb.PTTL(ctx, "fence").Val(), "no TTL")

		keys := []string{"a", "b"}
		lock, err := redislock.ObtainMulti(ctx, rdb, keys, ttl, opt)
		require.NoError(t, err)
		assert.Equal(t, keys, lock.Keys())
		assert.EqualValues(t, 4, lock.FenceToken())
		require.NoError(t, lock.Release(ctx))
		assert.Equal(t, "4", rdb.Get(ctx, "fence").Val(), "released without the counter")
	})
}

func TestFenceToken_forALockHeldWithoutOne(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		obtain(t, rdb, &redislock.Options{Token: "me"})
		lock := obtain(t, rdb, &redislock.Options{Token: "me", FenceKey: "fence"})
		assert.EqualValues(t, 1, lock.FenceToken())
	})
}

func TestFenceToken_unusableCounter(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		require.NoError(t, rdb.Set(t.Context(), "fence", "no number", 0).Err())
		_, err := redislock.Obtain(t.Context(), rdb, key, ttl, &redislock.Options{FenceKey: "fence"})
		require.ErrorContains(t, err, "not an integer")
		requireGone(t, rdb, key)
		assert.Equal(t, "no number", rdb.Get(t.Context(), "fence").Val())
	})
}

func TestObtain_badInput(t *testing.T) {
	unasked := scripter{answer: func(context.Context, string) (any, error) {
		t.Error("Redis was asked")
		return nil, errors.New("asked")
	}}
	var nilClient *redis.Client
	for name, test := range map[string]struct {
		client redislock.RedisClient
		keys   []string
		ttl    time.Duration
		opt    *redislock.Options
		want   string
	}{
		"no client":      {nil, []string{key}, ttl, nil, "no Redis client"},
		"nil pointer":    {nilClient, []string{key}, ttl, nil, "no Redis client"},
		"no keys":        {unasked, nil, ttl, nil, "no keys"},
		"empty key":      {unasked, []string{key, ""}, ttl, nil, "key 2 of 2 is empty"},
		"no TTL":         {unasked, []string{key}, 0, nil, "TTL of 0s is too short"},
		"negative TTL":   {unasked, []string{key}, -time.Second, nil, "TTL of -1s is too short"},
		"tiny TTL":       {unasked, []string{key}, 999 * time.Microsecond, nil, "TTL of 999µs is too short"},
		"lock as fence":  {unasked, []string{"a", "b"}, ttl, &redislock.Options{FenceKey: "b"}, `FenceKey "b"`},
		"zero Client":    {nil, []string{key}, ttl, &redislock.Options{Watchdog: redislock.NewTickWatchdog(0)}, "no Redis client"},
		"one empty key":  {unasked, []string{""}, ttl, nil, "key 1 of 1 is empty"},
		"empty key list": {unasked, []string{}, ttl, nil, "no keys"},
	} {
		t.Run(name, func(t *testing.T) {
			before := redislock.GetStats().Obtain
			lock, err := redislock.ObtainMulti(t.Context(), test.client, test.keys, test.ttl, test.opt)
			require.ErrorContains(t, err, test.want)
			require.ErrorContains(t, err, "redislock: ")
			assert.NotErrorIs(t, err, redislock.ErrNotObtained)
			assert.Nil(t, lock)
			before.Error++
			assert.Equal(t, before, redislock.GetStats().Obtain)
		})
	}
	var nilLocker *redislock.Client
	_, err := nilLocker.Obtain(t.Context(), key, ttl, nil)
	require.ErrorContains(t, err, "no Redis client")
}

func TestObtain_valueOfAnotherType(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		lock := obtain(t, rdb, nil)
		require.NoError(t, rdb.Del(ctx, key).Err())
		require.NoError(t, rdb.RPush(ctx, key, "a", "b").Err())

		_, err := redislock.Obtain(ctx, rdb, key, ttl, nil)
		require.ErrorContains(t, err, "WRONGTYPE")
		assert.NotErrorIs(t, err, redislock.ErrNotObtained)
		_, err = redislock.ObtainMulti(ctx, rdb, []string{"free", key}, ttl, nil)
		require.ErrorContains(t, err, "WRONGTYPE")
		requireGone(t, rdb, "free")

		require.Error(t, lock.Refresh(ctx, ttl, nil))
		require.Error(t, lock.Release(ctx))
		_, err = lock.TTL(ctx)
		require.Error(t, err)
		assert.Equal(t, []string{"a", "b"}, rdb.LRange(ctx, key, 0, -1).Val())
	})
}

func TestNilLock(t *testing.T) {
	var lock *redislock.Lock
	assert.Empty(t, lock.Key())
	assert.Empty(t, lock.Keys())
	assert.Empty(t, lock.Token())
	assert.Empty(t, lock.Metadata())
	assert.Zero(t, lock.FenceToken())
	assert.True(t, lock.ValidUntil().IsZero())
	_, err := lock.TTL(t.Context())
	assert.True(t, err == redislock.ErrLockNotHeld)

	before := redislock.GetStats()
	assert.True(t, lock.Release(t.Context()) == redislock.ErrLockNotHeld)
	assert.True(t, lock.Refresh(t.Context(), ttl, nil) == redislock.ErrNotObtained)
	before.Release.Failed++
	before.Refresh.Failed++
	assert.Equal(t, before, redislock.GetStats())
}

func TestZeroLock(t *testing.T) {
	lock := new(redislock.Lock)
	assert.Empty(t, lock.Key())
	assert.Empty(t, lock.Token())
	assert.Empty(t, lock.Metadata())
	assert.Error(t, lock.Refresh(t.Context(), ttl, nil))
	assert.Error(t, lock.Release(t.Context()))
	_, err := lock.TTL(t.Context())
	assert.Error(t, err)
}

func TestObtain_retriesUntilFree(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	held, err := redislock.Obtain(t.Context(), rdb, key, time.Second, nil)
	require.NoError(t, err)

	var diary diary
	lock, err := redislock.New(rdb).WithObserver(&diary).Obtain(t.Context(), key, ttl, &redislock.Options{
		RetryStrategy: redislock.LinearBackoff(10 * time.Millisecond),
	})
	require.NoError(t, err)
	assert.NotEqual(t, held.Token(), lock.Token())
	assert.Contains(t, diary.read(), "obtain: success <nil>")
	require.Len(t, diary.waited, 1)
	assert.Positive(t, diary.waited[0])
}

// The waiting is tested on fake time, with a Redis in which somebody else holds
// the lock.
func TestObtain_waiting(t *testing.T) {
	others := answering(0)
	every := func(d time.Duration) *redislock.Options {
		return &redislock.Options{RetryStrategy: redislock.LinearBackoff(d)}
	}
	limited := &redislock.Options{RetryStrategy: redislock.LimitRetry(redislock.LinearBackoff(time.Second), 3)}
	for name, test := range map[string]struct {
		timeout time.Duration // of the context; 0: none
		ttl     time.Duration
		opt     *redislock.Options
		took    time.Duration
		waits   int64
		ended   error // of the context; nil: bare ErrNotObtained
	}{
		"no strategy":                  {0, ttl, nil, 0, 0, nil},
		"no retry":                     {0, ttl, every(0), 0, 0, nil},
		"limited":                      {0, ttl, limited, 3 * time.Second, 3, nil},
		"endless ends after the TTL":   {0, time.Minute, every(time.Second), time.Minute, 60, context.DeadlineExceeded},
		"one wait longer than the TTL": {0, time.Minute, every(time.Hour), time.Minute, 1, context.DeadlineExceeded},
		"shorter deadline":             {time.Second, time.Minute, every(400 * time.Millisecond), time.Second, 3, context.DeadlineExceeded},
		"longer deadline":              {time.Hour, time.Minute, every(25 * time.Minute), time.Hour, 3, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if test.timeout > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, test.timeout)
					defer cancel()
				}
				before := redislock.GetStats()
				start := time.Now()
				lock, err := redislock.Obtain(ctx, others, key, test.ttl, test.opt)
				assert.Nil(t, lock)
				assert.Equal(t, test.took, time.Since(start))

				if test.ended == nil {
					assert.True(t, err == redislock.ErrNotObtained, "bare, got %v", err)
					before.Obtain.Failed++
				} else {
					assert.ErrorIs(t, err, redislock.ErrNotObtained)
					assert.ErrorIs(t, err, test.ended)
					before.Obtain.Cancel++
				}
				before.Backoff += test.waits
				assert.Equal(t, before, redislock.GetStats())
			})
		})
	}
}

func TestObtain_canceledWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(90*time.Second, cancel)
		ctx, cancelTimeout := context.WithTimeout(ctx, time.Hour)
		defer cancelTimeout()
		before := redislock.GetStats()
		start := time.Now()
		_, err := redislock.Obtain(ctx, answering(0), key, ttl, &redislock.Options{
			RetryStrategy: redislock.LinearBackoff(time.Minute),
		})
		assert.ErrorIs(t, err, redislock.ErrNotObtained)
		assert.ErrorIs(t, err, context.Canceled)
		assert.Equal(t, 90*time.Second, time.Since(start))
		before.Obtain.Cancel++
		before.Backoff += 2
		assert.Equal(t, before, redislock.GetStats())
	})
}

// The call was waiting for a lock that somebody else held, also if its context ended
// just while Redis was being asked again.
func TestObtain_canceledWhileAskingAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		asked := 0
		rdb := scripter{answer: func(ctx context.Context, script string) (any, error) {
			if asked++; asked == 1 {
				return int64(0), nil
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		before := redislock.GetStats()
		_, err := redislock.Obtain(ctx, rdb, key, ttl, &redislock.Options{
			Token:         "custom",
			RetryStrategy: redislock.LinearBackoff(time.Minute),
		})
		assert.ErrorIs(t, err, redislock.ErrNotObtained)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 2, asked)
		before.Obtain.Cancel++
		before.Backoff++
		assert.Equal(t, before, redislock.GetStats())
	})
}

func TestObtain_withAnEndedContext(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var tally tally
	_, err := redislock.New(rdb).WithObserver(&tally).Obtain(ctx, key, ttl, nil)
	assert.ErrorIs(t, err, context.Canceled)
	tally.require(t, map[string]int{"obtain cancel": 1})
}

// failingOnce fails to obtain a lock, and then is closed.
func failingOnce(failure error) scripter {
	return scripter{answer: func(_ context.Context, script string) (any, error) {
		if script == "obtain" {
			return nil, failure
		}
		return nil, redis.ErrClosed
	}}
}

func TestObtain_redisFails(t *testing.T) {
	failure := errors.New("failure")
	before := redislock.GetStats().Obtain
	_, err := redislock.Obtain(t.Context(), failingOnce(failure), key, ttl, nil)
	assert.ErrorIs(t, err, failure)
	assert.NotErrorIs(t, err, redislock.ErrNotObtained)
	before.Error++
	assert.Equal(t, before, redislock.GetStats().Obtain)
}

// A dial that times out claims to be a context that did.
func TestObtain_dialTimeoutIsNoCancel(t *testing.T) {
	before := redislock.GetStats().Obtain
	_, err := redislock.Obtain(t.Context(), failingOnce(fmt.Errorf("dial: %w", context.DeadlineExceeded)), key, ttl, nil)
	require.Error(t, err)
	before.Error++
	assert.Equal(t, before, redislock.GetStats().Obtain)
}

func TestObtain_deadlineWhileRedisIsSilent(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(func(o *redis.Options) { o.ContextTimeoutEnabled = true })
	require.NoError(t, rdb.Ping(t.Context()).Err())
	server.Pause()
	defer server.Resume()

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var tally tally
	_, err := redislock.New(rdb).WithObserver(&tally).Obtain(ctx, key, ttl, nil)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	tally.require(t, map[string]int{"obtain cancel": 1})
}

func TestObtain_lostReply(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	rdb := redistest.Client(t, proxy.Addr)
	fenced := &redislock.Options{FenceKey: "fence"}
	for _, test := range []struct {
		keys []string
		opt  *redislock.Options
		// How many scripts run at least. Of one key it is a command that runs twice, and
		// then a script, since it has found its own value.
		scripts int
	}{{[]string{"a"}, nil, 1}, {[]string{"a", "b"}, nil, 2}, {[]string{"a"}, fenced, 2}} {
		// Scripts known, connection warm: the next reply is that to the real thing.
		lock, err := redislock.ObtainMulti(t.Context(), rdb, test.keys, ttl, test.opt)
		require.NoError(t, err)
		require.NoError(t, lock.Release(t.Context()))
		awaitNoTasks(t, rdb)

		calls := server.Calls("evalsha")
		proxy.LoseReplies(1)
		again, err := redislock.ObtainMulti(t.Context(), rdb, test.keys, ttl, test.opt)
		require.NoError(t, err)
		assert.GreaterOrEqual(t, server.Calls("evalsha"), calls+test.scripts, "the reply was lost")
		if test.opt == fenced {
			assert.Equal(t, lock.FenceToken()+1, again.FenceToken(), "one acquisition")
		}
		require.NoError(t, again.Release(t.Context()))
	}
}

// A free lock takes a plain command. Who finds it held asks a script, then and each time
// again.
func TestObtain_commands(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	commands := func() (scripts, sets int) {
		return server.Calls("evalsha") + server.Calls("eval"), server.Calls("set")
	}
	for try := 0; ; try++ {
		opt := &redislock.Options{RetryStrategy: redislock.LimitRetry(redislock.LinearBackoff(time.Millisecond), 2)}
		scripts, sets := commands()
		start := time.Now()
		lock := obtain(t, rdb, nil)
		took := time.Since(start)
		scriptsOfFree, setsOfFree := commands()
		start = time.Now()
		_, err := redislock.Obtain(t.Context(), rdb, key, ttl, opt)
		took = max(took, time.Since(start))
		scriptsOfHeld, setsOfHeld := commands()
		require.ErrorIs(t, err, redislock.ErrNotObtained)
		require.NoError(t, lock.Release(t.Context()))
		awaitNoTasks(t, rdb)
		if try == 0 || took >= redislock.SlowReply {
			continue // the scripts were not known, or a reply was so slow that more was sent
		}
		assert.Equal(t, scripts, scriptsOfFree)
		assert.Equal(t, sets+1, setsOfFree)
		assert.Equal(t, scripts+3, scriptsOfHeld)
		assert.Equal(t, setsOfFree+1+3, setsOfHeld, "once by itself, and in each script")
		return
	}
}

// prefixer is a client of one's own that changes the keys of scripts.
type prefixer struct {
	*redis.Client
}

func prefixed(keys []string) (names []string) {
	for _, key := range keys {
		names = append(names, "my-"+key)
	}
	return names
}

func (p prefixer) EvalSha(ctx context.Context, digest string, keys []string, args ...any) *redis.Cmd {
	return p.Client.EvalSha(ctx, digest, prefixed(keys), args...)
}

func (p prefixer) Eval(ctx context.Context, script string, keys []string, args ...any) *redis.Cmd {
	return p.Client.Eval(ctx, script, prefixed(keys), args...)
}

func TestObtain_clientThatChangesKeys(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	lock := obtain(t, prefixer{rdb}, nil)
	assert.Equal(t, lock.Token(), rdb.Get(t.Context(), "my-"+key).Val())
	requireGone(t, rdb, key)
	require.NoError(t, lock.Release(t.Context()))
	requireGone(t, rdb, "my-"+key)
}

// A key that is somebody else's is left alone, and so is another of the same lock.
func TestRefresh_somebodyElses(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		lock, err := redislock.ObtainMulti(t.Context(), rdb, []string{"mine", "taken"}, time.Minute, nil)
		require.NoError(t, err)
		require.NoError(t, rdb.Set(t.Context(), "taken", "somebody else", time.Minute).Err())
		assert.Equal(t, redislock.ErrNotObtained, lock.Refresh(t.Context(), time.Hour, nil))
		for _, key := range lock.Keys() {
			assert.LessOrEqual(t, rdb.PTTL(t.Context(), key).Val(), time.Minute)
		}
		assert.True(t, isClosed(lock.Done()))
	})
}

func TestRefresh(t *testing.T) {
	onBothInTurn(t, func(t *testing.T, rdb *redis.Client) {
		lock := obtain(t, rdb, nil)
		before := redislock.GetStats().Refresh
		require.NoError(t, lock.Refresh(t.Context(), time.Hour, nil))
		requireTTL(t, rdb, key, time.Hour)
		assert.InDelta(t, time.Hour, time.Until(lock.ValidUntil()), float64(2*time.Minute))
		require.NoError(t, lock.Refresh(t.Context(), 30*time.Second, nil))
		requireTTL(t, rdb, key, 30*time.Second)
		assert.Less(t, time.Until(lock.ValidUntil()), 30*time.Second)
		before.Success += 2

		for _, bad := range []time.Duration{0, -1, 999 * time.Microsecond} {
			require.ErrorContains(t, lock.Refresh(t.Context(), bad, nil), bad.String())
			requireTTL(t, rdb, key, 30*time.Second)
			before.Error++
		}

		require.NoError(t, rdb.Del(t.Context(), key).Err())
		forever := &redislock.Options{RetryStrategy: redislock.LinearBackoff(time.Hour)}
		assert.True(t, lock.Refresh(t.Context(), ttl, forever) == redislock.ErrNotObtained, "at once")
		before.Failed++
		assert.Equal(t, before, redislock.GetStats().Refresh)
	})
}

// The reply comes when what it says is not true any more.
func TestRefresh_replyTooLate(t *testing.T) {
	if !alone(t) {
		return
	}
	const ttl = 400 * time.Millisecond
	late := func(t *testing.T, opt *redislock.Options, obtained, refreshed time.Duration, observe func(*redislock.Lock)) {
		redistest.NoLeaks(t)
		server := redistest.Start(t)
		rdb, other := server.Client(), server.Client()
		pauses := pauses{server: server}
		rdb.AddHook(&pauses)
		lock, err := redislock.Obtain(t.Context(), rdb, key, obtained, opt)
		require.NoError(t, err)
		require.NoError(t, lock.Refresh(t.Context(), obtained, nil), "the script is known")
		observe(lock)
		pauses.atNextCall(ttl + ttl/4)
		got := counted(func() {
			assert.True(t, lock.Refresh(t.Context(), refreshed, nil) == redislock.ErrNotObtained)
		})
		assert.Equal(t, redislock.Stats{Refresh: redislock.Status{Failed: 1}, Lost: 1}, got)
		assert.True(t, isClosed(lock.Done()))
		assert.LessOrEqual(t, time.Until(lock.ValidUntil()), time.Duration(0))
		if opt == nil {
			awaitNoKeys(t, other)
		}
	}
	t.Run("after the new TTL", func(t *testing.T) {
		late(t, nil, time.Minute, ttl, func(*redislock.Lock) {})
	})
	t.Run("after the new TTL, observed", func(t *testing.T) {
		late(t, nil, time.Minute, ttl, func(lock *redislock.Lock) { lock.Done() })
	})
	t.Run("after a custom token's new TTL", func(t *testing.T) {
		late(t, &redislock.Options{Token: "me"}, time.Minute, ttl, func(*redislock.Lock) {})
	})
}

// While a refresh is under way Done closes. Redis has the key even so, with a new TTL.
func TestRefresh_endedMeanwhile(t *testing.T) {
	if !alone(t) {
		return
	}
	redistest.NoLeaks(t)
	server := redistest.Start(t)
	direct, rdb := server.Client(), server.Client()
	for _, token := range []string{"", "me"} {
		const ttl = 4 * time.Second
		lock, err := redislock.Obtain(t.Context(), rdb, key, ttl, &redislock.Options{Token: token})
		require.NoError(t, err)
		require.NoError(t, lock.Refresh(t.Context(), ttl, nil), "the script is known")
		done := lock.Done()
		rdb.AddHook(replyAfter(done))
		got := countedWithLosses(t, 1, func() {
			refreshed := make(chan error)
			go func() { refreshed <- lock.Refresh(t.Context(), time.Hour, nil) }()
			<-done
			assert.True(t, <-refreshed == redislock.ErrNotObtained)
		})
		assert.Equal(t, redislock.Stats{Refresh: redislock.Status{Failed: 1}, Lost: 1}, got)
		if token == "" {
			awaitNoKeys(t, direct)
		} else {
			assert.Equal(t, token, direct.Get(t.Context(), key).Val(), "a custom token is left alone")
		}
	}
}

// replyAfter is a hook that holds replies back until then.
type replyAfter <-chan struct{}

func (then replyAfter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (then replyAfter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		<-then
		return err
	}
}

func (then replyAfter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// A context without a deadline gets one where the Redis client heeds it.
func TestContextWithoutDeadline(t *testing.T) {
	if !alone(t) {
		return
	}
	const ttl = 500 * time.Millisecond
	server := redistest.Start(t)
	rdb := server.Client(func(o *redis.Options) { o.ContextTimeoutEnabled = true })
	lock := obtain(t, rdb, nil)
	require.NoError(t, lock.Refresh(t.Context(), time.Minute, nil))
	server.Pause()
	defer server.Resume()
	for name, call := range map[string]func() error{
		"obtain": func() error {
			_, err := redislock.Obtain(t.Context(), rdb, "other", ttl, nil)
			return err
		},
		"obtain in turn": func() error {
			_, err := redislock.Obtain(t.Context(), rdb, "other", ttl, fair())
			return err
		},
		"refresh": func() error { return lock.Refresh(t.Context(), ttl, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			got := counted(func() { assert.ErrorIs(t, call(), context.DeadlineExceeded) })
			assert.Less(t, time.Since(start), 8*time.Second, "the Redis client would try for longer")
			assert.EqualValues(t, 1, got.Obtain.Cancel+got.Refresh.Cancel)
		})
	}
}

// The replies of upstream's scripts, by which services fake a Redis client.
func TestFakes(t *testing.T) {
	var reply any
	var failure error
	rdb := scripter{answer: func(context.Context, string) (any, error) { return reply, failure }}
	for name, opt := range map[string]*redislock.Options{"plain": nil, "fenced": {FenceKey: "fence"}, "fair": fair()} {
		t.Run(name, func(t *testing.T) {
			reply, failure = "OK", nil
			lock, err := redislock.Obtain(t.Context(), rdb, key, ttl, opt)
			require.NoError(t, err)
			require.NoError(t, lock.Refresh(t.Context(), ttl, nil))
			reply = int64(1)
			require.NoError(t, lock.Release(t.Context()))

			reply, failure = nil, redis.Nil
			if opt == nil || opt.RetryStrategy == nil {
				_, err = redislock.Obtain(t.Context(), rdb, key, ttl, opt)
				assert.True(t, err == redislock.ErrNotObtained, "got %v", err)
			}
			assert.True(t, lock.Refresh(t.Context(), ttl, nil) == redislock.ErrNotObtained)
			assert.True(t, lock.Release(t.Context()) == redislock.ErrLockNotHeld)
			left, err := lock.TTL(t.Context())
			require.NoError(t, err)
			assert.Zero(t, left)
		})
	}
}

func TestRefresh_retriesTransientFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failures := 0
		failure := errors.New("failure")
		rdb := scripter{answer: func(context.Context, string) (any, error) {
			if failures > 0 {
				failures--
				return nil, fmt.Errorf("%w with %d to come", failure, failures)
			}
			return int64(1), nil
		}}
		lock := obtain(t, rdb, nil)
		retry := func(n int) *redislock.Options {
			return &redislock.Options{RetryStrategy: redislock.LimitRetry(redislock.LinearBackoff(time.Second), n)}
		}
		before := redislock.GetStats()

		failures = 3
		require.NoError(t, lock.Refresh(t.Context(), ttl, retry(3)))
		before.Refresh.Success++
		before.Backoff += 3

		failures = 3
		err := lock.Refresh(t.Context(), ttl, retry(2))
		require.ErrorIs(t, err, failure)
		assert.ErrorContains(t, err, "with 0 to come", "the last one")
		before.Refresh.Error++
		before.Backoff += 2

		failures = 1000
		start := time.Now()
		err = lock.Refresh(t.Context(), ttl, retry(1000))
		assert.Equal(t, ttl, time.Since(start))
		require.ErrorIs(t, err, failure)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.NotErrorIs(t, err, redislock.ErrNotObtained)
		before.Refresh.Cancel++
		before.Backoff += 60
		assert.Equal(t, before, redislock.GetStats())
	})
}

func TestRelease_withAnEndedContext(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		ctx, cancel := context.WithCancel(t.Context())
		var tally tally
		lock := mustObtain(t, redislock.New(rdb).WithObserver(&tally))
		cancel()
		require.NoError(t, lock.Release(ctx))
		requireGone(t, rdb, key)
		assert.True(t, lock.Release(ctx) == redislock.ErrLockNotHeld)
		tally.require(t, map[string]int{"obtain success": 1, "hold success": 1, "release success": 1, "release failed": 1})
	})
}

func TestRelease_redisIsSilent(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		ctx   func() (context.Context, context.CancelFunc)
		bound time.Duration
	}{
		"ended before": {func() (context.Context, context.CancelFunc) { return ended, func() {} }, time.Second},
		"ends soon": {func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(t.Context(), 300*time.Millisecond)
		}, 300 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			rdb := server.Client(patient, once)
			var tally tally
			lock := mustObtain(t, redislock.New(rdb).WithObserver(&tally))
			server.Pause()
			defer server.Resume()
			ctx, cancel := test.ctx()
			defer cancel()
			start := time.Now()
			err := lock.Release(ctx)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			assert.Less(t, time.Since(start), test.bound+5*time.Second)
			tally.require(t, map[string]int{"obtain success": 1, "hold success": 1, "release cancel": 1})

			server.Resume()
			require.Eventually(t, func() bool {
				return rdb.Exists(t.Context(), key).Val() == 0
			}, 10*time.Second, 10*time.Millisecond, "the command goes on")
		})
	}
}

// A command that was lost on its way is sent again by another connection, although its caller has gone.
func TestRelease_connectionIsDead(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	rdb := redistest.Client(t, proxy.Addr, func(o *redis.Options) { o.ReadTimeout = 500 * time.Millisecond })
	lock := obtain(t, rdb, nil)
	proxy.DeadenConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, lock.Release(ctx), context.DeadlineExceeded)
	assert.EqualValues(t, 1, server.Client().Exists(t.Context(), key).Val())
	eventuallyFree(t, server.Client())
	awaitNoTasks(t, rdb)
}

// The Redis client would repeat a release that was not answered after Release has returned.
func TestRelease_customTokenIsNotRepeated(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	direct := server.Client()
	rdb := redistest.Client(t, proxy.Addr, func(o *redis.Options) {
		o.MinRetryBackoff, o.MaxRetryBackoff = 200*time.Millisecond, 400*time.Millisecond
	})
	opt := &redislock.Options{Token: "me"}
	require.NoError(t, obtain(t, rdb, opt).Release(t.Context()), "the script is known")
	lock := obtain(t, rdb, opt)
	released := server.Calls("del")
	proxy.LoseReplies(1)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, lock.Release(ctx), context.DeadlineExceeded)
	awaitCalls(t, server, "del", released)
	again := obtain(t, direct, opt)
	requireStays(t, time.Second, func() bool { return direct.Exists(t.Context(), key).Val() != 0 })
	require.NoError(t, again.Release(t.Context()))
}

func TestRelease_redisFails(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	var tally tally
	lock := mustObtain(t, redislock.New(server.Client(once)).WithObserver(&tally))
	server.Kill()
	err := lock.Release(t.Context())
	require.Error(t, err)
	assert.NotErrorIs(t, err, redislock.ErrLockNotHeld)
	tally.require(t, map[string]int{"obtain success": 1, "hold success": 1, "release error": 1})
}

func TestLock_expires(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	lock, err := redislock.Obtain(t.Context(), rdb, key, time.Second, nil)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		return rdb.Exists(t.Context(), key).Val() == 0
	}, 10*time.Second, time.Millisecond)
	left, err := lock.TTL(t.Context())
	require.NoError(t, err)
	assert.Zero(t, left)
	assert.True(t, lock.Refresh(t.Context(), ttl, nil) == redislock.ErrNotObtained)
	assert.True(t, lock.Release(t.Context()) == redislock.ErrLockNotHeld)
}

func TestNoScript(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		flush := func() { require.NoError(t, rdb.ScriptFlush(ctx).Err()) }
		for _, keys := range [][]string{{"a"}, {"a", "b"}} {
			flush()
			lock, err := redislock.ObtainMulti(ctx, rdb, keys, ttl, nil)
			require.NoError(t, err)
			flush()
			require.NoError(t, lock.Refresh(ctx, ttl, nil))
			flush()
			left, err := lock.TTL(ctx)
			require.NoError(t, err)
			assert.NotZero(t, left)
			flush()
			require.NoError(t, lock.Release(ctx))
		}
	})
}

func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	ctx := t.Context()
	lock := obtain(t, rdb, nil)
	require.NoError(t, rdb.ConfigSet(ctx, "maxmemory", "1").Err())

	_, err := redislock.Obtain(ctx, rdb, "other", ttl, nil)
	assert.True(t, redis.IsOOMError(err), "got %v", err)
	_, err = redislock.ObtainMulti(ctx, rdb, []string{"a", "b"}, ttl, &redislock.Options{FenceKey: "fence"})
	assert.True(t, redis.IsOOMError(err), "got %v", err)
	requireGone(t, rdb, "other", "a", "b", "fence")

	require.NoError(t, lock.Refresh(ctx, ttl, nil), "what is held can be kept")
	require.NoError(t, lock.Release(ctx), "and given back")
}

// Nothing is sent, and so nothing changes.
func TestRefresh_withAnEndedContext(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for name, locker := range map[string]*redislock.Client{
		"one server": redislock.New(nodes[0].Client()),
		"quorum":     quorumOf(nodes),
	} {
		t.Run(name, func(t *testing.T) {
			lock := obtainAtLast(t, locker, key, ttl, nil)
			until := lock.ValidUntil()
			forever := &redislock.Options{RetryStrategy: redislock.LinearBackoff(time.Millisecond)}
			for _, opt := range []*redislock.Options{nil, forever} {
				assert.Equal(t, context.Canceled, lock.Refresh(over, time.Hour, opt))
				assert.Equal(t, context.Canceled, lock.Refresh(over, time.Second, opt))
			}
			assert.Equal(t, until, lock.ValidUntil())
			requireStays(t, 50*time.Millisecond, func() bool { return nodes[0].Client().PTTL(t.Context(), key).Val() <= ttl })
			releaseOnQuorum(t, lock)
			assert.Equal(t, redislock.ErrNotObtained, lock.Refresh(over, ttl, nil), "a lock that has ended")
		})
	}
}

// Upstream's script replies -3 if the lock is not held.
func TestTTL_fakeThatRepliesAsUpstream(t *testing.T) {
	lock := obtain(t, answering(1), nil)
	lock.Client = redislock.New(answering(-3))
	left, err := lock.TTL(t.Context())
	require.NoError(t, err)
	assert.Zero(t, left)
}
