package redislockotel_test

import (
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
	redislockotel "github.com/bsm/redislock/otel"
)

const (
	key = "lock"
	ttl = time.Minute
)

func newReader() (sdkmetric.Reader, metric.MeterProvider) {
	reader := sdkmetric.NewManualReader()
	return reader, sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
}

// collect returns the metrics by name.
func collect(t *testing.T, reader sdkmetric.Reader) map[string]metricdata.Metrics {
	t.Helper()
	var data metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(t.Context(), &data))
	metrics := make(map[string]metricdata.Metrics)
	for _, scope := range data.ScopeMetrics {
		assert.Equal(t, "github.com/bsm/redislock/otel", scope.Scope.Name)
		for _, metric := range scope.Metrics {
			metrics[metric.Name] = metric
		}
	}
	return metrics
}

// readCounters returns the value of each counter, those with attributes as
// "name operation result".
func readCounters(t *testing.T, reader sdkmetric.Reader) map[string]int64 {
	t.Helper()
	values := make(map[string]int64)
	for name, metric := range collect(t, reader) {
		sum, ok := metric.Data.(metricdata.Sum[int64])
		require.True(t, ok, "%s is %T", name, metric.Data)
		assert.True(t, sum.IsMonotonic, name)
		for _, point := range sum.DataPoints {
			name := name
			if point.Attributes.Len() > 0 {
				operation, _ := point.Attributes.Value("redislock.operation")
				result, _ := point.Attributes.Value("redislock.result")
				name += " " + operation.AsString() + " " + result.AsString()
				assert.Equal(t, 2, point.Attributes.Len(), name)
			}
			values[name] = point.Value
		}
	}
	return values
}

// times calls f n times.
func times(n int, f func()) {
	for range n {
		f()
	}
}

// moveCounters has each counter grow by a number of its own, and returns these. Nothing
// moves them any more when it returns.
func moveCounters(t *testing.T) map[string]int64 {
	server := redistest.Start(t)
	doomed := server.Client()
	lock, unreleasable := mustObtain(t, server.Client(), nil), mustObtain(t, doomed, nil)
	require.NoError(t, doomed.Close())
	ended, cancel := context.WithCancel(t.Context())
	cancel()

	failObtains(t, ended, server.Client(), lock.Key(), doomed)
	moveRefreshes(t, ended, lock)
	failReleases(t, server, lock, unreleasable)
	ticks := moveWatchdogs(t, server.Client())
	return map[string]int64{
		"redislock.operations obtain success":  22,
		"redislock.operations obtain failed":   2,
		"redislock.operations obtain error":    3,
		"redislock.operations obtain cancel":   4,
		"redislock.operations refresh success": 6 + ticks,
		"redislock.operations refresh failed":  14,
		"redislock.operations refresh error":   7,
		"redislock.operations refresh cancel":  8,
		"redislock.operations release success": 18,
		"redislock.operations release failed":  11,
		"redislock.operations release error":   12,
		"redislock.operations release cancel":  9,
		"redislock.backoffs":                   21,
		"redislock.watchdog.starts":            17,
		"redislock.watchdog.stops":             16,
		"redislock.watchdog.ticks":             ticks,
		"redislock.locks.lost":                 1,
	}
}

// mustObtain obtains a lock that nobody else has.
func mustObtain(t *testing.T, rdb *redis.Client, watchdog redislock.Watchdog) *redislock.Lock {
	t.Helper()
	lock, err := redislock.Obtain(t.Context(), rdb, rand.Text(), ttl, &redislock.Options{Watchdog: watchdog})
	require.NoError(t, err)
	return lock
}

func failObtains(t *testing.T, ended context.Context, rdb *redis.Client, held string, closed *redis.Client) {
	fail := func(ctx context.Context, rdb *redis.Client, key string, opt *redislock.Options, because error) {
		_, err := redislock.Obtain(ctx, rdb, key, ttl, opt)
		require.ErrorIs(t, err, because)
	}
	fail(t.Context(), rdb, held, nil, redislock.ErrNotObtained)
	fail(t.Context(), rdb, held, &redislock.Options{
		RetryStrategy: redislock.LimitRetry(redislock.LinearBackoff(time.Millisecond), 21),
	}, redislock.ErrNotObtained)
	times(3, func() { fail(t.Context(), closed, key, nil, redis.ErrClosed) })
	times(4, func() { fail(ended, rdb, key, nil, context.Canceled) })
}

func moveRefreshes(t *testing.T, ended context.Context, lock *redislock.Lock) {
	times(6, func() { require.NoError(t, lock.Refresh(t.Context(), ttl, nil)) })
	times(7, func() { require.Error(t, lock.Refresh(t.Context(), 0, nil)) })
	times(8, func() { require.ErrorIs(t, lock.Refresh(ended, ttl, nil), context.Canceled) })
}

func failReleases(t *testing.T, server *redistest.Server, lock, unreleasable *redislock.Lock) {
	server.Pause()
	times(9, func() {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Millisecond)
		defer cancel()
		require.ErrorIs(t, lock.Release(ctx), context.DeadlineExceeded)
	})
	server.Resume()
	rdb := server.Client()
	require.Eventually(t, func() bool {
		held, err := rdb.Exists(t.Context(), lock.Key()).Result()
		return err == nil && held == 0
	}, 10*time.Second, time.Millisecond)
	times(11, func() { require.ErrorIs(t, lock.Release(t.Context()), redislock.ErrLockNotHeld) })
	times(12, func() { require.ErrorIs(t, unreleasable.Release(t.Context()), redis.ErrClosed) })
	times(13, func() { require.ErrorIs(t, lock.Refresh(t.Context(), ttl, nil), redislock.ErrNotObtained) })
}

// moveWatchdogs returns how often a lock was refreshed.
func moveWatchdogs(t *testing.T, rdb *redis.Client) (ticks int64) {
	slow := redislock.NewTickWatchdog(0) // so slow that it does not tick in this test
	t.Cleanup(slow.Stop)
	times(3, func() { require.NoError(t, mustObtain(t, rdb, nil).Release(t.Context())) })
	times(14, func() { require.NoError(t, mustObtain(t, rdb, slow).Release(t.Context())) })
	gone := mustObtain(t, rdb, slow)
	require.NoError(t, rdb.Del(t.Context(), gone.Key()).Err())
	require.ErrorIs(t, gone.Refresh(t.Context(), ttl, nil), redislock.ErrNotObtained)
	mustObtain(t, rdb, slow) // stays

	before := redislock.GetStats()
	ticked := func() int64 { return redislock.GetStats().WatchdogTick - before.WatchdogTick }
	refreshed := func() int64 { return redislock.GetStats().Refresh.Success - before.Refresh.Success }
	quick := redislock.NewTickWatchdog(time.Millisecond)
	lock := mustObtain(t, rdb, quick)
	require.Eventually(t, func() bool { return ticked() >= 30 }, 10*time.Second, time.Millisecond)
	quick.Stop()
	require.Eventually(t, func() bool { return refreshed() == ticked() }, 10*time.Second, time.Millisecond)
	require.NoError(t, lock.Release(t.Context()))
	return ticked()
}

func TestRegisterMetrics(t *testing.T) {
	redistest.NoLeaks(t)
	reader, provider := newReader()
	registration, err := redislockotel.RegisterMetrics(provider)
	require.NoError(t, err)

	before := readCounters(t, reader)
	want := moveCounters(t)
	after := readCounters(t, reader)
	grown := make(map[string]int64)
	for name, value := range after {
		grown[name] = value - before[name]
	}
	assert.Equal(t, want, grown)

	units := make(map[string]string)
	for name, metric := range collect(t, reader) {
		units[name] = metric.Unit
		assert.NotEmpty(t, metric.Description, name)
	}
	assert.Equal(t, map[string]string{
		"redislock.operations":      "{operation}",
		"redislock.backoffs":        "{backoff}",
		"redislock.watchdog.starts": "{lock}",
		"redislock.watchdog.stops":  "{lock}",
		"redislock.watchdog.ticks":  "{refresh}",
		"redislock.locks.lost":      "{lock}",
	}, units)

	require.NoError(t, registration.Unregister())
	assert.Empty(t, collect(t, reader))
}

func TestRegisterMetrics_twice(t *testing.T) {
	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	require.NoError(t, mustObtain(t, rdb, nil).Release(t.Context()))

	reader, provider := newReader()
	_, err := redislockotel.RegisterMetrics(provider)
	require.NoError(t, err)
	once := readCounters(t, reader)
	again, err := redislockotel.RegisterMetrics(provider)
	require.NoError(t, err)
	twice := readCounters(t, reader)
	for name, value := range once {
		assert.Equal(t, 2*value, twice[name], name)
	}
	assert.Positive(t, twice["redislock.operations obtain success"])
	require.NoError(t, again.Unregister())
	assert.Equal(t, once, readCounters(t, reader))
}

var errRefused = errors.New("refused")

// refusing is a provider whose meters make no instrument of the given name.
type refusing struct {
	noop.MeterProvider
	name string
}

func (p refusing) Meter(string, ...metric.MeterOption) metric.Meter {
	return refusingMeter{name: p.name}
}

type refusingMeter struct {
	noop.Meter
	name string
}

func (m refusingMeter) Int64ObservableCounter(name string, options ...metric.Int64ObservableCounterOption) (metric.Int64ObservableCounter, error) {
	if name == m.name {
		return nil, errRefused
	}
	return m.Meter.Int64ObservableCounter(name, options...)
}

func (m refusingMeter) Float64Histogram(name string, options ...metric.Float64HistogramOption) (metric.Float64Histogram, error) {
	if name == m.name {
		return nil, errRefused
	}
	return m.Meter.Float64Histogram(name, options...)
}

func TestRefusedInstruments(t *testing.T) {
	for _, name := range []string{
		"redislock.operations", "redislock.backoffs", "redislock.watchdog.starts",
		"redislock.watchdog.stops", "redislock.watchdog.ticks", "redislock.locks.lost",
	} {
		registration, err := redislockotel.RegisterMetrics(refusing{name: name})
		require.ErrorIs(t, err, errRefused, name)
		assert.Nil(t, registration)
	}
	for _, name := range []string{"redislock.wait.duration", "redislock.hold.duration"} {
		observer, err := redislockotel.NewObserver(&redislockotel.Options{MeterProvider: refusing{name: name}})
		require.ErrorIs(t, err, errRefused, name)
		assert.Nil(t, observer)
	}
}
