package redislock

import "sync/atomic"

// Status counts calls by how they ended. Each call moves exactly one of them.
type Status struct {
	// Success counts calls that did what they were asked to.
	Success int64
	// Failed counts calls that Redis answered with no: the lock is held by
	// somebody else, or is not held any more.
	Failed int64
	// Error counts calls that Redis did not answer, or that could not be made.
	Error int64
	// Cancel counts calls that ended with their context.
	Cancel int64
}

// Stats are the counters of this process over all clients and locks, since it
// started.
type Stats struct {
	// Obtain, Release and Refresh count the calls of that name. A watchdog's
	// refreshes are among the latter.
	Obtain, Release, Refresh Status

	// Backoff counts the waits between two tries. A stay in a FairQueue is one.
	Backoff int64

	// Watchdog counts the locks that a watchdog began to refresh, WatchdogDone
	// those that it ceased to, for whatever reason, and WatchdogTick the
	// refreshes that a TickWatchdog tried.
	Watchdog, WatchdogDone, WatchdogTick int64

	// Lost counts the locks that were found gone, or that were no longer
	// certain, while their holder still wanted them.
	Lost int64
}

// GetStats returns the counters as they are now. They only ever grow; each is
// exact, but they are not read all at one moment.
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

// count counts one call that ended with err, and returns what an Outcome calls that. That
// the call's context was the reason cannot be seen from err alone: a dial that times out
// says context.DeadlineExceeded too.
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
