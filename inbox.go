package redislock

import (
	"context"
	"errors"
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
	key     inboxKey
	client  *Client
	channel string // after a letter that queue.lua knows the kind by

	// Guarded by waiting.mu.
	waiters   map[uint64]*waiter
	confirmed bool          // whether the subscription has been
	since     time.Duration // since epoch: when it was last confirmed
	pubsub    *redis.PubSub
	idle      *time.Timer
	closed    chan struct{}
}

type inboxKey struct {
	client any
	key    string // "" if one serves all keys
}

func inboxKeyOf(lock *Lock) inboxKey {
	key := inboxKey{client: identity(lock.Client)}
	if lock.sharded() {
		key.key = lock.keys[0]
	}
	return key
}

// openInbox gives the waiter an inbox, with waiting.mu held. It has none if its client
// cannot subscribe.
func openInbox(w *waiter) {
	key := inboxKeyOf(w.lock)
	b := waiting.inboxes[key]
	if b == nil {
		subscribe, sharded := w.lock.subscriber()
		if subscribe == nil {
			return
		}
		kind := "p"
		if sharded {
			kind = "s"
		}
		prefix := "redislock:"
		if key.key != "" {
			prefix, _ = queuePrefix(key.key)
			prefix += ":redislock:"
		}
		b = &inbox{
			key:     key,
			client:  w.lock.Client,
			channel: kind + prefix + randomToken(),
			waiters: make(map[uint64]*waiter),
			closed:  make(chan struct{}),
		}
		b.idle = time.AfterFunc(inboxIdle, b.closeIfIdle)
		if waiting.inboxes == nil {
			waiting.inboxes = make(map[inboxKey]*inbox)
		}
		waiting.inboxes[key] = b
		go b.run(subscribe)
	}
	b.add(w)
}

// add lets a waiter use the inbox, with waiting.mu held.
func (b *inbox) add(w *waiter) {
	b.waiters[w.id] = w
	w.inbox = b
	b.idle.Stop()
}

// remove does away with a waiter, with waiting.mu held.
func (b *inbox) remove(w *waiter) {
	delete(b.waiters, w.id)
	w.inbox = nil
	if len(b.waiters) == 0 {
		b.idle.Reset(inboxIdle)
	}
}

func (b *inbox) closeIfIdle() {
	waiting.mu.Lock()
	if len(b.waiters) > 0 {
		waiting.mu.Unlock()
		return
	}
	pubsub := b.close()
	waiting.mu.Unlock()
	if pubsub != nil {
		_ = pubsub.Close()
	}
}

// close makes the inbox unknown, with waiting.mu held, and returns the subscription,
// which is the caller's to close.
func (b *inbox) close() *redis.PubSub {
	if !isClosed(b.closed) {
		close(b.closed)
	}
	b.confirmed = false
	b.idle.Stop()
	if waiting.inboxes[b.key] == b {
		delete(waiting.inboxes, b.key)
	}
	return b.pubsub
}

// run receives messages until the inbox is closed, or the Redis client is.
func (b *inbox) run(subscribe func(ctx context.Context, channel string) *redis.PubSub) {
	for again := true; again && !isClosed(b.closed); {
		var wait time.Duration
		wait, again = b.receive(subscribe(context.Background(), b.channel[1:]))
		select {
		case <-b.closed:
		case <-time.After(wait):
		}
	}
	// If the Redis client was closed the waiters will hear of it when they ask.
	waiting.mu.Lock()
	b.close()
	waiting.mu.Unlock()
	b.askAll()
}

// receive receives messages. It reports whether and when to subscribe anew. Without a
// subscription there is nothing to receive.
func (b *inbox) receive(pubsub *redis.PubSub) (wait time.Duration, again bool) {
	if pubsub == nil {
		return 0, false
	}
	defer pubsub.Close()
	waiting.mu.Lock()
	b.pubsub = pubsub
	b.confirmed = false
	closed := isClosed(b.closed)
	waiting.mu.Unlock()
	if closed {
		return 0, false
	}
	var heard, dead atomic.Bool
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
				dead.Store(true)
				_ = pubsub.Close()
				return
			}
		}
	}()
	for failures := 0; ; {
		message, err := pubsub.Receive(context.Background())
		switch {
		case dead.Load():
			return 0, true
		case errors.Is(err, redis.ErrClosed):
			return 0, false
		case err != nil && answered(err):
			if _, moved := redis.IsMovedError(err); moved || !refused(err) {
				return inboxRetry, true
			}
			// The connection stays: it ends with its client, and that is noticed.
			time.AfterFunc(inboxRefused, func() {
				dead.Store(true)
				_ = pubsub.Close()
			})
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
				return 0, true // the slot was moved to another node
			}
			b.confirm()
		case *redis.Message:
			b.deliver(message.Payload)
		}
	}
}

// confirm notes that messages arrive from now on. Those before are lost, if the
// subscription was.
func (b *inbox) confirm() {
	waiting.mu.Lock()
	b.confirmed = !isClosed(b.closed)
	b.since = sinceEpoch()
	waiting.mu.Unlock()
	b.askAll()
}

// askAll has all waiters ask, one after the other.
func (b *inbox) askAll() {
	waiting.mu.Lock()
	waiters := make([]*waiter, 0, len(b.waiters))
	for _, w := range b.waiters {
		waiters = append(waiters, w)
	}
	waiting.mu.Unlock()

	schedule.mu.Lock()
	defer schedule.mu.Unlock()
	now := sinceEpoch()
	for i, w := range waiters {
		// An ask that is under way will be followed by another. One that overtook it
		// would be undone by it.
		if w.underWay == 0 {
			w.hasten(now + time.Duration(i)*askGap)
		}
	}
}

// deliver wakes the waiter that a message is for.
func (b *inbox) deliver(message string) {
	h, ok := parseHandover(message)
	if !ok || h.sent > sinceEpoch() {
		return
	}
	waiting.mu.Lock()
	w := b.waiters[h.id]
	known := w != nil && w.lock.text() == h.value && w.keys[0] == h.key
	if known {
		w.tell(turn{sent: h.sent, told: true})
	}
	waiting.mu.Unlock()
	if !known {
		absent(b.client, h).leave(false)
	}
}

// absent returns a waiter in place of one that is not there any more.
func absent(c *Client, h handover) *waiter {
	lock := &Lock{Client: c, keys: []string{h.key}, value: h.value}
	w := newWaiter(lock, orphanTimeout, &Options{Token: h.value})
	w.state = gone
	return w
}
