package redislock

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// Watchdog keeps a lock alive while its holder works. An implementation of one's
// own is started in a goroutine once the lock is obtained, with a context that
// keeps the values of Obtain's, and is stopped by Release before the key is
// deleted.
type Watchdog interface {
	// Start refreshes lock with ttl. It blocks until the lock or ctx ends, or Stop
	// is called.
	Start(ctx context.Context, lock *Lock, ttl time.Duration)
	// Stop stops the refreshing and waits until it has ended. It may be called
	// before Start, and twice.
	Stop()
}

// TickWatchdog is a Watchdog that refreshes locks at an interval. One may serve
// many locks, at the same time and one after the other; the zero value is ready
// for use. It is safe for concurrent use.
//
// A refresh that fails is tried again soon, for as long as the lock may still be
// held. A lock that was found gone, or could not be refreshed in time, is lost:
// that is logged, counted in [Stats].Lost, and ends its refreshing.
type TickWatchdog struct {
	interval time.Duration
	mu       sync.Mutex
	running  map[*ticking]struct{}
}

// ticking is the refreshing of one lock.
type ticking struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// NewTickWatchdog returns a watchdog that refreshes each of its locks at the given
// interval. An interval that is zero, negative, or not shorter than the TTL of a
// lock means a third of that TTL.
func NewTickWatchdog(interval time.Duration) *TickWatchdog {
	return &TickWatchdog{interval: interval}
}

// Start refreshes lock with ttl, which becomes its TTL with the first refresh. It
// blocks until the lock is released or lost, ctx ends, or Stop is called. Obtain
// calls it for a lock with this watchdog: there is no need to.
func (w *TickWatchdog) Start(ctx context.Context, lock *Lock, ttl time.Duration) {
	if w == nil || lock == nil {
		return
	}
	ctx, t := w.begin(ctx)
	w.tick(ctx, t, lock, ttl)
}

// Stop ends the refreshing of all locks that the watchdog has at the moment, and
// waits until it has ended. The locks are still held, until their TTL has passed.
// The watchdog may be used again.
func (w *TickWatchdog) Stop() {
	if w == nil {
		return
	}
	w.mu.Lock()
	running := make([]*ticking, 0, len(w.running))
	for t := range w.running {
		t.cancel()
		running = append(running, t)
	}
	w.mu.Unlock()
	for _, t := range running {
		<-t.done
	}
}

func (w *TickWatchdog) begin(ctx context.Context) (context.Context, *ticking) {
	stats.watchdog.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	t := &ticking{cancel: cancel, done: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.running == nil {
		w.running = make(map[*ticking]struct{})
	}
	w.running[t] = struct{}{}
	return ctx, t
}

func (w *TickWatchdog) end(t *ticking) {
	t.cancel()
	w.mu.Lock()
	delete(w.running, t)
	w.mu.Unlock()
	stats.watchdogDone.Add(1)
	close(t.done)
}

func (w *TickWatchdog) tick(ctx context.Context, t *ticking, lock *Lock, ttl time.Duration) {
	defer w.end(t)
	if err := checkTTL(ttl); err != nil {
		lock.log().ErrorContext(ctx, "redislock: lock is not refreshed", "keys", lock.keys, "error", err)
		return
	}
	interval := w.intervalFor(ttl)
	backoff := watchdogBackoff{ttl: ttl}
	next := interval
	if left := lock.lease.remaining(); left < interval {
		next = left / 2 // obtained for a shorter time
	}
	timer := time.NewTimer(next)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-lock.lease.doneChan():
			return
		case <-timer.C:
		}
		stats.watchdogTick.Add(1)
		err := lock.Refresh(ctx, ttl, nil)
		left := lock.lease.remaining()
		switch {
		case err == ErrNotObtained || left <= 0:
			if ctx.Err() == nil {
				lock.lose(ctx, err)
			}
			return
		case err == nil:
			next = interval
			backoff.reset()
		default:
			lock.log().WarnContext(ctx, "redislock: lock could not be refreshed",
				"keys", lock.keys, "held_for", left, "error", err)
			next = min(backoff.next(), left)
		}
		timer.Reset(next)
	}
}

func (w *TickWatchdog) intervalFor(ttl time.Duration) time.Duration {
	if w.interval <= 0 || w.interval >= validity(ttl) {
		return ttl / 3
	}
	return w.interval
}

// watchdogBackoff says when to try again after refreshes that failed: soon, then
// less and less soon, but several times within a TTL.
type watchdogBackoff struct {
	ttl   time.Duration
	delay time.Duration
}

func (b *watchdogBackoff) reset() {
	b.delay = 0
}

func (b *watchdogBackoff) next() time.Duration {
	b.delay = min(max(2*b.delay, b.ttl/50), b.ttl/10)
	// Jitter: the locks of a server that is away shall not all ask at once.
	return b.delay/2 + rand.N(b.delay)
}

// lose ends a lock that its holder still wants.
func (l *Lock) lose(ctx context.Context, err error) {
	if !l.lease.end() {
		return
	}
	stats.lost.Add(1)
	l.log().ErrorContext(ctx, "redislock: lock lost", "keys", l.keys, "error", err)
}

// watch is what goes on behind the back of a lock's holder.
type watch struct {
	logger   *slog.Logger
	watchdog Watchdog // may be nil
	stop     sync.Once
	cancel   context.CancelFunc
	done     <-chan struct{} // of a TickWatchdog
}

func newWatch(opt *Options) *watch {
	if opt == nil || opt.Watchdog == nil && opt.Logger == nil {
		return nil
	}
	w := &watch{logger: opt.Logger, watchdog: opt.Watchdog}
	if w.watchdog == (*TickWatchdog)(nil) {
		w.watchdog = nil
	}
	return w
}

func (l *Lock) log() *slog.Logger {
	if l.watch == nil || l.watch.logger == nil {
		return discardLogger
	}
	return l.watch.logger
}

func (l *Lock) startWatchdog(ctx context.Context, ttl time.Duration) {
	if l.watch == nil || l.watch.watchdog == nil {
		return
	}
	// The context was for the obtaining: the common one with a timeout must not
	// end the refreshing.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l.watch.cancel = cancel
	if w, ok := l.watch.watchdog.(*TickWatchdog); ok {
		// Begun here, not in the goroutine, so that a Stop right after Obtain finds
		// it.
		ctx, t := w.begin(ctx)
		l.watch.done = t.done
		go w.tick(ctx, t, l, ttl)
		return
	}
	stats.watchdog.Add(1)
	go func() {
		defer stats.watchdogDone.Add(1)
		l.watch.watchdog.Start(ctx, l, ttl)
	}()
}

// stopWatchdog stops the refreshing of this lock, and waits for a refresh that is
// under way, but not longer than ctx.
func (l *Lock) stopWatchdog(ctx context.Context) {
	if l.watch == nil || l.watch.watchdog == nil {
		return
	}
	l.watch.stop.Do(func() {
		l.watch.cancel()
		if l.watch.done == nil {
			l.watch.watchdog.Stop()
		}
	})
	if l.watch.done != nil {
		select {
		case <-l.watch.done:
		case <-ctx.Done():
		}
	}
}
