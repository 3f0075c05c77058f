package redislockotel

import (
	"context"
	"errors"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/bsm/redislock"
)

// scope is the instrumentation scope of the metrics and spans.
const scope = "github.com/bsm/redislock/otel"

// Attributes of metrics and spans.
const (
	operationKey = attribute.Key("redislock.operation")
	resultKey    = attribute.Key("redislock.result")
	keysKey      = attribute.Key("redislock.keys")
	ttlKey       = attribute.Key("redislock.ttl")
	waitKey      = attribute.Key("redislock.wait.duration")
	kindKey      = attribute.Key("redislock.kind")
)

// RegisterMetrics makes a provider collect the counters of [redislock.GetStats], which cover
// all clients of the process. A nil provider means the global one. Call Unregister on the
// returned registration to stop. Register once: registered twice with a provider, the
// counters count twice.
//
//	redislock.operations       {operation}  calls, by redislock.operation (obtain, release,
//	                                        refresh) and redislock.result (success, failed,
//	                                        error, cancel)
//	redislock.backoffs         {backoff}    waits between two tries
//	redislock.watchdog.starts  {lock}       locks that a watchdog started to refresh
//	redislock.watchdog.stops   {lock}       locks that it stopped refreshing
//	redislock.watchdog.ticks   {refresh}    refreshes that it tried
//	redislock.locks.lost       {lock}       locks that were lost
func RegisterMetrics(provider metric.MeterProvider) (metric.Registration, error) {
	if provider == nil {
		provider = otel.GetMeterProvider()
	}
	meter := provider.Meter(scope)
	var counters []metric.Observable
	var errs []error
	counter := func(name, unit, description string) metric.Int64ObservableCounter {
		c, err := meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
		counters, errs = append(counters, c), append(errs, err)
		return c
	}
	operations := counter("redislock.operations", "{operation}", "Calls, by how they ended.")
	backoffs := counter("redislock.backoffs", "{backoff}", "Waits between two tries to obtain a lock.")
	starts := counter("redislock.watchdog.starts", "{lock}", "Locks that a watchdog started to refresh.")
	stops := counter("redislock.watchdog.stops", "{lock}", "Locks that a watchdog stopped refreshing.")
	ticks := counter("redislock.watchdog.ticks", "{refresh}", "Refreshes that a watchdog tried.")
	lost := counter("redislock.locks.lost", "{lock}", "Locks that were lost while their holder still wanted them.")
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return meter.RegisterCallback(func(_ context.Context, observer metric.Observer) error {
		stats := redislock.GetStats()
		observeStatus(observer, operations, redislock.OpObtain, stats.Obtain)
		observeStatus(observer, operations, redislock.OpRelease, stats.Release)
		observeStatus(observer, operations, "refresh", stats.Refresh)
		observer.ObserveInt64(backoffs, stats.Backoff)
		observer.ObserveInt64(starts, stats.Watchdog)
		observer.ObserveInt64(stops, stats.WatchdogDone)
		observer.ObserveInt64(ticks, stats.WatchdogTick)
		observer.ObserveInt64(lost, stats.Lost)
		return nil
	}, counters...)
}

func observeStatus(observer metric.Observer, counter metric.Int64ObservableCounter, operation string, status redislock.Status) {
	for result, value := range map[string]int64{
		"success": status.Success,
		"failed":  status.Failed,
		"error":   status.Error,
		"cancel":  status.Cancel,
	} {
		observer.ObserveInt64(counter, value,
			metric.WithAttributes(operationKey.String(operation), resultKey.String(result)))
	}
}
