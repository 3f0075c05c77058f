package redislockotel_test

import (
	"context"
	"sync"
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
	"go.opentelemetry.io/otel/trace"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
	redislockotel "github.com/bsm/redislock/otel"
)

// record returns an observer, and what records its spans and its histograms.
func record(t *testing.T, opt redislockotel.Options) (redislock.Observer, *tracetest.SpanRecorder, sdkmetric.Reader) {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	reader, meters := newReader()
	opt.TracerProvider = sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	opt.MeterProvider = meters
	observer, err := redislockotel.NewObserver(&opt)
	require.NoError(t, err)
	return observer, spans, reader
}

// onBoth runs a test on the embedded server and on a real one.
func onBoth(t *testing.T, test func(t *testing.T, rdb *redis.Client)) {
	t.Run("embedded", func(t *testing.T) {
		redistest.NoLeaks(t)
		test(t, redistest.Client(t, redistest.Embedded(t).Addr()))
	})
	t.Run("real", func(t *testing.T) {
		redistest.NoLeaks(t)
		test(t, redistest.Start(t).Client())
	})
}

func attributesOf(span sdktrace.ReadOnlySpan) map[attribute.Key]any {
	values := make(map[attribute.Key]any)
	for _, a := range span.Attributes() {
		values[a.Key] = a.Value.AsInterface()
	}
	return values
}

// awaitSpan returns the first span of that name once it has ended.
func awaitSpan(t *testing.T, spans *tracetest.SpanRecorder, name string) (found sdktrace.ReadOnlySpan) {
	t.Helper()
	require.Eventually(t, func() bool {
		for _, span := range spans.Ended() {
			if span.Name() == name {
				found = span
				return true
			}
		}
		return false
	}, 10*time.Second, time.Millisecond)
	return found
}

// commandSpans has each command be a span, as the tracing of a Redis client does.
type commandSpans struct{ tracer trace.Tracer }

func (h commandSpans) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h commandSpans) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		ctx, span := h.tracer.Start(ctx, cmd.Name())
		defer span.End()
		return next(ctx, cmd)
	}
}

func (h commandSpans) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func TestObserver_spans(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		observer, spans, _ := record(t, redislockotel.Options{})
		tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test")
		require.NoError(t, rdb.Ping(t.Context()).Err()) // connects
		rdb.AddHook(commandSpans{tracer})
		locker := redislock.New(rdb).WithObserver(observer)

		ctx, caller := tracer.Start(t.Context(), "caller")
		require.NoError(t, locker.Do(ctx, key, ttl, nil, func(ctx context.Context) error {
			_, work := tracer.Start(ctx, "work")
			work.End()
			return nil
		}))
		caller.End()

		byName := make(map[string]sdktrace.ReadOnlySpan)
		names := make(map[trace.SpanID]string)
		for _, span := range spans.Ended() {
			byName[span.Name()] = span
			names[span.SpanContext().SpanID()] = span.Name()
		}
		parents := make(map[string]string)
		for name, span := range byName {
			parents[name] = names[span.Parent().SpanID()]
			assert.Equal(t, trace.SpanKindInternal, span.SpanKind(), name)
		}
		assert.Equal(t, map[string]string{
			"caller":            "",
			"redislock obtain":  "caller",
			"set":               "redislock obtain",
			"redislock hold":    "caller",
			"work":              "redislock hold",
			"redislock release": "caller",
			"evalsha":           "redislock release",
			"eval":              "redislock release", // the server does not know the script yet
		}, parents)

		obtain, hold, release := byName["redislock obtain"], byName["redislock hold"], byName["redislock release"]
		assert.Equal(t, map[attribute.Key]any{
			"redislock.keys":          []string{key},
			"redislock.kind":          "exclusive",
			"redislock.ttl":           60.,
			"redislock.result":        "success",
			"redislock.wait.duration": 0.,
		}, attributesOf(obtain))
		assert.Equal(t, map[attribute.Key]any{
			"redislock.keys":   []string{key},
			"redislock.kind":   "exclusive",
			"redislock.ttl":    60.,
			"redislock.result": "success",
		}, attributesOf(hold))
		assert.Equal(t, map[attribute.Key]any{
			"redislock.keys":   []string{key},
			"redislock.kind":   "exclusive",
			"redislock.result": "success",
		}, attributesOf(release))
		assert.False(t, hold.StartTime().Before(obtain.EndTime()))
		assert.False(t, hold.EndTime().After(release.EndTime()))
		assert.Equal(t, "github.com/bsm/redislock/otel", hold.InstrumentationScope().Name)
	})
}

// waitAndTell waits shortly once, then tells that it has and waits for long.
type waitAndTell struct {
	asked  bool
	waited chan struct{}
}

func (w *waitAndTell) NextBackoff() time.Duration {
	if !w.asked {
		w.asked = true
		return time.Millisecond
	}
	close(w.waited)
	return ttl
}

func TestObserver_results(t *testing.T) {
	type outcome struct {
		span, result string
		status       codes.Code
	}
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		observer, spans, reader := record(t, redislockotel.Options{HideKeys: true})
		locker := redislock.New(rdb).WithObserver(observer)

		released, err := locker.Obtain(t.Context(), "released", ttl, nil)
		require.NoError(t, err)
		require.NoError(t, released.Release(t.Context()))
		held, err := locker.Obtain(t.Context(), key, ttl, nil)
		require.NoError(t, err)
		_, err = locker.Obtain(t.Context(), key, ttl, nil)
		require.ErrorIs(t, err, redislock.ErrNotObtained)
		atLeast, atMost := obtainAndCancel(t, locker)
		require.NoError(t, rdb.Del(t.Context(), key).Err())
		require.ErrorIs(t, held.Refresh(t.Context(), ttl, nil), redislock.ErrNotObtained)
		require.ErrorIs(t, held.Release(t.Context()), redislock.ErrLockNotHeld)

		var outcomes []outcome
		for _, span := range spans.Ended() {
			attributes := attributesOf(span)
			result := attributes["redislock.result"].(string)
			outcomes = append(outcomes, outcome{span.Name(), result, span.Status().Code})
			assert.NotContains(t, attributes, attribute.Key("redislock.keys"))
			if result != "lost" {
				assert.Empty(t, span.Events())
			}
			switch waited := attributes["redislock.wait.duration"]; {
			case span.Name() != "redislock obtain":
				assert.Nil(t, waited)
			case result == "cancel":
				assert.GreaterOrEqual(t, waited, atLeast.Seconds())
				assert.LessOrEqual(t, waited, atMost.Seconds())
			default:
				assert.Equal(t, 0., waited)
			}
		}
		assert.Equal(t, []outcome{
			{"redislock obtain", "success", codes.Unset},
			{"redislock hold", "success", codes.Unset},
			{"redislock release", "success", codes.Unset},
			{"redislock obtain", "success", codes.Unset},
			{"redislock obtain", "failed", codes.Unset},
			{"redislock obtain", "cancel", codes.Unset},
			{"redislock hold", "lost", codes.Error},
			{"redislock release", "failed", codes.Unset},
		}, outcomes)

		metrics := collect(t, reader)
		waits, holds := samples(t, metrics["redislock.wait.duration"]), samples(t, metrics["redislock.hold.duration"])
		assert.Equal(t, map[string]uint64{"success": 2, "failed": 1, "cancel": 1}, countsOf(waits))
		assert.Equal(t, map[string]uint64{"success": 1, "lost": 1}, countsOf(holds))
		assert.Zero(t, waits["success"].Sum)
		assert.Zero(t, waits["failed"].Sum)
		assert.GreaterOrEqual(t, waits["cancel"].Sum, atLeast.Seconds())
		assert.LessOrEqual(t, waits["cancel"].Sum, atMost.Seconds())
		assert.GreaterOrEqual(t, holds["lost"].Sum, atLeast.Seconds(), "it was held meanwhile")
		assert.Positive(t, holds["success"].Sum)
	})
}

// obtainAndCancel waits for the lock until its context is cancelled, and returns between
// what it can have waited.
func obtainAndCancel(t *testing.T, locker *redislock.Client) (atLeast, atMost time.Duration) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	strategy := &waitAndTell{waited: make(chan struct{})}
	result := make(chan error, 1)
	start := time.Now()
	go func() {
		_, err := locker.Obtain(ctx, key, ttl, &redislock.Options{RetryStrategy: strategy})
		result <- err
	}()
	<-strategy.waited
	waiting := time.Now()
	time.Sleep(30 * time.Millisecond) // is what shall be measured
	atLeast = time.Since(waiting)
	cancel()
	err := <-result
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, err, redislock.ErrNotObtained)
	return atLeast, time.Since(start)
}

// samples returns the points of a histogram by result.
func samples(t *testing.T, metric metricdata.Metrics) map[string]metricdata.HistogramDataPoint[float64] {
	t.Helper()
	histogram, ok := metric.Data.(metricdata.Histogram[float64])
	require.True(t, ok, "%T", metric.Data)
	assert.Equal(t, "s", metric.Unit)
	assert.NotEmpty(t, metric.Description)
	points := make(map[string]metricdata.HistogramDataPoint[float64])
	for _, point := range histogram.DataPoints {
		result, _ := point.Attributes.Value("redislock.result")
		points[result.AsString()] = point
		kind, _ := point.Attributes.Value("redislock.kind")
		assert.Equal(t, "exclusive", kind.AsString())
		assert.Equal(t, 2, point.Attributes.Len(), "no keys")
		assert.Equal(t, .001, point.Bounds[0])
		assert.Equal(t, 3600., point.Bounds[len(point.Bounds)-1])
	}
	return points
}

func countsOf(points map[string]metricdata.HistogramDataPoint[float64]) map[string]uint64 {
	counts := make(map[string]uint64)
	for result, point := range points {
		counts[result] = point.Count
	}
	return counts
}

// assertFailed asserts that a span has the status of an error, which it recorded.
func assertFailed(t *testing.T, span sdktrace.ReadOnlySpan, result, message string) {
	t.Helper()
	assert.Equal(t, result, attributesOf(span)["redislock.result"])
	assert.Equal(t, codes.Error, span.Status().Code)
	assert.Contains(t, span.Status().Description, message)
	events := span.Events()
	require.Len(t, events, 1)
	assert.Equal(t, "exception", events[0].Name)
	recorded := attribute.NewSet(events[0].Attributes...)
	text, _ := recorded.Value("exception.message")
	assert.Equal(t, span.Status().Description, text.AsString())
}

func TestObserver_serverGone(t *testing.T) {
	redistest.NoLeaks(t)
	observer, spans, reader := record(t, redislockotel.Options{})
	server := redistest.Start(t)
	locker := redislock.New(server.Client(func(o *redis.Options) { o.MaxRetries = -1 })).WithObserver(observer)
	lock, err := locker.Obtain(t.Context(), "held", ttl, nil)
	require.NoError(t, err)
	server.Kill()

	releaseErr := lock.Release(t.Context())
	require.Error(t, releaseErr)
	require.NotErrorIs(t, releaseErr, redislock.ErrLockNotHeld)
	assertFailed(t, awaitSpan(t, spans, "redislock release"), "error", releaseErr.Error())
	hold := awaitSpan(t, spans, "redislock hold")
	assert.Equal(t, "success", attributesOf(hold)["redislock.result"])
	assert.Equal(t, codes.Unset, hold.Status().Code)

	_, obtainErr := locker.Obtain(t.Context(), key, ttl, nil)
	require.Error(t, obtainErr)
	ended := spans.Ended()
	assertFailed(t, ended[len(ended)-1], "error", obtainErr.Error())
	assert.Equal(t, map[string]uint64{"success": 1, "error": 1},
		countsOf(samples(t, collect(t, reader)["redislock.wait.duration"])))
}

func TestObserver_lost(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		for _, test := range []struct {
			name    string
			ttl     time.Duration
			opt     *redislock.Options
			lose    func() error
			result  string
			message string
		}{
			{"gone", ttl,
				&redislock.Options{Watchdog: redislock.NewTickWatchdog(time.Millisecond)},
				func() error { return rdb.Del(t.Context(), "gone").Err() }, "lost", "gone or somebody else's"},
			{"not refreshed", 300 * time.Millisecond, nil, func() error { return nil }, "lost", "not refreshed since"},
			{"HoldAtMost", ttl, &redislock.Options{HoldAtMost: 300 * time.Millisecond},
				func() error { return nil }, "overdue", "held for as long as HoldAtMost allows, 300ms"},
		} {
			t.Run(test.name, func(t *testing.T) {
				observer, spans, reader := record(t, redislockotel.Options{})
				lock, err := redislock.New(rdb).WithObserver(observer).Obtain(t.Context(), test.name, test.ttl, test.opt)
				require.NoError(t, err)
				require.NoError(t, test.lose())
				hold := awaitSpan(t, spans, "redislock hold")
				assertFailed(t, hold, test.result, test.message)
				<-lock.Done()
				lost := samples(t, collect(t, reader)["redislock.hold.duration"])
				assert.Equal(t, map[string]uint64{test.result: 1}, countsOf(lost))
				assert.InDelta(t, hold.EndTime().Sub(hold.StartTime()).Seconds(), lost[test.result].Sum, 1)
			})
		}
	})
}

// One observer serves many clients and goroutines.
func TestObserver_contention(t *testing.T) {
	onBoth(t, func(t *testing.T, rdb *redis.Client) {
		const workers, rounds = 8, 5
		observer, spans, reader := record(t, redislockotel.Options{})
		var work sync.WaitGroup
		for range workers {
			locker := redislock.New(rdb).WithObserver(observer)
			work.Go(func() {
				for range rounds {
					assert.NoError(t, locker.Do(t.Context(), key, ttl, &redislock.Options{
						RetryStrategy: redislock.LinearBackoff(time.Millisecond),
					}, func(context.Context) error { return nil }))
				}
			})
		}
		work.Wait()
		const n = workers * rounds
		assert.Len(t, spans.Ended(), 3*n)
		assert.Len(t, spans.Started(), 3*n)
		metrics := collect(t, reader)
		assert.Equal(t, map[string]uint64{"success": n}, countsOf(samples(t, metrics["redislock.wait.duration"])))
		assert.Equal(t, map[string]uint64{"success": n}, countsOf(samples(t, metrics["redislock.hold.duration"])))
	})
}

// Without options it is the global providers that are used.
func TestGlobalProviders(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	reader, meters := newReader()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	otel.SetMeterProvider(meters)
	observer, err := redislockotel.NewObserver(nil)
	require.NoError(t, err)
	registration, err := redislockotel.RegisterMetrics(nil)
	require.NoError(t, err)

	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	lock, err := redislock.New(rdb).WithObserver(observer).Obtain(t.Context(), key, ttl, nil)
	require.NoError(t, err)
	require.NoError(t, lock.Release(t.Context()))
	assert.Len(t, spans.Ended(), 3)
	assert.Len(t, collect(t, reader), 8)
	require.NoError(t, registration.Unregister())
	assert.Len(t, collect(t, reader), 2, "the histograms")
}

// What is observed says which kind of lock it was.
func TestObserver_kinds(t *testing.T) {
	reader, provider := newReader()
	spans := tracetest.NewInMemoryExporter()
	observer, err := redislockotel.NewObserver(&redislockotel.Options{
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)), MeterProvider: provider,
	})
	require.NoError(t, err)
	locker := redislock.New(redistest.Client(t, redistest.Embedded(t).Addr())).WithObserver(observer)
	require.NoError(t, locker.Do(t.Context(), key, ttl, &redislock.Options{Shared: true}, func(context.Context) error { return nil }))
	require.NoError(t, locker.Do(t.Context(), key, ttl, &redislock.Options{Limit: 2}, func(context.Context) error { return nil }))
	require.ErrorIs(t, locker.ReleaseByToken(t.Context(), key, "token"), redislock.ErrLockNotHeld)

	var kinds []any
	for _, span := range spans.GetSpans().Snapshots() {
		kinds = append(kinds, attributesOf(span)["redislock.kind"])
	}
	assert.Equal(t, []any{"shared", "shared", "shared", "limited", "limited", "limited", nil}, kinds)
	histogram, _ := collect(t, reader)["redislock.hold.duration"].Data.(metricdata.Histogram[float64])
	assert.Len(t, histogram.DataPoints, 2)
}
