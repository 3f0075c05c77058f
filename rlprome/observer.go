package rlprome

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bsm/redislock"
)

// DefaultBuckets are the upper bounds of the histograms' buckets, in seconds: from a
// millisecond to an hour.
var DefaultBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600}

// Options configure an [Observer]. Nil means all defaults.
type Options struct {
	// Buckets are the upper bounds of both histograms, in seconds, in any order.
	// Default (nil): DefaultBuckets.
	Buckets []float64
	// ConstLabels are set on both metrics, to distinguish several observers in one registry.
	// Registering fails if one of them is named kind, result or le.
	// Default (nil): none.
	ConstLabels prometheus.Labels
}

// Observer is a [redislock.Observer] and a [prometheus.Collector] of two histograms:
//
//   - redislock_wait_seconds: how long a call of Obtain waited for a lock that somebody
//     else held, by result: success, failed, error, cancel. A call that did not have to
//     wait counts as 0 seconds.
//   - redislock_hold_seconds: how long a lock was held, by result: success if it was
//     released, lost if it was not; overdue if that was because of HoldAtMost.
//
// Both also have the label kind: exclusive, shared, limited, or election.
//
// Both are native histograms as well, for a Prometheus that scrapes those. The keys of locks
// are not a label, because there may be any number of them.
type Observer struct {
	wait, hold *prometheus.HistogramVec
	invalid    error // why the options do not work; nil if they do
}

// NewObserver returns an observer for any number of clients.
func NewObserver(opt *Options) *Observer {
	if opt == nil {
		opt = &Options{}
	}
	buckets := slices.Compact(slices.Sorted(slices.Values(opt.Buckets)))
	if opt.Buckets == nil {
		buckets = DefaultBuckets
	}
	histogram := func(name, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:                            name,
			Help:                            help,
			ConstLabels:                     opt.ConstLabels,
			Buckets:                         buckets,
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  160,
			NativeHistogramMinResetDuration: time.Hour,
		}, []string{"kind", "result"})
	}
	if value, ok := opt.ConstLabels["le"]; ok {
		// Otherwise only the first observation would notice, by a panic.
		return &Observer{invalid: fmt.Errorf("rlprome: constant label le=%q: "+
			"histograms use that name for their buckets; choose another", value)}
	}
	return &Observer{
		wait: histogram("redislock_wait_seconds", "How long calls waited for a lock that somebody else held."),
		hold: histogram("redislock_hold_seconds", "How long locks were held."),
	}
}

// Begin implements [redislock.Observer].
func (o *Observer) Begin(ctx context.Context, op redislock.Operation) (context.Context, func(redislock.Outcome)) {
	if o.invalid != nil {
		return ctx, nil
	}
	switch op.Name {
	case redislock.OpObtain:
		return ctx, func(outcome redislock.Outcome) {
			observe(o.wait, op.Kind, outcome.Result, outcome.Waited)
		}
	case redislock.OpHold:
		start := time.Now()
		return ctx, func(outcome redislock.Outcome) {
			observe(o.hold, op.Kind, outcome.Result, time.Since(start))
		}
	default:
		return ctx, nil
	}
}

// observe ignores an invalid histogram: registering it reports the error.
func observe(histogram *prometheus.HistogramVec, kind, result string, duration time.Duration) {
	if observer, err := histogram.GetMetricWithLabelValues(kind, result); err == nil {
		observer.Observe(duration.Seconds())
	}
}

// Describe implements [prometheus.Collector].
func (o *Observer) Describe(descs chan<- *prometheus.Desc) {
	if o.invalid != nil {
		descs <- prometheus.NewInvalidDesc(o.invalid)
		return
	}
	o.wait.Describe(descs)
	o.hold.Describe(descs)
}

// Collect implements [prometheus.Collector].
func (o *Observer) Collect(metrics chan<- prometheus.Metric) {
	if o.invalid != nil {
		return // not registered
	}
	o.wait.Collect(metrics)
	o.hold.Collect(metrics)
}
