// Package redislockotel exports to OpenTelemetry what redislock does: its counters as
// metrics, and with an observer of a client histograms of waiting and holding, and spans.
//
//	registration, err := redislockotel.RegisterMetrics(nil) // nil: the global provider
//
//	observer, err := redislockotel.NewObserver(nil)
//	locker := redislock.New(client).WithObserver(observer)
package redislockotel

import (
	"context"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/bsm/redislock"
)

// Options are what an observer may be asked for. Nil is all defaults.
type Options struct {
	// TracerProvider makes the tracer for spans. Default (nil): the global one.
	TracerProvider trace.TracerProvider
	// MeterProvider makes the meter for histograms. Default (nil): the global one.
	MeterProvider metric.MeterProvider
	// HideKeys leaves out the attribute redislock.keys of spans, for keys that not everybody
	// may see. An error about the keys, as of those in several slots, still names them.
	// Default: spans have it.
	HideKeys bool
}

// NewObserver returns an observer for any number of clients. Its errors are those of the
// meter.
//
// Spans, each a child of what the caller's context has. Their kind is internal: the client's
// are those of the commands, below them.
//
//   - "redislock obtain" is a call of Obtain or ObtainMulti, with the commands that it
//     sends as children, if the Redis client is traced too. redislock.wait.duration is for
//     how many seconds it waited for a lock that somebody else held.
//   - "redislock hold" is from then on until Release is called, whatever comes of that, or
//     the lock is lost. The spans that the function of [redislock.Client.Do] starts are
//     children of it.
//   - "redislock release" is a call of Release.
//
// The refreshes of a TickWatchdog are in none of them: one pipeline may refresh many locks.
//
// Their attributes are redislock.keys, redislock.ttl in seconds, and redislock.result, which
// is success, failed, error, cancel, lost or overdue. The status of a span is an error for error,
// lost and overdue: that somebody else holds a lock, or that a caller does not want to wait any longer,
// is none.
//
// Histograms, in seconds: redislock.wait.duration of calls by redislock.result, where a call
// that did not have to wait counts with 0; redislock.hold.duration of locks. They have no
// keys: of those there may be any number.
func NewObserver(opt *Options) (redislock.Observer, error) {
	if opt == nil {
		opt = &Options{}
	}
	tracers, meters := opt.TracerProvider, opt.MeterProvider
	if tracers == nil {
		tracers = otel.GetTracerProvider()
	}
	if meters == nil {
		meters = otel.GetMeterProvider()
	}
	o := &observer{tracer: tracers.Tracer(scope), hideKeys: opt.HideKeys}
	meter := meters.Meter(scope)
	var err error
	if o.wait, err = histogram(meter, "redislock.wait.duration", "How long calls waited for a lock that somebody else held."); err != nil {
		return nil, err
	}
	if o.hold, err = histogram(meter, "redislock.hold.duration", "How long locks were held."); err != nil {
		return nil, err
	}
	return o, nil
}

func histogram(meter metric.Meter, name, description string) (metric.Float64Histogram, error) {
	return meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(description),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600))
}

type observer struct {
	tracer     trace.Tracer
	wait, hold metric.Float64Histogram
	hideKeys   bool
}

func (o *observer) Begin(ctx context.Context, op redislock.Operation) (context.Context, func(redislock.Outcome)) {
	start := time.Now()
	within, span := o.tracer.Start(ctx, "redislock "+op.Name,
		trace.WithTimestamp(start), trace.WithAttributes(o.attributes(op)...))
	return within, func(outcome redislock.Outcome) {
		result := resultKey.String(outcome.Result)
		switch op.Name {
		case redislock.OpObtain:
			span.SetAttributes(waitKey.Float64(outcome.Waited.Seconds()))
			o.wait.Record(within, outcome.Waited.Seconds(), metric.WithAttributes(result))
		case redislock.OpHold:
			o.hold.Record(within, time.Since(start).Seconds(), metric.WithAttributes(result))
		}
		span.SetAttributes(result)
		switch outcome.Result {
		case "error", "lost", "overdue":
			span.RecordError(outcome.Err)
			span.SetStatus(codes.Error, outcome.Err.Error())
		}
		span.End()
	}
}

func (o *observer) attributes(op redislock.Operation) []attribute.KeyValue {
	var attributes []attribute.KeyValue
	if !o.hideKeys {
		attributes = append(attributes, keysKey.StringSlice(op.Keys))
	}
	if op.TTL > 0 {
		attributes = append(attributes, ttlKey.Float64(op.TTL.Seconds()))
	}
	return attributes
}
