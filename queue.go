package redislock

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// leaveGrace is how long a caller whose waiting is over waits to be out of the queue.
const leaveGrace = 250 * time.Millisecond

// FairQueue waits in order: callers get the lock by time of first request (server clock), across all
// processes, and nobody polls. A release hands the lock to the next waiter in the same step, and a
// message wakes that waiter, so nobody can slip in between. Waiting ends with the context or, if
// the context has no deadline, when the TTL has passed since the call ([Options].MaxWait).
//
// All callers that compete for a lock should use FairQueue. Mixing it with other strategies is safe,
// but a caller without it may overtake the queue when there is room for it, and behind such a holder
// the queue moves on only within about a second of its release or expiry.
//
// A waiter whose process has died is skipped. One that hangs costs the others its TTL, once; one that
// has not been heard from for about 3 seconds costs nothing.
//
// Each client that waits has one more connection, for the messages; on Redis Cluster and on a Ring
// one for each key that it waits for. It is closed some seconds after it was last needed. Where none
// is possible (the user may not subscribe, the client has no Subscribe, a Cluster is older than
// 7.0), waiters ask every 50 ms instead, still in order.
//
// While somebody waits, there are two keys beside the lock's key K: {K}:redislock:queue and
// {K}:redislock:waiters. A K with a hash tag is not wrapped in braces, but followed by another colon.
// On Redis Cluster and on a Ring, a K with a closing brace must have a hash tag. An ACL must allow
// {K}:redislock:*, and the channels redislock:* (on Cluster and Ring {K}:redislock:*).
//
// FairQueue cannot keep the order in [Client.ObtainMulti] with several keys, or wrapped in
// [LimitRetry]: it then tries again about every 50 ms.
func FairQueue() RetryStrategy {
	return fairQueue{}
}

type fairQueue struct{}

// NextBackoff is for where there is no queue.
func (fairQueue) NextBackoff() time.Duration {
	return pollInterval/2 + rand.N(pollInterval)
}

// queueKeys are the keys that the scripts of the queue take. The fencing counter's may follow.
func queueKeys(key string) []string {
	prefix, _ := prefixOf(key)
	names := prefix + "holders" + prefix + "queue" + prefix + "waiters" // cut, for the sake of one allocation
	holders, rest := names[:len(prefix)+len("holders")], names[len(prefix)+len("holders"):]
	queue, waiters := rest[:len(prefix)+len("queue")], rest[len(prefix)+len("queue"):]
	return []string{key, holders, queue, waiters}
}

// fenceAt is where the key of the fencing counter is among the keys of a waiter.
const fenceAt = 4

func isFair(opt *Options) bool {
	_, fair := opt.retryStrategy().(fairQueue)
	return fair
}

// obtainInTurn is obtain for one key in a FairQueue.
func (s *server) obtainInTurn(ctx context.Context, c *Client, keys []string, ttl time.Duration, opt *Options, observed *observation) (_ *Lock, canceled bool, _ error) {
	if err := s.checkBeside(keys[0], "FairQueue"); err != nil {
		return nil, false, err
	}
	w := newWaiter(s.newClaim(c, keys, opt), ttl, opt)
	w.lock.waiter = w
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
	w.mu.Lock()
	defer w.unlock()
	w.becomeLocked(served)
	return &w.lock.Lock, false, nil
}

// await waits in the queue until the lock is held. If it fails it also reports whether
// that is because the waiting had to end.
func (w *waiter) await(ctx context.Context) (canceled bool, _ error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, w.ttl-(sinceEpoch()-w.since))
		defer cancel()
	}
	w.enqueue()
	for {
		select {
		case grant := <-w.grants:
			held, err := w.take(ctx, grant)
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
		}
	}
}

// fail ends a waiter after an error. It returns what endedBy does.
func (w *waiter) fail(ctx context.Context, err error) (canceled bool, _ error) {
	w.quit(!isUnconfirmed(err))
	return endedBy(ctx, err)
}

// ask asks from the caller's goroutine, and reports whether the lock is held.
func (w *waiter) ask(ctx context.Context) (held bool, _ error) {
	w.mu.Lock()
	call := w.askCallLocked()
	w.unlock()
	reply, err := call.run(ctx, w.lock.server())
	err = w.readReply(reply, err)
	w.mu.Lock()
	w.noteStrayLocked(call.sent, err)
	if err == nil && reply <= 0 {
		w.waitLocked(call.sent, reply)
	}
	w.unlock()
	if err != nil || reply <= 0 {
		return false, err
	}
	return w.hold(ctx, call.sent, reply)
}

// take makes the lock this waiter's own, now that it is its turn. It reports whether it
// is held.
func (w *waiter) take(ctx context.Context, grant grant) (held bool, _ error) {
	if grant.err != nil {
		return false, grant.err
	}
	// The TTL was set after the ask that the message refers to was sent: that much is
	// certain. If too much of it has gone since, or a fencing token is due, ask: now the
	// key has the value.
	stale := sinceEpoch()-grant.sent > w.ttl/10
	if !grant.told || !stale && len(w.keys) == fenceAt {
		return w.hold(ctx, grant.sent, grant.fence)
	}
	held, err := w.ask(ctx)
	if err != nil && !refused(err) && ctx.Err() == nil {
		// Redis does not answer. The lane keeps asking for a while.
		w.mu.Lock()
		defer w.unlock()
		w.hastenLocked(atOnce)
		return false, nil
	}
	return held, err
}

// hold notes that the key has the waiter's value, by a command sent at that time, and
// reports whether the lock is held.
func (w *waiter) hold(ctx context.Context, sent time.Duration, fence int64) (held bool, _ error) {
	lock := w.lock
	if lock.minReplicas > 0 {
		// Neither this waiter's command nor one that made it wait set the key.
		sent = sinceEpoch()
		reply, err := lock.refreshCall(w.ttl, false).run(ctx, lock.server())
		if err != nil || reply == 0 {
			return false, err
		}
	}
	lock.lease.begin(sent, w.ttl)
	if len(w.keys) > fenceAt {
		lock.fence = fence
	}
	return lock.lease.remaining() > 0, nil
}

// released notes that the lock was given back, or that giving it back was tried.
func (w *waiter) released() {
	w.mu.Lock()
	first := w.state == served
	strayed := w.strayUntil != 0
	if first {
		w.becomeLocked(done)
	}
	w.unlock()
	if first && strayed {
		w.leave()
	}
}

// forget removes the waiter, whose lock was lost, from its subscription.
func (w *waiter) forget() {
	w.mu.Lock()
	defer w.unlock()
	w.unsubscribeLocked()
}

// quit takes a waiter whose waiting is over out of the queue. It waits until that is done, but
// not for long, and not if an ask was lost.
func (w *waiter) quit(lost bool) {
	timer := time.NewTimer(leaveGrace)
	defer timer.Stop()
	idle := w.giveUp()
	left := w.leave()
	if lost {
		return
	}
	if idle != nil {
		// What is in flight may arrive after the leaving, and queue the waiter once more.
		select {
		case <-idle:
			left = w.leave()
		case <-timer.C:
			return
		}
	}
	select {
	case <-left:
	case <-timer.C:
	}
}
