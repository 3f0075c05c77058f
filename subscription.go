package redislock

import (
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// subscriptionIdle is how long a subscription stays after the last waiter has left it.
	subscriptionIdle = 3 * time.Second
	// subscriptionCheck is how long a silence lasts before the connection is checked, and how
	// long the answer to that may take.
	subscriptionCheck = 3 * time.Second
	// subscriptionRetry is the time between attempts to reconnect.
	subscriptionRetry = 100 * time.Millisecond
	// subscriptionRefused is that time if the server refused the subscription.
	subscriptionRefused = 10 * time.Second
)

// A subscription receives the messages that tell waiters that the lock is theirs. A client of
// one server has one for all its waiters; where keys are spread over nodes, a message is published
// on the node of the lock's key, and there is a subscription for each key.
type subscription struct {
	*background
	key     string // "" if it serves all keys
	server  *server
	channel string // after a letter that tells queue.lua its kind

	// Guarded by the background's mutex.
	waiters      map[string]*waiter
	holders      map[string]*waiter // those that have their locks: a message may come twice
	sweepAt      int                // at how many holders those are forgotten whose locks have expired
	confirmed    bool               // by Redis
	since        time.Duration      // since epoch: when it was last confirmed
	unheardTimes int                // how often, since a message came
	pubsub       *redis.PubSub
	renew        func() // makes another replace the subscription
	idle         *time.Timer
	closed       chan struct{}
}

func (s *server) subscriptionKey(lock string) string {
	if s.sharded() {
		return lock
	}
	return ""
}

// subscribeLocked gives the waiter a subscription, with its background locked. There is none if the
// client cannot subscribe.
func subscribeLocked(w *waiter) {
	key := w.lock.server().subscriptionKey(w.lock.Key())
	s := w.subscriptions[key]
	if s == nil {
		subscribe, sharded := w.lock.server().subscribing()
		if subscribe == nil {
			return
		}
		kind := "p"
		if sharded {
			kind = "s"
		}
		prefix := "redislock:"
		if key != "" {
			prefix, _ = prefixOf(key)
		}
		s = &subscription{
			background: w.background,
			key:        key,
			server:     w.lock.server(),
			channel:    kind + prefix + randomToken(),
			waiters:    make(map[string]*waiter),
			holders:    make(map[string]*waiter),
			closed:     make(chan struct{}),
		}
		s.idle = time.AfterFunc(subscriptionIdle, s.closeIfIdle)
		if w.subscriptions == nil {
			w.subscriptions = make(map[string]*subscription)
		}
		w.subscriptions[key] = s
		go s.run(subscribe)
	}
	s.addLocked(w)
}

// addLocked lets a waiter use the subscription, with its background locked.
func (s *subscription) addLocked(w *waiter) {
	s.waiters[w.id] = w
	w.subscription = s
	s.idle.Stop()
}

// serveLocked notes that a waiter has the lock, with its background locked.
func (s *subscription) serveLocked(w *waiter) {
	s.removeLocked(w)
	w.subscription = s
	s.holders[w.id] = w
	if len(s.holders) >= s.sweepAt {
		maps.DeleteFunc(s.holders, func(_ string, w *waiter) bool { return w.lock.lease.remaining() < -undoGrace })
		s.sweepAt = max(64, 2*len(s.holders))
	}
}

// removeLocked removes a waiter, with its background locked.
func (s *subscription) removeLocked(w *waiter) {
	waited := s.waiters[w.id] != nil
	delete(s.holders, w.id)
	delete(s.waiters, w.id)
	w.subscription = nil
	if waited && len(s.waiters) == 0 && !isClosed(s.closed) {
		s.idle.Reset(subscriptionIdle)
	}
}

func (s *subscription) closeIfIdle() {
	s.mu.Lock()
	if len(s.waiters) > 0 {
		s.unlock()
		return
	}
	pubsub := s.closeLocked()
	s.unlock()
	if pubsub != nil {
		_ = pubsub.Close()
	}
}

// closeLocked ends the subscription, with its background locked. It returns what the caller must close.
func (s *subscription) closeLocked() *redis.PubSub {
	if !isClosed(s.closed) {
		close(s.closed)
	}
	s.confirmed = false
	s.idle.Stop()
	if s.subscriptions[s.key] == s {
		delete(s.subscriptions, s.key)
	}
	return s.pubsub
}

var errCannotSubscribe = errors.New("cannot subscribe")

// run receives messages until the subscription is closed, or the Redis client is.
func (s *subscription) run(subscribe subscribeFunc) {
	ctx := context.Background()
	for !isClosed(s.closed) {
		pubsub, err := subscribe(ctx, s.channel[1:])
		if err == nil {
			err = s.receive(pubsub)
		}
		if errors.Is(err, errCannotSubscribe) || errors.Is(err, redis.ErrClosed) {
			break
		}
		if err != nil {
			select {
			case <-s.closed:
			case <-time.After(subscriptionRetry):
			}
		}
		s.server.lookForNodes(ctx)
	}
	// If the Redis client was closed, the waiters notice when they ask.
	s.mu.Lock()
	s.closeLocked()
	s.unlock()
	s.askAll()
}

// receive receives messages until the subscription has to be replaced, or has failed; then it returns
// why.
func (s *subscription) receive(pubsub *redis.PubSub) error {
	defer pubsub.Close()
	var dead atomic.Bool
	renew := func() {
		dead.Store(true)
		_ = pubsub.Close()
	}
	s.mu.Lock()
	s.pubsub, s.renew = pubsub, renew
	s.confirmed = false
	closed := isClosed(s.closed)
	s.unlock()
	if closed {
		return nil
	}
	replied := false // to the subscribing: go-redis may reconnect without it
	for failures, pinged := 0, false; ; {
		message, err := pubsub.ReceiveTimeout(context.Background(), subscriptionCheck)
		var late net.Error
		switch {
		case dead.Load():
			return nil
		case errors.As(err, &late) && late.Timeout():
			if pinged || !replied {
				return errSilent
			}
			pinged = true
			_ = pubsub.Ping(context.Background())
			continue
		case errors.Is(err, redis.ErrClosed):
			if s.server.sharded() {
				return errNodeClosed // and perhaps not the client of all nodes
			}
			return err
		case err != nil && answered(err):
			if _, moved := redis.IsMovedError(err); moved || !refused(err) {
				return err
			}
			// The connection stays: it ends with its client, and that is noticed.
			replied = true
			time.AfterFunc(subscriptionRefused, renew)
		case err != nil && s.server.sharded():
			return err // the key may be on another node by now
		case err != nil:
			// It reconnects when asked again.
			if failures++; failures > 1 {
				time.Sleep(subscriptionRetry)
			}
			continue
		}
		failures, pinged = 0, false
		switch message := message.(type) {
		case *redis.Subscription:
			if message.Kind == "sunsubscribe" {
				return nil // the slot was moved to another node
			}
			replied = true
			s.confirm()
		case *redis.Message:
			s.deliver(message.Payload)
		}
	}
}

var errNodeClosed = errors.New("the node's client was closed")

// noteUnheardLocked notes that nobody listened at the queue's server after an ask, with its background
// locked. The connection is broken, or goes to another server: after a failover it may go to a
// replica, which passes messages on without counting their receivers.
func (s *subscription) noteUnheardLocked(asked time.Duration) {
	if !s.confirmed || asked < s.since {
		return // that was before the subscription
	}
	s.confirmed = false
	wait := min(subscriptionRetry<<min(s.unheardTimes, 10), subscriptionRefused)
	s.unheardTimes++
	renew := s.renew
	time.AfterFunc(wait, func() {
		s.mu.Lock()
		confirmed := s.confirmed
		s.unlock()
		if !confirmed {
			renew()
		}
	})
}

// confirm notes that messages arrive from now on. Earlier ones are lost if the subscription was.
func (s *subscription) confirm() {
	s.mu.Lock()
	s.confirmed = !isClosed(s.closed)
	s.since = sinceEpoch()
	s.unlock()
	s.askAll()
}

// askAll makes all waiters ask, one after the other.
func (s *subscription) askAll() {
	s.mu.Lock()
	defer s.unlock()
	due := sinceEpoch()
	for _, w := range s.waiters {
		// After an ask that is in flight comes another. One that overtook it would be undone
		// by it.
		if w.underWay == 0 {
			w.hastenLocked(due)
		}
		due += askGap
	}
}

// deliver wakes the waiter that a message is for.
func (s *subscription) deliver(message string) {
	h, ok := parseHandover(message)
	if !ok || h.sent > sinceEpoch() {
		return
	}
	s.mu.Lock()
	_, known := s.holders[h.id]
	if w := s.waiters[h.id]; w != nil && w.lock.text() == h.value && w.keys[0] == h.key {
		known = true
		w.tell(grant{sent: h.sent, told: true})
	}
	s.unheardTimes = 0
	s.unlock()
	if !known {
		h.passOn(s.server)
	}
}

// processID distinguishes the waiters of this process from those of others, waiterIDs from each other.
var (
	processID = randomToken() + "."
	waiterIDs atomic.Uint64
)

// A ticket comes back with a handover: it says whom the handover is for, and which of the waiter's
// asks the server had seen by then. A message may be late: after a pause of this process, its lock
// may be gone, and the waiter in the queue again. The key is the one by which this process knows
// the lock; a client may change it on its way to the server.
func (h handover) ticket() string {
	unique := ":"
	if h.unique {
		unique = "u:"
	}
	return h.id + ":" + strconv.FormatInt(int64(h.sent), 10) + ":" + strconv.Itoa(int(h.limit)) + unique +
		base64.RawURLEncoding.EncodeToString([]byte(h.key))
}

// A handover is a message from queue.lua.
type handover struct {
	id     string
	sent   time.Duration
	limit  int32 // as a claim's
	unique bool  // as a lock's
	key    string
	value  string
}

func parseHandover(message string) (h handover, ok bool) {
	id, rest, ok1 := strings.Cut(message, ":")
	sent, rest, ok2 := strings.Cut(rest, ":")
	limit, rest, ok3 := strings.Cut(rest, ":")
	encoded, value, ok4 := strings.Cut(rest, " ")
	limit, unique := strings.CutSuffix(limit, "u")
	moment, err1 := strconv.ParseInt(sent, 10, 64)
	most, err2 := strconv.ParseInt(limit, 10, 32)
	key, err3 := base64.RawURLEncoding.DecodeString(encoded)
	if !ok1 || !ok2 || !ok3 || !ok4 || errors.Join(err1, err2, err3) != nil || len(key) == 0 {
		return handover{}, false
	}
	return handover{id: id, sent: time.Duration(moment), limit: int32(most), unique: unique, key: string(key), value: value}, true
}

// leaving is the call that takes another out of the queue: the one by that identifier. If it
// has been handed the lock, that is passed on. unique is as a lock's, limit as a claim's.
func leaving(keys []string, value any, id string, unique bool, limit int32) call {
	alone := 0
	if unique {
		alone = 1
	}
	args := []any{value, id, alone}
	if limit != exclusiveLimit {
		args = append(args, limit)
	}
	return call{script: queueLeaveScript, keys: keys, args: args}
}

// passOn takes the call that the handover is for, and that is gone, out of the queue.
func (h handover) passOn(s *server) {
	s.undo(h.key, newUndo(leave, leaving(queueKeys(h.key), h.value, h.id, h.unique, h.limit), false))
}
