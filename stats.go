package redislock

import "sync/atomic"

// Status counts calls by how they ended. Each call moves exactly one of the counters.
type Status struct {
	// Success counts calls that did what they were asked to.
	Success int64
	// Failed counts calls that Redis refused: somebody else holds the lock, or it is no
	// longer held.
	Failed int64
	// Error counts calls that Redis did not answer, or whose arguments were wrong.
	Error int64
	// Cancel counts calls that ended with their context.
	Cancel int64
}

// Stats are the counters of all clients and locks in this process, since it started.
type Stats struct {
	// Obtain, Release and Refresh count the calls of these names. Refresh includes the
	// refreshes of watchdogs.
	Obtain, Release, Refresh Status

	// Backoff counts the waits between two tries. A stay in a FairQueue counts as one.
	Backoff int64

	// Watchdog counts the locks that a watchdog started to refresh, WatchdogDone those
	// that it stopped refreshing, for whatever reason, and WatchdogTick the refreshes that
	// a TickWatchdog tried.
	Watchdog, WatchdogDone, WatchdogTick int64

	// Lost counts the locks that were gone, or no longer certain, while their holder still
	// wanted them.
	Lost int64
}

// GetStats returns the current counters. They only ever grow. Each is exact, but they are not
// all read at the same moment.
func GetStats() Stats {
	return Stats{
		Obtain:       stats.obtain.read(),
		Release:      stats.release.read(),
		Refresh:      stats.refresh.read(),
		Backoff:      stats.backoff.Load(),
		Watchdog:     stats.watchdog.Load(),
		WatchdogDone: stats.watchdogDone.Load(),
		WatchdogTick: stats.watchdogTick.Load(),
		Lost:         stats.lost.Load(),
	}
}

var stats struct {
	obtain, release, refresh             status
	backoff                              atomic.Int64
	watchdog, watchdogDone, watchdogTick atomic.Int64
	lost                                 atomic.Int64
}

type status struct {
	success, failed, errored, canceled atomic.Int64
}

const resultSuccess = "success"

// count counts one call that ended with err, and returns the name of that result in an Outcome.
// err alone does not tell whether the call's context was the reason: a dial that times out
// returns context.DeadlineExceeded too.
func (s *status) count(err error, canceled bool) (result string) {
	switch {
	case err == nil:
		s.success.Add(1)
		return resultSuccess
	case canceled:
		s.canceled.Add(1)
		return "cancel"
	case err == ErrNotObtained || err == ErrLockNotHeld:
		s.failed.Add(1)
		return "failed"
	default:
		s.errored.Add(1)
		return "error"
	}
}

func (s *status) read() Status {
	return Status{
		Success: s.success.Load(),
		Failed:  s.failed.Load(),
		Error:   s.errored.Load(),
		Cancel:  s.canceled.Load(),
	}
}
