package rlgocron_test

import (
	"bytes"
	"context"
	"log/slog"
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

const ttl = time.Minute

var noon = time.Date(2024, 5, 6, 12, 0, 0, 0, time.UTC)

func newLocker(t *testing.T, client redislock.RedisClient, opt *redislock.Options) gocron.Locker {
	t.Helper()
	locker, err := rlgocron.NewLocker(redislock.New(client), ttl, opt)
	require.NoError(t, err)
	return locker
}

// pair returns two instances whose clocks are a second apart.
func pair(t *testing.T, client redislock.RedisClient, opt *redislock.Options) (first, second *instance) {
	t.Helper()
	first = newInstance(t, noon, gocron.WithDistributedLocker(newLocker(t, client, opt)))
	second = newInstance(t, noon.Add(-time.Second), gocron.WithDistributedLocker(newLocker(t, client, opt)))
	return first, second
}

// The job ends at once. The second scheduler finds it due when it has, because its clock is behind.
func TestLockerRunsAShortJobOnceAnInterval(t *testing.T) {
	t.Parallel()
	server := redistest.Embedded(t) // on which time passes with the clocks
	client := redistest.Client(t, server.Addr())
	first, second := pair(t, client, &redislock.Options{HoldAtLeast: interval / 2})
	for range 5 {
		first.advance()
		first.runs()
		awaitRelease(t, client)
		server.FastForward(time.Second)
		second.advance()
		assert.ErrorIs(t, second.skips(), redislock.ErrNotObtained)
		server.FastForward(interval - time.Second)
	}
	// Whoever is first has it: no scheduler is the one for all runs.
	second.advance()
	second.runs()
	first.advance()
	assert.ErrorContains(t, first.skips(), jobName)
}

// awaitRelease waits until the lock of the job was released, and stays nevertheless.
func awaitRelease(t *testing.T, client *redis.Client) {
	t.Helper()
	require.Eventually(t, func() bool {
		left := client.PTTL(context.Background(), jobName).Val()
		return left > ttl && left <= interval/2
	}, patience, time.Millisecond)
}

// What happens if nobody holds the lock any longer than the job runs.
func TestLockerHasToHoldLongEnough(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	first, second := pair(t, server.Client(), &redislock.Options{HoldAtLeast: time.Millisecond})
	first.advance()
	first.runs()
	client := server.Client()
	require.Eventually(t, func() bool { return client.Exists(context.Background(), jobName).Val() == 0 }, patience, time.Millisecond)
	second.advance()
	second.runs()
}

// The job runs for longer than its TTL.
func TestLockerKeepsTheLockWhileTheJobRuns(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	locker, err := rlgocron.NewLocker(redislock.New(server.Client()), 3*time.Second, nil)
	require.NoError(t, err)
	first := newInstance(t, noon, gocron.WithDistributedLocker(locker))
	first.hold = make(chan struct{})
	first.advance()
	first.runs()
	refreshed := server.Calls("evalsha")
	require.Eventually(t, func() bool { return server.Calls("evalsha") >= refreshed+3 }, patience, 10*time.Millisecond)
	second := newInstance(t, noon, gocron.WithDistributedLocker(newLocker(t, server.Client(), nil)))
	second.advance()
	assert.ErrorIs(t, second.skips(), redislock.ErrNotObtained)
	close(first.hold)
}

func TestLockerSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	client := redislock.New(redistest.Client(t, "127.0.0.1:1"))
	for name, test := range map[string]struct {
		client *redislock.Client
		ttl    time.Duration
		opt    redislock.Options
		text   string
	}{
		"no client":     {nil, ttl, redislock.Options{}, "no client"},
		"TTL":           {client, time.Microsecond, redislock.Options{}, "1µs"},
		"token":         {client, ttl, redislock.Options{Token: "mine"}, `"mine"`},
		"shared":        {client, ttl, redislock.Options{Shared: true}, "Shared"},
		"limit":         {client, ttl, redislock.Options{Limit: 3}, "Limit of 3"},
		"no limit":      {client, ttl, redislock.Options{Limit: -1}, "Limit of -1"},
		"replicas":      {client, ttl, redislock.Options{MinReplicas: -1}, "MinReplicas of -1"},
		"hold at least": {client, ttl, redislock.Options{HoldAtLeast: -time.Second}, "-1s"},
		"hold at most":  {client, ttl, redislock.Options{HoldAtMost: time.Microsecond}, "1µs"},
		"hold at all":   {client, ttl, redislock.Options{HoldAtLeast: time.Hour, HoldAtMost: time.Minute}, "1h0m0s is longer than HoldAtMost of 1m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			locker, err := rlgocron.NewLocker(test.client, test.ttl, &test.opt)
			assert.ErrorContains(t, err, test.text)
			assert.Nil(t, locker)
			elector, err := rlgocron.NewElector(test.client, "leader", test.ttl, &test.opt)
			assert.ErrorContains(t, err, test.text)
			assert.Nil(t, elector)
		})
	}
}

// A limit of 1 is none. An elector waits for as long as it takes.
func TestOptionsThatAreNotWrong(t *testing.T) {
	t.Parallel()
	client := redislock.New(redistest.Client(t, "127.0.0.1:1"))
	_, err := rlgocron.NewLocker(client, ttl, &redislock.Options{Limit: 1, HoldAtLeast: time.Hour, HoldAtMost: time.Hour})
	assert.NoError(t, err)
	_, err = rlgocron.NewLocker(client, ttl, &redislock.Options{MaxWait: -time.Second})
	assert.ErrorContains(t, err, "MaxWait of -1s")
	elector, err := rlgocron.NewElector(client, "leader", ttl, &redislock.Options{MaxWait: -time.Second, Limit: 1})
	require.NoError(t, err)
	assert.NoError(t, elector.Close())
}

// An error of Redis is not that of a lock which is held.
func TestLockerPassesErrorsOn(t *testing.T) {
	t.Parallel()
	client := redistest.Client(t, "127.0.0.1:1", func(o *redis.Options) { o.MaxRetries = -1 })
	i := newInstance(t, noon, gocron.WithDistributedLocker(newLocker(t, client, nil)))
	i.advance()
	err := i.skips()
	assert.NotErrorIs(t, err, redislock.ErrNotObtained)
	assert.ErrorContains(t, err, "127.0.0.1:1")
	assert.ErrorContains(t, err, jobName)
}

func TestUnlockReportsErrors(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	var log bytes.Buffer
	locker := newLocker(t, server.Client(), &redislock.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	lock, err := locker.Lock(t.Context(), jobName)
	require.NoError(t, err)
	require.NoError(t, server.Client().Set(t.Context(), jobName, "somebody else", 0).Err())
	err = lock.Unlock(t.Context())
	assert.ErrorIs(t, err, redislock.ErrLockNotHeld)
	assert.ErrorContains(t, err, jobName)
	assert.Contains(t, log.String(), jobName)
}

// A scheduler that is shut down has canceled the contexts of its jobs by the time that it unlocks.
func TestUnlockAfterShutdown(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	i := newInstance(t, noon, gocron.WithDistributedLocker(newLocker(t, server.Client(), &redislock.Options{HoldAtLeast: time.Millisecond})))
	i.hold = make(chan struct{})
	i.advance()
	i.runs()
	require.NoError(t, i.scheduler.StopJobs())
	client := server.Client()
	require.Eventually(t, func() bool { return client.Exists(context.Background(), jobName).Val() == 0 }, patience, time.Millisecond)
}
