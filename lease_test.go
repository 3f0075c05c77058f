package redislock_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

func TestDone_onRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var done <-chan struct{}
		rdb := scripter{answer: func(_ context.Context, script string) (any, error) {
			if script == "release" {
				assert.True(t, isClosed(done), "closed before the key is gone")
			}
			return int64(1), nil
		}}
		lock := obtain(t, rdb, nil)
		done = lock.Done()
		ctx := lock.Context(t.Context())
		assert.False(t, isClosed(done))
		assert.NoError(t, ctx.Err())

		got := counted(func() {
			require.NoError(t, lock.Release(t.Context()))
			synctest.Wait()
		})
		assert.Zero(t, got.Lost)
		assert.ErrorIs(t, context.Cause(ctx), redislock.ErrLockNotHeld)
		assert.ErrorContains(t, context.Cause(ctx), "released")
		assert.LessOrEqual(t, time.Until(lock.ValidUntil()), time.Duration(0))

		assert.True(t, isClosed(lock.Done()))
		assert.ErrorContains(t, context.Cause(lock.Context(t.Context())), "released")
		assert.True(t, lock.Refresh(t.Context(), ttl, nil) == redislock.ErrNotObtained)
	})
}

func TestDone_askedForAfterTheRelease(t *testing.T) {
	lock := obtain(t, answering(1), nil)
	require.NoError(t, lock.Release(t.Context()))
	assert.True(t, isClosed(lock.Done()))
}

func TestDone_nilLock(t *testing.T) {
	var lock *redislock.Lock
	assert.True(t, isClosed(lock.Done()))
	ctx := lock.Context(t.Context())
	assert.ErrorIs(t, ctx.Err(), context.Canceled)
	assert.ErrorIs(t, context.Cause(ctx), redislock.ErrLockNotHeld)
}

func TestDone_whenFoundGone(t *testing.T) {
	onBothInTurn(t, func(t *testing.T, rdb *redis.Client) {
		lock := obtain(t, rdb, nil)
		ctx := lock.Context(t.Context())
		require.NoError(t, rdb.Set(t.Context(), key, "somebody else", 0).Err())
		got := counted(func() {
			assert.True(t, lock.Refresh(t.Context(), ttl, nil) == redislock.ErrNotObtained)
			assert.True(t, lock.Refresh(t.Context(), ttl, nil) == redislock.ErrNotObtained)
		})
		assert.EqualValues(t, 1, got.Lost, "once")
		<-ctx.Done()
		assert.True(t, isClosed(lock.Done()))
		assert.ErrorIs(t, context.Cause(ctx), redislock.ErrLockNotHeld)
		assert.ErrorContains(t, context.Cause(ctx), "somebody else's")
	})
}

func TestDone_whenValidityEnds(t *testing.T) {
	failure := errors.New("no route to Redis")
	for name, test := range map[string]struct {
		refresh func() (any, error)
		cause   string
	}{
		"not refreshed":     {nil, "not refreshed since"},
		"refreshes failing": {func() (any, error) { return nil, failure }, failure.Error()},
		"refreshes hanging": {func() (any, error) { time.Sleep(time.Hour); return int64(1), nil }, "not refreshed since"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				ticks := ticker{refreshed: test.refresh}
				var opt *redislock.Options
				if test.refresh != nil {
					opt = watched(redislock.NewTickWatchdog(0))
				}
				got := counted(func() {
					lock := obtain(t, ticks.client(), opt)
					ctx := lock.Context(t.Context())
					validUntil := lock.ValidUntil()
					<-lock.Done()
					assert.Equal(t, ttl-ttl/100, time.Since(start))
					assert.True(t, validUntil.Equal(time.Now()))
					<-ctx.Done()
					cause := context.Cause(ctx)
					assert.ErrorIs(t, cause, redislock.ErrLockNotHeld)
					assert.ErrorContains(t, cause, test.cause)
					if name == "refreshes failing" {
						assert.ErrorIs(t, cause, failure)
					}
					assert.True(t, lock.Refresh(t.Context(), ttl, nil) == redislock.ErrNotObtained, "it does not come back")
					time.Sleep(2 * time.Hour)
				})
				assert.EqualValues(t, 1, got.Lost)
				assert.Equal(t, got.Watchdog, got.WatchdogDone)
			})
		})
	}
}

func TestDone_movesWithRefreshes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		lock := obtain(t, answering(1), nil)
		done := lock.Done()
		for range 10 {
			time.Sleep(ttl / 2)
			require.NoError(t, lock.Refresh(t.Context(), ttl, nil))
		}
		assert.False(t, isClosed(done))
		require.NoError(t, lock.Refresh(t.Context(), time.Second, nil), "sooner")
		<-done
		assert.Equal(t, 5*ttl+990*time.Millisecond, time.Since(start))
	})
}

// Who does not ask is not charged: nobody notices that the lock expires.
func TestDone_nothingIsArmedUnasked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := counted(func() {
			obtain(t, answering(1), nil)
			time.Sleep(10 * ttl)
		})
		assert.Zero(t, got.Lost)
	})
}

func TestContext_parent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lock := obtain(t, answering(1), nil)
		why := errors.New("why")
		parent, cancel := context.WithCancelCause(context.WithValue(t.Context(), contextKey{}, "value"))
		ctx := lock.Context(parent)
		assert.Equal(t, "value", ctx.Value(contextKey{}))
		cancel(why)
		assert.True(t, isClosed(ctx.Done()))
		assert.Equal(t, why, context.Cause(ctx))
		assert.False(t, isClosed(lock.Done()), "the lock is still held")
		require.NoError(t, lock.Release(t.Context()))
	})
}

// A long-lived lock may lend its context to any number of short-lived ones.
func TestContext_isFreedWithItsParent(t *testing.T) {
	if !alone(t) {
		return
	}
	lock := obtain(t, answering(1), nil)
	defer func() { require.NoError(t, lock.Release(t.Context())) }()
	heap := func() uint64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	use := func() {
		for range 10_000 {
			parent, cancel := context.WithCancel(t.Context())
			ctx := lock.Context(parent)
			cancel()
			<-ctx.Done()
		}
	}
	// What takes space once, and for all, may do so in any of the rounds; a leak does in each.
	require.Eventually(t, func() bool {
		before := heap()
		use()
		return heap() < before+500_000
	}, 20*time.Second, time.Millisecond, "less than 50 B for each context")
}

func TestDo(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		locker := redislock.New(rdb)
		failure := errors.New("failure")
		for _, want := range []error{nil, failure} {
			ran := 0
			err := locker.Do(t.Context(), key, ttl, nil, func(ctx context.Context) error {
				ran++
				assert.NoError(t, ctx.Err())
				_, err := locker.Obtain(ctx, key, ttl, nil)
				assert.True(t, err == redislock.ErrNotObtained, "it is held")
				return want
			})
			assert.True(t, err == want, "as it is, got %v", err)
			assert.Equal(t, 1, ran)
			requireGone(t, rdb, key)
		}

		obtain(t, rdb, nil)
		err := locker.Do(t.Context(), key, ttl, nil, func(context.Context) error {
			t.Error("not obtained")
			return nil
		})
		assert.True(t, err == redislock.ErrNotObtained)
	})
}

func TestDo_lost(t *testing.T) {
	failure := errors.New("failure")
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		for name, test := range map[string]struct {
			opt   *redislock.Options
			lose  func(ctx context.Context)
			cause string
		}{
			"noticed by the watchdog": {
				watched(redislock.NewTickWatchdog(10 * time.Millisecond)),
				func(ctx context.Context) {
					rdb.Del(t.Context(), key)
					<-ctx.Done()
					assert.ErrorIs(t, context.Cause(ctx), redislock.ErrLockNotHeld)
				},
				"gone or somebody else's",
			},
			"noticed by the release": {
				nil,
				func(ctx context.Context) {
					rdb.Del(t.Context(), key)
					assert.NoError(t, ctx.Err())
				},
				"gone or somebody else's",
			},
		} {
			t.Run(name, func(t *testing.T) {
				for _, want := range []error{nil, failure} {
					err := redislock.New(rdb).Do(t.Context(), key, ttl, test.opt, func(ctx context.Context) error {
						test.lose(ctx)
						return want
					})
					assert.ErrorIs(t, err, redislock.ErrLockNotHeld)
					assert.ErrorContains(t, err, test.cause)
					if want != nil {
						assert.ErrorIs(t, err, want)
					}
				}
			})
		}
	})
}

func TestDo_takesLongerThanTheTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		err := redislock.New(answering(1)).Do(t.Context(), key, ttl, nil, func(ctx context.Context) error {
			<-ctx.Done()
			assert.Equal(t, ttl-ttl/100, time.Since(start))
			return ctx.Err()
		})
		assert.ErrorIs(t, err, context.Canceled)
		assert.ErrorIs(t, err, redislock.ErrLockNotHeld)
	})
}

func TestDo_panicAndGoexit(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		locker := redislock.New(rdb)
		assert.PanicsWithValue(t, "goes on", func() {
			_ = locker.Do(t.Context(), key, ttl, nil, func(context.Context) error { panic("goes on") })
		})
		requireGone(t, rdb, key)

		exited := make(chan struct{})
		go func() {
			defer close(exited)
			_ = locker.Do(t.Context(), key, ttl, nil, func(context.Context) error {
				runtime.Goexit()
				return nil
			})
		}()
		<-exited
		requireGone(t, rdb, key)
	})
}

func TestDo_contextEndsMeanwhile(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		ctx, cancel := context.WithCancel(t.Context())
		err := redislock.New(rdb).Do(ctx, key, ttl, nil, func(ctx context.Context) error {
			cancel()
			<-ctx.Done()
			return ctx.Err()
		})
		assert.True(t, err == context.Canceled, "not a loss, got %v", err)
		requireGone(t, rdb, key)
	})
}

func TestDo_releaseFails(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(once)
	var log bytes.Buffer
	opt := &redislock.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	work := func(context.Context) error { return nil }
	require.NoError(t, redislock.New(rdb).Do(t.Context(), key, ttl, opt, work))
	assert.Empty(t, log.String())
	err := redislock.New(rdb).Do(t.Context(), key, ttl, opt, func(context.Context) error {
		server.Kill()
		return nil
	})
	assert.NoError(t, err, "the work is done")
	assert.Contains(t, log.String(), "could not be released")
}

func TestDo_withoutFunction(t *testing.T) {
	require.ErrorContains(t, redislock.New(answering(1)).Do(t.Context(), key, ttl, nil, nil), "fn is nil")
}
