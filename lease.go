package redislock

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"
)

// These are the reasons why a lock has ended. errors.Is finds ErrLockNotHeld in each.
var (
	errReleased = fmt.Errorf("%w: released", ErrLockNotHeld)
	errGone     = fmt.Errorf("%w: its key is gone or somebody else's", ErrLockNotHeld)
	errNever    = fmt.Errorf("%w: never obtained", ErrLockNotHeld)
)

// epoch is the zero of the clock that leases are measured by. It is monotonic:
// setting the machine's clock does not move it.
var epoch = time.Now()

func sinceEpoch() time.Duration {
	return time.Since(epoch)
}

// A lease is what a holder may believe about its lock without asking Redis.
type lease struct {
	mu         sync.Mutex
	refreshed  time.Duration // since epoch: when the TTL was last certainly set
	validUntil time.Duration // since epoch
	cause      error         // why the lease has ended; nil: it has not
	extras     *extras       // nil until there are any
}

// A straggler is a refresh that has ended, but whose command may yet take effect: it was not
// answered, or not by all nodes of a quorum, or so late that the Redis client may have sent it more
// than once.
type straggler struct {
	ttl   time.Duration
	until time.Duration // since epoch: what is sent after that comes behind it
}

// slowReply is the delay of a reply from which on the Redis client may have sent the command more
// than once, so that a copy of it may still be in flight.
const slowReply = 50 * time.Millisecond

// extras are what only some leases have: those that are refreshed, those whose end somebody wants to
// know of, and those with bounds.
type extras struct {
	ctx    context.Context // canceled at the end; nil until somebody wants to know of it
	cancel context.CancelCauseFunc
	alarm  *time.Timer // rings at validUntil

	// Refreshes in flight, and the shortest TTL of those that have overlapped since there was
	// none.
	underWay    int
	shortestTTL time.Duration

	failure    error         // of refreshes, since one succeeded
	idle       chan struct{} // closed once no refresh is under way; nil: nobody waits
	stragglers []straggler
	answered   time.Duration // since epoch: when a refresh last was

	bounds *bounds // nil without
}

func (l *lease) addExtrasLocked() *extras {
	if l.extras == nil {
		l.extras = &extras{answered: math.MinInt64}
	}
	return l.extras
}

// validity is how long a lock may be believed in, from the moment that the
// command which set its TTL was sent. The server starts counting later than
// that; one percent is left in case its clock runs faster than ours.
func validity(ttl time.Duration) time.Duration {
	return ttl - ttl/100
}

// begin notes when the command that took the lock was sent, or is about to be.
func (l *lease) begin(sent, ttl time.Duration) {
	l.refreshed = sent
	l.validUntil = sent + validity(ttl)
}

// beginRefresh notes that a command that sets the TTL is about to be sent, and
// returns the moment, and the TTL as far as the bounds of the lock leave it; not so if they leave
// none, or the lease has ended: it does not come back to life.
//
// From here on the server may have the new TTL, though the reply may be long in
// coming or never come: if that is the shorter life, it is the one to count on.
func (l *lease) beginRefresh(ttl time.Duration) (sent, granted time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause != nil {
		return 0, 0, false
	}
	sent = sinceEpoch()
	ttl = l.boundsLocked().cut(sent, ttl)
	if ttl < time.Millisecond {
		return 0, 0, false
	}
	if shorter := sent + validity(ttl); shorter < l.validUntil {
		l.validUntil = shorter
		l.setAlarmLocked()
	}
	extras := l.addExtrasLocked()
	if extras.underWay == 0 || ttl < extras.shortestTTL {
		extras.shortestTTL = ttl
	}
	extras.shortestTTL = min(extras.shortestTTL, extras.shortestStraggler(sent))
	extras.underWay++
	return sent, ttl, true
}

// endRefresh notes how that command ended, and returns why the lease has ended, if it has,
// and whether it is just now that it has: the reply came after the TTL.
// If another overlapped with it, the server may have run the two in either order.
// Whichever was last, it ran after this one was sent and set at least the shortest TTL.
// everywhere is whether err is the answer of all servers that the command was sent to.
func (l *lease) endRefresh(sent, ttl time.Duration, err error, everywhere bool) (cause error, expired bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noteStragglerLocked(sent, ttl, err, everywhere)
	if err == nil && l.cause == nil {
		l.refreshed = max(l.refreshed, sent)
		l.validUntil = max(l.validUntil, sent+validity(l.extras.shortestTTL))
		l.setAlarmLocked()
		_, expired = l.expireLocked()
	}
	extras := l.extras
	if l.refreshed <= sent {
		extras.failure = err
	}
	extras.underWay--
	if extras.underWay == 0 && extras.idle != nil {
		close(extras.idle)
		extras.idle = nil
	}
	return l.cause, expired
}

// noteStragglerLocked notes that a refresh which has ended may still come into effect, if it may.
func (l *lease) noteStragglerLocked(sent, ttl time.Duration, err error, everywhere bool) {
	now := sinceEpoch()
	unanswered := err != nil && err != ErrNotObtained && !refused(err)
	if unanswered || !everywhere || now-sent >= slowReply {
		l.extras.stragglers = append(l.extras.stragglers, straggler{ttl, now + undoGrace})
	}
	if !unanswered {
		l.extras.answered = now
	}
}

// shortestStraggler is the shortest TTL of those that may come into effect after what is sent at
// that time. It forgets the others.
func (e *extras) shortestStraggler(sent time.Duration) time.Duration {
	e.stragglers = slices.DeleteFunc(e.stragglers, func(r straggler) bool {
		// Time alone does not decide: while Redis is silent nothing takes effect.
		return r.until < sent && e.answered >= r.until-undoGrace
	})
	shortest := time.Duration(math.MaxInt64)
	for _, r := range e.stragglers {
		shortest = min(shortest, r.ttl)
	}
	return shortest
}

// setAlarmLocked sets the alarm to validUntil, with mu held.
func (l *lease) setAlarmLocked() {
	if l.extras != nil && l.extras.alarm != nil {
		l.extras.alarm.Reset(l.validUntil - sinceEpoch())
	}
}

// awaitRefreshes waits until no refresh is in flight, or ctx ends.
func (l *lease) awaitRefreshes(ctx context.Context) {
	l.mu.Lock()
	extras := l.extras
	if extras == nil || extras.underWay == 0 {
		l.mu.Unlock()
		return
	}
	if extras.idle == nil {
		extras.idle = make(chan struct{})
	}
	idle := extras.idle
	l.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}

// remaining is the time until validUntil, negative after it.
func (l *lease) remaining() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.validUntil - sinceEpoch()
}

// end ends the lease for good and reports whether it had not ended before.
func (l *lease) end(cause error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.endLocked(cause)
}

func (l *lease) endLocked(cause error) bool {
	if l.cause != nil {
		return false
	}
	l.cause = cause
	l.validUntil = min(l.validUntil, sinceEpoch())
	if l.extras != nil && l.extras.ctx != nil {
		l.extras.alarm.Stop()
		l.extras.cancel(cause)
	}
	return true
}

// endIfExpired ends the lease if its time is over: it may have been refreshed while
// the alarm was ringing.
func (l *lease) endIfExpired() (cause error, expired bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.expireLocked()
}

func (l *lease) expireLocked() (cause error, expired bool) {
	if l.cause != nil || l.validUntil > sinceEpoch() {
		return nil, false
	}
	since := epoch.Add(l.refreshed).Format("15:04:05.000")
	if b := l.boundsLocked(); b.exhaustedBy(l.refreshed, l.validUntil) {
		cause = overdueError(b.longest)
	} else if l.extras != nil && l.extras.failure != nil {
		cause = fmt.Errorf("%w: not refreshed since %s because of: %w", ErrLockNotHeld, since, l.extras.failure)
	} else {
		cause = fmt.Errorf("%w: not refreshed since %s", ErrLockNotHeld, since)
	}
	return cause, l.endLocked(cause)
}

// ended returns a context that is canceled when the lock ends, and sets the alarm for that.
func (l *Lock) ended() context.Context {
	l.lease.mu.Lock()
	defer l.lease.mu.Unlock()
	extras := l.lease.addExtrasLocked()
	if extras.ctx == nil {
		extras.ctx, extras.cancel = context.WithCancelCause(context.Background())
		if l.lease.cause != nil {
			extras.cancel(l.lease.cause)
		} else {
			extras.alarm = time.AfterFunc(l.lease.validUntil-sinceEpoch(), l.onAlarm)
		}
	}
	return extras.ctx
}

func (l *Lock) onAlarm() {
	if cause, expired := l.lease.endIfExpired(); expired {
		l.lost(cause)
	}
}

// lose ends a lock that its holder still wants.
func (l *Lock) lose(cause error) {
	if l.lease.end(cause) {
		l.lost(cause)
	}
}

// lost does what has to be done when the lease has ended without a release.
func (l *Lock) lost(cause error) {
	stats.lost.Add(1)
	l.endHold(cause)
	l.log().Error("redislock: lock lost", "keys", l.keys, "error", cause)
	if l.claim != nil {
		l.claim.forget()
	}
	if l.keeper != nil {
		l.keeper.remove()
	}
}

// ValidUntil returns the time until which the lock is certain to be held, unless it is released.
// It makes no call to Redis: it is the time just before the command that set the TTL was sent,
// plus the TTL, less one percent of it in case the server's clock runs fast. Every successful
// refresh moves it. Once the lock has ended, it is in the past. It is the zero time for a nil
// lock.
//
// It cannot account for data that the server loses, for the time that passes in this process
// between checking it and acting on it, for the time during which a Linux machine is suspended,
// or for other calls with the same custom token ([Options].Token).
func (l *Lock) ValidUntil() time.Time {
	if l == nil {
		return time.Time{}
	}
	l.lease.mu.Lock()
	defer l.lease.mu.Unlock()
	return epoch.Add(l.lease.validUntil)
}

// Done returns a channel that is closed once the lock may no longer be held:
//
//   - when Release is called;
//   - when a refresh, by the watchdog or by the holder, finds that the key is gone or
//     somebody else's;
//   - when [Lock.ValidUntil] passes, whatever keeps refreshes from succeeding, for example
//     [Options].HoldAtMost.
//
// While it is open nobody else holds the lock, as long as the server keeps its data and no other
// call has the same custom token ([Options].Token). Once closed it stays closed, and Refresh
// returns ErrNotObtained: the lock has to be obtained again. The channel of a nil lock is closed.
//
// A paused process learns of the end only when it resumes. On a Linux machine that was suspended,
// the rest of the TTL starts to pass only then: the channel closes after that, or when the next
// refresh finds the lock gone. See [Lock.FenceToken] for how to protect against what such a
// holder still does.
func (l *Lock) Done() <-chan struct{} {
	if l == nil {
		return canceled(context.Background(), errNever).Done()
	}
	return l.ended().Done()
}

// Context returns a copy of parent that is canceled when the lock ends, as described at
// [Lock.Done]. errors.Is then finds ErrLockNotHeld in its context.Cause, whose text says why: the
// lock was released, is somebody else's, or was not refreshed in time because of the last error
// of the Redis client, which errors.Is finds too.
//
// The context of a nil lock is canceled from the start. Resources of the context are freed when
// the lock or parent ends.
func (l *Lock) Context(parent context.Context) context.Context {
	if l == nil {
		return canceled(parent, errNever)
	}
	ended := l.ended()
	if ended.Err() != nil {
		return canceled(parent, context.Cause(ended))
	}
	ctx, cancel := context.WithCancelCause(parent)
	stop := context.AfterFunc(ended, func() { cancel(context.Cause(ended)) })
	context.AfterFunc(ctx, func() { stop() })
	return ctx
}

func canceled(parent context.Context, cause error) context.Context {
	ctx, cancel := context.WithCancelCause(parent)
	cancel(cause)
	return ctx
}

// Do obtains the lock of the given key, runs fn while it holds it, and releases it, even if fn
// panics or calls runtime.Goexit. The context passed to fn is that of [Lock.Context]: it is
// canceled if the lock is lost, and fn should then return. Give opt a Watchdog if fn may take
// longer than ttl.
//
// If the lock cannot be obtained, fn does not run, and the error is that of [Client.Obtain].
// Otherwise Do returns fn's error. If the lock was lost before fn returned, that is joined with
// an error that says why, in which errors.Is finds ErrLockNotHeld. A release that Redis does not
// answer is not an error: the work is done, and the lock will expire.
func (c *Client) Do(ctx context.Context, key string, ttl time.Duration, opt *Options, fn func(ctx context.Context) error) (err error) {
	if fn == nil {
		return errors.New("redislock: Do needs a function to run: fn is nil")
	}
	lock, holding, err := c.obtainAndCount(ctx, []string{key}, ttl, opt)
	if err != nil {
		return err
	}
	held := lock.Context(holding)
	defer func() {
		if lost := lock.finish(ctx); lost != nil {
			err = errors.Join(err, lost)
		}
	}()
	return fn(held)
}

// finish releases the lock and returns why it was lost before, if it was.
func (l *Lock) finish(ctx context.Context) (lost error) {
	lost = context.Cause(l.ended())
	err := l.Release(ctx)
	if lost != nil {
		return lost
	}
	if err == ErrLockNotHeld {
		return errGone
	}
	if err != nil {
		l.log().Warn("redislock: lock could not be released", "keys", l.keys, "error", err)
	}
	return nil
}
