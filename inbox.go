package redislock

import (
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// inboxIdle is how long a subscription stays after the last waiter has left it.
	inboxIdle = 3 * time.Second
	// inboxCheck is how often it is found out whether the connection is alive, and how
	// long an answer may take.
	inboxCheck = 3 * time.Second
	// inboxRetry is the time between attempts to connect anew.
	inboxRetry = 100 * time.Millisecond
	// inboxRefused is that time if the server would not have the subscription.
	inboxRefused = 10 * time.Second
)

// An inbox is a subscription by which waiters are told that the lock is theirs. A client
// of one server has one for all its waiters; where keys are spread over nodes, a message
// is published on the node of the lock's key, and there is one for each key.
type inbox struct {
	*background
	key     string // "" if it serves all keys
	server  *server
	channel string // after a letter that queue.lua knows the kind by

	// Guarded by the background's mutex.
	waiters   map[string]*waiter
	holders   map[string]*waiter // those that have their locks: a message may come twice
	sweepAt   int                // how many holders there are when those are forgotten whose locks have expired
	confirmed bool               // whether the subscription has been
	since     time.Duration      // since epoch: when it was last confirmed
	misheard  int                // how often, since a message came
	pubsub    *redis.PubSub
	renew     func() // has the subscription replaced by another
	idle      *time.Timer
	closed    chan struct{}
}

func (s *server) inboxKey(lock string) string {
	if s.sharded() {
		return lock
	}
	return ""
}

// openInbox gives the waiter an inbox, with its background locked. It has none if its client
// cannot subscribe.
func openInbox(w *waiter) {
	key := w.lock.server().inboxKey(w.lock.Key())
	b := w.inboxes[key]
	if b == nil {
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
			prefix, _ = queuePrefix(key)
			prefix += ":redislock:"
		}
		b = &inbox{
			background: w.background,
			key:        key,
			server:     w.lock.server(),
			channel:    kind + prefix + randomToken(),
			waiters:    make(map[string]*waiter),
			holders:    make(map[string]*waiter),
			closed:     make(chan struct{}),
		}
		b.idle = time.AfterFunc(inboxIdle, b.closeIfIdle)
		if w.inboxes == nil {
			w.inboxes = make(map[string]*inbox)
		}
		w.inboxes[key] = b
		go b.run(subscribe)
	}
	b.add(w)
}

// add lets a waiter use the inbox, with its background locked.
func (b *inbox) add(w *waiter) {
	b.waiters[w.id] = w
	w.inbox = b
	b.idle.Stop()
}

// serve notes that a waiter has the lock, with its background locked.
func (b *inbox) serve(w *waiter) {
	b.remove(w)
	w.inbox = b
	b.holders[w.id] = w
	if len(b.holders) >= b.sweepAt {
		maps.DeleteFunc(b.holders, func(_ string, w *waiter) bool { return w.lock.lease.remaining() < -undoGrace })
		b.sweepAt = max(64, 2*len(b.holders))
	}
}

// remove does away with a waiter, with its background locked.
func (b *inbox) remove(w *waiter) {
	delete(b.holders, w.id)
	delete(b.waiters, w.id)
	w.inbox = nil
	if len(b.waiters) == 0 && !isClosed(b.closed) {
		b.idle.Reset(inboxIdle)
	}
}

func (b *inbox) closeIfIdle() {
	b.mu.Lock()
	if len(b.waiters) > 0 {
		b.unlock()
		return
	}
	pubsub := b.close()
	b.unlock()
	if pubsub != nil {
		_ = pubsub.Close()
	}
}

// close makes the inbox unknown, with its background locked, and returns the subscription,
// which is the caller's to close.
func (b *inbox) close() *redis.PubSub {
	if !isClosed(b.closed) {
		close(b.closed)
	}
	b.confirmed = false
	b.idle.Stop()
	if b.inboxes[b.key] == b {
		delete(b.inboxes, b.key)
	}
	return b.pubsub
}

var errCannotSubscribe = errors.New("cannot subscribe")

// run receives messages until the inbox is closed, or the Redis client is.
func (b *inbox) run(subscribe subscribeFunc) {
	ctx := context.Background()
	for !isClosed(b.closed) {
		pubsub, err := subscribe(ctx, b.channel[1:])
		if err == nil {
			err = b.receive(pubsub)
		}
		if errors.Is(err, errCannotSubscribe) || errors.Is(err, redis.ErrClosed) {
			break
		}
		if err != nil {
			select {
			case <-b.closed:
			case <-time.After(inboxRetry):
			}
		}
		b.server.lookForNodes(ctx)
	}
	// If the Redis client was closed the waiters will hear of it when they ask.
	b.mu.Lock()
	b.close()
	b.unlock()
	b.askAll()
}

// receive receives messages until the subscription has to be replaced by another, or has
// failed: then it returns why.
func (b *inbox) receive(pubsub *redis.PubSub) error {
	defer pubsub.Close()
	var heard, dead atomic.Bool
	renew := func() {
		dead.Store(true)
		_ = pubsub.Close()
	}
	b.mu.Lock()
	b.pubsub, b.renew = pubsub, renew
	b.confirmed = false
	closed := isClosed(b.closed)
	b.unlock()
	if closed {
		return nil
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		ticker := time.NewTicker(inboxCheck)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
			}
			heard.Store(false)
			_ = pubsub.Ping(context.Background())
			select {
			case <-done:
				return
			case <-ticker.C:
			}
			if !heard.Load() {
				renew()
				return
			}
		}
	}()
	for failures := 0; ; {
		message, err := pubsub.Receive(context.Background())
		switch {
		case dead.Load():
			return nil
		case errors.Is(err, redis.ErrClosed):
			if b.server.sharded() {
				return errNodeClosed // and perhaps not the client of all nodes
			}
			return err
		case err != nil && answered(err):
			if _, moved := redis.IsMovedError(err); moved || !refused(err) {
				return err
			}
			// The connection stays: it ends with its client, and that is noticed.
			time.AfterFunc(inboxRefused, renew)
		case err != nil && b.server.sharded():
			return err // the node may not be the one for the key any more
		case err != nil:
			// It reconnects when asked again.
			if failures++; failures > 1 {
				time.Sleep(inboxRetry)
			}
			continue
		}
		failures = 0
		heard.Store(true)
		switch message := message.(type) {
		case *redis.Subscription:
			if message.Kind == "sunsubscribe" {
				return nil // the slot was moved to another node
			}
			b.confirm()
		case *redis.Message:
			b.deliver(message.Payload)
		}
	}
}

var errNodeClosed = errors.New("the node's client was closed")

// mishear notes that, after an ask, the server of the queue had nobody listening, with
// its background locked. The connection is broken, or it is one to another server: after a
// failover it may be to a replica, which passes on messages that nobody counts.
func (b *inbox) mishear(asked time.Duration) {
	if !b.confirmed || asked < b.since {
		return // that was before the subscription
	}
	b.confirmed = false
	wait := min(inboxRetry<<min(b.misheard, 10), inboxRefused)
	b.misheard++
	renew := b.renew
	time.AfterFunc(wait, func() {
		b.mu.Lock()
		confirmed := b.confirmed
		b.unlock()
		if !confirmed {
			renew()
		}
	})
}

// confirm notes that messages arrive from now on. Those before are lost, if the
// subscription was.
func (b *inbox) confirm() {
	b.mu.Lock()
	b.confirmed = !isClosed(b.closed)
	b.since = sinceEpoch()
	b.unlock()
	b.askAll()
}

// askAll has all waiters ask, one after the other.
func (b *inbox) askAll() {
	b.mu.Lock()
	defer b.unlock()
	due := sinceEpoch()
	for _, w := range b.waiters {
		// An ask that is under way will be followed by another. One that overtook it
		// would be undone by it.
		if w.underWay == 0 {
			w.hasten(due)
		}
		due += askGap
	}
}

// deliver wakes the waiter that a message is for.
func (b *inbox) deliver(message string) {
	h, ok := parseHandover(message)
	if !ok || h.sent > sinceEpoch() {
		return
	}
	b.mu.Lock()
	_, known := b.holders[h.id]
	if w := b.waiters[h.id]; w != nil && w.lock.text() == h.value && w.keys[0] == h.key {
		known = true
		w.tell(grant{sent: h.sent, told: true})
	}
	b.misheard = 0
	b.unlock()
	if !known {
		h.passOn(b.server)
	}
}

// processID tells the waiters of this process from those of others, waiterIDs from each other.
var (
	processID = randomToken() + "."
	waiterIDs atomic.Uint64
)

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

// leaving is the call that takes another out of the queue: the one by that identifier. If it
// has been handed the lock, that is passed on. unique is as a lock's.
func leaving(keys []string, value any, id string, unique bool) call {
	alone := 0
	if unique {
		alone = 1
	}
	return call{script: queueLeaveScript, keys: keys, args: []any{value, id, alone}}
}

// passOn takes the call out of the queue that the handover is for, and that is not there any more.
func (h handover) passOn(s *server) {
	s.undo(h.key, newUndo(leave, leaving(queueKeys(h.key), h.value, h.id, false), false))
}
