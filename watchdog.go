package redislock

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Watchdog keeps a lock alive while its holder works. A custom implementation is started in a
// goroutine once the lock is obtained, with a context that keeps the values of Obtain's context and
// ends with the lock. Release calls Stop before it deletes the key, and waits for it: for at most half
// of the time that is left until the deadline of Release's context, or without a deadline until that
// context is canceled. Then the key is deleted although Stop has not returned; Lock.Refresh refuses
// to run by then.
type Watchdog interface {
	// Start refreshes lock with ttl. It blocks until the lock or ctx ends, or Stop
	// is called.
	Start(ctx context.Context, lock *Lock, ttl time.Duration)
	// Stop stops the refreshing and waits until it has ended. It may be called before
	// Start, and more than once.
	Stop()
}

// TickWatchdog is a Watchdog that refreshes locks at an interval. One TickWatchdog may serve many
// locks, at the same time and one after the other. The zero value is ready for use. It is safe for
// concurrent use.
//
// The refreshes of all TickWatchdogs of a process are sent together, in pipelines where the client
// supports them, from a number of goroutines that does not grow with the number of locks. A
// refresh is up to a tenth of the interval early, so that locks obtained together drift apart.
//
// A refresh that fails or is not answered is tried again soon, for as long as the lock may still be
// held. A lock that is gone, or could not be refreshed in time, is lost: this is logged, counted in
// [Stats].Lost, closes [Lock.Done], and ends the refreshing.
type TickWatchdog struct {
	interval time.Duration

	mu         sync.Mutex
	refreshers map[*refresher]struct{} // guarded by mu
}

// NewTickWatchdog returns a watchdog that refreshes each of its locks at the given interval. An
// interval that is zero, negative, or not shorter than the TTL of a lock means a third of that TTL.
func NewTickWatchdog(interval time.Duration) *TickWatchdog {
	return &TickWatchdog{interval: interval}
}

// Start refreshes lock with ttl, which becomes its TTL with the first refresh; with a custom token
// ([Options].Token) only if it is the longer one. It blocks until the lock is released or lost, ctx
// ends, or Stop is called. Obtain does this for a lock with this watchdog: you need not call it.
func (w *TickWatchdog) Start(ctx context.Context, lock *Lock, ttl time.Duration) {
	if w == nil || lock == nil || lock.claim == nil {
		return
	}
	if err := checkTTL(ttl); err != nil {
		lock.log().Error("redislock: lock is not refreshed", "keys", lock.keys, "error", err)
		return
	}
	t := newRefresher(w, lock, ttl)
	t.removed = make(chan struct{})
	t.start(ctx)
	defer t.remove()
	select {
	case <-ctx.Done():
	case <-lock.Done():
	case <-t.removed:
	}
}

// Stop ends the refreshing of all locks that the watchdog serves at the moment, and waits until it has
// ended. The locks stay held until their TTL has passed. The watchdog may be used again.
func (w *TickWatchdog) Stop() {
	if w == nil {
		return
	}
	w.mu.Lock()
	refreshers := slices.Collect(maps.Keys(w.refreshers))
	w.mu.Unlock()
	for _, t := range refreshers {
		t.remove()
		t.lock.lease.awaitRefreshes(t.lock.ended())
	}
}

// refresher is a lock that a TickWatchdog refreshes.
type refresher struct {
	task
	lock     *Lock
	watchdog *TickWatchdog
	ttl      time.Duration
	removed  chan struct{} // closed by remove; nil if nobody waits

	over bool // removed, perhaps before it started; guarded by the watchdog's mutex

	// Guarded by the background's.
	sent  time.Duration // since epoch: the start, then the latest refresh that succeeded
	retry time.Duration // the last wait after one that failed
}

func newRefresher(w *TickWatchdog, lock *Lock, ttl time.Duration) *refresher {
	interval := w.interval
	if interval <= 0 || interval >= validity(ttl) {
		interval = ttl / 3
	}
	t := &refresher{lock: lock, watchdog: w, ttl: ttl.Truncate(time.Millisecond)}
	t.task = newTask(t, interval, ttl/maxPatience)
	return t
}

// start begins the refreshing, unless the lock has ended already.
func (t *refresher) start(context.Context) {
	t.lock.ended() // a lock that cannot be refreshed must end even if nobody asks
	wait := early(t.interval)
	if left := t.lock.lease.remaining(); left < wait {
		wait = left / 2 // obtained for a shorter time
	}
	key := t.lock.claim.laneKey()
	w := t.watchdog
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.over {
		return
	}
	stats.watchdog.Add(1)
	if w.refreshers == nil {
		w.refreshers = make(map[*refresher]struct{})
	}
	w.refreshers[t] = struct{}{}
	b := lockBackground(t.lock.servers)
	defer b.unlock()
	t.sent = sinceEpoch()
	t.task.startLocked(b.openLaneLocked(key), t.sent+wait)
}

// remove ends the refreshing, or keeps it from starting.
func (t *refresher) remove() {
	w := t.watchdog
	w.mu.Lock()
	defer w.mu.Unlock()
	if t.over {
		return
	}
	t.over = true
	if t.removed != nil {
		close(t.removed)
	}
	if _, started := w.refreshers[t]; started {
		delete(w.refreshers, t)
		stats.watchdogDone.Add(1)
		t.lane.mu.Lock()
		defer t.lane.unlock()
		t.task.stopLocked()
	}
}

func (t *refresher) begin() (call, bool) {
	sent, ttl, ok := t.lock.lease.beginRefresh(t.ttl)
	if !ok {
		t.lock.loseIfOverdue()
		t.remove()
		return call{}, false
	}
	stats.watchdogTick.Add(1)
	call := t.lock.claim.refreshing(ttl)
	call.sent = sent
	return call, true
}

func (t *refresher) end(call call, reply int64, err error) {
	err = t.lock.extended(call.sent, call.ttl, reply == 1, err)
	stats.refresh.count(err, false)
	if err != nil && err != ErrNotObtained {
		t.lock.log().Warn("redislock: lock could not be refreshed", "keys", t.lock.keys,
			"held_for", t.lock.lease.remaining(), "error", err)
	}
}

func (t *refresher) nextLocked(call call, err error) (due time.Duration, ok bool) {
	switch {
	case call.sent < t.sent:
		return 0, false // overtaken by one that succeeded
	case err == nil:
		t.sent, t.retry = call.sent, 0
		return call.sent + early(t.interval), true
	default:
		// Soon, then after longer waits, but several times within a TTL; and not all locks of
		// a server that is down at once.
		t.retry = min(max(2*t.retry, t.ttl/50), t.ttl/10)
		return sinceEpoch() + t.retry/2 + rand.N(t.retry), true
	}
}

// A keeper keeps a lock alive by its watchdog.
type keeper interface {
	// start starts the refreshing, which outlives ctx: that is for the obtaining, and often has a
	// timeout.
	start(ctx context.Context)
	// stop stops it for a release, and waits for what is in flight, but not longer than ctx.
	stop(ctx context.Context)
	// remove is for a lock that was lost.
	remove()
}

// keepBy makes a watchdog, which may be nil, keep the lock alive. It must be called before anything can
// find the lock lost, which ends the refreshing.
func (l *Lock) keepBy(watchdog Watchdog, ttl time.Duration) {
	switch w := watchdog.(type) {
	case nil:
	case *TickWatchdog:
		if w != nil {
			l.keeper = newRefresher(w, l, ttl)
		}
	default:
		l.keeper = &customKeeper{watchdog: w, lock: l, ttl: ttl}
	}
}

// stop is the keeper's.
//
// Refreshing and releasing are safe in any order: both compare the value first, which a released
// key no longer has. A release undoes a refresh that Redis runs before it, and a refresh that runs
// after it does nothing. No refresh begins once the lease has ended. One in flight is waited for,
// so that it is not mistaken for a refusal, but not for long: its connection may be dead while the
// release has a good one.
func (t *refresher) stop(ctx context.Context) {
	t.remove()
	ctx, cancel := context.WithTimeout(ctx, refreshGrace)
	defer cancel()
	t.lock.lease.awaitRefreshes(ctx)
}

// A customKeeper keeps a lock alive by a custom watchdog.
type customKeeper struct {
	watchdog Watchdog
	lock     *Lock
	ttl      time.Duration
	once     sync.Once
}

func (k *customKeeper) start(ctx context.Context) {
	stats.watchdog.Add(1)
	ctx = k.lock.Context(context.WithoutCancel(ctx))
	go func() {
		defer stats.watchdogDone.Add(1)
		k.watchdog.Start(ctx, k.lock, k.ttl)
	}()
}

// stop calls Stop, once, and waits for it. If ctx has a deadline, half of the time is left for the
// release.
func (k *customKeeper) stop(ctx context.Context) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		k.once.Do(k.watchdog.Stop)
	}()
	select {
	case <-stopped:
	case <-ctx.Done():
	}
}

// remove has nothing to do: the context of the refreshing has ended with the lock.
func (k *customKeeper) remove() {}

// refreshGrace is how long a release waits for a refresh that is in flight.
const refreshGrace = 250 * time.Millisecond
