package redislock

import (
	"errors"
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// askInterval is how often a waiter reports that it is still there.
	askInterval = time.Second
	// pollInterval is how often a waiter asks that no message can reach.
	pollInterval = 50 * time.Millisecond
	// askGap is the least average time between the asks of all waiters of a Redis client.
	askGap = time.Millisecond
	// leastWait is the least time between two asks of one waiter because of a TTL that ends.
	leastWait = 10 * time.Millisecond
	// askPatience is how long a waiter keeps asking a server that does not answer.
	askPatience = 10 * time.Second
	// unheard is what a reply is less if nobody listens to the waiter's channel.
	unheard = 1e15
	// otherKindWaits is the reply if the lock is held by the other kind of several holders.
	otherKindWaits = -2e15
)

// A waiter is a caller that wants a lock in its turn.
//
// What Redis does for a waiter that is gone is undone: leaving the queue, which passes the lock on,
// answers a handover that arrives then, and an ask that turns out to have been in flight.
type waiter struct {
	task
	lock   *singleClaim
	keys   []string // as queue_ask.lua takes them
	ttl    time.Duration
	since  time.Duration // since epoch: when it first asked
	grants chan grant    // holds one

	*background                // set before the first ask, and locked for what follows
	id           string        // of this call, in all processes
	subscription *subscription // nil if no message can come
	state        waiterState
	holderEnds   time.Duration // since epoch: when the TTL of the lock's holder will be over
	failingSince time.Duration // since epoch: when asks began to fail; 0: they do not
	strayUntil   time.Duration // since epoch: an ask that has ended may come until then; 0: none may
	retry        time.Duration // the last wait because of a failure
}

type waiterState int

const (
	asking waiterState = iota // for the first time
	queued                    // asks again from its lane
	served                    // has the lock, or had it and has not released it
	done
)

// A grant is the end of a waiter's waiting.
type grant struct {
	sent  time.Duration // since epoch: when the ask was sent from which the TTL counts
	fence int64
	told  bool // by a message
	err   error
}

func newWaiter(lock *singleClaim, ttl time.Duration, opt *Options) *waiter {
	w := &waiter{
		lock:   lock,
		keys:   queueKeys(lock.keys[0]),
		ttl:    ttl.Truncate(time.Millisecond),
		since:  sinceEpoch(),
		grants: make(chan grant, 1),
	}
	w.task = newTask(w, askInterval, 2*askInterval)
	if opt.FenceKey != "" {
		w.keys = append(w.keys, opt.FenceKey)
	}
	return w
}

// readReply returns err, or the error that the reply to an ask stands for.
func (w *waiter) readReply(reply int64, err error) error {
	if err == nil && reply == otherKindWaits {
		return w.lock.otherKind()
	}
	return err
}

// waitLocked handles a reply that says to wait, with its background locked.
func (w *waiter) waitLocked(sent time.Duration, reply int64) {
	if reply <= -unheard {
		reply += unheard
		if w.subscription != nil {
			w.subscription.noteUnheardLocked(sent)
		}
	}
	w.holderEnds = sinceEpoch() + time.Duration(-reply)*time.Millisecond + time.Millisecond
}

// listen lets messages reach the waiter from now on if its client has a confirmed
// subscription. It comes before the first ask: the handover may be faster than the reply.
func (w *waiter) listen() {
	w.id = processID + strconv.FormatUint(waiterIDs.Add(1), 36)
	w.background = lockBackground(w.lock.server())
	defer w.unlock()
	w.background.asking++
	if subscription := w.subscriptions[w.lock.server().subscriptionKey(w.lock.Key())]; subscription != nil && subscription.confirmed {
		subscription.addLocked(w)
	}
}

// enqueue makes the waiter's lane ask for it.
func (w *waiter) enqueue() {
	key := w.lock.server().laneKey(w.lock.Key(), false)
	w.mu.Lock()
	defer w.unlock()
	listened := w.subscription != nil
	if !listened {
		subscribeLocked(w)
	}
	w.becomeLocked(queued)
	due := w.nextAskLocked()
	if !listened && w.canBeToldLocked() {
		due = atOnce // the subscription was confirmed meanwhile
	}
	w.startLocked(w.openLaneLocked(key), due)
}

// becomeLocked changes the waiter's state, with its background locked.
func (w *waiter) becomeLocked(state waiterState) {
	switch w.state {
	case asking:
		w.background.asking--
	case queued:
		w.background.queued--
	}
	w.state = state
	switch state {
	case queued:
		w.background.queued++
		return
	case served:
		if w.subscription != nil {
			w.subscription.serveLocked(w)
		}
	case done:
		w.unsubscribeLocked()
	}
	w.stopLocked()
}

func (w *waiter) unsubscribeLocked() {
	if w.subscription != nil {
		w.subscription.removeLocked(w)
	}
}

// giveUp ends the waiting. From now on a leave follows each ask that ends. It returns a channel that is
// closed after the last ask in flight, or nil if there is none.
func (w *waiter) giveUp() (idle <-chan struct{}) {
	w.mu.Lock()
	defer w.unlock()
	w.becomeLocked(done)
	if w.underWay > 0 {
		w.idle = make(chan struct{})
	}
	return w.idle
}

// leave takes the waiter out of the queue in the background. If it has been handed the
// lock, that is passed on. The channel that it returns is closed after the first attempt.
func (w *waiter) leave() (tried <-chan struct{}) {
	key := w.lock.server().laneKey(w.lock.Key(), false)
	// If this is another than the waiter's, that has closed, and nobody else knows the waiter.
	b := lockBackground(w.lock.server())
	defer b.unlock()
	return w.leaveLocked(b.openLaneLocked(key))
}

// leaveLocked leaves, with the background of the lane locked. It is repeated if an ask that has ended
// may yet come into effect.
func (w *waiter) leaveLocked(lane *lane) (tried <-chan struct{}) {
	most := maxUndos[leave]
	if w.lane != nil {
		most = math.MaxInt // it was queued, and others would wait for it
	}
	call := leaving(w.keys[:fenceAt], w.lock.value(), w.id, w.lock.unique, w.lock.limit)
	return newUndo(leave, call, w.strayUntil != 0).startLocked(lane, most)
}

// canBeToldLocked reports whether a message can reach the waiter, with its background locked.
func (w *waiter) canBeToldLocked() bool {
	return w.subscription != nil && w.subscription.confirmed
}

// askEveryLocked is the time between two asks, with its background locked.
func (w *waiter) askEveryLocked() time.Duration {
	every := pollInterval
	if w.canBeToldLocked() {
		every = askInterval
	}
	return max(every, time.Duration(w.background.queued)*askGap)
}

// nextAskLocked is when to ask again, with its background locked.
func (w *waiter) nextAskLocked() time.Duration {
	now := sinceEpoch()
	due := now + early(w.askEveryLocked())
	if w.holderEnds < due {
		due = max(w.holderEnds, now+max(leastWait, time.Duration(w.background.queued)*askGap))
	}
	return due
}

// askCallLocked is the next ask, with its background locked.
func (w *waiter) askCallLocked() call {
	var channel string
	if w.canBeToldLocked() {
		channel = w.subscription.channel
	}
	alive := max(3*w.askEveryLocked(), time.Second)
	now := sinceEpoch()
	waited := now - w.since
	if w.state == asking {
		waited = 0
	}
	args := []any{
		w.lock.value(), w.ttl.Milliseconds(), w.lock.tokenArg(), alive.Milliseconds(),
		waited.Microseconds(), w.handover(now).ticket(), channel,
	}
	if w.lock.severalHolders() {
		args = append(args, w.lock.limit)
	}
	return call{script: queueAskScript, keys: w.keys, args: args, sent: now}
}

// handover is what a message will say that answers an ask.
func (w *waiter) handover(asked time.Duration) handover {
	return handover{id: w.id, sent: asked, limit: w.lock.limit, unique: w.lock.unique, key: w.keys[0]}
}

func (w *waiter) begin() (call, bool) {
	w.mu.Lock()
	defer w.unlock()
	if w.state != queued {
		return call{}, false
	}
	return w.askCallLocked(), true
}

func (w *waiter) end(call call, reply int64, err error) {
	err = w.readReply(reply, err)
	w.mu.Lock()
	defer w.unlock()
	w.noteStrayLocked(call.sent, err)
	switch {
	case w.state == queued:
		w.answeredLocked(call.sent, reply, err)
	case w.state == served:
		// It may arrive after a release that is in flight: then it is time to look.
		// Not while the holder has the lock: there is no place to be had then, and nothing
		// to be taken.
		if w.lock.lease.remaining() <= 0 {
			w.strayUntil = sinceEpoch() + undoGrace
		}
	default:
		// It was in flight when the waiting ended, and may have queued the waiter, or taken
		// the lock, once more.
		w.leaveLocked(w.lane)
	}
}

// noteStrayLocked notes, with its background locked, that an ask may yet take effect because it was not
// answered, or answered late. If another caller has obtained and released the lock by then, the ask
// would take it for nobody.
func (w *waiter) noteStrayLocked(sent time.Duration, err error) {
	now := sinceEpoch()
	switch {
	case err != nil && !refused(err) || now-sent >= slowReply:
		w.strayUntil = now + undoGrace
	case sent > w.strayUntil:
		w.strayUntil = 0
	}
}

// answeredLocked handles the answer to an ask of a queued waiter, with its background locked.
func (w *waiter) answeredLocked(sent time.Duration, reply int64, err error) {
	now := sinceEpoch()
	switch {
	case err == nil && reply > 0:
		w.tell(grant{sent: sent, fence: reply})
	case err == nil:
		w.failingSince, w.retry = 0, 0
		w.waitLocked(sent, reply)
	case refused(err) || errors.Is(err, redis.ErrClosed):
		w.tell(grant{err: err})
	case w.failingSince == 0:
		w.failingSince = now
	case now-w.failingSince > askPatience:
		w.tell(grant{err: err})
	}
}

// tell wakes the caller, unless it has been woken already.
func (w *waiter) tell(grant grant) {
	select {
	case w.grants <- grant:
	default:
	}
}

func (w *waiter) nextLocked(call call, err error) (due time.Duration, ok bool) {
	if err != nil {
		w.retry = min(max(2*w.retry, 20*time.Millisecond), askInterval)
		return sinceEpoch() + w.retry/2 + rand.N(w.retry), true
	}
	if w.canBeToldLocked() && call.sent < w.subscription.since {
		// It may have told the server that no message can reach this waiter, or a
		// message may have been lost after it.
		return atOnce, true
	}
	return w.nextAskLocked(), true
}
