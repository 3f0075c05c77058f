// Package redislockotel exports redislock's counters to OpenTelemetry as metrics. An observer
// of a client adds histograms of waiting and holding, and spans.
//
//	registration, err := redislockotel.RegisterMetrics(nil) // nil means the global provider
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

// Options configure an observer. Nil means all defaults.
type Options struct {
	// TracerProvider makes the tracer for spans. Default (nil): the global one.
	TracerProvider trace.TracerProvider
	// MeterProvider makes the meter for histograms. Default (nil): the global one.
	MeterProvider metric.MeterProvider
	// HideKeys omits the attribute redislock.keys from spans, for keys that not everybody may
	// see. An error about keys, such as keys in different slots, still names them.
	// Default (false): spans have the attribute.
	HideKeys bool
}

// NewObserver returns an observer for any number of clients. It returns the errors of the
// meter.
//
// It creates these spans, each a child of the span in the caller's context. Their kind is
// internal; the spans of kind client are those of the commands below them.
//
//   - "redislock obtain" is a call of Obtain or ObtainMulti. The commands that it sends are
//     its children, if the Redis client is traced too. redislock.wait.duration is how many
//     seconds it waited for a lock that somebody else held.
//   - "redislock hold" lasts from then until Release is called, whatever its result, or the
//     lock is lost. The spans that the function of [redislock.Client.Do] starts are its
//     children.
//   - "redislock release" is a call of Release.
//
// None of them contains the refreshes of a TickWatchdog: one pipeline may refresh many locks.
//
// The attributes are redislock.keys, redislock.kind (exclusive, shared, limited, or election;
// absent from a release by token), redislock.ttl in seconds, and redislock.result, which is success,
// failed, error, cancel, lost, or overdue (lost because of HoldAtMost). The status of a span is
// an error only for error, lost and overdue: a lock that somebody else holds, or a caller that
// stops waiting, is not an error.
//
// The histograms are in seconds, by redislock.kind and redislock.result:
// redislock.wait.duration of calls, where a call that did not have to wait counts as 0, and
// redislock.hold.duration of locks. Keys are not an attribute, because there may be any number
// of them.
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
		result, kind := resultKey.String(outcome.Result), kindKey.String(op.Kind)
		switch op.Name {
		case redislock.OpObtain:
			span.SetAttributes(waitKey.Float64(outcome.Waited.Seconds()))
			o.wait.Record(within, outcome.Waited.Seconds(), metric.WithAttributes(kind, result))
		case redislock.OpHold:
			o.hold.Record(within, time.Since(start).Seconds(), metric.WithAttributes(kind, result))
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
	if op.Kind != "" {
		attributes = append(attributes, kindKey.String(op.Kind))
	}
	if !o.hideKeys {
		attributes = append(attributes, keysKey.StringSlice(op.Keys))
	}
	if op.TTL > 0 {
		attributes = append(attributes, ttlKey.Float64(op.TTL.Seconds()))
	}
	return attributes
}
