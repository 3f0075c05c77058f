package rlgocron_test

import (
	"context"
	"testing"
	"time"

	"github.com/go-co-op/gocron/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
	rlgocron "github.com/bsm/redislock/gocron"
	"github.com/bsm/redislock/internal/redistest"
)

func newElector(t *testing.T, client redislock.RedisClient, ttl time.Duration, opt *redislock.Options) *rlgocron.Elector {
	t.Helper()
	elector, err := rlgocron.NewElector(redislock.New(client), "leader", ttl, opt)
	require.NoError(t, err)
	t.Cleanup(func() { _ = elector.Close() })
	return elector
}

func awaitLeader(t *testing.T, elector *rlgocron.Elector) {
	t.Helper()
	require.Eventually(t, func() bool { return elector.IsLeader(context.Background()) == nil }, patience, time.Millisecond)
}

func TestElectorHasOneSchedulerRunTheJobs(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t).Client()
	// Neither of the options may end the candidacy.
	opt := &redislock.Options{RetryStrategy: redislock.NoRetry(), MaxWait: time.Millisecond}
	elector1 := newElector(t, client, ttl, opt)
	awaitLeader(t, elector1)
	elector2 := newElector(t, client, ttl, opt)
	first := newInstance(t, noon, gocron.WithDistributedElector(elector1))
	second := newInstance(t, noon.Add(-time.Second), gocron.WithDistributedElector(elector2))
	for range 3 {
		first.advance()
		first.runs()
		second.advance()
	}
	require.ErrorIs(t, elector2.IsLeader(t.Context()), rlgocron.ErrNotLeader)
	require.NoError(t, second.clock.BlockUntilContext(t.Context(), 1), "the last run is over, or skipped")
	assert.Empty(t, second.ran)

	require.NoError(t, elector1.Close())
	awaitLeader(t, elector2)
	assert.ErrorContains(t, elector1.IsLeader(t.Context()), "closed")
	first.advance()
	second.advance()
	second.runs()
	require.NoError(t, first.clock.BlockUntilContext(t.Context(), 1))
	assert.Empty(t, first.ran)
}

func TestElectorThatHasLostTheLeadershipLeadsAgain(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	elector := newElector(t, server.Client(), time.Second, nil)
	awaitLeader(t, elector)
	require.NoError(t, server.Client().Set(t.Context(), "leader", "another", 0).Err())
	require.Eventually(t, func() bool { return elector.IsLeader(context.Background()) != nil }, patience, time.Millisecond)
	require.NoError(t, server.Client().Del(t.Context(), "leader").Err())
	awaitLeader(t, elector)
}

// Redis comes back without its data.
func TestElectorSurvivesAnOutage(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	elector := newElector(t, server.Client(), time.Second, nil)
	awaitLeader(t, elector)
	server.Kill()
	require.Eventually(t, func() bool { return elector.IsLeader(context.Background()) != nil }, patience, time.Millisecond)
	assert.ErrorIs(t, elector.IsLeader(t.Context()), rlgocron.ErrNotLeader)
	server.Restart()
	awaitLeader(t, elector)
	require.NoError(t, elector.Close())
	assert.Zero(t, server.Client().Exists(t.Context(), "leader").Val(), "given up")
	require.NoError(t, elector.Close(), "once more")
}

func TestElectorSaysWhyItIsNoCandidate(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t).Client()
	require.NoError(t, client.Close())
	elector := newElector(t, client, ttl, nil)
	require.Eventually(t, func() bool {
		err := elector.IsLeader(context.Background())
		return assert.ErrorIs(t, err, rlgocron.ErrNotLeader) && err != rlgocron.ErrNotLeader
	}, patience, time.Millisecond)
	assert.ErrorIs(t, elector.IsLeader(t.Context()), redis.ErrClosed)
	assert.ErrorIs(t, elector.Close(), redis.ErrClosed)

	_, err := rlgocron.NewElector(redislock.New(client), "", ttl, nil)
	assert.ErrorContains(t, err, "empty")
	_, err = rlgocron.NewElector(redislock.New(client), "leader", ttl, &redislock.Options{FenceKey: "leader"})
	assert.ErrorContains(t, err, `FenceKey "leader"`)
}
