package redislock_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

// diary is an observer that notes what it is told.
type diary struct {
	mu     sync.Mutex
	lines  []string
	waited []time.Duration // of obtains
}

type within struct{}

// operation is what the diary put into the context.
func operation(ctx context.Context) any {
	return ctx.Value(within{})
}

func (d *diary) Begin(ctx context.Context, op redislock.Operation) (context.Context, func(redislock.Outcome)) {
	d.note("%s %v %v in %v", op.Name, op.Keys, op.TTL, operation(ctx))
	return context.WithValue(ctx, within{}, op.Name), func(outcome redislock.Outcome) {
		d.note("%s: %s %v", op.Name, outcome.Result, outcome.Err)
		if op.Name == redislock.OpObtain {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.waited = append(d.waited, outcome.Waited)
		}
	}
}

func (d *diary) note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

// read returns what was noted since it was read last.
func (d *diary) read() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	lines := d.lines
	d.lines = nil
	return lines
}

func TestObserver_obtainHoldRelease(t *testing.T) {
	var asked []string
	rdb := scripter{answer: func(ctx context.Context, script string) (any, error) {
		asked = append(asked, fmt.Sprintf("%s in %v", script, operation(ctx)))
		return int64(1), nil
	}}
	var d diary
	locker := redislock.New(rdb).WithObserver(&d)
	lock, err := locker.ObtainMulti(t.Context(), []string{"a", "b"}, ttl, nil)
	require.NoError(t, err)
	assert.Equal(t, []string{
		"obtain [a b] 1m0s in <nil>",
		"obtain: success <nil>",
		"hold [a b] 1m0s in <nil>",
	}, d.read())

	require.NoError(t, lock.Refresh(t.Context(), ttl, nil))
	assert.Empty(t, d.read())

	require.NoError(t, lock.Release(t.Context()))
	assert.Equal(t, []string{
		"release [a b] 0s in <nil>",
		"hold: success <nil>",
		"release: success <nil>",
	}, d.read())
	assert.Equal(t, []time.Duration{0}, d.waited)
	assert.Equal(t, []string{"obtain in obtain", "refresh in <nil>", "release in release"}, asked)
}

func TestObserver_results(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct {
			answer any
			err    error
			opt    *redislock.Options
			within time.Duration // 0: no deadline
			result string
			waited time.Duration
		}{
			{answer: int64(0), result: "failed"},
			{answer: int64(0), opt: retry(3, time.Second), result: "failed", waited: 3 * time.Second},
			{answer: int64(0), opt: retry(3, time.Second), within: 1500 * time.Millisecond, result: "cancel", waited: 1500 * time.Millisecond},
			{err: errors.New("no server"), result: "error"},
			{answer: int64(0), opt: &redislock.Options{MinReplicas: -1}, result: "error"},
		} {
			ctx := t.Context()
			if test.within > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, test.within)
				defer cancel()
			}
			rdb := scripter{answer: func(_ context.Context, script string) (any, error) {
				if script == "release" {
					return int64(1), nil
				}
				return test.answer, test.err
			}}
			var d diary
			_, err := redislock.New(rdb).WithObserver(&d).Obtain(ctx, key, ttl, test.opt)
			require.Error(t, err)
			assert.Equal(t, []string{
				"obtain [lock] 1m0s in <nil>",
				fmt.Sprintf("obtain: %s %v", test.result, err),
			}, d.read())
			assert.Equal(t, []time.Duration{test.waited}, d.waited)
			synctest.Wait()
			time.Sleep(time.Minute) // what the failed calls clean up
		}
	})
}

func retry(times int, wait time.Duration) *redislock.Options {
	return &redislock.Options{RetryStrategy: redislock.LimitRetry(redislock.LinearBackoff(wait), times)}
}

func TestObserver_releaseOfALockThatIsGone(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	var d diary
	lock, err := redislock.New(rdb).WithObserver(&d).Obtain(t.Context(), key, ttl, nil)
	require.NoError(t, err)
	require.NoError(t, rdb.Del(t.Context(), key).Err())
	d.read()
	require.ErrorIs(t, lock.Release(t.Context()), redislock.ErrLockNotHeld)
	require.ErrorIs(t, lock.Release(t.Context()), redislock.ErrLockNotHeld)
	assert.Equal(t, []string{
		"release [lock] 0s in <nil>",
		"hold: success <nil>",
		"release: failed redislock: lock not held",
		"release [lock] 0s in <nil>",
		"release: failed redislock: lock not held",
	}, d.read(), "the hold has one end")
}

func TestObserver_lost(t *testing.T) {
	t.Run("found gone", func(t *testing.T) {
		rdb := redistest.Client(t, redistest.Embedded(t).Addr())
		var d diary
		lock, err := redislock.New(rdb).WithObserver(&d).Obtain(t.Context(), key, ttl, nil)
		require.NoError(t, err)
		require.NoError(t, rdb.Del(t.Context(), key).Err())
		d.read()
		require.Error(t, lock.Refresh(t.Context(), ttl, nil))
		require.Error(t, lock.Release(t.Context()))
		assert.Equal(t, []string{
			"hold: lost redislock: lock not held: its key is gone or somebody else's",
			"release [lock] 0s in <nil>",
			"release: failed redislock: lock not held",
		}, d.read())
	})
	t.Run("expired", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var d diary
			_, err := redislock.New(answering(1)).WithObserver(&d).Obtain(t.Context(), key, ttl, nil)
			require.NoError(t, err)
			d.read()
			time.Sleep(ttl)
			synctest.Wait()
			lines := d.read()
			require.Len(t, lines, 1)
			assert.Contains(t, lines[0], "hold: lost redislock: lock not held: not refreshed since ")
		})
	})
}

// However the lock ends, and in how many ways at once, its hold ends once.
func TestObserver_lostAndReleasedAtOnce(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	for range 200 {
		var d diary
		lock, err := redislock.New(rdb).WithObserver(&d).Obtain(t.Context(), key, ttl, nil)
		require.NoError(t, err)
		require.NoError(t, rdb.Del(t.Context(), key).Err())
		var calls sync.WaitGroup
		for range 2 {
			calls.Go(func() { _ = lock.Refresh(t.Context(), ttl, nil) })
			calls.Go(func() { _ = lock.Release(t.Context()) })
		}
		calls.Wait()
		ends := slices.DeleteFunc(d.read(), func(line string) bool { return line[:5] != "hold:" })
		require.Len(t, ends, 1)
	}
}

func TestObserver_waitInTurn(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	lock := obtain(t, rdb, fair())
	var d diary
	locker := redislock.New(server.Client()).WithObserver(&d)
	obtained := make(chan *redislock.Lock, 1)
	start := time.Now()
	go func() {
		lock, err := locker.Obtain(t.Context(), key, ttl, fair())
		assert.NoError(t, err)
		obtained <- lock
	}()
	awaitQueue(t, rdb, 1)
	queued := time.Now()
	awaitChannels(t, rdb, 1)
	require.NoError(t, lock.Release(t.Context()))
	lock = <-obtained
	require.Len(t, d.waited, 1)
	assert.LessOrEqual(t, d.waited[0], time.Since(start))
	assert.Positive(t, d.waited[0])
	assert.Less(t, d.waited[0]-time.Since(queued), 5*time.Second)
	require.NoError(t, lock.Release(t.Context()))
	assert.Equal(t, []string{
		"obtain [lock] 1m0s in <nil>",
		"obtain: success <nil>",
		"hold [lock] 1m0s in <nil>",
		"release [lock] 0s in <nil>",
		"hold: success <nil>",
		"release: success <nil>",
	}, d.read())
}

func TestObserver_do(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	var d diary
	locker := redislock.New(rdb).WithObserver(&d)
	err := locker.Do(t.Context(), key, ttl, nil, func(ctx context.Context) error {
		d.note("work in %v", operation(ctx))
		return nil
	})
	require.NoError(t, err)
	assert.Equal(t, []string{
		"obtain [lock] 1m0s in <nil>",
		"obtain: success <nil>",
		"hold [lock] 1m0s in <nil>",
		"work in hold",
		"release [lock] 0s in <nil>",
		"hold: success <nil>",
		"release: success <nil>",
	}, d.read())
}

func TestObserver_several(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	var outer, inner diary
	plain := redislock.New(rdb)
	observed := plain.WithObserver(&outer).WithObserver(nil)
	both := observed.WithObserver(&inner)

	require.NoError(t, mustObtain(t, plain).Release(t.Context()))
	assert.Empty(t, outer.read())
	require.NoError(t, mustObtain(t, observed).Release(t.Context()))
	assert.Len(t, outer.read(), 6)
	assert.Empty(t, inner.read())
	require.NoError(t, mustObtain(t, both).Release(t.Context()))
	assert.Len(t, outer.read(), 6)
	assert.Equal(t, "obtain [lock] 1m0s in obtain", inner.read()[0], "it gets the context of the one before")

	var none *redislock.Client
	assert.Nil(t, none.WithObserver(&outer))
	_, err := redislock.New(nil).WithObserver(&outer).Obtain(t.Context(), key, ttl, nil)
	require.Error(t, err)
	assert.Equal(t, fmt.Sprintf("obtain: error %v", err), outer.read()[1])
}

func mustObtain(t *testing.T, locker *redislock.Client) *redislock.Lock {
	t.Helper()
	lock, err := locker.Obtain(t.Context(), key, ttl, nil)
	require.NoError(t, err)
	return lock
}

// indifferent is an observer that does not want to know how things end.
type indifferent struct{}

func (indifferent) Begin(ctx context.Context, _ redislock.Operation) (context.Context, func(redislock.Outcome)) {
	return ctx, nil
}

func TestObserver_withoutEnd(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	locker := redislock.New(rdb).WithObserver(indifferent{})
	watchdog := redislock.NewTickWatchdog(0)
	lock, err := locker.Obtain(t.Context(), key, ttl, &redislock.Options{Watchdog: watchdog})
	require.NoError(t, err)
	require.NoError(t, lock.Release(t.Context()))
}

// A custom watchdog works in the context of the hold.
func TestObserver_watchdog(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	var d diary
	started := make(chan any, 1)
	opt := &redislock.Options{Watchdog: watchdogFunc(func(ctx context.Context) { started <- operation(ctx) })}
	lock, err := redislock.New(rdb).WithObserver(&d).Obtain(t.Context(), key, ttl, opt)
	require.NoError(t, err)
	assert.Equal(t, "hold", <-started)
	require.NoError(t, lock.Release(t.Context()))
}

type watchdogFunc func(ctx context.Context)

func (f watchdogFunc) Start(ctx context.Context, _ *redislock.Lock, _ time.Duration) { f(ctx) }
func (f watchdogFunc) Stop()                                                         {}

// One server and a quorum end operations in the same ways.
func TestObserver_ends(t *testing.T) {
	inSimulatedTime(t, func(t *testing.T, locker *redislock.Client, _ []*redis.Client) {
		var tally tally
		locker = locker.WithObserver(&tally)
		lock, err := locker.Obtain(t.Context(), key, ttl, &redislock.Options{Metadata: "metadata"})
		require.NoError(t, err)
		_, err = locker.Obtain(t.Context(), key, ttl, nil)
		require.Equal(t, redislock.ErrNotObtained, err)
		again, err := locker.Obtain(t.Context(), key, ttl, &redislock.Options{Token: lock.Token()})
		require.NoError(t, err)
		require.ErrorIs(t, lock.Release(t.Context()), redislock.ErrLockNotHeld, "the metadata is another")
		require.NoError(t, again.Release(t.Context()))
		require.ErrorIs(t, again.Release(t.Context()), redislock.ErrLockNotHeld)
		tally.require(t, map[string]int{
			"obtain success": 2, "obtain failed": 1, "hold success": 2, "release success": 1, "release failed": 2,
		})
	})
}

func TestObserver_quorum(t *testing.T) {
	t.Parallel()
	var clients []redislock.RedisClient
	for range 3 {
		clients = append(clients, redistest.Client(t, redistest.Embedded(t).Addr()))
	}
	var d diary
	require.NoError(t, mustObtain(t, redislock.NewQuorum(clients...).WithObserver(&d)).Release(t.Context()))
	assert.Len(t, d.read(), 6)
}

// BenchmarkObserver shows what an observer costs that does nothing.
func BenchmarkObserver(b *testing.B) {
	rdb := redis.NewClient(&redis.Options{Addr: redistest.Start(b).Addr})
	defer rdb.Close()
	for name, locker := range map[string]*redislock.Client{
		"none": redislock.New(rdb),
		"one":  redislock.New(rdb).WithObserver(indifferent{}),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				require.NoError(b, obtainRelease(b.Context(), locker, key))
			}
		})
	}
}

// lingering is an observer for which it takes until the lock is lost to be told of it.
type lingering struct{ until time.Duration }

func (l lingering) Begin(ctx context.Context, op redislock.Operation) (context.Context, func(redislock.Outcome)) {
	if op.Name == redislock.OpHold {
		time.Sleep(l.until)
	}
	return ctx, nil
}

// A lock is lost before its refreshing has begun.
func TestObserver_slowerThanTheTTL(t *testing.T) {
	if !alone(t) {
		return
	}
	redistest.NoLeaks(t)
	rdb := redistest.Start(t).Client()
	const ttl = 20 * time.Millisecond
	watchdog := redislock.NewTickWatchdog(0)
	got := counted(func() {
		var obtaining sync.WaitGroup
		for i := range 400 {
			locker := redislock.New(rdb).WithObserver(indifferent{}).
				WithObserver(lingering{ttl - ttl/100 + time.Duration(i%40-20)*50*time.Microsecond})
			obtaining.Go(func() {
				lock, err := locker.Obtain(t.Context(), fmt.Sprint("lock", i), ttl, watched(watchdog))
				if err != nil {
					return // on a busy machine it may have come too late
				}
				select {
				case <-lock.Done(): // lost, and not released
				case <-time.After(2 * ttl):
					_ = lock.Release(t.Context())
				}
			})
			if i%20 == 0 {
				obtaining.Wait()
			}
		}
		obtaining.Wait()
		require.Eventually(t, func() bool { return redislock.Tasks(rdb) == 0 }, 10*time.Second, time.Millisecond)
	})
	assert.Equal(t, got.Watchdog, got.WatchdogDone)
}
