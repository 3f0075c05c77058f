package redislock

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock/internal/redistest"
)

// refreshTest refreshes locks of a quorum of three servers.
type refreshTest struct {
	*testing.T
	servers []*redistest.Server
	*quorum
}

func newRefreshTest(t *testing.T, client func(*redis.Client) RedisClient) refreshTest {
	t.Parallel()
	test := refreshTest{T: t}
	var clients []RedisClient
	for range 3 {
		server := redistest.Start(t)
		test.servers = append(test.servers, server)
		clients = append(clients, client(server.Client(func(o *redis.Options) { o.ReadTimeout = 20 * time.Second })))
	}
	test.quorum = NewQuorum(clients...).servers.(*quorum)
	return test
}

// lock obtains a lock, which some of the nodes lose.
func (t refreshTest) lock(key string, lost ...int) *quorumClaim {
	var lock *Lock
	require.Eventually(t, func() (everywhere bool) { // on a busy machine nodes may be too slow
		var err error
		lock, err = (&Client{servers: t.quorum}).Obtain(t.Context(), key, time.Minute, nil)
		if err != nil {
			return false
		}
		for start := time.Now(); time.Since(start) < time.Second; time.Sleep(time.Millisecond) {
			if !slices.ContainsFunc(t.servers, func(s *redistest.Server) bool { return s.Client().Exists(t.Context(), key).Val() == 0 }) {
				return true
			}
		}
		_ = lock.Release(t.Context())
		return false
	}, 20*time.Second, time.Millisecond)
	for _, i := range lost {
		require.NoError(t, t.servers[i].Client().Del(t.Context(), key).Err())
	}
	return lock.claim.(*quorumClaim)
}

// refreshed is a lock and a channel on which its result comes.
func refreshed(lock *quorumClaim, wait time.Duration) (refreshing, chan result) {
	results := make(chan result, 1)
	return refreshing{lock: lock, ttl: time.Minute, wait: wait, done: func(r result) { results <- r }}, results
}

func requireResult(t refreshTest, results <-chan result) result {
	t.Helper()
	select {
	case r := <-results:
		return r
	case <-time.After(10 * time.Second):
		require.FailNow(t, "no result")
		panic("unreachable")
	}
}

func own(client *redis.Client) RedisClient { return client }

// A lock that is undecided until the slowest node answers holds up no other, nor the next
// that are refreshed; nor is it given up early.
func TestRefreshes_undecided(t *testing.T) {
	test := newRefreshTest(t, own)
	undecided, late := refreshed(test.lock("undecided", 1), time.Minute)
	impatient, never := refreshed(test.lock("impatient", 1), 20*time.Millisecond)
	decided, early := refreshed(test.lock("decided"), time.Minute)
	gone, denied := refreshed(test.lock("gone", 0, 1), time.Minute)

	test.servers[2].Pause()
	defer test.servers[2].Resume()
	heard := test.refresh(t.Context(), []refreshing{undecided, impatient, decided, gone})
	<-heard
	assert.Equal(t, result{reply: 1}, requireResult(test, early))
	assert.Equal(t, result{}, requireResult(test, denied))
	assert.ErrorIs(t, requireResult(test, never).err, errSilent)
	assert.Empty(t, late)
	test.servers[2].Resume()
	assert.Equal(t, result{reply: 1}, requireResult(test, late))
}

// Nobody has to wait for a majority that does not answer, but the next that are refreshed.
func TestRefreshes_unheard(t *testing.T) {
	test := newRefreshTest(t, own)
	one, first := refreshed(test.lock("one"), time.Minute)
	other, second := refreshed(test.lock("other"), 20*time.Millisecond)
	for _, server := range test.servers[1:] {
		server.Pause()
		defer server.Resume()
	}
	heard := test.refresh(t.Context(), []refreshing{one, other})
	assert.ErrorIs(t, requireResult(test, second).err, errSilent)
	assert.False(t, isClosed(heard))
	test.servers[1].Resume()
	<-heard
	assert.Equal(t, result{reply: 1}, requireResult(test, first))
}

// holding is a client without pipelines that holds back the scripts for one key.
type holding struct {
	redis.Scripter
	key      string
	released chan struct{}
}

func (h holding) EvalSha(ctx context.Context, digest string, keys []string, args ...any) *redis.Cmd {
	if keys[0] == h.key && digest == refreshScript.Hash() {
		<-h.released
	}
	return h.Scripter.EvalSha(ctx, digest, keys, args...)
}

// Where each lock is a call of its own, one that is not answered holds up no other.
func TestRefreshes_withoutPipelines(t *testing.T) {
	released := make(chan struct{})
	test := newRefreshTest(t, func(client *redis.Client) RedisClient { return holding{client, "held", released} })
	held, late := refreshed(test.lock("held"), time.Minute)
	other, early := refreshed(test.lock("other"), time.Minute)
	heard := test.refresh(t.Context(), []refreshing{held, other})
	assert.Equal(t, result{reply: 1}, requireResult(test, early))
	select {
	case <-heard:
		assert.Fail(t, "nothing has been heard of one of them")
	case <-late:
		assert.Fail(t, "it is held back")
	case <-time.After(100 * time.Millisecond): // by then the third node has answered, too
	}
	close(released)
	assert.Equal(t, result{reply: 1}, requireResult(test, late))
	<-heard
}

// A refresh does not outlast its context. What waits for its turn then is not sent any more.
func TestRefreshes_contextEnds(t *testing.T) {
	test := newRefreshTest(t, own)
	longer, results := refreshed(test.lock("lock"), time.Minute)
	longer.ttl = time.Hour
	for _, node := range test.nodes {
		for range maxNodeCalls {
			node.calls <- struct{}{}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	test.refresh(ctx, []refreshing{longer})
	cancel()
	assert.ErrorIs(t, requireResult(test, results).err, context.Canceled)
	for _, node := range test.nodes {
		<-node.calls
	}
	time.Sleep(50 * time.Millisecond)
	for _, server := range test.servers {
		assert.LessOrEqual(t, server.Client().PTTL(t.Context(), "lock").Val(), time.Minute)
	}
}

// A node that has no place left for calls is silent.
func TestNode_withoutAPlace(t *testing.T) {
	n := &node{server: newServer(nil), calls: make(chan struct{}, 1), batches: make(chan struct{})}
	n.calls <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := n.run(ctx, releaseScript, nil)
	assert.Equal(t, errSilent, err)
	assert.Len(t, n.calls, 1)
	for _, pipelined := range []bool{true, false} {
		n.pipelined = pipelined
		for calls := range 4 {
			var got []result
			n.runAll(ctx, make([]call, calls), func(first int, results []result) {
				assert.Len(t, got, first)
				got = append(got, results...)
			})
			require.Len(t, got, calls)
			for _, r := range got {
				assert.Equal(t, errSilent, r.err)
			}
		}
	}
}

// refreshOn starts the refreshing of one lock, and returns its claim and a channel for the result.
func refreshOn(ctx context.Context, wait time.Duration, nodes ...*fakeNode) (*quorumClaim, <-chan result, <-chan struct{}) {
	claim := claimOnNodes(&noOptions, nodes...)
	claim.lease.begin(sinceEpoch(), time.Minute)
	results := make(chan result, 1)
	heard := claim.quorum().refresh(ctx, []refreshing{{
		lock: claim, ttl: time.Minute, wait: wait, done: func(r result) { results <- r },
	}})
	return claim, results, heard
}

// Once a lock is decided its caller's context does not matter: a node that has lost the lock is healed
// when it says so.
func TestRefreshes_contextEndsAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := saying(1, 1, 5*time.Millisecond)
		nodes[2].reply = func(script string, _ []any) (int64, error) {
			if script == "refresh" {
				return -1000, nil
			}
			return 1, nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Millisecond)
		defer cancel()
		_, results, _ := refreshOn(ctx, 500*time.Millisecond, nodes...)
		assert.Equal(t, result{reply: 1}, <-results)
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, []int{0, 0, 1}, timesRan("heal", nodes))
	})
}

// When the caller has its answer because its context has ended, nothing more is sent.
func TestRefreshes_contextEndsBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := saying(1, 1, 1)
		claim := claimOnNodes(&noOptions, nodes...)
		q := claim.quorum()
		for _, n := range q.nodes {
			for range maxNodeCalls {
				n.calls <- struct{}{} // there is no place
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Millisecond)
		defer cancel()
		start := time.Now()
		ended := make(chan error, 1)
		q.refresh(ctx, []refreshing{{lock: claim, ttl: time.Minute, wait: time.Second, done: func(r result) {
			for _, n := range q.nodes {
				<-n.calls // there is one
			}
			synctest.Wait()
			assert.Equal(t, 2*time.Millisecond, time.Since(start))
			ended <- r.err
		}}})
		assert.ErrorIs(t, <-ended, context.DeadlineExceeded)
		assert.Equal(t, []int{0, 0, 0}, timesRan("refresh", nodes))
		time.Sleep(time.Minute)
	})
}

// A lock that is not decided in time ends, whichever of the two that say so comes first.
func TestRefreshes_neverDecided(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			_, results, heard := refreshOn(t.Context(), 20*time.Millisecond, saying(1, never, never)...)
			assert.ErrorIs(t, (<-results).err, errSilent)
			<-heard
			assert.Equal(t, 20*time.Millisecond, time.Since(start))
			time.Sleep(2 * never)
		})
	}
}

// The asking of many locks takes a while, and so ends before the waiting, which begins later.
func TestRefreshes_manyNeverDecided(t *testing.T) {
	t.Parallel()
	claim := claimOnNodes(&noOptions, saying(never, never, never)...)
	const n = 10_000
	errs := make(chan error, n)
	one := refreshing{lock: claim, ttl: time.Minute, wait: 20 * time.Millisecond, done: func(r result) { errs <- r.err }}
	heard := claim.quorum().refresh(t.Context(), slices.Repeat([]refreshing{one}, n))
	for range n {
		select {
		case err := <-errs:
			require.ErrorIs(t, err, errSilent)
		case <-time.After(10 * time.Second):
			require.FailNow(t, "no result")
		}
	}
	<-heard
}

// A node that has lost a lock which a majority has is healed, once; one that has somebody else's is not.
func TestRefreshes_heals(t *testing.T) {
	const lost = -1000
	for name, test := range map[string]struct {
		answers []int64
		healed  []int
	}{
		"all have it":        {[]int64{1, 1, 1, 1, 1}, []int{0, 0, 0, 0, 0}},
		"the first lost it":  {[]int64{lost, 1, 1, 1, 1}, []int{1, 0, 0, 0, 0}},
		"the last lost it":   {[]int64{1, 1, 1, 1, lost}, []int{0, 0, 0, 0, 1}},
		"two lost it":        {[]int64{1, lost, 1, lost, 1}, []int{0, 1, 0, 1, 0}},
		"somebody else's":    {[]int64{1, 1, 1, 0, lost}, []int{0, 0, 0, 0, 1}},
		"a majority lost it": {[]int64{lost, lost, lost, 1, 1}, []int{0, 0, 0, 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var nodes []*fakeNode
				for i, reply := range test.answers {
					nodes = append(nodes, &fakeNode{
						after: time.Duration(i+1) * time.Millisecond, // one after the other
						reply: func(string, []any) (int64, error) { return reply, nil },
					})
				}
				_, results, _ := refreshOn(t.Context(), 500*time.Millisecond, nodes...)
				r := <-results
				assert.NoError(t, r.err)
				time.Sleep(time.Second)
				synctest.Wait()
				assert.Equal(t, test.healed, timesRan("heal", nodes))
			})
		})
	}
}

// A lock that all nodes have answered about, and that is not decided, is not waited for.
func TestRefreshes_allAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, results, heard := refreshOn(t.Context(), 500*time.Millisecond, saying(1, 0, refusal("ERR no"))...)
		assert.ErrorContains(t, (<-results).err, "node 2: ERR no")
		<-heard
		assert.Equal(t, time.Millisecond, time.Since(start))
	})
}
