package redislock_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
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

// inSimulatedTime runs a test in a bubble, with a client of one server there, or of a quorum.
func inSimulatedTime(t *testing.T, test func(t *testing.T, locker *redislock.Client, nodes []*redis.Client)) {
	t.Helper()
	for name, n := range map[string]int{"one": 1, "quorum": 3} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var nodes []*redis.Client
				var clients []redislock.RedisClient
				for range n {
					nodes = append(nodes, redistest.Simulated(t))
					clients = append(clients, nodes[len(nodes)-1])
				}
				test(t, redislock.NewQuorum(clients...), nodes)
				time.Sleep(time.Minute) // what goes on in the background ends
			})
		})
	}
}

// Options that cannot be met are an error that names the value, and nothing is taken.
func TestOptions_bounds(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	for message, opt := range map[string]redislock.Options{
		"MaxWait of -1s":          {MaxWait: -time.Second},
		"HoldAtLeast of -1ns":     {HoldAtLeast: -1},
		"HoldAtMost of -1s":       {HoldAtMost: -time.Second},
		"HoldAtMost of 999.999µs": {HoldAtMost: time.Millisecond - 1},
		"HoldAtLeast of 1m1s is longer than HoldAtMost of 1m0s": {HoldAtLeast: 61 * time.Second, HoldAtMost: time.Minute},
		`Token "\x00mine" with HoldAtLeast`:                     {HoldAtLeast: time.Second, Token: "\x00mine"},
	} {
		_, err := redislock.Obtain(t.Context(), rdb, key, ttl, &opt)
		assert.ErrorContains(t, err, "redislock: "+message)
		assert.ErrorContains(t, redislock.NewElection(redislock.New(rdb), key, ttl, &opt).
			Run(t.Context(), func(context.Context) error { return nil }), "redislock: "+message)
	}
	requireGone(t, rdb, key)
	longest := &redislock.Options{MaxWait: math.MaxInt64, HoldAtLeast: math.MaxInt64, HoldAtMost: math.MaxInt64}
	lock := obtain(t, rdb, longest)
	require.NoError(t, lock.Refresh(t.Context(), ttl, nil))
	require.NoError(t, lock.Release(t.Context()))
	require.Greater(t, rdb.PTTL(t.Context(), key).Val(), 290*365*24*time.Hour)
}

// A call waits for MaxWait, whether that is more than the TTL or less, unless its context ends before.
func TestOptions_maxWait(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	inSimulatedTime(t, func(t *testing.T, locker *redislock.Client, nodes []*redis.Client) {
		_, err := locker.Obtain(t.Context(), key, time.Hour, nil)
		require.NoError(t, err)
		for _, strategy := range []redislock.RetryStrategy{redislock.FairQueue(), redislock.LinearBackoff(time.Second)} {
			for _, test := range []struct{ maxWait, deadline, want time.Duration }{
				{maxWait: 5500 * time.Millisecond, want: 5500 * time.Millisecond},
				{maxWait: 1500 * time.Millisecond, want: 1500 * time.Millisecond},
				{maxWait: 1500 * time.Millisecond, deadline: time.Minute, want: 1500 * time.Millisecond},
				{maxWait: time.Minute, deadline: 1500 * time.Millisecond, want: 1500 * time.Millisecond},
				{want: 5 * time.Second},
			} {
				opt := &redislock.Options{RetryStrategy: strategy, MaxWait: test.maxWait}
				for name, call := range map[string]func(ctx context.Context) error{
					"Obtain": func(ctx context.Context) error {
						_, err := locker.Obtain(ctx, key, 5*time.Second, opt)
						return err
					},
					"ObtainMulti": func(ctx context.Context) error {
						_, err := locker.ObtainMulti(ctx, []string{key, "other"}, 5*time.Second, opt)
						return err
					},
					"Do": func(ctx context.Context) error {
						return locker.Do(ctx, key, 5*time.Second, opt, func(context.Context) error { panic("held by another") })
					},
				} {
					ctx, cancel := t.Context(), context.CancelFunc(func() {})
					if test.deadline > 0 {
						ctx, cancel = context.WithTimeout(ctx, test.deadline)
					}
					start := time.Now()
					err := call(ctx)
					assert.Equal(t, test.want, time.Since(start), "%s %v", name, test)
					assert.ErrorIs(t, err, redislock.ErrNotObtained)
					assert.ErrorIs(t, err, context.DeadlineExceeded)
					cancel()
				}
			}
		}
	})
}

// MaxWait does not bound what is done under the lock.
func TestOptions_maxWaitOfDo(t *testing.T) {
	inSimulatedTime(t, func(t *testing.T, locker *redislock.Client, _ []*redis.Client) {
		opt := watched(redislock.NewTickWatchdog(0))
		opt.MaxWait = time.Second
		require.NoError(t, locker.Do(t.Context(), key, time.Minute, opt, func(ctx context.Context) error {
			time.Sleep(10 * time.Minute)
			_, ok := ctx.Deadline()
			assert.False(t, ok)
			return ctx.Err()
		}))
	})
}

// It bounds the tries too, where deadlines end commands.
func TestOptions_maxWaitWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(func(o *redis.Options) { o.ContextTimeoutEnabled, o.ReadTimeout = true, time.Hour }, once)
	require.NoError(t, rdb.Ping(t.Context()).Err())
	server.Pause()
	defer server.Resume()
	start := time.Now()
	_, err := redislock.Obtain(t.Context(), rdb, key, time.Hour, &redislock.Options{MaxWait: 50 * time.Millisecond})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(start), 10*time.Second)
}

// A lock that is released stays for what is left of HoldAtLeast: nobody has it before, not even by the
// same token, and no other release frees it.
func TestOptions_holdAtLeast(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		opt := &redislock.Options{HoldAtLeast: time.Hour, Token: "mine", Metadata: " is this"}
		lock := obtain(t, rdb, opt)
		requireTTL(t, rdb, key, ttl)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, lock.Release(ended), "a context that is over makes no difference")
		requireTTL(t, rdb, key, time.Hour)
		value := rdb.Get(t.Context(), key).Val()
		require.Regexp(t, `^\x00[\w-]{22}mine is this$`, value)

		inTurn := &redislock.Options{Token: "mine", RetryStrategy: redislock.FairQueue(), MaxWait: 100 * time.Millisecond}
		for _, opt := range []*redislock.Options{opt, nil, inTurn} {
			_, err := redislock.Obtain(t.Context(), rdb, key, ttl, opt)
			require.Error(t, err)
		}
		require.Equal(t, redislock.ErrLockNotHeld, lock.Release(t.Context()))
		require.Equal(t, value, rdb.Get(t.Context(), key).Val())
		requireTTL(t, rdb, key, time.Hour)
		left, err := lock.TTL(t.Context())
		require.NoError(t, err)
		require.Zero(t, left)
	})
}

// The time counts from when the lock was obtained, to the millisecond.
func TestOptions_holdAtLeastPasses(t *testing.T) {
	inSimulatedTime(t, func(t *testing.T, locker *redislock.Client, nodes []*redis.Client) {
		opt := &redislock.Options{HoldAtLeast: 5*time.Second + 1}
		for _, keys := range [][]string{{key}, {key, "other"}, {key, "other", key}} {
			for held, stays := range map[time.Duration]time.Duration{
				0:                       5*time.Second + time.Millisecond,
				2 * time.Second:         3*time.Second + time.Millisecond,
				5 * time.Second:         time.Millisecond,
				5*time.Second + 1:       0,
				5500 * time.Millisecond: 0,
			} {
				lock, err := locker.ObtainMulti(t.Context(), keys, 6*time.Second, opt)
				require.NoError(t, err)
				time.Sleep(held)
				require.NoError(t, lock.Release(t.Context()))
				for _, node := range nodes {
					for _, key := range keys {
						ttl := node.PTTL(t.Context(), key).Val()
						if stays == 0 {
							assert.Negative(t, ttl, "no key")
						} else {
							assert.Equal(t, stays, ttl)
						}
					}
				}
				if stays > 0 {
					time.Sleep(stays - 1)
					_, err = locker.Obtain(t.Context(), keys[len(keys)-1], ttl, nil)
					assert.Equal(t, redislock.ErrNotObtained, err)
					time.Sleep(time.Nanosecond)
				}
				next, err := locker.ObtainMulti(t.Context(), keys, ttl, nil)
				require.NoError(t, err)
				require.Equal(t, redislock.ErrLockNotHeld, lock.Release(t.Context()))
				require.NoError(t, next.Release(t.Context()))
			}
		}
	})
}

// A lock that was lost does not stay.
func TestOptions_holdAtLeastOfALostLock(t *testing.T) {
	inSimulatedTime(t, func(t *testing.T, locker *redislock.Client, nodes []*redis.Client) {
		opt := &redislock.Options{HoldAtLeast: time.Hour}
		lock, err := locker.Obtain(t.Context(), key, time.Second, opt)
		require.NoError(t, err)
		<-lock.Done()
		require.NoError(t, lock.Release(t.Context()), "Redis has it for another hundredth of the TTL")
		for _, node := range nodes {
			requireGone(t, node, key)
		}
		lock, err = locker.Obtain(t.Context(), key, time.Second, opt)
		require.NoError(t, err)
		time.Sleep(time.Second)
		require.Equal(t, redislock.ErrLockNotHeld, lock.Release(t.Context()))
		for _, node := range nodes {
			requireGone(t, node, key)
		}
	})
}

// Nobody in a queue has the lock before the time is over. Who asks after the release has it then,
// who has asked before at the next ask.
func TestOptions_holdAtLeastInAQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.Simulated(t)
		opt := fair()
		opt.HoldAtLeast, opt.MaxWait = 10*time.Second, time.Hour
		start := time.Now()
		first := obtain(t, rdb, opt)
		var turn atomic.Int32
		var waiting sync.WaitGroup
		wait := func(number int32, least, most time.Duration) {
			waiting.Go(func() {
				lock, err := redislock.Obtain(t.Context(), rdb, key, ttl, opt)
				if !assert.NoError(t, err) {
					return
				}
				assert.Equal(t, number, turn.Add(1), "in order")
				assert.GreaterOrEqual(t, time.Since(start), least)
				assert.LessOrEqual(t, time.Since(start), most)
				assert.NoError(t, lock.Release(t.Context()))
			})
			time.Sleep(10 * time.Millisecond)
		}
		wait(1, 10*time.Second, 10*time.Second+time.Millisecond)
		time.Sleep(time.Second)
		require.NoError(t, first.Release(t.Context()))
		wait(2, 20*time.Second, 21*time.Second)
		wait(3, 30*time.Second, 32*time.Second)
		waiting.Wait()
		time.Sleep(time.Minute)
	})
}

// A release that Redis repeats, because its reply was lost, succeeds. So does a job under Do.
func TestOptions_holdAtLeastReplyLost(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	rdb := redistest.Client(t, proxy.Addr, func(o *redis.Options) { o.MaxRetries = 10 })
	opt := &redislock.Options{HoldAtLeast: time.Hour}
	lock := obtain(t, rdb, opt)
	calls := server.Calls("evalsha")
	proxy.LoseReplies(1)
	require.NoError(t, lock.Release(t.Context()))
	require.Greater(t, server.Calls("evalsha"), calls+1, "it was repeated")
	requireTTL(t, server.Client(), key, time.Hour)
	require.NoError(t, server.Client().FlushAll(t.Context()).Err())

	runs := 0
	job := func(context.Context) error {
		runs++
		proxy.LoseReplies(1)
		return nil
	}
	require.NoError(t, redislock.New(rdb).Do(t.Context(), key, ttl, opt, job))
	require.Equal(t, redislock.ErrNotObtained, redislock.New(rdb).Do(t.Context(), key, ttl, opt, job))
	require.Equal(t, 1, runs)
}

// Of several releases of one lock, one at a time or all at once, one succeeds.
func TestOptions_holdAtLeastReleasedByMany(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	for _, locker := range []*redislock.Client{redislock.New(nodes[0].Client()), quorumOf(nodes)} {
		lock := obtainAtLast(t, locker, key, ttl, &redislock.Options{HoldAtLeast: time.Hour})
		var succeeded, unknown atomic.Int32
		var releases sync.WaitGroup
		for range 8 {
			releases.Go(func() {
				var node *redislock.NodeError
				switch err := lock.Release(t.Context()); {
				case err == nil:
					succeeded.Add(1)
				case errors.As(err, &node): // a majority is too slow to say, as it may be on a busy machine
					unknown.Add(1)
				default:
					assert.Equal(t, redislock.ErrLockNotHeld, err)
				}
			})
		}
		releases.Wait()
		assert.LessOrEqual(t, succeeded.Load(), int32(1))
		assert.Positive(t, succeeded.Load()+unknown.Load())
		for _, node := range nodes {
			require.NoError(t, node.Client().FlushAll(t.Context()).Err())
		}
	}
}

// A server without memory keeps the lock even so.
func TestOptions_holdAtLeastOutOfMemory(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	for _, strategy := range []redislock.RetryStrategy{nil, redislock.FairQueue()} {
		opt := &redislock.Options{HoldAtLeast: time.Hour, RetryStrategy: strategy}
		lock := obtain(t, rdb, opt)
		require.NoError(t, rdb.ConfigSet(t.Context(), "maxmemory", "1").Err())
		require.ErrorContains(t, rdb.Set(t.Context(), "other", "", 0).Err(), "OOM")
		require.NoError(t, lock.Release(t.Context()))
		require.NoError(t, rdb.ConfigSet(t.Context(), "maxmemory", "0").Err())
		requireTTL(t, rdb, key, time.Hour)
		_, err := redislock.Obtain(t.Context(), rdb, key, ttl, nil)
		require.Equal(t, redislock.ErrNotObtained, err)
		require.NoError(t, rdb.FlushAll(t.Context()).Err())
	}
}

// On real nodes each of them keeps the lock.
func TestOptions_holdAtLeastOnAQuorum(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	locker := quorumOf(nodes)
	lock := obtainOnAll(t, locker, nodes, &redislock.Options{HoldAtLeast: time.Hour, Token: "mine"})
	releaseOnQuorum(t, lock)
	for _, node := range nodes {
		require.Eventually(t, func() bool {
			return node.Client().PTTL(t.Context(), key).Val() > ttl
		}, 20*time.Second, time.Millisecond)
	}
	require.Equal(t, redislock.ErrNotObtained, decided(t, func() error {
		_, err := locker.Obtain(t.Context(), key, ttl, &redislock.Options{Token: "mine"})
		return err
	}))
}

// A release that is not answered goes on in the background, and the time does not grow by that.
func TestOptions_holdAtLeastWithoutAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.Simulated(t, once)
		down := &failing{}
		rdb.AddHook(down)
		lock := obtain(t, rdb, &redislock.Options{HoldAtLeast: 20 * time.Second})
		start := time.Now()
		down.is.Store(true)
		require.ErrorIs(t, lock.Release(t.Context()), errDown)
		time.Sleep(10 * time.Second)
		down.is.Store(false)
		time.Sleep(2 * time.Second)
		require.Equal(t, 20*time.Second-time.Since(start), rdb.PTTL(t.Context(), key).Val())
		require.NoError(t, lock.Release(t.Context()), "the first release that is known to have succeeded")
		require.Equal(t, redislock.ErrLockNotHeld, lock.Release(t.Context()))
		time.Sleep(time.Minute)
		requireGone(t, rdb, key)
	})
}

var errDown = errors.New("down")

// failing is a hook that fails calls while the server is down.
type failing struct{ is atomic.Bool }

func (f *failing) DialHook(next redis.DialHook) redis.DialHook { return next }

func (f *failing) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if f.is.Load() {
			cmd.SetErr(errDown)
			return errDown
		}
		return next(ctx, cmd)
	}
}

func (f *failing) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if f.is.Load() {
			for _, cmd := range cmds {
				cmd.SetErr(errDown)
			}
			return errDown
		}
		return next(ctx, cmds)
	}
}

// A lock that is refreshed is lost after HoldAtMost: Done closes no earlier than a hundredth of the
// last TTL before, and others have it from the very moment.
func TestOptions_holdAtMost(t *testing.T) {
	inSimulatedTime(t, func(t *testing.T, locker *redislock.Client, nodes []*redis.Client) {
		const longest, ttl = 65 * time.Second, 30 * time.Second
		for name, watchdog := range map[string]redislock.Watchdog{
			"tick": redislock.NewTickWatchdog(0), "own": &everySecond{}, "none": nil,
		} {
			var logged bytes.Buffer
			var tally tally
			opt := &redislock.Options{Watchdog: watchdog, HoldAtMost: longest, Logger: slog.New(slog.NewTextHandler(&logged, nil))}
			start := time.Now()
			before := redislock.GetStats().Lost
			lock, err := locker.WithObserver(&tally).Obtain(t.Context(), key, ttl, opt)
			require.NoError(t, err)
			ctx := lock.Context(t.Context())
			if watchdog == nil {
				for range 2 {
					time.Sleep(25 * time.Second)
					require.NoError(t, lock.Refresh(t.Context(), ttl, nil))
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(10 * longest):
			}
			held := time.Since(start)
			require.LessOrEqual(t, held, longest, name)
			assert.Greater(t, held, longest-ttl/100, name)
			synctest.Wait() // for the log
			cause := context.Cause(ctx)
			assert.EqualError(t, cause, "redislock: lock not held: held for as long as HoldAtMost allows, 1m5s", name)
			assert.ErrorIs(t, cause, redislock.ErrLockNotHeld)
			assert.Contains(t, logged.String(), "held for as long as HoldAtMost allows")
			assert.Equal(t, redislock.ErrNotObtained, lock.Refresh(t.Context(), ttl, nil))
			assert.EqualValues(t, 1, redislock.GetStats().Lost-before)
			tally.require(t, map[string]int{"obtain success": 1, "hold overdue": 1})

			_, err = locker.Obtain(t.Context(), key, ttl, nil)
			require.Equal(t, redislock.ErrNotObtained, err)
			time.Sleep(longest - time.Since(start))
			other, err := locker.Obtain(t.Context(), key, ttl, nil)
			require.NoError(t, err, name)
			require.NoError(t, other.Release(t.Context()))
			time.Sleep(time.Minute)
		}
	})
}

// everySecond is a watchdog of one's own.
type everySecond struct{}

func (everySecond) Start(ctx context.Context, lock *redislock.Lock, ttl time.Duration) {
	for ctx.Err() == nil {
		time.Sleep(time.Second)
		_ = lock.Refresh(ctx, ttl, nil)
	}
}

func (everySecond) Stop() {}

// The TTL that a lock is obtained with is cut too, and refreshes fail even though nobody has asked
// for the end to be told.
func TestOptions_holdAtMostLessThanTheTTL(t *testing.T) {
	inSimulatedTime(t, func(t *testing.T, locker *redislock.Client, nodes []*redis.Client) {
		for _, strategy := range []redislock.RetryStrategy{nil, redislock.FairQueue()} {
			opt := &redislock.Options{HoldAtMost: 10*time.Second + 999, RetryStrategy: strategy}
			lock, err := locker.Obtain(t.Context(), key, time.Hour, opt)
			require.NoError(t, err)
			left, err := lock.TTL(t.Context())
			require.NoError(t, err)
			require.Equal(t, 10*time.Second, left)
			time.Sleep(4 * time.Second)
			require.NoError(t, lock.Refresh(t.Context(), time.Second, nil), "a shorter one is not lengthened")
			left, err = lock.TTL(t.Context())
			require.NoError(t, err)
			require.Equal(t, time.Second, left)
			require.NoError(t, lock.Refresh(t.Context(), time.Hour, nil))
			left, err = lock.TTL(t.Context())
			require.NoError(t, err)
			require.Equal(t, 6*time.Second, left)
			time.Sleep(6 * time.Second)
			before := redislock.GetStats().Lost
			require.Equal(t, redislock.ErrNotObtained, lock.Refresh(t.Context(), time.Hour, nil))
			require.EqualValues(t, 1, redislock.GetStats().Lost-before)
			require.ErrorContains(t, context.Cause(lock.Context(t.Context())), "held for as long as HoldAtMost allows")
			require.Equal(t, redislock.ErrLockNotHeld, lock.Release(t.Context()))
			for _, node := range nodes {
				requireGone(t, node, key)
			}
		}
	})
}

// A lock that ends for another reason says so, also if it could have been held for as long as it may.
func TestOptions_holdAtMostIsNotTheReason(t *testing.T) {
	inSimulatedTime(t, func(t *testing.T, locker *redislock.Client, nodes []*redis.Client) {
		lock, err := locker.Obtain(t.Context(), key, 10*time.Second, &redislock.Options{HoldAtMost: 20 * time.Second})
		require.NoError(t, err)
		<-lock.Done()
		require.ErrorContains(t, context.Cause(lock.Context(t.Context())), "not refreshed since")
		time.Sleep(time.Second)

		lock, err = locker.Obtain(t.Context(), key, 10*time.Second, &redislock.Options{HoldAtMost: 10 * time.Second})
		require.NoError(t, err)
		ctx := lock.Context(t.Context())
		require.NoError(t, lock.Release(t.Context()))
		require.ErrorContains(t, context.Cause(ctx), "released")
	})
}

// On real servers a stuck holder loses the lock to who waits, although its watchdog lives.
func TestOptions_holdAtMostOnRealServers(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	nodes := startNodes(t, 3)
	for name, locker := range map[string]*redislock.Client{"one": redislock.New(nodes[0].Client()), "quorum": quorumOf(nodes)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opt := &redislock.Options{
				RetryStrategy: redislock.FairQueue(), Watchdog: redislock.NewTickWatchdog(0),
				HoldAtMost: 1500 * time.Millisecond, MaxWait: time.Minute,
			}
			start := time.Now()
			stuck := obtainAtLast(t, locker, key+name, time.Second, opt)
			next := obtainAtLast(t, locker, key+name, ttl, opt)
			require.GreaterOrEqual(t, time.Since(start), time.Second, "it was refreshed")
			<-stuck.Done()
			require.ErrorIs(t, context.Cause(stuck.Context(t.Context())), redislock.ErrLockNotHeld)
			releaseOnQuorum(t, next)
		})
	}
}

// A second Release does not take what the same custom token has obtained since.
func TestBounds_releasedTwice(t *testing.T) {
	t.Parallel()
	for name, opt := range map[string]redislock.Options{
		"limited": {Token: "mine", Limit: 2, HoldAtLeast: time.Hour},
		"longest": {Token: "mine", HoldAtMost: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			rdb := redistest.Client(t, redistest.Embedded(t).Addr())
			first := obtain(t, rdb, &opt)
			require.NoError(t, first.Release(t.Context()))
			second := obtain(t, rdb, &opt)
			require.Equal(t, redislock.ErrLockNotHeld, first.Release(t.Context()))
			left, err := second.TTL(t.Context())
			require.NoError(t, err)
			require.Positive(t, left)
			require.NoError(t, second.Release(t.Context()))
		})
	}
}

// With a limit no more than that many obtain the lock within HoldAtLeast, whoever releases when.
func TestHoldAtLeast_limit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.Simulated(t)
		opt := &redislock.Options{Limit: 2, HoldAtLeast: 10 * time.Second, RetryStrategy: redislock.FairQueue()}
		start := time.Now()
		for i := range 6 {
			lock, err := redislock.Obtain(t.Context(), rdb, key, ttl, opt)
			require.NoError(t, err)
			require.NoError(t, lock.Release(t.Context()))
			require.Equal(t, redislock.ErrLockNotHeld, lock.Release(t.Context()))
			waited := time.Since(start)
			require.GreaterOrEqual(t, waited, time.Duration(i/2)*10*time.Second, "%d", i)
			require.Less(t, waited, time.Duration(i/2)*11*time.Second+time.Second, "%d", i)
		}
		info, err := redislock.Inspect(t.Context(), rdb, key)
		require.NoError(t, err)
		require.Len(t, info.Holders, 2)
		for _, holder := range info.Holders {
			require.True(t, holder.Released)
			require.Len(t, holder.Value, 22)
		}
		time.Sleep(time.Minute)
		requireGone(t, rdb, key)
	})
}

// The rest of a lock of several keys that was lost does not stay.
func TestHoldAtLeast_lostInPart(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	lock, err := redislock.ObtainMulti(t.Context(), rdb, []string{"a", "b", "a"}, ttl, &redislock.Options{HoldAtLeast: time.Hour})
	require.NoError(t, err)
	require.NoError(t, rdb.Set(t.Context(), "b", "somebody else's", 0).Err())
	require.Equal(t, redislock.ErrLockNotHeld, lock.Release(t.Context()))
	requireGone(t, rdb, "a")
	require.Equal(t, "somebody else's", rdb.Get(t.Context(), "b").Val())
}

// On a real server too a place stays taken for HoldAtLeast, and whoever waits in the queue has it then.
func TestHoldAtLeast_limitReal(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	opt := &redislock.Options{Limit: 2, HoldAtLeast: 700 * time.Millisecond, RetryStrategy: redislock.FairQueue()}
	var obtained []time.Time
	for range 3 {
		lock := obtain(t, rdb, opt)
		obtained = append(obtained, time.Now())
		require.NoError(t, lock.Release(t.Context()))
	}
	require.GreaterOrEqual(t, obtained[2].Sub(obtained[0]), 650*time.Millisecond)
	info, err := redislock.Inspect(t.Context(), rdb, key)
	require.NoError(t, err)
	require.NotEmpty(t, info.Holders)
	require.True(t, info.Holders[0].Released)
	require.Eventually(t, func() bool { return rdb.Exists(t.Context(), key).Val() == 0 }, 20*time.Second, 10*time.Millisecond)
}
