package redislock

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// askInterval is how often a waiter says that it is still there.
	askInterval = time.Second
	// pollInterval is how often one asks that no message can reach.
	pollInterval = 50 * time.Millisecond
	// askGap is between the asks of all waiters of this process on average, at least.
	askGap = time.Millisecond
	// leastWait is between two asks of one waiter because of a TTL that ends.
	leastWait = 10 * time.Millisecond
	// askPatience is how long a waiter goes on asking a server that does not answer.
	askPatience = 10 * time.Second
	// leaveGrace is how long a caller whose waiting is over stays until it is out of
	// the queue.
	leaveGrace = 250 * time.Millisecond
	// unheard is what a reply is less if nobody listens to the waiter's channel.
	unheard = 1e15
	// maxLeaving is how many failed calls are taken out of the queues of a server at a time.
	maxLeaving = 4096
)

// FairQueue waits in order: callers get the lock in the order in which they first asked
// for it, over all processes, and nobody polls. A release hands the lock to the next
// waiter in the same step, and a message wakes that waiter, so that nobody can slip in
// between. It waits until the context ends; without a deadline, until the TTL has passed
// since the call.
//
// All that contend for a lock in order have to use FairQueue. It is safe to mix with
// others: a caller without it may overtake the queue when the lock is free, and behind
// such a holder the queue moves on within about a second of its release or expiry.
//
// A waiter whose process has died is skipped. One that hangs costs the others its TTL,
// once; one that has not been heard of for about 3 seconds nothing.
//
// Each client that waits has one more connection, for the messages; on Redis Cluster one
// for each key that it waits for. It is closed some seconds after it was last needed.
// Where there can be none (the user may not subscribe, the client has no Subscribe, a
// Cluster is older than 7.0) waiters ask every 50 ms instead, still in order.
//
// Beside the lock's key K there are two more while somebody waits, {K}:redislock:queue
// and {K}:redislock:waiters; a K with a hash tag is not put in braces but followed by a
// colon. On Redis Cluster and on a Ring a K with a closing brace must have a hash tag.
//
// In [Client.ObtainMulti] with several keys, and where it is wrapped in [LimitRetry], it
// cannot keep the order: it tries again every 50 ms or so.
func FairQueue() RetryStrategy {
	return fairQueue{}
}

type fairQueue struct{}

// NextBackoff is for where there is no queue.
func (fairQueue) NextBackoff() time.Duration {
	return pollInterval/2 + rand.N(pollInterval)
}

// queuePrefix is what the names of a queue's keys begin with, so that they are in the
// lock's slot. No two locks have the same. It is not in the slot, and that is false, if
// the key has a brace that ends the tag too early.
func queuePrefix(key string) (prefix string, sameSlot bool) {
	if hashTag(key) != key {
		return key + ":", true
	}
	return "{" + key + "}", !strings.Contains(key, "}")
}

// queueKeys are the keys that the scripts of the queue take.
func queueKeys(key string) []string {
	prefix, _ := queuePrefix(key)
	return []string{key, prefix + ":redislock:queue", prefix + ":redislock:waiters"}
}

// waiting is all that waits in this process. Its mutex guards the inboxes and the state of
// waiters too. Who needs both locks schedule.mu first.
var waiting struct {
	mu      sync.Mutex
	inboxes map[inboxKey]*inbox
	ids     uint64 // of the waiters so far
	count   int    // of waiters in a queue
}

// A waiter is a caller that wants a lock in its turn.
//
// Whatever Redis may have been told of a waiter in its absence is undone: a handover that
// arrives when it is gone is answered by leaving the queue, which passes the lock on, and
// so is an ask of it that turns out to have been under way.
type waiter struct {
	task
	keys  []string // as queue_ask.lua takes them
	ttl   time.Duration
	since time.Duration // since epoch: when it first asked
	turn  chan turn     // holds one

	// Guarded by waiting.mu.
	id         string // of this call, in all processes
	inbox      *inbox // nil if no message can come
	servedBy   *inbox // that it had when it was served; nil once the lock has ended
	state      waiterState
	asked      bool          // whether an ask ended that may have come after the release
	holderEnds time.Duration // since epoch: when the TTL of the lock's holder will be over
	failing    time.Duration // since epoch: since when asks fail
	failed     bool          // whether they do
	asks       int           // under way from the lane
	left       chan struct{} // closed once the leaving was answered
	strays     bool          // whether an ask that has ended may yet come into effect
	strayUntil time.Duration // since epoch: what is sent and answered after that comes behind it
	lingers    time.Duration // since epoch: until when the waiter leaves again
	until      time.Duration // since epoch: when leaving is given up
	retry      time.Duration // the last wait because of a failure, or to leave again
}

// untilAnswered is a time that is set when Redis answers.
const untilAnswered = time.Duration(math.MaxInt64)

type waiterState int

const (
	asking  waiterState = iota // for the first time
	queued                     // asks again from its lane
	served                     // has the lock, or had it
	leaving                    // is being taken out of the queue
	gone
)

// A turn is the end of a waiter's waiting.
type turn struct {
	sent  time.Duration // since epoch: when the ask was sent from which the TTL counts
	fence int64
	told  bool // by a message
	err   error
}

func newWaiter(lock *Lock, ttl time.Duration, opt *Options) *waiter {
	w := &waiter{
		keys:  queueKeys(lock.keys[0]),
		ttl:   ttl.Truncate(time.Millisecond),
		since: sinceEpoch(),
		turn:  make(chan turn, 1),
	}
	w.task = newTask(w, lock, askInterval, 2*askInterval)
	if opt.FenceKey != "" {
		w.keys = append(w.keys, opt.FenceKey)
	}
	return w
}

func isFair(opt *Options) bool {
	_, fair := opt.retryStrategy().(fairQueue)
	return fair
}

// obtainInTurn is obtain for one key in a FairQueue.
func (c *Client) obtainInTurn(ctx context.Context, key string, ttl time.Duration, opt *Options, observed *observation) (_ *Lock, canceled bool, _ error) {
	if _, sameSlot := queuePrefix(key); !sameSlot && c.sharded() {
		return nil, false, fmt.Errorf("redislock: key %q cannot be queued for: because of its "+
			"closing brace the queue would be in another slot; give it a {hash tag}", key)
	}
	lock := newLock(c, []string{key}, opt)
	w := newWaiter(lock, ttl, opt)
	lock.waiter = w
	w.listen()

	held, err := w.ask(ctx)
	switch {
	case err != nil:
		canceled, err = w.fail(ctx, err)
	case !held:
		stats.backoff.Add(1)
		observed.waits()
		canceled, err = w.await(ctx)
	}
	if err != nil {
		return nil, canceled, err
	}
	w.serve()
	return lock, false, nil
}

// await waits in the queue until the lock is held. If it fails it also reports whether
// that is because the waiting had to end.
func (w *waiter) await(ctx context.Context) (canceled bool, _ error) {
	var end <-chan time.Time // never, if the context has a deadline
	if _, ok := ctx.Deadline(); !ok {
		timer := time.NewTimer(w.ttl - (sinceEpoch() - w.since))
		defer timer.Stop()
		end = timer.C
	}
	w.enqueue()
	for {
		select {
		case turn := <-w.turn:
			held, err := w.take(ctx, turn)
			if err != nil {
				canceled, err = w.fail(ctx, err)
				if canceled {
					err = errors.Join(ErrNotObtained, err)
				}
				return canceled, err
			}
			if held {
				return false, nil
			}
		case <-ctx.Done():
			w.quit(false)
			return true, errors.Join(ErrNotObtained, ctx.Err())
		case <-end:
			w.quit(false)
			return true, errors.Join(ErrNotObtained, context.DeadlineExceeded)
		}
	}
}

// fail ends a waiter that met with an error. It returns what endedBy does.
func (w *waiter) fail(ctx context.Context, err error) (canceled bool, _ error) {
	w.quit(!isUnconfirmed(err))
	return endedBy(ctx, err)
}

// ask asks from the caller's goroutine, and reports whether the lock is held.
func (w *waiter) ask(ctx context.Context) (held bool, _ error) {
	call := w.askCall()
	reply, err := w.lock.run(ctx, call.script, call.keys, call.args...)
	waiting.mu.Lock()
	w.stray(call.sent, err)
	if err == nil && reply <= 0 {
		w.wait(call.sent, reply)
	}
	waiting.mu.Unlock()
	if err != nil || reply <= 0 {
		return false, err
	}
	return w.hold(ctx, call.sent, reply)
}

// take makes the lock this waiter's own, now that it is its turn. It reports whether it
// is held.
func (w *waiter) take(ctx context.Context, turn turn) (held bool, _ error) {
	if turn.err != nil {
		return false, turn.err
	}
	// The TTL was set after the ask that the message refers to was sent: that much is
	// certain. If too much of it has gone since, or a fencing token is due, ask: now the
	// key has the value.
	stale := sinceEpoch()-turn.sent > w.ttl/10
	if !turn.told || !stale && len(w.keys) == 3 {
		return w.hold(ctx, turn.sent, turn.fence)
	}
	held, err := w.ask(ctx)
	if err != nil && !refused(err) && ctx.Err() == nil {
		// Redis does not answer. The asking from the lane goes on for a while.
		schedule.mu.Lock()
		defer schedule.mu.Unlock()
		w.hasten(atOnce)
		return false, nil
	}
	return held, err
}

// hold notes that the key has the waiter's value, by a command sent at that time, and
// reports whether the lock is held.
func (w *waiter) hold(ctx context.Context, sent time.Duration, fence int64) (held bool, _ error) {
	lock := w.lock
	if lock.minReplicas > 0 {
		// It was not this waiter's command, or one that made it wait, that set the key.
		sent = sinceEpoch()
		reply, err := lock.renew(ctx, w.ttl, false)
		if err != nil || reply == 0 {
			return false, err
		}
	}
	lock.lease.begin(sent, w.ttl)
	if len(w.keys) == 4 {
		lock.fence = fence
	}
	return lock.lease.remaining() > 0, nil
}

// wait takes in a reply that says to wait, with waiting.mu held.
func (w *waiter) wait(sent time.Duration, reply int64) {
	if reply <= -unheard {
		reply += unheard
		if w.inbox != nil {
			w.inbox.mishear(sent)
		}
	}
	w.holderEnds = sinceEpoch() + time.Duration(-reply)*time.Millisecond + time.Millisecond
}

// listen lets messages reach the waiter from now on if its client has a confirmed
// subscription. It comes before the first ask: the handover may be faster than the reply.
func (w *waiter) listen() {
	key := inboxKeyOf(w.lock)
	waiting.mu.Lock()
	defer waiting.mu.Unlock()
	waiting.ids++
	w.id = processID + strconv.FormatUint(waiting.ids, 36)
	if b := waiting.inboxes[key]; b != nil && b.confirmed {
		b.add(w)
	}
}

// enqueue has the waiter asked for from its lane.
func (w *waiter) enqueue() {
	key := laneKeyOf(w.lock)
	defer lockWaiter()()
	listened := w.inbox != nil
	if !listened {
		openInbox(w)
	}
	w.state = queued
	waiting.count++
	due := w.nextAsk()
	if !listened && w.canBeTold() {
		due = atOnce // meanwhile the subscription was confirmed
	}
	w.start(key, due)
}

// canBeTold reports whether a message can reach the waiter, with waiting.mu held.
func (w *waiter) canBeTold() bool {
	return w.inbox != nil && w.inbox.confirmed
}

// askEvery is the time between two asks, with waiting.mu held.
func (w *waiter) askEvery() time.Duration {
	every := pollInterval
	if w.canBeTold() {
		every = askInterval
	}
	return max(every, time.Duration(waiting.count)*askGap)
}

// nextAsk is when to ask again, with waiting.mu held.
func (w *waiter) nextAsk() time.Duration {
	now := sinceEpoch()
	due := now + early(w.askEvery())
	if w.holderEnds < due {
		due = max(w.holderEnds, now+max(leastWait, time.Duration(waiting.count)*askGap))
	}
	return due
}

// askCall is the next ask.
func (w *waiter) askCall() call {
	waiting.mu.Lock()
	defer waiting.mu.Unlock()
	var channel string
	if w.canBeTold() {
		channel = w.inbox.channel
	}
	alive := max(3*w.askEvery(), time.Second)
	now := sinceEpoch()
	waited := now - w.since
	if w.state == asking {
		waited = 0
	}
	return call{
		script: queueAskScript,
		keys:   w.keys,
		args: []any{
			w.lock.value, w.ttl.Milliseconds(), w.lock.tokenArg(), alive.Milliseconds(),
			waited.Microseconds(), ticket(w.id, now, w.keys[0]), channel,
		},
		sent: now,
	}
}

func (w *waiter) leaveCall() call {
	unique := 0
	if w.lock.unique {
		unique = 1
	}
	return call{script: queueLeaveScript, keys: w.keys[:3], args: []any{w.lock.value, w.id, unique}, sent: sinceEpoch()}
}

// serve ends the waiting of a waiter that has the lock.
func (w *waiter) serve() {
	defer lockWaiter()()
	if w.inbox != nil {
		w.inbox.serve(w)
	}
	w.unlist(served)
	w.stop()
}

// lockWaiter locks what guards a waiter and its task, so that its state changes together
// with what is to be done.
func lockWaiter() (unlock func()) {
	schedule.mu.Lock()
	waiting.mu.Lock()
	return func() {
		waiting.mu.Unlock()
		schedule.mu.Unlock()
	}
}

// unlist changes the waiter's state to one in which it does not wait any more, with
// schedule.mu and waiting.mu held.
func (w *waiter) unlist(state waiterState) {
	if w.inbox != nil {
		w.inbox.remove(w)
	}
	if w.state == queued {
		waiting.count--
	}
	if w.state == leaving {
		w.lane.leaving--
	}
	w.state = state
}

// leave takes the waiter out of the queue in the background. If it has been handed the
// lock, that is passed on. An ask that was lost may still be under way: then it leaves
// again for a while.
func (w *waiter) leave() {
	key := laneKeyOf(w.lock)
	defer lockWaiter()()
	if l := schedule.lanes[key]; l != nil && w.state != queued && l.leaving >= maxLeaving {
		w.unlist(gone)
		w.stop()
		return
	}
	w.unlist(leaving)
	now := sinceEpoch()
	w.until = now + orphanTimeout
	w.lingers = now
	if w.strays {
		w.lingers = untilAnswered
	}
	w.retry = 0
	if w.left == nil {
		w.left = make(chan struct{})
	}
	if w.index < 0 {
		w.start(key, atOnce)
	} else {
		w.hasten(atOnce)
	}
	w.lane.leaving++
}

// quit leaves, and waits until that is done, but not for long, and not if an ask was lost.
func (w *waiter) quit(lost bool) {
	w.leave()
	if lost {
		return
	}
	timer := time.NewTimer(leaveGrace)
	defer timer.Stop()
	select {
	case <-w.left:
	case <-timer.C:
	}
}

func (w *waiter) begin() (call, bool) {
	waiting.mu.Lock()
	state := w.state
	if state == queued {
		w.asks++
	}
	waiting.mu.Unlock()
	switch state {
	case queued:
		return w.askCall(), true
	case leaving:
		return w.leaveCall(), true
	default:
		return call{}, false
	}
}

func (w *waiter) end(call call, reply int64, err error) {
	if call.script == queueLeaveScript {
		w.endLeave(call.sent, err)
	} else {
		w.endAsk(call.sent, reply, err)
	}
}

func (w *waiter) endAsk(sent time.Duration, reply int64, err error) {
	waiting.mu.Lock()
	w.asks--
	w.stray(sent, err)
	state := w.state
	switch state {
	case queued:
		w.answered(sent, reply, err)
	case served:
		// It may come after a release that is under way: then that is the time to look.
		w.asked = w.asked || w.lock.lease.remaining() <= 0
	}
	waiting.mu.Unlock()

	// An ask that was under way when the waiting ended may have queued the waiter, or
	// taken the lock, once more. Not while its holder has it: then there is no place to
	// be had, and nothing to be taken.
	if state == leaving || state == gone {
		w.leave()
	}
}

// stray notes, with waiting.mu held, that an ask may yet come if it was not answered, or late.
// That may be when the lock has been obtained by another, and released: it would be taken for
// nobody.
func (w *waiter) stray(sent time.Duration, err error) {
	now := sinceEpoch()
	switch {
	case err != nil && !refused(err) || now-sent >= slowReply:
		w.strays, w.strayUntil = true, now+orphanGrace
	case sent > w.strayUntil:
		w.strays = false
	}
}

// released notes that the lock was given back, or that it was tried.
func (w *waiter) released() {
	w.forget()
	waiting.mu.Lock()
	first := w.state == served // a second release must not stop the leaving
	asked := w.asked || w.strays
	if first {
		w.state = gone
	}
	waiting.mu.Unlock()
	if first && asked {
		w.leave()
	}
}

// forget has the inbox not know the waiter any more, whose lock has ended.
func (w *waiter) forget() {
	waiting.mu.Lock()
	defer waiting.mu.Unlock()
	if w.servedBy != nil {
		delete(w.servedBy.served, w.id)
		w.servedBy = nil
	}
}

// answered takes in how an ask of a queued waiter ended, with waiting.mu held.
func (w *waiter) answered(sent time.Duration, reply int64, err error) {
	switch {
	case err == nil && reply > 0:
		w.tell(turn{sent: sent, fence: reply})
	case err == nil:
		w.failed, w.retry = false, 0
		w.wait(sent, reply)
	case refused(err) || errors.Is(err, redis.ErrClosed):
		w.tell(turn{err: err})
	case !w.failed:
		w.failed, w.failing = true, sinceEpoch()
	case sinceEpoch()-w.failing > askPatience:
		w.tell(turn{err: err})
	}
}

// tell wakes the caller, unless there is news for it already.
func (w *waiter) tell(turn turn) {
	select {
	case w.turn <- turn:
	default:
	}
}

func (w *waiter) endLeave(sent time.Duration, err error) {
	defer lockWaiter()()
	if w.state != leaving {
		return // another has seen to it
	}
	now := sinceEpoch()
	final := err != nil && (refused(err) || errors.Is(err, redis.ErrClosed))
	if err == nil && w.lingers == untilAnswered {
		w.lingers = now + orphanGrace // while Redis is silent an ask that strays waits, too
	}
	over := now >= w.until || final || err == nil && sent >= w.lingers
	if over {
		w.unlist(gone)
		w.stop()
	}
	// An ask that is under way may come after this and queue the waiter once more. Its end
	// is followed by another leave.
	if (over || err == nil) && w.asks == 0 && !isClosed(w.left) {
		close(w.left)
	}
}

func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

func (w *waiter) next(call call, err error) (due time.Duration, ok bool) {
	waiting.mu.Lock()
	defer waiting.mu.Unlock()
	asked := call.script == queueAskScript
	if w.state == queued && err == nil {
		if w.canBeTold() && call.sent < w.inbox.since {
			// It may have told the server that no message can reach this waiter, or a
			// message may have been lost after it.
			return atOnce, true
		}
		return w.nextAsk(), true
	}
	if w.state == leaving && asked {
		return 0, false // the leaving has its own time
	}
	w.retry = min(max(2*w.retry, 20*time.Millisecond), askInterval)
	return sinceEpoch() + w.retry/2 + rand.N(w.retry), true
}

// processID tells the waiters of this process from those of others.
var processID = randomToken() + "."

// A ticket is what a handover brings back: whom it is for, and which of its asks the
// server had seen by then. A message may be late: after a pause of this process the lock
// that it is about may be gone, and the waiter be in the queue again. The key is the one
// that this process knows the lock by; a client may have changed it on its way to the server.
func ticket(id string, sent time.Duration, key string) string {
	return id + ":" + strconv.FormatInt(int64(sent), 10) + ":" + base64.RawURLEncoding.EncodeToString([]byte(key))
}

// A handover is a message from queue.lua.
type handover struct {
	id    string
	sent  time.Duration
	key   string
	value string
}

func parseHandover(message string) (h handover, ok bool) {
	id, rest, ok1 := strings.Cut(message, ":")
	sent, rest, ok2 := strings.Cut(rest, ":")
	encoded, value, ok3 := strings.Cut(rest, " ")
	moment, err1 := strconv.ParseInt(sent, 10, 64)
	key, err2 := base64.RawURLEncoding.DecodeString(encoded)
	if !ok1 || !ok2 || !ok3 || errors.Join(err1, err2) != nil || len(key) == 0 {
		return handover{}, false
	}
	return handover{id: id, sent: time.Duration(moment), key: string(key), value: value}, true
}
