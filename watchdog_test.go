package redislock_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

// ticker is a Redis that counts refreshes and answers them by a function.
type ticker struct {
	mu        sync.Mutex
	at        []time.Time
	refreshed func() (any, error)
}

func (k *ticker) client() scripter {
	return scripter{answer: func(_ context.Context, script string) (any, error) {
		if script != "refresh" {
			return int64(1), nil
		}
		k.mu.Lock()
		k.at = append(k.at, time.Now())
		k.mu.Unlock()
		if k.refreshed == nil {
			return int64(1), nil
		}
		return k.refreshed()
	}}
}

func (k *ticker) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.at)
}

func watched(watchdog redislock.Watchdog) *redislock.Options {
	return &redislock.Options{Watchdog: watchdog}
}

func TestTickWatchdog(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	server := redistest.Start(t)
	rdb := server.Client()
	const ttl = 3 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	lock, err := redislock.Obtain(ctx, rdb, key, ttl, watched(redislock.NewTickWatchdog(ttl/10)))
	require.NoError(t, err)
	cancel() // it was for the obtaining

	require.Eventually(t, func() bool { return server.Calls("pexpire") >= 12 }, 30*time.Second, 10*time.Millisecond)
	left, err := lock.TTL(t.Context())
	require.NoError(t, err)
	assert.Positive(t, left, "after more than its TTL")
	assert.Positive(t, time.Until(lock.ValidUntil()))

	require.NoError(t, lock.Release(t.Context()))
	requireGone(t, rdb, key)
	awaitNoTasks(t, rdb)
}

// Everything that depends on time alone is tested on fake time.
func TestTickWatchdog_interval(t *testing.T) {
	for name, test := range map[string]struct {
		interval, ttl, want time.Duration
	}{
		"given":              {10 * time.Second, time.Minute, 10 * time.Second},
		"zero":               {0, time.Minute, 20 * time.Second},
		"negative":           {-time.Second, time.Minute, 20 * time.Second},
		"as long as the TTL": {time.Minute, time.Minute, 20 * time.Second},
		"longer":             {time.Hour, time.Minute, 20 * time.Second},
		"just shorter":       {59900 * time.Millisecond, time.Minute, 20 * time.Second},
		"tiny TTL":           {0, time.Millisecond, time.Millisecond / 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var ticks ticker
				last := time.Now()
				lock, err := redislock.Obtain(t.Context(), ticks.client(), key, test.ttl, watched(redislock.NewTickWatchdog(test.interval)))
				require.NoError(t, err)
				time.Sleep(100 * test.want)
				require.NoError(t, lock.Release(t.Context()))
				count := ticks.count()
				time.Sleep(10 * test.want)
				assert.Equal(t, count, ticks.count(), "none after the release")

				require.GreaterOrEqual(t, count, 100)
				different := map[time.Duration]bool{}
				for _, tick := range ticks.at {
					interval := tick.Sub(last)
					last = tick
					require.LessOrEqual(t, interval, test.want)
					require.GreaterOrEqual(t, interval, test.want-test.want/10)
					different[interval] = true
				}
				assert.Greater(t, len(different), 50, "jitter")
			})
		})
	}
}

func TestTickWatchdog_sharedByManyLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ticks ticker
		watchdog := redislock.NewTickWatchdog(time.Second)
		got := counted(func() {
			locks := make([]*redislock.Lock, 10)
			for i := range locks {
				locks[i] = obtain(t, ticks.client(), watched(watchdog))
			}
			time.Sleep(1500 * time.Millisecond)
			assert.Equal(t, 10, ticks.count())
			for _, lock := range locks[:4] {
				require.NoError(t, lock.Release(t.Context()))
			}
			time.Sleep(time.Second)
			assert.Equal(t, 16, ticks.count(), "the others go on")
			watchdog.Stop()
			time.Sleep(time.Minute)
			assert.Equal(t, 16, ticks.count(), "none goes on")

			again := obtain(t, ticks.client(), watched(watchdog))
			time.Sleep(1500 * time.Millisecond)
			assert.Equal(t, 17, ticks.count(), "it can be used again")
			require.NoError(t, again.Release(t.Context()))
		})
		assert.Equal(t, redislock.Stats{
			Obtain:       redislock.Status{Success: 11},
			Release:      redislock.Status{Success: 5},
			Refresh:      redislock.Status{Success: 17},
			Watchdog:     11,
			WatchdogDone: 11,
			WatchdogTick: 17,
			Lost:         6, // by Stop without Release
		}, got)
	})
}

func TestTickWatchdog_stopInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, watchdog := range []*redislock.TickWatchdog{redislock.NewTickWatchdog(time.Second), {}, nil} {
			watchdog.Stop()
			watchdog.Stop()
			var ticks ticker
			lock := obtain(t, ticks.client(), watched(watchdog))
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(watchdog.Stop)
			}
			wg.Wait()
			time.Sleep(time.Hour)
			assert.Zero(t, ticks.count(), "stopped right after the start")
			require.NoError(t, lock.Release(t.Context()))
			watchdog.Stop()
		}
	})
}

func TestTickWatchdog_startByHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ticks ticker
		start := func(ctx context.Context, w *redislock.TickWatchdog, lock *redislock.Lock) <-chan struct{} {
			done := make(chan struct{})
			go func() {
				w.Start(ctx, lock, ttl)
				close(done)
			}()
			synctest.Wait()
			return done
		}
		running := func(done <-chan struct{}) bool {
			synctest.Wait()
			select {
			case <-done:
				return false
			default:
				return true
			}
		}
		w := redislock.NewTickWatchdog(time.Second)

		lock := obtain(t, ticks.client(), nil)
		done := start(t.Context(), w, lock)
		time.Sleep(10 * time.Second)
		assert.True(t, running(done))
		require.NoError(t, lock.Release(t.Context()))
		assert.False(t, running(done), "ends with its lock")
		assert.False(t, running(start(t.Context(), w, lock)), "which has ended")

		ctx, cancel := context.WithCancel(t.Context())
		done = start(ctx, w, obtain(t, ticks.client(), nil))
		assert.True(t, running(done))
		cancel()
		assert.False(t, running(done), "ends with its context")

		done = start(t.Context(), w, obtain(t, ticks.client(), nil))
		w.Stop()
		assert.False(t, running(done), "ends by Stop")

		w.Start(t.Context(), nil, ttl)
		w.Start(t.Context(), obtain(t, ticks.client(), nil), 0)
		(*redislock.TickWatchdog)(nil).Start(t.Context(), lock, ttl)
	})
}

// A lock that was obtained for a short time is refreshed before that is over,
// however long the interval.
func TestTickWatchdog_startWithALongerTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ticks ticker
		lock, err := redislock.Obtain(t.Context(), ticks.client(), key, time.Second, nil)
		require.NoError(t, err)
		go redislock.NewTickWatchdog(time.Minute).Start(t.Context(), lock, time.Hour)
		time.Sleep(999 * time.Millisecond)
		assert.Equal(t, 1, ticks.count())
		assert.Greater(t, time.Until(lock.ValidUntil()), 50*time.Minute)
		require.NoError(t, lock.Release(t.Context()))
	})
}

func TestTickWatchdog_retriesUntilTheEnd(t *testing.T) {
	const ttl = 10 * time.Second
	for name, test := range map[string]struct {
		down time.Duration // from the first refresh on
		lost bool
	}{
		"shorter than what is left": {ttl / 2, false},
		"to the end":                {time.Hour, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				ticks := ticker{}
				ticks.refreshed = func() (any, error) {
					if time.Since(start) < ttl/4+test.down {
						return nil, errors.New("down")
					}
					return int64(1), nil
				}
				var lock *redislock.Lock
				var log bytes.Buffer
				got := counted(func() {
					var err error
					lock, err = redislock.Obtain(t.Context(), ticks.client(), key, ttl, &redislock.Options{
						Watchdog: redislock.NewTickWatchdog(ttl / 4),
						Logger:   slog.New(slog.NewTextHandler(&log, nil)),
					})
					require.NoError(t, err)
					time.Sleep(3 * ttl)
				})
				assert.Equal(t, got.WatchdogTick, got.Refresh.Success+got.Refresh.Error)
				assert.Greater(t, got.Refresh.Error, int64(5), "several tries")
				assert.Less(t, got.Refresh.Error, int64(50), "not too many")
				assert.Contains(t, log.String(), "could not be refreshed")
				assert.Contains(t, log.String(), "keys=[lock]")
				if test.lost {
					assert.Zero(t, got.Refresh.Success)
					assert.EqualValues(t, 1, got.Lost)
					assert.EqualValues(t, 1, got.WatchdogDone)
					assert.WithinRange(t, ticks.at[len(ticks.at)-1], start.Add(8*ttl/10), start.Add(ttl))
					assert.Contains(t, log.String(), "lock lost")
				} else {
					assert.Zero(t, got.Lost)
					assert.Zero(t, got.WatchdogDone)
					require.NoError(t, lock.Release(t.Context()))
				}
			})
		})
	}
}

func TestTickWatchdog_lockIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ticks := ticker{refreshed: func() (any, error) { return int64(0), nil }}
		got := counted(func() {
			lock := obtain(t, ticks.client(), watched(redislock.NewTickWatchdog(time.Second)))
			time.Sleep(time.Minute)
			_ = lock.Release(t.Context())
		})
		assert.Equal(t, redislock.Stats{
			Obtain:       redislock.Status{Success: 1},
			Release:      redislock.Status{Success: 1},
			Refresh:      redislock.Status{Failed: 1},
			Watchdog:     1,
			WatchdogDone: 1,
			WatchdogTick: 1,
			Lost:         1,
		}, got)
	})
}

// A lock that a Refresh has found gone has no refresh to come, however far off that is.
func TestTickWatchdog_lockIsFoundGone(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	lock, err := redislock.Obtain(t.Context(), rdb, key, 3*time.Hour, watched(redislock.NewTickWatchdog(0)))
	require.NoError(t, err)
	require.Equal(t, 1, redislock.Tasks(rdb))
	require.NoError(t, rdb.Del(t.Context(), key).Err())
	require.Equal(t, redislock.ErrNotObtained, lock.Refresh(t.Context(), ttl, nil))
	awaitNoTasks(t, rdb)
}

// A release that meets a refresh under way waits for it, though not for long: it
// may be stuck where the release is not.
func TestTickWatchdog_releaseDuringARefresh(t *testing.T) {
	for name, test := range map[string]struct {
		refreshTakes, releaseTakes time.Duration
	}{
		"under way": {100 * time.Millisecond, 100 * time.Millisecond},
		"stuck":     {time.Hour, 250 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var refreshes atomic.Int32
				refreshing := make(chan struct{}, 10)
				rdb := scripter{answer: func(_ context.Context, script string) (any, error) {
					if script == "refresh" {
						refreshes.Add(1)
						refreshing <- struct{}{}
						time.Sleep(test.refreshTakes)
						if test.refreshTakes == time.Hour {
							return int64(0), nil // the key is gone by then
						}
					}
					return int64(1), nil
				}}
				got := counted(func() {
					lock := obtain(t, rdb, watched(redislock.NewTickWatchdog(10*time.Second)))
					<-refreshing
					start := time.Now()
					require.NoError(t, lock.Release(t.Context()))
					assert.Equal(t, test.releaseTakes, time.Since(start))
					time.Sleep(2 * time.Hour)
				})
				assert.EqualValues(t, 1, refreshes.Load())
				assert.EqualValues(t, 1, got.WatchdogTick)
				assert.EqualValues(t, 1, got.WatchdogDone)
				assert.Zero(t, got.Lost)
			})
		})
	}
}

// A watchdog of the user's own.
type custom struct {
	log  []string
	mu   sync.Mutex
	stop chan struct{}
}

func (c *custom) note(event string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.log = append(c.log, event)
}

func (c *custom) Start(ctx context.Context, lock *redislock.Lock, ttl time.Duration) {
	c.note("start " + lock.Key() + " " + ttl.String() + " " + ctx.Value(contextKey{}).(string))
	select {
	case <-c.stop:
	case <-ctx.Done():
	}
}

func (c *custom) Stop() {
	c.note("stop")
	close(c.stop)
}

type contextKey struct{}

func TestCustomWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		watchdog := &custom{stop: make(chan struct{})}
		rdb := scripter{answer: func(_ context.Context, script string) (any, error) {
			if script == "release" {
				watchdog.note("delete")
			}
			return int64(1), nil
		}}
		got := counted(func() {
			ctx, cancel := context.WithCancel(context.WithValue(t.Context(), contextKey{}, "value"))
			lock, err := redislock.Obtain(ctx, rdb, key, ttl, watched(watchdog))
			require.NoError(t, err)
			cancel()
			synctest.Wait()
			require.NoError(t, lock.Release(t.Context()))
			require.NoError(t, lock.Release(t.Context()))
			synctest.Wait()
		})
		assert.Equal(t, []string{"start lock 1m0s value", "stop", "delete", "delete"}, watchdog.log)
		assert.EqualValues(t, 1, got.Watchdog)
		assert.EqualValues(t, 1, got.WatchdogDone)
	})
}

// stubborn is a watchdog that does not stop.
type stubborn struct{ never chan struct{} }

func (s stubborn) Start(ctx context.Context, _ *redislock.Lock, _ time.Duration) { <-ctx.Done() }
func (s stubborn) Stop()                                                         { <-s.never }

func TestCustomWatchdog_doesNotStop(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	watchdog := stubborn{make(chan struct{})}
	defer close(watchdog.never)
	for _, end := range []func() (context.Context, context.CancelFunc){
		func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(t.Context(), 200*time.Millisecond)
		},
		func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(50*time.Millisecond, cancel)
			return ctx, cancel
		},
		func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return ctx, cancel
		},
	} {
		lock := obtain(t, rdb, watched(watchdog))
		ctx, cancel := end()
		returned := make(chan struct{})
		go func() {
			defer close(returned)
			_ = lock.Release(ctx)
		}()
		select {
		case <-returned:
		case <-time.After(10 * time.Second):
			require.Fail(t, "Release outlasts its context")
		}
		cancel()
		eventuallyFree(t, rdb)
	}
}
