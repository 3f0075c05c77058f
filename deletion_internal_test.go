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

// A caller whose context ends goes. What is still under way then is not taken for a later release.
func TestDeletion_leftByItsCaller(t *testing.T) {
	redistest.NoLeaks(t)
	server := &hanging{end: make(chan struct{})}
	for range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := claimOn(server, &noOptions).delete(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	close(server.end) // which answers that it was not held
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 100 {
		held, err := claimOn(prompt{}, &noOptions).delete(ctx)
		require.NoError(t, err)
		require.True(t, held)
	}
}

// A channel of a test in simulated time is not used after it.
func TestDeletion_inBubble(t *testing.T) {
	assert.False(t, inBubble())
	synctest.Test(t, func(t *testing.T) {
		assert.True(t, inBubble())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for range 10 {
			held, err := claimOn(prompt{}, &noOptions).delete(ctx)
			require.NoError(t, err)
			require.True(t, held)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := claimOn(prompt{}, &noOptions).delete(ctx)
	require.NoError(t, err)
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
				time.Sleep(time.Minute)
				for _, node := range nodes {
					assert.Greater(t, node.replied.Load(), int32(1), "obtained, and released")
				}
			})
		})
	}
}
