// Package rlprome exports the counters of redislock to Prometheus, and how long callers wait
// for locks and hold them.
//
// The counters are those of [redislock.GetStats], for all clients of the process:
//
//	prometheus.MustRegister(rlprome.NewDefaultCollector())
//
// An observer measures the times of the clients that it is given to:
//
//	observer := rlprome.NewObserver(nil)
//	prometheus.MustRegister(observer)
//	locker := redislock.New(client).WithObserver(observer)
package rlprome

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bsm/redislock"
)

// DefaultMetricName is the name of the metric of [NewDefaultCollector].
const DefaultMetricName = "redislock_count"

// DefaultPrefix is an older name of DefaultMetricName.
const DefaultPrefix = DefaultMetricName

// Collector is a [prometheus.Collector] of one counter, whose label op says what is counted:
//
//	obtain_success, obtain_failed, obtain_error, obtain_cancel
//	release_success, release_failed, release_error, release_cancel
//	refresh_success, refresh_failed, refresh_error, refresh_cancel
//	backoff
//	watchdog, watchdog_done, watchdog_tick
//	lost
//
// [redislock.Stats] says what each of them means.
type Collector struct {
	desc *prometheus.Desc
}

// NewDefaultCollector returns a collector of the metric [DefaultMetricName].
func NewDefaultCollector() *Collector {
	return NewCollector(DefaultMetricName)
}

// NewCollector returns a collector of a metric with the given name. If the name is invalid,
// registering the collector fails with an error that says so.
func NewCollector(name string) *Collector {
	return &Collector{desc: prometheus.NewDesc(name, "What redislock has done in this process, by operation.", []string{"op"}, nil)}
}

// Describe implements [prometheus.Collector].
func (c *Collector) Describe(descs chan<- *prometheus.Desc) {
	descs <- c.desc
}

// Collect implements [prometheus.Collector].
func (c *Collector) Collect(metrics chan<- prometheus.Metric) {
	count := func(op string, value int64) {
		metrics <- prometheus.MustNewConstMetric(c.desc, prometheus.CounterValue, float64(value), op)
	}
	status := func(op string, s redislock.Status) {
		count(op+"_success", s.Success)
		count(op+"_failed", s.Failed)
		count(op+"_error", s.Error)
		count(op+"_cancel", s.Cancel)
	}
	stats := redislock.GetStats()
	status("obtain", stats.Obtain)
	status("release", stats.Release)
	status("refresh", stats.Refresh)
	count("backoff", stats.Backoff)
	count("watchdog", stats.Watchdog)
	count("watchdog_done", stats.WatchdogDone)
	count("watchdog_tick", stats.WatchdogTick)
	count("lost", stats.Lost)
}
