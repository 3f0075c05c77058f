package redislock_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
)

// patient is a client that waits for replies for longer than any lock lives here.
func patient(o *redis.Options) {
	o.ReadTimeout = 20 * time.Second
}

// watchLock obtains a lock that a watchdog refreshes three times a TTL, or in the given
// interval.
func watchLock(t testing.TB, rdb redislock.RedisClient, key string, ttl time.Duration, interval ...time.Duration) *redislock.Lock {
	t.Helper()
	watchdog := redislock.NewTickWatchdog(append(interval, 0)[0])
	lock, err := redislock.Obtain(t.Context(), rdb, key, ttl, watched(watchdog))
	require.NoError(t, err)
	return lock
}

func TestScheduler_serverStops(t *testing.T) {
	if !alone(t) {
		return
	}
	redistest.NoLeaks(t)
	stopped, running := redistest.Start(t), redistest.Start(t)
	const ttl = 2 * time.Second
	var lost []*redislock.Lock
	rdb, other := stopped.Client(patient), running.Client(patient)
	for i := range 100 {
		lost = append(lost, watchLock(t, rdb, fmt.Sprint("lost", i), ttl))
	}
	kept := watchLock(t, other, "kept", 10*time.Second, time.Second)

	goroutines := runtime.NumGoroutine()
	stopped.Pause()
	start := time.Now()
	got := countedWithLosses(t, 100, func() {
		for _, lock := range lost {
			<-lock.Done()
			took := time.Since(start)
			assert.Greater(t, took, ttl/2)
			assert.Less(t, took, ttl+5*time.Second, "much sooner than replies are given up")
			assert.LessOrEqual(t, time.Until(lock.ValidUntil()), time.Duration(0))
		}
	})
	assert.EqualValues(t, 100, got.Lost)
	assert.False(t, isClosed(kept.Done()), "another server's lock")
	// Of the hundred alarms some may not have returned yet; what is stuck stays.
	assert.Eventually(t, func() bool { return runtime.NumGoroutine() <= goroutines+10 },
		10*time.Second, time.Millisecond, "stuck refreshes do not pile up")
	assert.Positive(t, time.Until(kept.ValidUntil()))

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start = time.Now()
	require.ErrorIs(t, lost[0].Release(ctx), context.DeadlineExceeded)
	assert.Less(t, time.Since(start), 10*time.Second)
	require.NoError(t, kept.Release(t.Context()))
	stopped.Resume()
}

func TestScheduler_pauses(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	const ttl, pause = 8 * time.Second, 2 * time.Second
	server := redistest.Start(t)
	lock := watchLock(t, server.Client(patient), key, ttl, ttl/6)
	for range 3 {
		server.Pause()
		time.Sleep(pause)
		server.Resume()
		// Until the refreshes have caught up.
		refreshed := lock.ValidUntil()
		require.Eventually(t, func() bool {
			return lock.ValidUntil().After(refreshed) || isClosed(lock.Done())
		}, 10*time.Second, time.Millisecond)
	}
	require.False(t, isClosed(lock.Done()))
	require.NoError(t, lock.Release(t.Context()))
}

func TestScheduler_connectionsAreCut(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	const ttl = 3 * time.Second
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	lock := watchLock(t, redistest.Client(t, proxy.Addr), key, ttl, ttl/6)
	for start := time.Now(); lock.ValidUntil().Before(start.Add(3*ttl)) && !isClosed(lock.Done()); {
		switch left := time.Until(lock.ValidUntil()); {
		case left > ttl/2:
			proxy.Cut()
			time.Sleep(50 * time.Millisecond)
		case left > ttl/4: // a busy machine needs longer for a refresh
			proxy.Cut()
			time.Sleep(200 * time.Millisecond)
		default:
			time.Sleep(time.Millisecond)
		}
	}
	require.False(t, isClosed(lock.Done()))
	require.NoError(t, lock.Release(t.Context()))
}

// Of a connection that is half open the client hears nothing. A refresh that is not
// answered in time is sent over another.
func TestScheduler_deadConnection(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	rdb := redistest.Client(t, proxy.Addr, patient)
	const ttl = 6 * time.Second
	lock := watchLock(t, rdb, key, ttl, ttl/6)
	obtained := lock.ValidUntil()
	require.Eventually(t, func() bool { return lock.ValidUntil().After(obtained) }, 10*time.Second, time.Millisecond,
		"pipelines have connections of their own")
	proxy.DeadenConnections()
	deadened := lock.ValidUntil()
	require.Eventually(t, func() bool { return lock.ValidUntil().After(deadened) }, 10*time.Second, time.Millisecond)
	require.False(t, isClosed(lock.Done()))
	proxy.Cut() // or the release might meet the dead connection
	require.NoError(t, lock.Release(t.Context()))
}

// pipelineCounter is a hook that counts pipelines.
type pipelineCounter struct {
	count atomic.Int64
}

func (c *pipelineCounter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (c *pipelineCounter) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (c *pipelineCounter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.count.Add(1)
		return next(ctx, cmds)
	}
}

func TestScheduler_pipelines(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	server := redistest.Start(t)
	rdb := server.Client()
	const n, ttl = 2000, 8 * time.Second
	locks := make([]*redislock.Lock, n)
	for i := range locks {
		locks[i] = watchLock(t, rdb, fmt.Sprint("lock", i), ttl, time.Second)
	}
	var pipelines pipelineCounter
	rdb.AddHook(&pipelines)
	refreshes, evals := server.Calls("pexpire"), server.Calls("eval")
	require.NoError(t, rdb.ScriptFlush(t.Context()).Err())
	require.Eventually(t, func() bool { return server.Calls("pexpire") >= refreshes+3*n }, 30*time.Second, 10*time.Millisecond)

	assert.Less(t, pipelines.count.Load(), int64(3*n/5), "refreshes leave together")
	evals = server.Calls("eval") - evals
	assert.Positive(t, evals)
	assert.Less(t, evals, 2*n, "by its source only until the server knows it")
	for _, lock := range locks {
		require.False(t, isClosed(lock.Done()))
		require.NoError(t, lock.Release(t.Context()))
	}
}

// A client that has no pipelines is asked by several calls at a time.
func TestScheduler_withoutPipelines(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	server := redistest.Start(t)
	rdb := struct{ redis.Scripter }{server.Client()}
	const n, ttl = 200, 8 * time.Second
	locks := make([]*redislock.Lock, n)
	for i := range locks {
		locks[i] = watchLock(t, rdb, fmt.Sprint("lock", i), ttl, time.Second)
	}
	require.Eventually(t, func() bool { return server.Calls("pexpire") >= 3*n }, 30*time.Second, 10*time.Millisecond)
	for _, lock := range locks {
		require.False(t, isClosed(lock.Done()))
		require.NoError(t, lock.Release(t.Context()))
	}
}

// hashBy is a Ring's hash by a function of the key.
type hashBy func(key string) string

func (h hashBy) Get(key string) string { return h(key) }

// Whoever closes a Ring while refreshes leave loses the locks, not the process.
func TestScheduler_ringIsClosed(t *testing.T) {
	t.Parallel()
	var ring *redis.Ring
	var closing atomic.Bool
	ring = redis.NewRing(&redis.RingOptions{
		Addrs: map[string]string{"only": redistest.Embedded(t).Addr()},
		NewConsistentHash: func([]string) redis.ConsistentHash {
			return hashBy(func(string) string {
				if closing.CompareAndSwap(true, false) {
					go ring.Close()
					time.Sleep(10 * time.Millisecond) // it waits for the lock that we are called under, and is next
				}
				return "only"
			})
		},
	})
	t.Cleanup(func() { _ = ring.Close() })
	lock := watchLock(t, ring, key, time.Second, 10*time.Millisecond)
	closing.Store(true)
	<-lock.Done()
	require.False(t, closing.Load())
	require.ErrorIs(t, lock.Release(t.Context()), redis.ErrClosed)
}

// Any order of obtaining, refreshing, releasing and stopping.
func TestScheduler_races(t *testing.T) {
	if !alone(t) {
		return
	}
	redistest.NoLeaks(t)
	server := redistest.Start(t)
	rdb := server.Client()
	watchdog := redislock.NewTickWatchdog(time.Millisecond)
	got := counted(func() {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for range 100 {
					lock, err := redislock.Obtain(t.Context(), rdb, fmt.Sprint("lock", i), ttl, watched(watchdog))
					if !assert.NoError(t, err) {
						return
					}
					ctx := lock.Context(t.Context())
					wg.Go(func() { _ = lock.Refresh(ctx, ttl, nil) })
					if i == 0 {
						watchdog.Stop()
					}
					time.Sleep(time.Millisecond)
					assert.NoError(t, lock.Release(t.Context()))
					<-ctx.Done()
				}
			})
		}
		wg.Wait()
	})
	assert.Zero(t, got.Lost)
	assert.EqualValues(t, 800, got.Watchdog)
	assert.EqualValues(t, 800, got.WatchdogDone)
	calls := server.Calls("pexpire")
	// No refresh after the release, for many intervals.
	requireStays(t, 50*time.Millisecond, func() bool { return server.Calls("pexpire") == calls })
}

var (
	scaleLocks = flag.Int("scale.locks", 5000, "how many locks TestScale watches")
	scaleTime  = flag.Duration("scale.time", 7*time.Second, "for how long")
	scaleTTL   = flag.Duration("scale.ttl", 6*time.Second, "the TTL of the locks; they are refreshed three times as often")
)

// TestScale watches many locks:
//
//	go test -run TestScale -v . -scale.locks 100000 -scale.ttl 15s -scale.time 60s
func TestScale(t *testing.T) {
	if !alone(t) {
		return
	}
	redistest.NoLeaks(t)
	server := redistest.Start(t)
	rdb := server.Client()
	n := *scaleLocks

	empty := memory()
	unwatched := obtainMany(t, rdb, "unwatched", nil)
	perLock := (memory() - empty) / n
	goroutines := runtime.NumGoroutine()

	var most, perWatchedLock int
	var load float64
	got := counted(func() {
		beforeWatched := memory()
		locks := obtainMany(t, rdb, "watched", watched(redislock.NewTickWatchdog(0)))
		start, used := time.Now(), cpuTime()
		for time.Since(start) < *scaleTime {
			time.Sleep(10 * time.Millisecond)
			most = max(most, runtime.NumGoroutine()-goroutines)
		}
		load = float64(cpuTime()-used) / float64(time.Since(start))
		perWatchedLock = (memory() - beforeWatched) / n
		for _, lock := range locks {
			require.False(t, isClosed(lock.Done()))
		}
		releaseAll(t, locks)
	})
	t.Logf("%d locks, TTL %v, for %v: %d lost, %d refreshes, %d goroutines more, %d B each (unwatched: %d B), %.2f cores",
		n, *scaleTTL, *scaleTime, got.Lost, got.Refresh.Success, most, perWatchedLock, perLock, load)
	assert.Zero(t, got.Lost)
	assert.GreaterOrEqual(t, got.Refresh.Success, int64(n)*int64(*scaleTime / *scaleTTL)*3)
	assert.EqualValues(t, n, got.WatchdogDone)
	assert.LessOrEqual(t, most, 16)
	assert.LessOrEqual(t, perWatchedLock-perLock, 1024)
	releaseAll(t, unwatched)
}

func obtainMany(t *testing.T, rdb *redis.Client, name string, opt *redislock.Options) []*redislock.Lock {
	locks := make([]*redislock.Lock, *scaleLocks)
	inParallel(func(worker, workers int) {
		for i := worker; i < len(locks); i += workers {
			var err error
			locks[i], err = redislock.Obtain(t.Context(), rdb, fmt.Sprint(name, i), *scaleTTL, opt)
			assert.NoError(t, err)
		}
	})
	return locks
}

func releaseAll(t *testing.T, locks []*redislock.Lock) {
	inParallel(func(worker, workers int) {
		for i := worker; i < len(locks); i += workers {
			_ = locks[i].Release(t.Context()) // the unwatched have expired
		}
	})
}

func inParallel(work func(worker, workers int)) {
	const workers = 16
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() { work(worker, workers) })
	}
	wg.Wait()
}

// memory is what heap and stacks take after a collection, in bytes.
func memory() int {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int(stats.HeapAlloc + stats.StackInuse)
}

// cpuTime is the time that this process has computed, without the server.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// Asks end long after their waiters have left, and after all else on the lane: each is followed by
// another leave.
func TestScheduler_leavesAfterAnAttempt(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	rdb, lock, client, gate := gatedHolder(t)
	const waiters = 3
	results := make(chan obtained, waiters)
	ctx, cancel := context.WithCancel(t.Context())
	for range waiters {
		waitInLine(t, ctx, rdb, client, "waiter", fair(), results)
	}
	awaitChannels(t, rdb, waiters)

	asks := gate.close("ask")
	gate.await(t, asks, waiters)
	leaves := gate.close("leave")
	cancel()
	gate.await(t, leaves, 1)
	for range waiters {
		require.ErrorIs(t, receive(t, results).err, context.Canceled)
	}
	gate.open("leave")
	awaitQueue(t, rdb, 0) // each has left by another attempt
	require.Eventually(t, func() bool { return redislock.Tasks(client) == 0 }, 10*time.Second, time.Millisecond)

	again := gate.close("leave")
	gate.open("ask")
	asks.release()
	gate.await(t, again, 1)
	require.Eventually(t, func() bool { return redislock.Tasks(client) == waiters }, 10*time.Second, time.Millisecond)
	leaves.fail()
	gate.open("leave")
	again.release()
	require.NoError(t, lock.Release(t.Context()))
	awaitNoKeys(t, rdb)
}

// A client of one's own decides what becomes of scripts: nothing goes around it.
func TestScheduler_clientThatChangesKeys(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client()
	const ttl = 6 * time.Second
	lock := watchLock(t, prefixer{rdb}, key, ttl, 200*time.Millisecond)
	refreshed := server.Calls("pexpire") + 6
	require.Eventually(t, func() bool { return server.Calls("pexpire") >= refreshed || isClosed(lock.Done()) },
		20*time.Second, 10*time.Millisecond)
	require.False(t, isClosed(lock.Done()))
	assert.Equal(t, lock.Token(), rdb.Get(t.Context(), "my-"+key).Val())
	require.NoError(t, lock.Release(t.Context()))
	awaitNoKeys(t, rdb)
}

// A client without pipelines may be far away.
func TestScheduler_withoutPipelinesAndSlow(t *testing.T) {
	if !alone(t) {
		return
	}
	redistest.NoLeaks(t)
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	rdb := struct{ redis.Scripter }{redistest.Client(t, proxy.Addr, func(o *redis.Options) { o.PoolSize = 100 })}
	const n, ttl = 1500, 6 * time.Second
	locks := make([]*redislock.Lock, n)
	got := counted(func() {
		inParallel(func(worker, workers int) {
			for i := worker; i < n; i += workers {
				locks[i] = watchLock(t, rdb, fmt.Sprint("lock", i), ttl)
			}
		})
		proxy.DelayReplies(40 * time.Millisecond)
		refreshed := server.Calls("pexpire") + 5*n/2
		require.Eventually(t, func() bool { return server.Calls("pexpire") >= refreshed }, 30*time.Second, 10*time.Millisecond)
		proxy.DelayReplies(0)
	})
	assert.Zero(t, got.Lost)
	inParallel(func(worker, workers int) {
		for i := worker; i < n; i += workers {
			assert.NoError(t, locks[i].Release(t.Context()))
		}
	})
}

// gaps measures the times between the scripts in pipelines that are for one key.
type gaps struct {
	pipelineCounter
	key string

	mu   sync.Mutex
	last time.Time
	all  []time.Duration
}

func (g *gaps) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			if args := cmd.Args(); len(args) > 3 && args[3] == g.key {
				g.mu.Lock()
				g.all = append(g.all, time.Since(g.last))
				g.last = time.Now()
				g.mu.Unlock()
			}
		}
		return next(ctx, cmds)
	}
}

// restart measures anew.
func (g *gaps) restart() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all, g.last = nil, time.Now()
}

// await waits for n gaps, and returns the one that a tenth is longer than.
func (g *gaps) await(t *testing.T, n int) time.Duration {
	t.Helper()
	var all []time.Duration
	require.Eventually(t, func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		all = slices.Clone(g.all)
		return len(all) >= n
	}, 20*time.Second, 5*time.Millisecond)
	slices.Sort(all)
	return all[len(all)*9/10]
}

// A lock that is refreshed often does not wait for those that are refreshed seldom. Two of
// them are measured at the same time, so that what else the machine does hits both.
func TestScheduler_shortAmongLong(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	often := watched(redislock.NewTickWatchdog(4 * time.Millisecond))
	start := func() (*redistest.Server, *redis.Client, *gaps) {
		server := redistest.Start(t)
		rdb, gaps := server.Client(), &gaps{key: "short"}
		rdb.AddHook(gaps)
		short, err := redislock.Obtain(t.Context(), rdb, "short", ttl, often)
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, short.Release(context.Background())) })
		return server, rdb, gaps
	}
	_, _, alone := start()
	server, rdb, among := start()
	long := make([]*redislock.Lock, 750) // that are refreshed 1,500 times a second
	inParallel(func(worker, workers int) {
		for i := worker; i < len(long); i += workers {
			long[i] = watchLock(t, rdb, fmt.Sprint("long", i), 10*time.Second, 500*time.Millisecond)
		}
	})
	awaitCalls(t, server, "pexpire", server.Calls("pexpire")+1500)
	const tries = 10
	for try := 1; ; try++ {
		alone.restart()
		among.restart()
		one, other := alone.await(t, 300), among.await(t, 300)
		t.Logf("alone %v, among others %v", one, other)
		if other < one*5/4 {
			break
		}
		require.Less(t, try, tries)
	}
	releaseAll(t, long)
}

// timely is a Redis that sees when locks are refreshed. It fails now and then.
type timely struct {
	redis.Scripter
	mu       sync.Mutex
	attempts map[string][]attempt // by key
	random   *rand.Rand
}

type attempt struct {
	at     time.Time
	failed bool
}

func (s *timely) EvalSha(_ context.Context, digest string, keys []string, _ ...any) *redis.Cmd {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.attempts[keys[0]]
	failed := redislock.ScriptName(digest) == "refresh" && s.random.IntN(4) == 0 &&
		(len(before) < 2 || !before[len(before)-2].failed) // or a lock would be lost some day
	s.attempts[keys[0]] = append(before, attempt{time.Now(), failed})
	if failed {
		return redis.NewCmdResult(nil, errors.New("fails"))
	}
	return redis.NewCmdResult(int64(1), nil)
}

// Locks with all kinds of TTLs share a lane. Each is refreshed when it is due, and again soon
// after a failure.
func TestScheduler_onTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &timely{attempts: make(map[string][]attempt), random: rand.New(rand.NewPCG(1, 2))}
		locks := make(map[*redislock.Lock]time.Duration)
		for i := range 100 {
			ttl := time.Second << (i % 8)
			locks[watchLock(t, server, fmt.Sprint("lock", i), ttl)] = ttl
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		const gathered = 10 * time.Millisecond // with others
		for lock, ttl := range locks {
			assert.False(t, isClosed(lock.Done()))
			last := attempt{}
			for i, attempt := range server.attempts[lock.Key()] {
				if after := attempt.at.Sub(last.at); i > 0 && last.failed {
					assert.LessOrEqual(t, after, ttl*3/20+gathered, ttl)
				} else if i > 0 {
					assert.LessOrEqual(t, after, ttl/3+gathered, ttl)
					assert.GreaterOrEqual(t, after, ttl*3/10, ttl)
				}
				last = attempt
			}
			require.Less(t, time.Since(last.at), ttl/3+gathered)
			require.NoError(t, lock.Release(t.Context()))
		}
	})
}

// finder is a Redis Cluster's client, as far as it can find out which nodes there are.
type finder struct {
	scripter
	found *atomic.Int32
}

// refusal is an error that Redis replied.
type refusal struct{}

func (refusal) Error() string { return "ERR no" }
func (refusal) RedisError()   {}

func (f finder) ReloadState(context.Context) { f.found.Add(1) }

// A server that does not answer may be another by now; one that answers is not.
func TestScheduler_looksForNodes(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"answers":         {nil, false},
		"says no":         {refusal{}, false},
		"does not answer": {errors.New("silent"), true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ticks := &ticker{refreshed: func() (any, error) { return int64(1), test.err }}
				client := finder{ticks.client(), new(atomic.Int32)}
				lock := watchLock(t, client, key, time.Minute)
				time.Sleep(25 * time.Second)
				require.Positive(t, ticks.count())
				assert.Equal(t, test.want, client.found.Load() > 0)
				require.NoError(t, lock.Release(t.Context()))
			})
		})
	}
}
