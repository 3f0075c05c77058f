package redislock_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"runtime"
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

// until returns a function to run while leading: it works until its context ends.
func until(led *atomic.Int32) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		led.Add(1)
		<-ctx.Done()
		return nil
	}
}

func candidate(locker *redislock.Client, name string) *redislock.Election {
	return redislock.NewElection(locker, key, 2*time.Second, &redislock.Options{Metadata: name})
}

// Candidates lead one after the other, in the order in which they came, however long one takes. Who
// leads is known to all.
func TestElection_inTurn(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	inSimulatedTime(t, func(t *testing.T, locker *redislock.Client, nodes []*redis.Client) {
		var running sync.WaitGroup
		var leaders []string
		names := []string{"Anna", "Ben", "Cleo"}
		for _, name := range names {
			e := candidate(locker, name)
			_, err := e.Leader(t.Context())
			if name == "Anna" {
				assert.Equal(t, redislock.ErrNoLeader, err)
			}
			assert.False(t, e.IsLeader())
			running.Go(func() {
				assert.NoError(t, e.Run(t.Context(), func(ctx context.Context) error {
					leaders = append(leaders, name) // a race if two led
					time.Sleep(10 * time.Second)
					assert.NoError(t, ctx.Err())
					assert.True(t, e.IsLeader())
					leader, err := e.Leader(ctx)
					assert.NoError(t, err)
					assert.Equal(t, name, leader)
					return nil
				}))
				assert.False(t, e.IsLeader())
			})
			time.Sleep(time.Second)
			leader, err := e.Leader(t.Context())
			assert.NoError(t, err)
			assert.Equal(t, "Anna", leader)
			assert.Equal(t, name == "Anna", e.IsLeader())
		}
		running.Wait()
		if len(nodes) == 1 {
			assert.Equal(t, names, leaders)
		} else {
			assert.ElementsMatch(t, names, leaders)
		}
		_, err := candidate(locker, "").Leader(t.Context())
		assert.Equal(t, redislock.ErrNoLeader, err)
	})
}

// A candidate whose context ends before it leads has never led: nothing of its own runs.
func TestElection_endsWhileItWaits(t *testing.T) {
	t.Parallel()
	inSimulatedTime(t, func(t *testing.T, locker *redislock.Client, nodes []*redis.Client) {
		_, err := locker.Obtain(t.Context(), key, 24*time.Hour, nil)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		never := func(context.Context) error { panic("never elected") }
		require.Equal(t, context.DeadlineExceeded, candidate(locker, "").Run(ctx, never))
		require.Equal(t, context.DeadlineExceeded, candidate(locker, "").Run(ctx, never))
		require.NoError(t, nodes[0].Del(t.Context(), key).Err())
		time.Sleep(time.Minute)
		if len(nodes) == 1 {
			requireGone(t, nodes[0], key, queueKey, waitersKey)
		}
	})
}

// The leadership is given up once the work has ended, not when it was asked to.
func TestElection_holdsOnWhileItWorks(t *testing.T) {
	t.Parallel()
	inSimulatedTime(t, func(t *testing.T, locker *redislock.Client, nodes []*redis.Client) {
		first, second := candidate(locker, "first"), candidate(locker, "second")
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		working := true
		running.Go(func() {
			assert.Equal(t, errDown, first.Run(ctx, func(ctx context.Context) error {
				<-ctx.Done()
				time.Sleep(10 * time.Second) // it takes long to stop
				assert.True(t, first.IsLeader())
				working = false
				return errDown
			}))
		})
		time.Sleep(time.Second)
		running.Go(func() {
			assert.NoError(t, second.Run(t.Context(), func(context.Context) error {
				assert.False(t, working)
				return nil
			}))
		})
		time.Sleep(time.Second)
		cancel()
		running.Wait()
	})
}

// A leader that has lost the lock learns of it, is waited for, and is a candidate again.
func TestElection_lost(t *testing.T) {
	inSimulatedTime(t, func(t *testing.T, locker *redislock.Client, nodes []*redis.Client) {
		var logged bytes.Buffer
		e := redislock.NewElection(locker, key, 10*time.Second, &redislock.Options{Logger: slog.New(slog.NewTextHandler(&logged, nil))})
		terms, work := 0, false
		err := e.Run(t.Context(), func(ctx context.Context) error {
			assert.False(t, work)
			work = true
			defer func() { work = false }()
			if terms++; terms == 3 {
				return nil
			}
			for _, node := range nodes {
				assert.NoError(t, node.Set(ctx, key, "another", 20*time.Second).Err())
			}
			<-ctx.Done()
			assert.ErrorIs(t, context.Cause(ctx), redislock.ErrLockNotHeld)
			assert.False(t, e.IsLeader())
			time.Sleep(time.Hour)
			return map[int]error{1: errDown}[terms]
		})
		assert.NoError(t, err)
		assert.Equal(t, 3, terms)
		assert.Contains(t, logged.String(), "leadership lost")
		assert.Contains(t, logged.String(), "returned=down")
	})
}

// If the work ends by itself, and only then the leadership turns out to be lost, both are told.
func TestElection_lostUnnoticed(t *testing.T) {
	inSimulatedTime(t, func(t *testing.T, locker *redislock.Client, nodes []*redis.Client) {
		err := candidate(locker, "").Run(t.Context(), func(ctx context.Context) error {
			for _, node := range nodes {
				assert.NoError(t, node.Del(ctx, key).Err())
			}
			return errDown
		})
		assert.ErrorIs(t, err, errDown)
		assert.ErrorIs(t, err, redislock.ErrLockNotHeld)
	})
}

// A term may be limited. Then it is another's turn.
func TestElection_terms(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rdb := redistest.Simulated(t)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		var terms [2]atomic.Int32
		for i := range terms {
			e := redislock.NewElection(redislock.New(rdb), key, 10*time.Second, &redislock.Options{HoldAtMost: 20 * time.Second})
			running.Go(func() {
				assert.Equal(t, context.Canceled, e.Run(ctx, func(ctx context.Context) error {
					terms[i].Add(1)
					<-ctx.Done()
					return ctx.Err()
				}))
			})
		}
		time.Sleep(200*time.Second + 100*time.Millisecond)
		cancel()
		running.Wait()
		for i := range terms {
			assert.InDelta(t, 5, terms[i].Load(), 1)
		}
		time.Sleep(time.Minute)
		requireGone(t, rdb, key, queueKey, waitersKey)
	})
}

// A leader that panics, or ends its goroutine, gives up the leadership.
func TestElection_panics(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		e := candidate(redislock.New(rdb), "")
		require.PanicsWithValue(t, "at work", func() {
			_ = e.Run(t.Context(), func(context.Context) error { panic("at work") })
		})
		requireGone(t, rdb, key)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = e.Run(t.Context(), func(context.Context) error {
				runtime.Goexit()
				return nil
			})
		}()
		<-done
		requireGone(t, rdb, key)
		require.False(t, e.IsLeader())
		require.Equal(t, errDown, e.Run(t.Context(), func(context.Context) error { return errDown }))
	})
}

// One Election is one candidate.
func TestElection_runsOnce(t *testing.T) {
	t.Parallel()
	e := candidate(redislock.New(redistest.Client(t, redistest.Embedded(t).Addr())), "")
	require.NoError(t, e.Run(t.Context(), func(ctx context.Context) error {
		err := e.Run(ctx, func(context.Context) error { panic("elected twice") })
		assert.ErrorContains(t, err, `redislock: Run for key "lock" is already running`)
		assert.True(t, e.IsLeader())
		return nil
	}))
}

// While Redis is away a candidate goes on trying, and says so.
func TestElection_redisAway(t *testing.T) {
	t.Parallel()
	inSimulatedTime(t, func(t *testing.T, locker *redislock.Client, nodes []*redis.Client) {
		down := &failing{}
		for _, node := range nodes {
			node.AddHook(down)
		}
		down.is.Store(true)
		time.AfterFunc(time.Minute, func() { down.is.Store(false) })
		var logged bytes.Buffer
		start := time.Now()
		e := redislock.NewElection(locker, key, 10*time.Second, &redislock.Options{Logger: slog.New(slog.NewTextHandler(&logged, nil))})
		require.NoError(t, e.Run(t.Context(), func(context.Context) error {
			waited := time.Since(start)
			assert.GreaterOrEqual(t, waited, time.Minute)
			assert.Less(t, waited, time.Minute+5*time.Second)
			return nil
		}))
		tries := bytes.Count(logged.Bytes(), []byte("campaign failed"))
		assert.Greater(t, tries, 30)
		assert.Less(t, tries, 150)

		// Neither more nor less than MaxWait.
		down.is.Store(true)
		start = time.Now()
		err := redislock.NewElection(locker, key, 10*time.Second, &redislock.Options{MaxWait: time.Minute}).
			Run(t.Context(), func(context.Context) error { panic("Redis is away") })
		assert.ErrorIs(t, err, redislock.ErrNotObtained)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorIs(t, err, errDown)
		assert.Equal(t, time.Minute, time.Since(start))
		_, err = e.Leader(t.Context())
		assert.ErrorIs(t, err, errDown)
	})
}

// A campaign ends where there is no hope: at MaxWait, and when the strategy has no more tries, or the
// client is closed.
func TestElection_givesUp(t *testing.T) {
	t.Parallel()
	inSimulatedTime(t, func(t *testing.T, locker *redislock.Client, nodes []*redis.Client) {
		held, err := locker.Obtain(t.Context(), key, 24*time.Hour, nil)
		require.NoError(t, err)
		never := func(context.Context) error { panic("held by another") }
		start := time.Now()
		err = redislock.NewElection(locker, key, time.Second, &redislock.Options{MaxWait: 10 * time.Second}).Run(t.Context(), never)
		assert.ErrorIs(t, err, redislock.ErrNotObtained)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, 10*time.Second, time.Since(start))
		err = redislock.NewElection(locker, key, time.Second, &redislock.Options{RetryStrategy: redislock.NoRetry()}).Run(t.Context(), never)
		assert.Equal(t, redislock.ErrNotObtained, err)
		time.Sleep(time.Minute)
		require.NoError(t, held.Release(t.Context()))
		for _, node := range nodes {
			require.NoError(t, node.Close())
		}
		assert.ErrorIs(t, candidate(locker, "").Run(t.Context(), never), redis.ErrClosed)
	})
}

// What cannot be used is an error before Redis is asked.
func TestElection_badInput(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	nothing := func(context.Context) error { return nil }
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}, HeartbeatFrequency: time.Hour})
	defer ring.Close()
	for message, e := range map[string]*redislock.Election{
		"no Redis client":                 redislock.NewElection(nil, key, ttl, nil),
		"is empty":                        redislock.NewElection(redislock.New(rdb), "", ttl, nil),
		"TTL of 0s":                       redislock.NewElection(redislock.New(rdb), key, 0, nil),
		"MinReplicas of -1":               redislock.NewElection(redislock.New(rdb), key, ttl, &redislock.Options{MinReplicas: -1}),
		"New or NewQuorum needs a client": redislock.NewElection(redislock.New(nil), key, ttl, nil),
		"cannot be used with FairQueue":   redislock.NewElection(redislock.New(ring), "a}", ttl, nil),
	} {
		assert.ErrorContains(t, e.Run(t.Context(), nothing), message)
		_, err := e.Leader(t.Context())
		assert.ErrorContains(t, err, message)
		assert.False(t, e.IsLeader())
	}
	assert.ErrorContains(t, candidate(redislock.New(rdb), "").Run(t.Context(), nil), "fn is nil")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.Equal(t, context.Canceled, candidate(redislock.New(rdb), "").Run(ctx, nothing))
}

// Who leads can be told with custom tokens too. After a release that has the key stay nobody leads.
func TestElection_leader(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		opt := &redislock.Options{Token: "host-1", Metadata: "Anna", HoldAtLeast: time.Hour}
		e := redislock.NewElection(redislock.New(rdb), key, ttl, opt)
		require.NoError(t, e.Run(t.Context(), func(ctx context.Context) error {
			leader, err := e.Leader(ctx)
			assert.NoError(t, err)
			assert.Equal(t, "Anna", leader)
			return nil
		}))
		requireTTL(t, rdb, key, time.Hour)
		_, err := e.Leader(t.Context())
		require.Equal(t, redislock.ErrNoLeader, err)
		require.NoError(t, rdb.Set(t.Context(), key, "short", 0).Err())
		leader, err := e.Leader(t.Context())
		require.NoError(t, err)
		require.Empty(t, leader)
		require.NoError(t, rdb.Del(t.Context(), key).Err())
		require.NoError(t, rdb.HSet(t.Context(), key, "a", "b").Err())
		_, err = e.Leader(t.Context())
		require.ErrorContains(t, err, "WRONGTYPE")
	})
}

// On real nodes a minority does not decide who leads.
func TestElection_leaderOfAQuorum(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	locker := quorumOf(nodes)
	e := candidate(locker, "")
	token := "0123456789012345678901"
	for i, name := range []string{"Anna", "Ben", "Ben"} {
		require.NoError(t, nodes[i].Client().Set(t.Context(), key, token+name, 0).Err())
	}
	leader := func() (leader string, err error) {
		require.Eventually(t, func() bool { // a node may be slow at first
			leader, err = e.Leader(t.Context())
			return err == nil || err == redislock.ErrNoLeader
		}, 20*time.Second, time.Millisecond)
		return leader, err
	}
	who, err := leader()
	require.NoError(t, err)
	require.Equal(t, "Ben", who)
	require.NoError(t, nodes[2].Client().Del(t.Context(), key).Err())
	_, err = leader()
	require.Equal(t, redislock.ErrNoLeader, err)
	nodes[0].Kill()
	nodes[1].Kill()
	_, err = e.Leader(t.Context())
	var node *redislock.NodeError
	require.ErrorAs(t, err, &node)
}

// On a real server another leads when the leader's process cannot refresh any more.
func TestElection_takesOver(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := redistest.StartProxy(t, server.Addr)
	first := redislock.NewElection(redislock.New(redistest.Client(t, proxy.Addr)), key, time.Second, nil)
	second := redislock.NewElection(redislock.New(server.Client()), key, time.Second, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var led [2]atomic.Int32
	var running sync.WaitGroup
	running.Go(func() { _ = first.Run(ctx, until(&led[0])) })
	require.Eventually(t, first.IsLeader, 20*time.Second, time.Millisecond)
	running.Go(func() { _ = second.Run(ctx, until(&led[1])) })
	proxy.Cut()
	proxy.DropReplies(true)
	require.Eventually(t, second.IsLeader, 20*time.Second, time.Millisecond)
	require.False(t, first.IsLeader())
	proxy.DropReplies(false)
	cancel()
	running.Wait()
	require.EqualValues(t, 1, led[1].Load())
}

// Observers tell elections from locks.
func TestElection_observed(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	counts := kindCounts{}
	locker := redislock.New(rdb).WithObserver(counts)
	require.NoError(t, candidate(locker, "").Run(t.Context(), func(context.Context) error { return nil }))
	require.NoError(t, locker.Do(t.Context(), key, ttl, nil, func(context.Context) error { return nil }))
	require.Equal(t, map[string]int{
		"election obtain": 1, "election hold": 1, "election release": 1,
		"exclusive obtain": 1, "exclusive hold": 1, "exclusive release": 1,
	}, map[string]int(counts))
}

// kindCounts is an observer that counts operations of one goroutine.
type kindCounts map[string]int

func (k kindCounts) Begin(ctx context.Context, op redislock.Operation) (context.Context, func(redislock.Outcome)) {
	k[op.Kind+" "+op.Name]++
	return ctx, nil
}

// endsAtGrant ends a context as soon as a script was answered.
type endsAtGrant struct {
	redis.Hook
	cancel context.CancelFunc
}

func (h endsAtGrant) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h endsAtGrant) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h endsAtGrant) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if err == nil && strings.HasPrefix(cmd.Name(), "eval") {
			h.cancel()
		}
		return err
	}
}

// A term that ends before anything is done in it does not keep the others from leading.
func TestElection_nothingDone(t *testing.T) {
	t.Parallel()
	server := redistest.Embedded(t)
	rdb, other := redistest.Client(t, server.Addr()), redistest.Client(t, server.Addr())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	rdb.AddHook(endsAtGrant{cancel: cancel})
	e := redislock.NewElection(redislock.New(rdb), key, ttl, &redislock.Options{HoldAtLeast: time.Hour})
	err := e.Run(ctx, func(context.Context) error {
		t.Error("it leads")
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	requireGone(t, other, key)
}

// If the context ends too while fn returns because of a loss, that is no success.
func TestElection_lostAndCanceled(t *testing.T) {
	inSimulatedTime(t, func(t *testing.T, locker *redislock.Client, nodes []*redis.Client) {
		for _, returned := range []error{nil, io.EOF} {
			ctx, cancel := context.WithCancel(t.Context())
			err := candidate(locker, "").Run(ctx, func(held context.Context) error {
				for _, node := range nodes {
					require.NoError(t, node.Del(t.Context(), key).Err())
				}
				<-held.Done()
				cancel()
				return returned
			})
			require.ErrorIs(t, err, context.Canceled)
			require.Equal(t, returned != nil, errors.Is(err, io.EOF))
		}
	})
}
