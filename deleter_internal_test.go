package redislock

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock/internal/redistest"
)

// prompt is a Redis that answers at once.
type prompt struct{ redis.Scripter }

func (prompt) EvalSha(context.Context, string, []string, ...any) *redis.Cmd {
	return redis.NewCmdResult(int64(1), nil)
}

// resting returns the deleters that wait for a release.
func resting() []*deleter {
	idleDeleters.mu.Lock()
	defer idleDeleters.mu.Unlock()
	return append([]*deleter(nil), idleDeleters.all...)
}

func awaitNoneResting(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return len(resting()) == 0 }, 10*time.Second, time.Millisecond)
}

// One release after the other is made by the same goroutine, which ends if there is none for a while.
func TestDeleter_isReused(t *testing.T) {
	redistest.NoLeaks(t)
	awaitNoneResting(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	used := make(map[*deleter]bool)
	for range 100 {
		held, err := claimOn(prompt{}, nil).delete(ctx)
		require.NoError(t, err)
		require.True(t, held)
		for _, d := range resting() {
			used[d] = true
		}
	}
	assert.NotEmpty(t, used)
	assert.Less(t, len(used), 50, "one, unless this goroutine is held up for long")
	awaitNoneResting(t)
}

// A caller whose context ends goes. Its deleter is not another's: the release may still be made.
func TestDeleter_leftByItsCaller(t *testing.T) {
	redistest.NoLeaks(t)
	awaitNoneResting(t)
	server := &hanging{end: make(chan struct{})}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := claimOn(server, nil).delete(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Empty(t, resting())
	close(server.end)
	assert.Never(t, func() bool { return len(resting()) > 0 }, 2*deleterIdle, time.Millisecond)
}

// In simulated time, nothing rests that would keep a test from ending.
func TestDeleter_inBubble(t *testing.T) {
	awaitNoneResting(t)
	assert.False(t, inBubble())
	synctest.Test(t, func(t *testing.T) {
		assert.True(t, inBubble())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for range 10 {
			held, err := claimOn(prompt{}, nil).delete(ctx)
			require.NoError(t, err)
			require.True(t, held)
		}
	})
	assert.Empty(t, resting())
}

// heeding is a Redis that takes its time, and a client that heeds the context meanwhile.
type heeding struct {
	redis.Scripter
	replied atomic.Int32
}

func (h *heeding) EvalSha(ctx context.Context, _ string, _ []string, _ ...any) *redis.Cmd {
	select {
	case <-time.After(slowReply - 1):
		h.replied.Add(1)
		return redis.NewCmdResult(int64(1), nil)
	case <-ctx.Done():
		return redis.NewCmdResult(nil, ctx.Err())
	}
}

// A release returns when its context ends, and goes on by itself; on a quorum also while a node may
// yet be healed.
func TestRelease_contextEnds(t *testing.T) {
	nodes := func() []*heeding { return []*heeding{{}, {}, {}} }
	for name, nodes := range map[string][]*heeding{"one server": nodes()[:1], "quorum": nodes()} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var clients []RedisClient
				for _, node := range nodes {
					clients = append(clients, node)
				}
				lock, err := NewQuorum(clients...).Obtain(t.Context(), "key", time.Minute, nil)
				require.NoError(t, err)
				if claim, ok := lock.claim.(*quorumClaim); ok {
					require.True(t, claim.beginHealing())
				}
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
				defer cancel()
				start := time.Now()
				assert.Equal(t, context.DeadlineExceeded, lock.Release(ctx))
				assert.Equal(t, 20*time.Millisecond, time.Since(start))
				time.Sleep(time.Second)
				for _, node := range nodes {
					assert.EqualValues(t, 2, node.replied.Load(), "obtained, and released")
				}
			})
		})
	}
}
