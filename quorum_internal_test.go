package redislock

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A fakeNode is a node of a quorum that answers to scripts after some time.
type fakeNode struct {
	redis.Scripter
	after time.Duration // 0: at once
	reply func(script string, args []any) (int64, error)

	mu      sync.Mutex
	scripts []string
	keys    [][]string
	args    [][]any
}

func (n *fakeNode) EvalSha(ctx context.Context, digest string, keys []string, args ...any) *redis.Cmd {
	n.mu.Lock()
	name := ScriptName(digest)
	n.scripts, n.keys, n.args = append(n.scripts, name), append(n.keys, keys), append(n.args, args)
	after, reply := n.after, int64(1)
	var err error
	if n.reply != nil {
		reply, err = n.reply(name, args)
	}
	n.mu.Unlock()
	select {
	case <-time.After(after):
		return redis.NewCmdResult(reply, err)
	case <-ctx.Done():
		return redis.NewCmdResult(nil, ctx.Err())
	}
}

// ran returns the arguments of the runs of a script.
func (n *fakeNode) ran(script string) (args [][]any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, name := range n.scripts {
		if name == script {
			args = append(args, n.args[i])
		}
	}
	return args
}

func (n *fakeNode) become(after time.Duration, reply int64, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.after = after
	n.reply = func(string, []any) (int64, error) { return reply, err }
}

func fakeQuorum(nodes ...*fakeNode) *Client {
	var clients []RedisClient
	for _, node := range nodes {
		clients = append(clients, node)
	}
	return NewQuorum(clients...)
}

func fakeNodes(n int) (nodes []*fakeNode) {
	for range n {
		nodes = append(nodes, &fakeNode{})
	}
	return nodes
}

const never = time.Hour

// Nodes are waited for until a majority has decided, and after that for as long as it took for that,
// at least 10 ms; for no longer than the wait in any case.
func TestQuorum_askNodes(t *testing.T) {
	const ms = time.Millisecond
	failed := errors.New("failed")
	type said struct {
		after time.Duration
		reply int64
		err   error
	}
	for name, test := range map[string]struct {
		nodes []said
		wait  time.Duration
		took  time.Duration
		heard []int
	}{
		"all at once":                   {[]said{{0, 1, nil}, {0, 1, nil}, {0, 1, nil}}, 500 * ms, 0, []int{0, 1, 2}},
		"one a bit later":               {[]said{{1 * ms, 1, nil}, {1 * ms, 1, nil}, {5 * ms, 1, nil}}, 500 * ms, 5 * ms, []int{0, 1, 2}},
		"one never":                     {[]said{{1 * ms, 1, nil}, {1 * ms, 1, nil}, {never, 1, nil}}, 500 * ms, 11 * ms, []int{0, 1}},
		"a slow majority":               {[]said{{40 * ms, 1, nil}, {40 * ms, 1, nil}, {never, 1, nil}}, 500 * ms, 80 * ms, []int{0, 1}},
		"decided only once":             {[]said{{ms, 1, nil}, {ms, 1, nil}, {ms, 1, nil}, {8 * ms, 1, nil}, {never, 1, nil}}, 500 * ms, 11 * ms, []int{0, 1, 2, 3}},
		"decided near the end":          {[]said{{10 * ms, 1, nil}, {10 * ms, 1, nil}, {never, 1, nil}}, 15 * ms, 15 * ms, []int{0, 1}},
		"a majority that denies":        {[]said{{ms, 0, nil}, {ms, 0, nil}, {never, 1, nil}}, 500 * ms, 11 * ms, []int{0, 1}},
		"two of five never":             {[]said{{ms, 1, nil}, {ms, 1, nil}, {ms, 1, nil}, {never, 1, nil}, {never, 1, nil}}, 500 * ms, 11 * ms, []int{0, 1, 2}},
		"undecided, and one never":      {[]said{{ms, 1, nil}, {ms, 0, nil}, {never, 1, nil}}, 500 * ms, 500 * ms, []int{0, 1}},
		"undecided for want of answers": {[]said{{ms, 1, nil}, {ms, 0, failed}, {never, 1, nil}}, 500 * ms, 500 * ms, []int{0}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := fakeQuorum(fakeNodes(len(test.nodes))...).servers.(*quorum)
				answers := make([]answer, len(test.nodes))
				for i := range answers {
					answers[i] = answer{node: i, reply: 7} // of an earlier question
				}
				start := time.Now()
				answers = q.askNodes(t.Context(), test.wait, answers, func(_ context.Context, i int) (int64, error) {
					time.Sleep(test.nodes[i].after)
					return test.nodes[i].reply, test.nodes[i].err
				})
				assert.Equal(t, test.took, time.Since(start))
				var heard []int
				for i, a := range answers {
					if fine(a) {
						heard = append(heard, i)
						assert.Equal(t, test.nodes[i].reply, a.reply)
					} else if test.nodes[i].err == nil {
						assert.Equal(t, errSilent, a.err)
					}
				}
				assert.Equal(t, test.heard, heard)
				time.Sleep(2 * never)
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		q := fakeQuorum(fakeNodes(3)...).servers.(*quorum)
		ctx, cancel := context.WithTimeout(t.Context(), 3*ms)
		defer cancel()
		start := time.Now()
		q.askNodes(ctx, time.Second, q.allNodes(), func(context.Context, int) (int64, error) {
			time.Sleep(never)
			return 1, nil
		})
		assert.Equal(t, 3*ms, time.Since(start))
		time.Sleep(2 * never)
	})
}

func TestNodeWait(t *testing.T) {
	for ttl, want := range map[time.Duration]time.Duration{
		time.Millisecond: 5 * time.Millisecond, 50 * time.Millisecond: 5 * time.Millisecond, time.Second: 100 * time.Millisecond,
		5 * time.Second: 500 * time.Millisecond, time.Hour: 500 * time.Millisecond,
	} {
		assert.Equal(t, want, nodeWait(ttl), "%v", ttl)
	}
	calls := fakeQuorum(fakeNodes(3)...).servers.(*quorum)
	assert.Equal(t, time.Second, calls.refreshWait(2*time.Second))
	assert.Equal(t, 3*time.Second, calls.refreshWait(time.Minute))
	assert.Equal(t, 5*time.Millisecond, calls.refreshWait(2*time.Millisecond))
	client, _ := grantingClient(t)
	pipelines := NewQuorum(client, client, client).servers.(*quorum)
	assert.Equal(t, 500*time.Millisecond, pipelines.refreshWait(time.Minute))
}

// Each call has a place among those that are under way, and gives it back.
func TestNode_places(t *testing.T) {
	q := fakeQuorum(fakeNodes(3)...).servers.(*quorum)
	node := q.nodes[0]
	one := call{script: ttlScript, keys: []string{"key"}, args: []any{"value"}}
	for range maxNodeCalls + 1 {
		node.runAll(t.Context(), []call{one}, func(_ int, results []result) { require.NoError(t, results[0].err) })
		_, err := node.run(t.Context(), ttlScript, []string{"key"}, "value")
		require.NoError(t, err)
	}
	assert.Empty(t, node.calls)
}

// Locks that are due at about the same time are refreshed in one pipeline a node.
func TestQuorum_refreshesTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var clients []RedisClient
		var nodes []*granting
		for range 3 {
			client, node := grantingClient(t)
			clients, nodes = append(clients, client), append(nodes, node)
		}
		c := NewQuorum(clients...)
		watchdog := NewTickWatchdog(time.Second)
		var refreshers []*refresher
		for range 2 {
			lock := c.servers.newLock(c, []string{"key"}, &noOptions)
			lock.lease.begin(sinceEpoch(), time.Minute)
			refresher := newRefresher(watchdog, lock, time.Minute)
			refresher.start(t.Context())
			refreshers = append(refreshers, refresher)
		}
		locked(refreshers[0].lane.background, func() {
			for _, r := range refreshers {
				r.hastenLocked(sinceEpoch())
			}
		})
		time.Sleep(100 * time.Millisecond)
		for _, r := range refreshers {
			r.remove()
		}
		synctest.Wait()
		for _, node := range nodes {
			assert.Equal(t, [][]string{{"evalsha", "evalsha"}}, node.made())
		}
	})
}

// A key with a closing brace has to be in one slot with its mark only where there are slots.
func TestQuorum_keyWithABrace(t *testing.T) {
	nodes := fakeNodes(3)
	_, err := fakeQuorum(nodes...).Obtain(t.Context(), "a}b", time.Minute, &Options{Token: "token"})
	assert.NoError(t, err)
}

// By a custom token each try has a mark of its own, by a generated one none.
func TestQuorumClaim_marks(t *testing.T) {
	nodes := fakeNodes(3)
	locker := fakeQuorum(nodes...)
	for _, opt := range []*Options{{Token: "token"}, {Token: "token"}, {}} {
		_, err := locker.Obtain(t.Context(), "key", time.Minute, opt)
		require.NoError(t, err)
	}
	var marks []any
	for _, args := range nodes[0].ran("obtain") {
		marks = append(marks, args[3])
	}
	require.Len(t, marks, 3)
	assert.Len(t, marks[0], tokenLength)
	assert.Len(t, marks[1], tokenLength)
	assert.NotEqual(t, marks[0], marks[1])
	assert.Empty(t, marks[2])
}

// Redis counts whole milliseconds, and the holder believes no longer than that.
func TestQuorumClaim_wholeMilliseconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := fakeNodes(3)
		lock, err := fakeQuorum(nodes...).Obtain(t.Context(), "key", 10900*time.Microsecond, nil)
		require.NoError(t, err)
		assert.EqualValues(t, 10, nodes[0].ran("obtain")[0][1])
		assert.Equal(t, validity(10*time.Millisecond), time.Until(lock.ValidUntil()))
	})
}

// A node that was not heard of in time may take the lock after its release: it is released there
// again, until nothing can come any more.
func TestQuorumClaim_releasesWhereItIsUnsure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := fakeNodes(3)
		nodes[2].after = never
		lock, err := fakeQuorum(nodes...).Obtain(t.Context(), "key", time.Minute, nil)
		require.NoError(t, err)
		nodes[2].become(0, 0, nil)
		require.NoError(t, lock.Release(t.Context()))
		time.Sleep(time.Minute)
		assert.Greater(t, len(nodes[2].ran("release")), 3)
		assert.Len(t, nodes[0].ran("release"), 1)
		assert.False(t, slices.Contains(nodes[1].scripts, "undo"))
	})
}

// What is left of HoldAtLeast is counted anew for each release that is repeated.
func TestQuorumClaim_releasesForLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := fakeNodes(3)
		lock, err := fakeQuorum(nodes...).Obtain(t.Context(), "key", time.Minute, &Options{HoldAtLeast: 10 * time.Second})
		require.NoError(t, err)
		nodes[2].become(0, 0, errSilent)
		require.NoError(t, lock.Release(t.Context()))
		time.Sleep(5 * time.Second)
		releases := nodes[2].ran("release")
		require.Greater(t, len(releases), 3)
		assert.EqualValues(t, 10_000, releases[0][2])
		assert.Less(t, releases[len(releases)-1][2], int64(6_000))
		time.Sleep(time.Minute)
		releases = nodes[2].ran("release")
		assert.Len(t, releases[len(releases)-1], 1) // nothing is left of it
	})
}

// claimOnNodes returns a lock on nodes that is yet to be taken.
func claimOnNodes(opt *Options, nodes ...*fakeNode) *quorumClaim {
	c := fakeQuorum(nodes...)
	return c.servers.newLock(c, []string{"key"}, opt).claim.(*quorumClaim)
}

// saying returns nodes that answer so.
func saying(answers ...any) (nodes []*fakeNode) {
	for _, said := range answers {
		node := &fakeNode{}
		switch said := said.(type) {
		case int:
			node.become(time.Millisecond, int64(said), nil)
		case error:
			node.become(time.Millisecond, 0, said)
		case time.Duration:
			node.become(said, 1, nil)
		}
		nodes = append(nodes, node)
	}
	return nodes
}

func timesRan(script string, nodes []*fakeNode) (times []int) {
	for _, node := range nodes {
		times = append(times, len(node.ran(script)))
	}
	return times
}

// A try succeeds with a majority, is refused without one, and fails if too few nodes have answered.
// What was taken is given back: by a custom token only where that had not held the lock before.
func TestQuorumClaim_take(t *testing.T) {
	failed := errors.New("failed")
	for name, test := range map[string]struct {
		token    string
		answers  []any
		within   time.Duration // of the context
		held     bool
		fails    bool
		released []int
		undone   []int
	}{
		"a bare majority":             {"", []any{2, 2, 0}, time.Minute, true, false, []int{0, 0, 0}, []int{0, 0, 0}},
		"a bare minority":             {"", []any{2, 0, 0}, time.Minute, false, false, []int{1, 0, 0}, []int{0, 0, 0}},
		"undecided":                   {"", []any{2, 0, refusal("ERR no")}, time.Minute, false, false, []int{1, 0, 0}, []int{0, 0, 0}},
		"too few answers":             {"", []any{2, refusal("ERR no"), refusal("ERR no")}, time.Minute, false, true, []int{1, 0, 0}, []int{0, 0, 0}},
		"impossible when it ends":     {"", []any{0, 0, never}, 5 * time.Millisecond, false, false, nil, []int{0, 0, 0}},
		"undecided when it ends":      {"", []any{2, 0, never}, 5 * time.Millisecond, false, true, nil, []int{0, 0, 0}},
		"custom token":                {"token", []any{2, 0, 0}, time.Minute, false, false, []int{0, 0, 0}, []int{1, 0, 0}},
		"custom token, held before":   {"token", []any{1, 0, 0}, time.Minute, false, false, []int{0, 0, 0}, []int{0, 0, 0}},
		"custom token, a failed node": {"token", []any{2, 0, failed}, time.Minute, false, false, []int{0, 0, 0}, []int{1, 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				nodes := saying(test.answers...)
				claim := claimOnNodes(&Options{Token: test.token}, nodes...)
				ctx, cancel := context.WithTimeout(t.Context(), test.within)
				defer cancel()
				held, err := claim.take(ctx, time.Minute, nil, false)
				assert.Equal(t, test.fails, err != nil, "%v", err)
				assert.Equal(t, test.held, held)
				if test.released != nil {
					assert.Equal(t, test.released, timesRan("release", nodes))
				}
				assert.Equal(t, test.undone, timesRan("undo", nodes))
				time.Sleep(2 * never)
			})
		})
	}
}

// A node may take the lock yet that has not answered; one that has, or refuses to, does not.
func TestQuorumClaim_noteUnsure(t *testing.T) {
	claim := claimOnNodes(&noOptions, fakeNodes(4)...)
	claim.noteUnsure([]answer{{node: 0, reply: 1}, {node: 1}, {node: 2, err: errSilent}, {node: 3, err: refusal("ERR no")}})
	assert.Equal(t, []bool{false, false, true, false}, claim.unsure)
}

// A release is repeated on nodes that have not answered, but not by a custom token; and not on those
// that have, or refuse.
func TestQuorumClaim_release(t *testing.T) {
	for name, test := range map[string]struct {
		token   string
		answers []any
		unsure  bool // whether the nodes have the lock
		held    bool
		fails   bool
		repeats []bool
	}{
		"held":             {"", []any{1, 1, 1}, false, true, false, []bool{false, false, false}},
		"by a majority":    {"", []any{1, 1, 0}, false, true, false, []bool{false, false, false}},
		"gone":             {"", []any{0, 0, 1}, false, false, false, []bool{false, false, false}},
		"silent":           {"", []any{1, 1, errSilent}, false, true, false, []bool{false, false, true}},
		"silent majority":  {"", []any{1, errSilent, errSilent}, false, false, true, []bool{false, true, true}},
		"refused":          {"", []any{1, 1, refusal("ERR no")}, false, true, false, []bool{false, false, false}},
		"not taken yet":    {"", []any{1, 1, 0}, true, true, false, []bool{false, false, true}},
		"by custom tokens": {"token", []any{1, errSilent, 0}, true, false, true, []bool{false, false, false}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				nodes := saying(test.answers...)
				claim := claimOnNodes(&Options{Token: test.token}, nodes...)
				for i := range claim.unsure {
					claim.unsure[i] = test.unsure
				}
				held, err := claim.release(t.Context())
				assert.Equal(t, test.fails, err != nil, "%v", err)
				assert.Equal(t, test.held, held && err == nil)
				time.Sleep(time.Minute)
				for i, times := range timesRan("release", nodes) {
					assert.Equal(t, test.repeats[i], times > 2, "node %d: %d times", i, times)
					assert.Equal(t, !test.repeats[i], times == 1, "node %d: %d times", i, times)
				}
			})
		})
	}
}

// A lock that Redis has but its holder has lost is given back, after what may heal it; one by a
// custom token is not.
func TestQuorumClaim_abandon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := fakeNodes(3)
		custom := claimOnNodes(&Options{Token: "token"}, nodes...)
		custom.abandon(time.Minute)
		time.Sleep(time.Minute)
		assert.Equal(t, []int{0, 0, 0}, timesRan("release", nodes))

		claim := claimOnNodes(&noOptions, nodes...)
		claim.lease.begin(sinceEpoch(), time.Minute)
		assert.True(t, claim.beginHealing())
		claim.abandon(time.Minute)
		time.Sleep(healGrace)
		synctest.Wait()
		assert.Equal(t, []int{0, 0, 0}, timesRan("release", nodes))
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Equal(t, []int{1, 1, 1}, timesRan("release", nodes))
	})
}

// The TTL is what a majority still grants, and unknown without one.
func TestQuorumClaim_ttl(t *testing.T) {
	for name, test := range map[string]struct {
		answers []any
		want    int64
		fails   bool
	}{
		"all":                 {[]any{300, 100, 200}, 200, false},
		"one silent":          {[]any{300, errSilent, 200}, 200, false},
		"a majority silent":   {[]any{300, errSilent, errSilent}, 0, true},
		"only one has it":     {[]any{300, 0, 0}, 0, false},
		"five, two silent":    {[]any{500, errSilent, 400, errSilent, 300}, 300, false},
		"five, of which four": {[]any{500, 0, 400, 200, 300}, 300, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ttl, err := claimOnNodes(&noOptions, saying(test.answers...)...).ttl(t.Context())
				assert.Equal(t, test.fails, err != nil)
				assert.Equal(t, test.want, ttl)
			})
		})
	}
}

// Healing is under way until it is answered, and does not begin once the lock has ended.
func TestQuorumClaim_healing(t *testing.T) {
	for name, test := range map[string]struct {
		answer   any
		underWay int
	}{"done": {1, 0}, "not done": {0, 0}, "refused": {refusal("ERR no"), 0}, "silent": {errSilent, 1}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				nodes := saying(test.answer, 1, 1)
				claim := claimOnNodes(&noOptions, nodes...)
				claim.lease.begin(sinceEpoch(), time.Minute)
				claim.quorum().nodes[0].heal([]healing{{claim, time.Minute, 1000}})
				assert.Equal(t, []int{1, 0, 0}, timesRan("heal", nodes))
				assert.Equal(t, test.underWay, claim.healing)
				wait := claim.untilHealed()
				assert.Equal(t, test.underWay == 0, wait == 0)
				assert.LessOrEqual(t, wait, 300*time.Millisecond)
				claim.quorum().nodes[0].heal([]healing{{claim, time.Minute, 1000}})
				assert.Equal(t, []int{1, 0, 0}, timesRan("heal", nodes), "it has ended")
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		claim := claimOnNodes(&noOptions, fakeNodes(3)...)
		claim.lease.begin(sinceEpoch(), time.Second)
		assert.True(t, claim.beginHealing())
		assert.Equal(t, 1, claim.healing)
		claim.endHealing()
		time.Sleep(time.Second)
		assert.False(t, claim.beginHealing(), "the lease has ended")
		assert.Zero(t, claim.healing)
	})
}

// A node that is slow may come to a shorter refresh after the longer one that followed it.
func TestQuorumClaim_refreshedShorter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lock := &claimOnNodes(&noOptions, fakeNodes(3)...).Lock
		lock.lease.begin(sinceEpoch(), time.Minute)
		assert.NoError(t, lock.Refresh(t.Context(), 10*time.Second, nil))
		assert.NoError(t, lock.Refresh(t.Context(), time.Minute, nil))
		assert.Equal(t, validity(10*time.Second), lock.lease.remaining())
	})
}

// A majority that has granted the lock just when it ends is too late; and nothing is healed then.
func TestQuorumClaim_atTheMoment(t *testing.T) {
	for after, want := range map[time.Duration]bool{99*time.Millisecond - 1: true, 99 * time.Millisecond: false} {
		synctest.Test(t, func(t *testing.T) {
			nodes := fakeNodes(3)
			for _, node := range nodes {
				node.after = after
			}
			c := claimOnNodes(&noOptions, nodes...)
			q := c.quorum()
			c.lease.begin(sinceEpoch(), 100*time.Millisecond)
			q.askNodes(t.Context(), time.Second, q.allNodes(), func(ctx context.Context, i int) (int64, error) {
				return q.nodes[i].run(ctx, quorumObtainScript, c.keys)
			})
			assert.Equal(t, want, c.lease.remaining() > 0)
			assert.Equal(t, want, c.beginHealing())
		})
	}
}

// No context outlives what it was for.
func TestQuorum_contextsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var clients []RedisClient
		var nodes []*contextual
		for range 3 {
			nodes = append(nodes, &contextual{})
			clients = append(clients, nodes[len(nodes)-1])
		}
		c := NewQuorum(clients...)
		lock, err := c.Obtain(t.Context(), "key", time.Minute, nil)
		require.NoError(t, err)
		require.NoError(t, lock.Refresh(t.Context(), time.Minute, nil))
		claim := lock.claim.(*quorumClaim)
		claim.quorum().nodes[0].heal([]healing{{claim, time.Minute, 1}})
		synctest.Wait()
		for _, node := range nodes {
			for _, ctx := range node.contexts {
				assert.ErrorIs(t, ctx.Err(), context.Canceled)
			}
		}
		assert.Len(t, nodes[0].contexts, 3)
	})
}

// longest waits for as long as there can be a wait for.
type longest struct{ asked chan struct{} } // takes as many as may wait

func (l longest) NextBackoff() time.Duration {
	l.asked <- struct{}{}
	return math.MaxInt64
}

// A wait that varies by half as much again does not overflow.
func TestQuorum_longestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		locker := fakeQuorum(saying(0, 0, 0)...)
		for range 20 { // the wait varies
			strategy := longest{make(chan struct{}, 100)}
			ctx, cancel := context.WithCancel(t.Context())
			returned := make(chan error, 1)
			go func() {
				_, err := locker.Obtain(ctx, "key", time.Hour, &Options{RetryStrategy: strategy})
				returned <- err
			}()
			<-strategy.asked
			time.Sleep(30 * time.Minute)
			require.Empty(t, returned)
			cancel()
			require.ErrorIs(t, <-returned, context.Canceled)
			require.Empty(t, strategy.asked, "it waited once")
		}
	})
}

// The errors of nodes are on one line.
func TestErrorList(t *testing.T) {
	one, other := errors.New("one"), errors.New("other")
	list := errorList{one, other}
	assert.Equal(t, "one; other", list.Error())
	assert.ErrorIs(t, list, one)
	assert.ErrorIs(t, list, other)
}
