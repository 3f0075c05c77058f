package rlprome_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
	"github.com/bsm/redislock/rlprome"
)

const (
	key = "lock"
	ttl = time.Minute
)

// gather returns the values of a counter by its label op.
func gather(t *testing.T, registry *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	values := make(map[string]float64)
	for _, metric := range family(t, registry, name).GetMetric() {
		require.Len(t, metric.GetLabel(), 1)
		require.Equal(t, "op", metric.GetLabel()[0].GetName())
		values[metric.GetLabel()[0].GetValue()] = metric.GetCounter().GetValue()
	}
	return values
}

func family(t *testing.T, registry *prometheus.Registry, name string) *dto.MetricFamily {
	t.Helper()
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() == name {
			return family
		}
	}
	require.FailNow(t, "no metric", name)
	return nil
}

func registered(t *testing.T, collectors ...prometheus.Collector) *prometheus.Registry {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	for _, collector := range collectors {
		require.NoError(t, registry.Register(collector))
	}
	return registry
}

// everyOp makes each counter grow by a number of its own, as far as it can be helped.
func everyOp(t *testing.T) {
	server := redistest.Embedded(t)
	rdb := redistest.Client(t, server.Addr())
	ctx := t.Context()
	locker := redislock.New(rdb)
	obtain := func(key string, opt *redislock.Options) *redislock.Lock {
		lock, err := locker.Obtain(ctx, key, ttl, opt)
		require.NoError(t, err)
		return lock
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	dead := redis.NewClient(&redis.Options{Addr: server.Addr()})
	require.NoError(t, dead.Close())

	held := obtain(key, nil)
	_, err := locker.Obtain(ctx, key, ttl, nil)
	require.ErrorIs(t, err, redislock.ErrNotObtained)
	_, err = redislock.Obtain(ctx, dead, key, ttl, nil)
	require.ErrorIs(t, err, redis.ErrClosed)
	_, err = locker.Obtain(ended, key, ttl, nil)
	require.ErrorIs(t, err, context.Canceled)
	_, err = locker.Obtain(ctx, key, ttl, &redislock.Options{
		RetryStrategy: redislock.LimitRetry(redislock.LinearBackoff(time.Millisecond), 3),
	})
	require.ErrorIs(t, err, redislock.ErrNotObtained)

	require.NoError(t, held.Refresh(ctx, ttl, nil))
	require.Error(t, held.Refresh(ctx, 0, nil))
	require.ErrorIs(t, held.Refresh(ended, ttl, nil), context.Canceled)
	require.NoError(t, held.Release(ctx))
	require.ErrorIs(t, held.Refresh(ctx, ttl, nil), redislock.ErrNotObtained)
	require.ErrorIs(t, held.Release(ctx), redislock.ErrLockNotHeld)
	require.Error(t, new(redislock.Lock).Release(ctx))

	before := redislock.GetStats()
	obtain(key, &redislock.Options{Watchdog: redislock.NewTickWatchdog(time.Millisecond)})
	await(t, func() bool { return redislock.GetStats().WatchdogTick > before.WatchdogTick })
	require.NoError(t, rdb.Del(ctx, key).Err())
	await(t, func() bool { // behind our back, and one after the other
		now := redislock.GetStats()
		return now.Lost > before.Lost && now.WatchdogDone > before.WatchdogDone && now.Refresh.Failed > before.Refresh.Failed
	})
}

func await(t *testing.T, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, 10*time.Second, time.Millisecond)
}

func TestCollector(t *testing.T) {
	registry := registered(t, rlprome.NewDefaultCollector())
	before := gather(t, registry, "redislock_count")
	everyOp(t)
	after, stats := gather(t, registry, "redislock_count"), redislock.GetStats()

	want := map[string]int64{
		"backoff":       stats.Backoff,
		"watchdog":      stats.Watchdog,
		"watchdog_done": stats.WatchdogDone,
		"watchdog_tick": stats.WatchdogTick,
		"lost":          stats.Lost,
	}
	for op, status := range map[string]redislock.Status{"obtain": stats.Obtain, "release": stats.Release, "refresh": stats.Refresh} {
		want[op+"_success"] = status.Success
		want[op+"_failed"] = status.Failed
		want[op+"_error"] = status.Error
		want[op+"_cancel"] = status.Cancel
	}
	assert.Len(t, after, len(want))
	for op, value := range want {
		assert.EqualValues(t, value, after[op], op)
		if op != "release_cancel" { // takes a server that does not answer
			assert.Greater(t, after[op], before[op], op)
		}
	}
	assert.EqualValues(t, 3, after["backoff"]-before["backoff"])
	assert.EqualValues(t, 2, after["obtain_success"]-before["obtain_success"])
	assert.EqualValues(t, 2, after["obtain_failed"]-before["obtain_failed"])
}

func TestCollector_name(t *testing.T) {
	registry := registered(t, rlprome.NewCollector("locks_total"))
	assert.Contains(t, gather(t, registry, "locks_total"), "obtain_success")

	err := prometheus.NewRegistry().Register(rlprome.NewCollector(""))
	require.Error(t, err)
	assert.ErrorContains(t, err, `""`)
}

// A counter's name should end in _total. That of the fork's users ends in _count, and is
// found fault with for both; nothing else is.
func TestLint(t *testing.T) {
	observer := rlprome.NewObserver(nil)
	registry := registered(t, rlprome.NewCollector("redislock_operations_total"), observer)
	work(t, observer)
	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	assert.Empty(t, problems)

	problems, err = testutil.GatherAndLint(registered(t, rlprome.NewDefaultCollector()))
	require.NoError(t, err)
	require.Len(t, problems, 2)
	for _, problem := range problems {
		assert.Equal(t, "redislock_count", problem.Metric)
		assert.Contains(t, problem.Text, "suffix")
	}
}

// work obtains a lock that has to be waited for, one that is lost, and one in vain.
func work(t *testing.T, observer redislock.Observer) (waited time.Duration) {
	t.Helper()
	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	locker := redislock.New(rdb).WithObserver(observer)
	ctx := t.Context()
	first, err := locker.Obtain(ctx, key, ttl, nil)
	require.NoError(t, err)
	_, err = locker.Obtain(ctx, key, ttl, nil)
	require.ErrorIs(t, err, redislock.ErrNotObtained)

	start, obtained := time.Now(), make(chan *redislock.Lock)
	backoff := redislock.GetStats().Backoff
	go func() {
		second, err := locker.Obtain(ctx, key, ttl, &redislock.Options{RetryStrategy: redislock.LinearBackoff(10 * time.Millisecond)})
		assert.NoError(t, err)
		obtained <- second
	}()
	await(t, func() bool { return redislock.GetStats().Backoff > backoff })
	require.NoError(t, first.Release(ctx))
	second := <-obtained
	require.NotNil(t, second)
	waited = time.Since(start)
	require.NoError(t, rdb.Del(ctx, key).Err())
	require.Error(t, second.Refresh(ctx, ttl, nil))
	return waited
}

func TestObserver(t *testing.T) {
	observer := rlprome.NewObserver(&rlprome.Options{
		Buckets:     []float64{.001, 1000},
		ConstLabels: prometheus.Labels{"service": "orders"},
	})
	registry := registered(t, observer)
	start := time.Now()
	waited := work(t, observer)
	all := time.Since(start)

	wait := histograms(t, registry, "redislock_wait_seconds")
	require.Len(t, wait, 2)
	assert.EqualValues(t, 1, wait["failed"].GetSampleCount())
	assert.Zero(t, wait["failed"].GetSampleSum())
	assert.EqualValues(t, 2, wait["success"].GetSampleCount())
	assert.Greater(t, wait["success"].GetSampleSum(), .009)
	assert.LessOrEqual(t, wait["success"].GetSampleSum(), waited.Seconds())
	require.Len(t, wait["success"].GetBucket(), 2)
	assert.EqualValues(t, 1, wait["success"].GetBucket()[0].GetCumulativeCount())
	assert.EqualValues(t, 2, wait["success"].GetBucket()[1].GetCumulativeCount())

	hold := histograms(t, registry, "redislock_hold_seconds")
	require.Len(t, hold, 2)
	for _, result := range []string{"success", "lost"} {
		assert.EqualValues(t, 1, hold[result].GetSampleCount(), result)
		assert.Positive(t, hold[result].GetSampleSum(), result)
		assert.LessOrEqual(t, hold[result].GetSampleSum(), all.Seconds(), result)
	}
	for _, metric := range family(t, registry, "redislock_hold_seconds").GetMetric() {
		assert.Contains(t, fmt.Sprint(metric.GetLabel()), "orders")
		assert.Contains(t, fmt.Sprint(metric.GetLabel()), "exclusive")
	}
}

func TestObserver_badOptions(t *testing.T) {
	unsorted := rlprome.NewObserver(&rlprome.Options{Buckets: []float64{2, 1, 2}})
	registry := registered(t, unsorted)
	work(t, unsorted)
	assert.Len(t, histograms(t, registry, "redislock_hold_seconds")["success"].GetBucket(), 2)

	clashing := rlprome.NewObserver(&rlprome.Options{ConstLabels: prometheus.Labels{"result": "good"}})
	work(t, clashing)
	assert.ErrorContains(t, prometheus.NewRegistry().Register(clashing), "result")

	bucket := rlprome.NewObserver(&rlprome.Options{ConstLabels: prometheus.Labels{"le": "small"}})
	work(t, bucket)
	assert.ErrorContains(t, prometheus.NewRegistry().Register(bucket), `le="small"`)
}

// histograms returns those of a metric by their label result.
func histograms(t *testing.T, registry *prometheus.Registry, name string) map[string]*dto.Histogram {
	t.Helper()
	found := make(map[string]*dto.Histogram)
	for _, metric := range family(t, registry, name).GetMetric() {
		for _, label := range metric.GetLabel() {
			if label.GetName() == "result" {
				found[label.GetValue()] = metric.GetHistogram()
			}
		}
	}
	return found
}
