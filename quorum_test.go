package redislock_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// startNodes starts independent masters.
func startNodes(t *testing.T, n int) []*redistest.Server {
	t.Helper()
	nodes := make([]*redistest.Server, n)
	for i := range nodes {
		nodes[i] = redistest.Start(t)
	}
	return nodes
}

func quorumOf(nodes []*redistest.Server, changes ...func(*redis.Options)) *redislock.Client {
	clients := make([]redislock.RedisClient, len(nodes))
	for i, node := range nodes {
		clients[i] = node.Client(changes...)
	}
	return redislock.NewQuorum(clients...)
}

// holding counts the nodes that have the key.
func holding(t *testing.T, nodes []*redistest.Server) int {
	t.Helper()
	n := 0
	for _, node := range nodes {
		exists, err := node.Client().Exists(t.Context(), key).Result()
		require.NoError(t, err)
		n += int(exists)
	}
	return n
}

// eventuallyHolding waits until so many nodes have the key. Who obtains or releases a lock
// does not wait for all of them.
func eventuallyHolding(t *testing.T, nodes []*redistest.Server, n int) {
	t.Helper()
	for start := time.Now(); holding(t, nodes) != n; time.Sleep(time.Millisecond) {
		require.Less(t, time.Since(start), 10*time.Second)
	}
}

// obtainAtLast obtains a lock of a quorum, whose nodes may be too slow at first on a busy machine.
func obtainAtLast(t *testing.T, locker *redislock.Client, key string, ttl time.Duration, opt *redislock.Options) *redislock.Lock {
	for start := time.Now(); ; {
		lock, err := locker.Obtain(t.Context(), key, ttl, opt)
		if err == nil || !assert.Less(t, time.Since(start), 20*time.Second, "%v", err) {
			return lock
		}
	}
}

// decided calls until a quorum decides, whose nodes may be too slow at first on a busy machine.
func decided(t *testing.T, call func() error) error {
	for start := time.Now(); ; {
		err := call()
		var node *redislock.NodeError
		if !errors.As(err, &node) || !assert.Less(t, time.Since(start), 20*time.Second, "%v", err) {
			return err
		}
	}
}

// releaseOnQuorum releases a lock. Nodes that are too slow to say so let it go, too.
func releaseOnQuorum(t *testing.T, lock *redislock.Lock) {
	t.Helper()
	assert.NotErrorIs(t, lock.Release(t.Context()), redislock.ErrLockNotHeld)
}

// obtainOnAll obtains a lock of all nodes. On a busy machine one may be too slow for that.
func obtainOnAll(t *testing.T, locker *redislock.Client, nodes []*redistest.Server, opt *redislock.Options) *redislock.Lock {
	t.Helper()
	for start := time.Now(); ; {
		lock := obtainAtLast(t, locker, key, ttl, opt)
		require.Less(t, time.Since(start), 20*time.Second, "never of all")
		for obtained := time.Now(); time.Since(obtained) < time.Second; time.Sleep(time.Millisecond) {
			if holding(t, nodes) == len(nodes) {
				return lock
			}
		}
		_ = lock.Release(t.Context())
	}
}

func TestQuorum(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 5)
	locker := quorumOf(nodes)

	lock := obtainOnAll(t, locker, nodes, &redislock.Options{Metadata: "metadata"})
	assert.Equal(t, "metadata", lock.Metadata())
	assert.Equal(t, lock.Token()+"metadata", nodes[3].Client().Get(t.Context(), key).Val())
	assert.Less(t, time.Until(lock.ValidUntil()), ttl)
	assert.Greater(t, time.Until(lock.ValidUntil()), ttl/2)

	assert.Equal(t, redislock.ErrNotObtained, decided(t, func() error {
		_, err := locker.Obtain(t.Context(), key, ttl, nil)
		return err
	}))
	eventuallyHolding(t, nodes, 5)

	require.NoError(t, decided(t, func() error { return lock.Refresh(t.Context(), 2*ttl, nil) }))
	require.Eventually(t, func() bool { // once the slower nodes have refreshed it, too
		left, err := lock.TTL(t.Context())
		return err == nil && left > ttl
	}, 10*time.Second, time.Millisecond)

	again := obtainAtLast(t, locker, key, ttl, &redislock.Options{Token: lock.Token()})
	assert.ErrorIs(t, decided(t, func() error { return lock.Release(t.Context()) }), redislock.ErrLockNotHeld, "the metadata is another")
	releaseOnQuorum(t, again)
	eventuallyHolding(t, nodes, 0)
	assert.ErrorIs(t, decided(t, func() error { return again.Release(t.Context()) }), redislock.ErrLockNotHeld)
	assert.Equal(t, redislock.ErrNotObtained, decided(t, func() error { return again.Refresh(t.Context(), ttl, nil) }))
	var left time.Duration
	assert.NoError(t, decided(t, func() (err error) {
		left, err = again.TTL(t.Context())
		return err
	}))
	assert.Zero(t, left)

	var several *redislock.Lock
	require.NoError(t, decided(t, func() (err error) {
		several, err = locker.ObtainMulti(t.Context(), []string{key, "another"}, ttl, nil)
		return err
	}))
	releaseOnQuorum(t, several)
}

func TestQuorum_ttlOfTheMajority(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	lock := obtainOnAll(t, quorumOf(nodes), nodes, nil)
	require.NoError(t, nodes[0].Client().PExpire(t.Context(), key, 10*ttl).Err())
	require.NoError(t, nodes[1].Client().PExpire(t.Context(), key, ttl/2).Err())
	awaitMajority := func(more, most time.Duration) {
		// A node that is slower than the others counts as if it had nothing.
		for start := time.Now(); ; {
			left, _ := lock.TTL(t.Context())
			require.LessOrEqual(t, left, most)
			if left > more {
				return
			}
			require.Less(t, time.Since(start), 10*time.Second)
		}
	}
	awaitMajority(ttl/2, ttl)
	require.NoError(t, nodes[0].Client().Del(t.Context(), key).Err())
	awaitMajority(ttl/4, ttl/2)
}

// One node is killed, another frozen.
func TestQuorum_minorityFails(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 5)
	locker := quorumOf(nodes, patient, once)
	lock := obtainOnAll(t, locker, nodes, nil) // connects
	releaseOnQuorum(t, lock)
	eventuallyHolding(t, nodes, 0)
	nodes[0].Kill()
	nodes[1].Pause()
	defer nodes[1].Resume()
	alive := nodes[2:]

	step := func(what string, call func() error) {
		start := time.Now()
		require.NoError(t, decided(t, call), what)
		require.Less(t, time.Since(start), 8*time.Second, what)
	}
	step("obtain", func() error {
		lock = obtainAtLast(t, locker, key, ttl, nil)
		return nil
	})
	assert.Equal(t, 3, holding(t, alive))
	step("refresh", func() error { return lock.Refresh(t.Context(), ttl, nil) })
	step("TTL", func() error {
		left, err := lock.TTL(t.Context())
		assert.True(t, err != nil || left > ttl/2)
		return err
	})

	nodes[0].Restart() // without data
	require.Eventually(t, func() bool {
		return lock.Refresh(t.Context(), ttl, nil) == nil && holding(t, nodes[:1]) == 1
	}, 10*time.Second, 10*time.Millisecond, "a refresh heals")
	nodes[1].Resume()
	require.Eventually(t, func() bool {
		return lock.Refresh(t.Context(), ttl, nil) == nil && holding(t, nodes) == 5
	}, 10*time.Second, 10*time.Millisecond)

	nodes[1].Pause()
	releaseOnQuorum(t, lock)
	nodes[1].Resume()
	eventuallyHolding(t, nodes, 0)
}

func TestQuorum_majorityFails(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 5)
	var tally tally
	locker := quorumOf(nodes, once).WithObserver(&tally)
	for _, node := range nodes[:3] {
		node.Kill()
	}
	start := time.Now()
	_, err := locker.Obtain(t.Context(), key, ttl, &redislock.Options{RetryStrategy: redislock.LinearBackoff(time.Millisecond)})
	require.Error(t, err)
	assert.Less(t, time.Since(start), 10*time.Second)
	assert.NotErrorIs(t, err, redislock.ErrNotObtained)
	assert.ErrorContains(t, err, "of 5 nodes answered, a majority is 3")
	assert.NotContains(t, err.Error(), "\n", "logs have a line for each error")
	for _, name := range []string{"node 0: ", "node 1: ", "node 2: "} {
		assert.ErrorContains(t, err, name)
	}
	var failed *redislock.NodeError
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, 0, failed.Node)
	assert.Error(t, errors.Unwrap(failed))
	tally.require(t, map[string]int{"obtain error": 1})
	eventuallyHolding(t, nodes[3:], 0)
}

// A holder that loses the majority's keys has lost the lock; what is left of it does not
// grow again.
func TestQuorum_lost(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	lock := obtainAtLast(t, quorumOf(nodes), key, ttl, watched(redislock.NewTickWatchdog(20*time.Millisecond)))
	for _, node := range nodes[:2] {
		require.NoError(t, node.Client().Set(t.Context(), key, "somebody else", 0).Err())
	}
	select {
	case <-lock.Done():
	case <-time.After(10 * time.Second):
		require.Fail(t, "the loss was not noticed")
	}
	assert.Equal(t, redislock.ErrNotObtained, decided(t, func() error { return lock.Refresh(t.Context(), ttl, nil) }))
}

func TestQuorum_watchdogHeals(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	lock := obtainOnAll(t, quorumOf(nodes), nodes, watched(redislock.NewTickWatchdog(20*time.Millisecond)))
	for _, node := range nodes { // one after the other
		require.NoError(t, node.Client().FlushAll(t.Context()).Err())
		eventuallyHolding(t, nodes, 3)
	}
	releaseOnQuorum(t, lock)
	eventuallyHolding(t, nodes, 0)
}

// A node answers late, or not at all: what it was told meanwhile is undone.
func TestQuorum_failedTryIsUndone(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	proxy := redistest.StartProxy(t, nodes[2].Addr)
	proxied := redistest.Client(t, proxy.Addr, once)
	warm := obtainOnAll(t, redislock.NewQuorum(nodes[0].Client(), nodes[1].Client(), proxied), nodes, nil)
	releaseOnQuorum(t, warm)
	eventuallyHolding(t, nodes, 0)
	for _, node := range nodes[:2] {
		require.NoError(t, node.Client().Set(t.Context(), key, "somebody else", 0).Err())
	}
	calls := nodes[2].Calls("set")
	proxy.DropReplies(true)
	locker := redislock.NewQuorum(nodes[0].Client(), nodes[1].Client(), impatiently(proxied))
	err := decided(t, func() error {
		_, err := locker.Obtain(t.Context(), key, ttl, nil)
		return err
	})
	awaitCalls(t, nodes[2], "set", calls)
	assert.Equal(t, redislock.ErrNotObtained, err)
	proxy.DropReplies(false)
	eventuallyHolding(t, nodes[2:], 0)
}

// A command that heals is on its way to a node while the lock is released. It must not
// take the lock there afterwards.
func TestQuorum_healingAndReleasing(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	slow := slowly{UniversalClient: nodes[2].Client()}
	locker := redislock.NewQuorum(nodes[0].Client(), nodes[1].Client(), &slow)
	lock := obtainOnAll(t, locker, nodes, nil)
	require.NoError(t, nodes[2].Client().FlushAll(t.Context()).Err())
	require.Eventually(t, func() bool { // it is healed, and the script known
		return lock.Refresh(t.Context(), ttl, nil) == nil && holding(t, nodes) == 3
	}, 20*time.Second, time.Millisecond)
	require.NoError(t, nodes[2].Client().FlushAll(t.Context()).Err())

	slow.hold("heal")
	var refreshing sync.WaitGroup
	refreshing.Go(func() { _ = lock.Refresh(t.Context(), ttl, nil) })
	<-slow.held // it has not arrived yet
	start := time.Now()
	releaseOnQuorum(t, lock)
	assert.Greater(t, time.Since(start), 100*time.Millisecond, "until the command can do no harm any more")
	slow.letGo()
	slow.wait()
	refreshing.Wait()
	eventuallyHolding(t, nodes, 0)
}

// slowly holds commands back.
type slowly struct {
	redis.UniversalClient
	mu       sync.Mutex
	script   string
	held     chan struct{}
	released chan struct{}
	sending  sync.WaitGroup
}

func (s *slowly) hold(script string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script, s.held, s.released = script, make(chan struct{}), make(chan struct{})
}

func (s *slowly) letGo() { close(s.released) }
func (s *slowly) wait()  { s.sending.Wait() }

func (s *slowly) EvalSha(ctx context.Context, digest string, keys []string, args ...any) *redis.Cmd {
	s.mu.Lock()
	hold := s.script != "" && redislock.ScriptName(digest) == s.script
	if hold {
		s.script = ""
		s.sending.Add(1)
	}
	s.mu.Unlock()
	if hold {
		defer s.sending.Done()
		close(s.held)
		<-s.released
		ctx = context.WithoutCancel(ctx)
	}
	return s.UniversalClient.EvalSha(ctx, digest, keys, args...)
}

// holdUndo tries to obtain a lock, which others have to have, until the undo is held up. (There
// is none if the node answered late. Then it is again as before.) It returns what becomes of that try.
func (s *slowly) holdUndo(t *testing.T, again func(), obtain func() error) (failed <-chan error) {
	t.Helper()
	s.hold("undo")
	result := make(chan error, 1)
	for start := time.Now(); ; {
		require.Less(t, time.Since(start), 20*time.Second, "it is not undone")
		go func() { result <- obtain() }()
		select {
		case <-s.held:
			return result
		case err := <-result:
			require.Equal(t, redislock.ErrNotObtained, err)
			again()
		}
	}
}

func TestQuorum_releaseWhileRefreshing(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	nodes := startNodes(t, 3)
	locker := quorumOf(nodes)
	for range 100 {
		lock := obtainOnAll(t, locker, nodes, nil)
		var refreshing sync.WaitGroup
		for i := range 3 {
			refreshing.Go(func() {
				for lock.Refresh(t.Context(), ttl, nil) == nil {
					assert.NoError(t, nodes[i].Client().Ping(t.Context()).Err())
				}
			})
		}
		require.NoError(t, nodes[0].Client().Del(t.Context(), key).Err())
		releaseOnQuorum(t, lock)
		refreshing.Wait()
		eventuallyHolding(t, nodes, 0)
	}
}

func TestQuorum_splitVotes(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	nodes := startNodes(t, 5)
	const clients, rounds = 6, 120
	var mu sync.Mutex
	inside, most := 0, 0
	var workers sync.WaitGroup
	for range clients {
		locker := quorumOf(nodes)
		workers.Go(func() {
			for range rounds / clients {
				lock := obtainAtLast(t, locker, key, ttl, &redislock.Options{
					RetryStrategy: redislock.LinearBackoff(5 * time.Millisecond),
				})
				if lock == nil {
					return
				}
				mu.Lock()
				inside++
				most = max(most, inside)
				mu.Unlock()
				time.Sleep(time.Millisecond)
				mu.Lock()
				inside--
				mu.Unlock()
				releaseOnQuorum(t, lock)
			}
		})
	}
	workers.Wait()
	assert.Equal(t, 1, most)
	eventuallyHolding(t, nodes, 0)
}

func TestQuorum_badInput(t *testing.T) {
	t.Parallel()
	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	_, err := redislock.NewQuorum().Obtain(t.Context(), key, ttl, nil)
	assert.ErrorContains(t, err, "NewQuorum")
	one, err := redislock.NewQuorum(rdb).Obtain(t.Context(), key, ttl, &redislock.Options{FenceKey: "fence"})
	require.NoError(t, err)
	assert.EqualValues(t, 1, one.FenceToken())
	require.NoError(t, one.Release(t.Context()))

	locker := redislock.NewQuorum(rdb, rdb, rdb)
	_, err = locker.Obtain(t.Context(), key, ttl, &redislock.Options{FenceKey: "fence"})
	assert.ErrorContains(t, err, `FenceKey "fence"`)
	_, err = locker.Obtain(t.Context(), key, ttl, &redislock.Options{MinReplicas: 2})
	assert.ErrorContains(t, err, "MinReplicas of 2")
	_, err = locker.Obtain(t.Context(), key, 0, nil)
	assert.ErrorContains(t, err, "TTL of 0s")

	_, err = redislock.NewQuorum(rdb, nil, nil).Obtain(t.Context(), key, ttl, nil)
	assert.ErrorContains(t, err, "node 1: ")
	requireGone(t, rdb, key)
}

// Waiting is as in one server's case: for FairQueue by asking again.
func TestQuorum_waiting(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	var answers answers
	clients := make([]redislock.RedisClient, len(nodes))
	for i, node := range nodes {
		client := node.Client()
		client.AddHook(&answers)
		clients[i] = client
	}
	locker := redislock.NewQuorum(clients...)
	lock := obtainAtLast(t, quorumOf(nodes), key, ttl, nil)
	results := make(chan obtained, 1)
	go func() {
		results <- obtained{lock: obtainAtLast(t, locker, key, ttl, fair())}
	}()
	require.Eventually(t, func() bool { return answers.to("obtain") >= 2 }, 20*time.Second, time.Millisecond, "a majority has refused")
	releaseOnQuorum(t, lock)
	releaseOnQuorum(t, receive(t, results).lock)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := locker.Obtain(ctx, key, ttl, nil)
	assert.ErrorIs(t, err, context.Canceled)
}

func TestQuorum_retriesVary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := answering(0)
		locker := redislock.NewQuorum(busy, busy, busy)
		waits := make(map[time.Duration]bool)
		for range 20 {
			start := time.Now()
			_, err := locker.Obtain(t.Context(), key, ttl, &redislock.Options{
				RetryStrategy: redislock.LimitRetry(redislock.LinearBackoff(time.Second), 1),
			})
			require.Equal(t, redislock.ErrNotObtained, err)
			took := time.Since(start)
			assert.GreaterOrEqual(t, took, 500*time.Millisecond)
			assert.Less(t, took, 1500*time.Millisecond)
			waits[took] = true
		}
		assert.Greater(t, len(waits), 10, fmt.Sprint(waits))
	})
}

// A try that fails keeps what the token held before, on every node.
func TestQuorum_customTokenIsLeftAlone(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	var clients, hasty []redislock.RedisClient
	for _, node := range nodes {
		client := node.Client(once)
		clients, hasty = append(clients, client), append(hasty, impatiently(client))
	}
	locker, inHaste := redislock.NewQuorum(clients...), redislock.NewQuorum(hasty...)
	opt := &redislock.Options{Token: "me"}
	lock := obtainOnAll(t, locker, nodes, opt)
	failures := map[string]func(){
		"context over": func() {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := locker.Obtain(ctx, key, ttl, opt)
			require.ErrorIs(t, err, context.Canceled)
		},
		"majority silent": func() {
			for _, node := range nodes[:2] {
				node.Pause()
			}
			_, err := inHaste.Obtain(t.Context(), key, ttl, opt)
			for _, node := range nodes[:2] {
				node.Resume()
			}
			require.Error(t, err)
		},
	}
	for name, fail := range failures {
		t.Run(name, func(t *testing.T) {
			fail()
			requireStays(t, 300*time.Millisecond, func() bool { return holding(t, nodes) >= 3 })
			require.False(t, isClosed(lock.Done()))
		})
	}
	require.NoError(t, decided(t, func() error { return lock.Refresh(t.Context(), ttl, nil) }))
	releaseOnQuorum(t, lock)
	eventuallyHolding(t, nodes, 0)
}

// What the failed try of a custom token has newly taken is given back, but not any more if
// the token was given the lock meanwhile.
func TestQuorum_customTokenIsUndone(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	slow := slowly{UniversalClient: nodes[2].Client()}
	locker := redislock.NewQuorum(nodes[0].Client(), nodes[1].Client(), &slow)
	opt := &redislock.Options{Token: "me"}
	others := nodes[:2]
	for _, node := range others {
		require.NoError(t, node.Client().Set(t.Context(), key, "somebody else", 0).Err())
	}
	// What answers late, as it may on a busy machine, has to be tried again.
	again := func() { require.NoError(t, nodes[2].Client().Del(t.Context(), key).Err()) }
	for range 2 { // the second time the script is known
		require.Eventually(t, func() bool {
			_, err := locker.Obtain(t.Context(), key, ttl, opt)
			undone := holding(t, nodes) == 2
			again()
			return err == redislock.ErrNotObtained && undone
		}, 20*time.Second, time.Millisecond, "not on the third")
	}

	failed := slow.holdUndo(t, again, func() error {
		_, err := locker.Obtain(t.Context(), key, ttl, opt)
		return err
	})
	for _, node := range others {
		require.NoError(t, node.Client().Del(t.Context(), key).Err())
	}
	var lock *redislock.Lock
	for i := range 3 {
		lock = obtainAtLast(t, locker, key, time.Duration(i+1)*ttl, opt)
	}
	require.Eventually(t, func() bool { // nothing comes after the undo that would hide it
		return lock.Refresh(t.Context(), 4*ttl, nil) == nil && ttlOf(t, nodes[2], key) > 3*ttl
	}, 10*time.Second, time.Millisecond)
	slow.letGo()
	slow.wait()
	require.Equal(t, redislock.ErrNotObtained, <-failed)
	assert.Equal(t, 3, holding(t, nodes), "the lock has the node too")
	releaseOnQuorum(t, lock)
}

// Undoing a try does not keep its caller beyond its context.
func TestQuorum_contextEnds(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	var tally tally
	locker := quorumOf(nodes).WithObserver(&tally)
	for _, node := range nodes[:2] {
		node.Pause()
		defer node.Resume()
	}
	start := time.Now()
	for range 5 { // to wait for what is undone would take a second each time
		for _, opt := range []*redislock.Options{nil, {Token: "me"}} {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			_, err := locker.Obtain(ctx, key, time.Minute, opt)
			cancel()
			assert.ErrorIs(t, err, context.DeadlineExceeded)
		}
	}
	assert.Less(t, time.Since(start), 8*time.Second)
	tally.require(t, map[string]int{"obtain cancel": 10})
}

// A node that has said no has nothing to give back.
func TestQuorum_deniedIsNotUndone(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	locker := quorumOf(nodes)
	lock := obtainAtLast(t, locker, key, ttl, nil)
	require.Eventually(t, func() bool { return holding(t, nodes) == 3 }, 10*time.Second, time.Millisecond)
	gets := func() (n int) {
		for _, node := range nodes {
			n += node.Calls("eval") + node.Calls("evalsha")
		}
		return n
	}
	// One of the three that is slow to say no, as it may be on a busy machine, is told to give
	// back; the two that have said so are not.
	const tries, rounds = 20, 10
	for round := 1; ; round++ {
		before := gets()
		for range tries {
			require.Equal(t, redislock.ErrNotObtained, decided(t, func() error {
				_, err := locker.Obtain(t.Context(), key, ttl, nil)
				return err
			}))
		}
		if gets() <= before+tries*(len(nodes)+1) {
			break
		}
		require.Less(t, round, rounds)
	}
	releaseOnQuorum(t, lock)
}

// Refreshes of many locks do not wait for a node that does not answer.
func TestQuorum_watchdogOfManyLocks(t *testing.T) {
	if !alone(t) {
		return
	}
	redistest.NoLeaks(t)
	nodes := startNodes(t, 3)
	locker := quorumOf(nodes, patient) // for longer than the locks live
	const n, ttl = 2000, 6 * time.Second
	watchdog := redislock.NewTickWatchdog(time.Second)
	locks := make([]*redislock.Lock, n)
	got := counted(func() {
		inParallel(func(worker, workers int) {
			for i := worker; i < n; i += workers {
				locks[i] = obtainAtLast(t, locker, fmt.Sprint("lock", i), ttl, watched(watchdog))
			}
		})
		nodes[0].Pause()
		defer nodes[0].Resume()
		before := redislock.GetStats().Refresh.Success
		require.Eventually(t, func() bool {
			return redislock.GetStats().Refresh.Success >= before+5*n
		}, 30*time.Second, 10*time.Millisecond)
	})
	assert.Zero(t, got.Lost)
	inParallel(func(worker, workers int) {
		for i := worker; i < n; i += workers {
			releaseOnQuorum(t, locks[i])
		}
	})
}

// A node that comes back empty is healed of all locks at a time.
func TestQuorum_manyLocksAreHealed(t *testing.T) {
	t.Parallel()
	redistest.TakesLong(t)
	nodes := startNodes(t, 3)
	locker := quorumOf(nodes)
	watchdog := redislock.NewTickWatchdog(100 * time.Millisecond)
	const n = 500
	locks := make([]*redislock.Lock, n)
	for i := range locks {
		locks[i] = obtainAtLast(t, locker, fmt.Sprint("lock", i), ttl, watched(watchdog))
	}
	awaitAll := func() {
		for _, node := range nodes {
			rdb := node.Client()
			require.Eventually(t, func() bool { return rdb.DBSize(t.Context()).Val() == n }, 10*time.Second, 5*time.Millisecond)
		}
	}
	awaitAll()
	require.NoError(t, nodes[1].Client().FlushAll(t.Context()).Err())
	awaitAll()
	for _, lock := range locks {
		releaseOnQuorum(t, lock)
	}
}

// A node that takes the lock when that has been released gives it back.
func TestQuorum_takenAfterTheRelease(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 3)
	slow := slowly{UniversalClient: nodes[2].Client()}
	locker := redislock.NewQuorum(nodes[0].Client(), nodes[1].Client(), &slow)
	slow.hold("obtain")
	lock := obtainAtLast(t, locker, key, ttl, nil)
	<-slow.held
	releaseOnQuorum(t, lock)
	slow.letGo()
	slow.wait()
	eventuallyHolding(t, nodes, 0)
}
