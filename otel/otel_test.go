package redislockotel_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
	redislockotel "github.com/bsm/redislock/otel"
)

const (
	key = "lock"
	ttl = time.Minute
)

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

// counts returns the values of a counter by operation and result.
func counts(t *testing.T, metric metricdata.Metrics) map[string]int64 {
	t.Helper()
	sum, ok := metric.Data.(metricdata.Sum[int64])
	require.True(t, ok, "%T", metric.Data)
	assert.True(t, sum.IsMonotonic)
	values := make(map[string]int64)
	for _, point := range sum.DataPoints {
		operation, _ := point.Attributes.Value("redislock.operation")
		result, _ := point.Attributes.Value("redislock.result")
		values[operation.AsString()+" "+result.AsString()] = point.Value
	}
	return values
}

func TestRegisterMetrics(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	registration, err := redislockotel.RegisterMetrics(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	require.NoError(t, err)

	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	lock, err := redislock.Obtain(t.Context(), rdb, key, ttl, &redislock.Options{
		Watchdog: redislock.NewTickWatchdog(time.Millisecond),
	})
	require.NoError(t, err)
	_, err = redislock.Obtain(t.Context(), rdb, key, ttl, &redislock.Options{
		RetryStrategy: redislock.LimitRetry(redislock.LinearBackoff(time.Millisecond), 1),
	})
	require.ErrorIs(t, err, redislock.ErrNotObtained)
	ticks := redislock.GetStats().WatchdogTick
	require.Eventually(t, func() bool { return redislock.GetStats().WatchdogTick > ticks }, 10*time.Second, time.Millisecond)
	require.NoError(t, rdb.Del(t.Context(), key).Err())
	<-lock.Done()
	require.ErrorIs(t, lock.Release(t.Context()), redislock.ErrLockNotHeld)

	metrics, stats := collect(t, reader), redislock.GetStats()
	want := map[string]int64{}
	for operation, status := range map[string]redislock.Status{"obtain": stats.Obtain, "release": stats.Release, "refresh": stats.Refresh} {
		want[operation+" success"] = status.Success
		want[operation+" failed"] = status.Failed
		want[operation+" error"] = status.Error
		want[operation+" cancel"] = status.Cancel
	}
	assert.Equal(t, want, counts(t, metrics["redislock.operations"]))
	for name, value := range map[string]int64{
		"redislock.backoffs":        stats.Backoff,
		"redislock.watchdog.starts": stats.Watchdog,
		"redislock.watchdog.stops":  stats.WatchdogDone,
		"redislock.watchdog.ticks":  stats.WatchdogTick,
		"redislock.locks.lost":      stats.Lost,
	} {
		assert.Equal(t, map[string]int64{" ": value}, counts(t, metrics[name]), name)
		assert.Positive(t, value, name)
		assert.NotEmpty(t, metrics[name].Unit)
	}
	assert.Positive(t, want["obtain success"])
	assert.Positive(t, want["obtain failed"])
	assert.Positive(t, want["release failed"])
	assert.Positive(t, want["refresh failed"])

	require.NoError(t, registration.Unregister())
	assert.Empty(t, collect(t, reader))
}

// observed returns what an observer has recorded.
func observed(t *testing.T, opt redislockotel.Options) (redislock.Observer, *tracetest.SpanRecorder, sdkmetric.Reader) {
	t.Helper()
	spans, reader := tracetest.NewSpanRecorder(), sdkmetric.NewManualReader()
	opt.TracerProvider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	opt.MeterProvider = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	observer, err := redislockotel.NewObserver(&opt)
	require.NoError(t, err)
	return observer, spans, reader
}

func attributesOf(span sdktrace.ReadOnlySpan) map[attribute.Key]any {
	values := make(map[attribute.Key]any)
	for _, a := range span.Attributes() {
		values[a.Key] = a.Value.AsInterface()
	}
	return values
}

func TestObserver_spans(t *testing.T) {
	observer, spans, _ := observed(t, redislockotel.Options{})
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test")
	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	require.NoError(t, rdb.Ping(t.Context()).Err()) // connects
	rdb.AddHook(spanHook{func(ctx context.Context, name string) func() {
		_, span := tracer.Start(ctx, name)
		return func() { span.End() }
	}})
	locker := redislock.New(rdb).WithObserver(observer)

	ctx, parent := tracer.Start(t.Context(), "caller")
	require.NoError(t, locker.Do(ctx, key, ttl, nil, func(ctx context.Context) error {
		_, span := tracer.Start(ctx, "work")
		span.End()
		return nil
	}))
	parent.End()

	parents := make(map[string]string)
	names := make(map[any]string)
	for _, span := range spans.Ended() {
		names[span.SpanContext().SpanID()] = span.Name()
	}
	byName := make(map[string]sdktrace.ReadOnlySpan)
	for _, span := range spans.Ended() {
		parents[span.Name()] = names[span.Parent().SpanID()]
		byName[span.Name()] = span
	}
	assert.Equal(t, map[string]string{
		"caller":            "",
		"redislock obtain":  "caller",
		"set":               "redislock obtain",
		"redislock hold":    "caller",
		"work":              "redislock hold",
		"redislock release": "caller",
		"evalsha":           "redislock release",
		"eval":              "redislock release",
	}, parents)

	assert.Equal(t, map[attribute.Key]any{
		"redislock.keys":          []string{key},
		"redislock.ttl":           60.,
		"redislock.result":        "success",
		"redislock.wait.duration": 0.,
	}, attributesOf(byName["redislock obtain"]))
	assert.Equal(t, map[attribute.Key]any{
		"redislock.keys":   []string{key},
		"redislock.ttl":    60.,
		"redislock.result": "success",
	}, attributesOf(byName["redislock hold"]))
	assert.Equal(t, map[attribute.Key]any{
		"redislock.keys":   []string{key},
		"redislock.result": "success",
	}, attributesOf(byName["redislock release"]))
	hold := byName["redislock hold"]
	assert.False(t, hold.StartTime().Before(byName["redislock obtain"].StartTime()))
	assert.False(t, hold.EndTime().After(byName["redislock release"].EndTime()))
}

// spanHook calls a function around each command, as the tracing of a Redis client does.
type spanHook struct {
	begin func(ctx context.Context, name string) (end func())
}

func (h spanHook) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h spanHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		defer h.begin(ctx, cmd.Name())()
		return next(ctx, cmd)
	}
}

func (h spanHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func TestObserver_results(t *testing.T) {
	observer, spans, reader := observed(t, redislockotel.Options{HideKeys: true})
	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	locker := redislock.New(rdb).WithObserver(observer)

	held, err := locker.Obtain(t.Context(), key, ttl, nil)
	require.NoError(t, err)
	_, err = locker.Obtain(t.Context(), key, ttl, nil)
	require.ErrorIs(t, err, redislock.ErrNotObtained)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err = locker.Obtain(ctx, key, ttl, &redislock.Options{RetryStrategy: redislock.LinearBackoff(time.Millisecond)})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = locker.Obtain(t.Context(), key, 0, nil)
	require.Error(t, err)
	require.NoError(t, rdb.Del(t.Context(), key).Err())
	require.ErrorIs(t, held.Refresh(t.Context(), ttl, nil), redislock.ErrNotObtained)
	require.ErrorIs(t, held.Release(t.Context()), redislock.ErrLockNotHeld)

	type end struct {
		name, result string
		status       codes.Code
	}
	var ends []end
	waited := map[string]float64{}
	for _, span := range spans.Ended() {
		attributes := attributesOf(span)
		result := attributes["redislock.result"].(string)
		ends = append(ends, end{span.Name(), result, span.Status().Code})
		if span.Name() == "redislock obtain" {
			waited[result] = attributes["redislock.wait.duration"].(float64)
		}
		assert.NotContains(t, attributes, attribute.Key("redislock.keys"))
		if span.Status().Code == codes.Error {
			assert.Len(t, span.Events(), 1, "the error")
		} else {
			assert.Empty(t, span.Events())
		}
	}
	assert.Equal(t, []end{
		{"redislock obtain", "success", codes.Unset},
		{"redislock obtain", "failed", codes.Unset},
		{"redislock obtain", "cancel", codes.Unset},
		{"redislock obtain", "error", codes.Error},
		{"redislock hold", "lost", codes.Error},
		{"redislock release", "failed", codes.Unset},
	}, ends)
	assert.Zero(t, waited["failed"])
	assert.Greater(t, waited["cancel"], .02)
	assert.Less(t, waited["cancel"], 10.)

	metrics := collect(t, reader)
	assert.Equal(t, map[string]uint64{"success": 1, "failed": 1, "cancel": 1, "error": 1},
		samples(t, metrics["redislock.wait.duration"]))
	assert.Equal(t, map[string]uint64{"lost": 1}, samples(t, metrics["redislock.hold.duration"]))
}

// samples returns how many a histogram has, by result.
func samples(t *testing.T, metric metricdata.Metrics) map[string]uint64 {
	t.Helper()
	histogram, ok := metric.Data.(metricdata.Histogram[float64])
	require.True(t, ok, "%T", metric.Data)
	assert.Equal(t, "s", metric.Unit)
	counts := make(map[string]uint64)
	for _, point := range histogram.DataPoints {
		result, _ := point.Attributes.Value("redislock.result")
		counts[result.AsString()] = point.Count
		assert.Len(t, point.Bounds, 18)
		assert.GreaterOrEqual(t, point.Sum, 0.)
	}
	return counts
}

// Without options it is the global providers that are used.
func TestGlobalProviders(t *testing.T) {
	spans, reader := tracetest.NewSpanRecorder(), sdkmetric.NewManualReader()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	otel.SetMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	observer, err := redislockotel.NewObserver(nil)
	require.NoError(t, err)
	registration, err := redislockotel.RegisterMetrics(nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, registration.Unregister()) }()

	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	lock, err := redislock.New(rdb).WithObserver(observer).Obtain(t.Context(), key, ttl, nil)
	require.NoError(t, err)
	require.NoError(t, lock.Release(t.Context()))
	assert.Len(t, spans.Ended(), 3)
	assert.Len(t, collect(t, reader), 8)
}
