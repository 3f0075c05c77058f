package verify

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bsm/redislock"
)

// A simCall is one call that obtains a lock, and what is done with that lock. It is guarded
// by the mutex of its simulation, but for what only its worker uses.
type simCall struct {
	w        *simWorker
	style    simStyle
	kind     kind
	ttl      time.Duration
	watchdog redislock.Watchdog
	atLeast  time.Duration // HoldAtLeast
	atMost   time.Duration // HoldAtMost
	turn     turn
	keys     []string        // turn.Key first
	lock     *redislock.Lock // nil: it waits; its worker's alone, and set before it is held
	held     context.Context // for which it is held inside Do, in place of lock
	ctx      context.Context // of obtaining
	since    time.Time       // of its first ask at the server; zero: none has arrived
	value    string          // that its value in Redis ends with; "" if others have that too
	fence    int64           // the greatest that there was before it
	over     bool            // it does not believe that it holds the lock any more
	forgot   bool            // to release it
	gone     bool            // out of the queue
	asked    time.Time       // at the server, when it was over; zero: it has left since
}

func (c *simCall) s() *simulation { return c.w.s }

// begin notes that the call is about to be made.
func (c *simCall) begin(ctx context.Context) {
	s := c.s()
	s.mu.Lock()
	defer s.mu.Unlock()
	c.ctx = ctx
	c.turn.Obtain.From = s.now()
	c.fence = s.fences[c.turn.Key].number
	s.calls[c] = struct{}{}
	if c.value != "" {
		s.byValue[c.value] = c
	}
}

// obtained records how it ended.
func (c *simCall) obtained(lock *redislock.Lock, err error) {
	if err != nil {
		c.failed(err)
		return
	}
	c.succeeded(func() {
		c.lock = lock
		c.turn.Token, c.turn.Fence = lock.Token(), lock.FenceToken()
	})
	c.check()
}

// done records that Do has obtained the lock.
func (c *simCall) done(held context.Context) {
	c.succeeded(func() {
		c.held = held
		c.turn.Token = fmt.Sprintf("in Do of worker %d", c.turn.Worker)
	})
}

func (c *simCall) failed(err error) {
	s := c.s()
	s.mu.Lock()
	defer s.mu.Unlock()
	c.turn.Obtain.To, c.turn.Obtain.Err = s.now(), err.Error()
	c.turn.Refused = strings.Contains(err.Error(), redislock.ErrNotObtained.Error())
	s.finish(c)
}

// succeeded checks what must hold at the moment at which a lock is obtained.
func (c *simCall) succeeded(note func()) {
	s := c.s()
	s.mu.Lock()
	defer s.mu.Unlock()
	note()
	c.turn.Obtain.To = s.now()
	if c.w.p.dead.Load() {
		return
	}
	key := c.turn.Key
	holders, others := []kind{c.kind}, ""
	for other := range s.calls {
		if other != c && other.shares(c) && other.believes() && other.turn.Token != c.turn.Token {
			holders = append(holders, other.kind)
			others += fmt.Sprintf("; worker %d holds it (%v) until %v", other.turn.Worker, other.kind, other.validUntil())
		}
	}
	if what := conflict(holders); what != "" {
		s.violationLocked(what, key, "worker %d obtains it (%v)%s", c.turn.Worker, c.kind, others)
	}
	if until := s.keptUntil[key]; time.Now().Before(until) {
		s.violationLocked("not held for its least", key, "worker %d obtains it %v too early", c.turn.Worker, time.Until(until))
	}
	s.checkFence(c)
	s.checkOrder(c)
	s.checkHandover(c)
	s.released[key] = time.Time{}
}

// checkFence checks that a fencing token is new. One of several holders may learn of its own token after
// another has learned of a greater one.
func (s *simulation) checkFence(c *simCall) {
	if c.turn.Fence == 0 {
		return
	}
	last := s.fences[c.turn.Key]
	least := last.number
	if c.kind.Shared || c.kind.Limit > 1 {
		least = c.fence
	}
	if c.turn.Fence <= least && c.turn.Token != last.token {
		s.violationLocked(fenceNotNew, c.turn.Key, "%d after %d", c.turn.Fence, least)
	}
	for other := range s.calls {
		if other != c && other.turn.Key == c.turn.Key && other.turn.Fence == c.turn.Fence && other.turn.Token != c.turn.Token {
			s.violationLocked(fenceNotNew, c.turn.Key, "%d twice", c.turn.Fence)
		}
	}
	if c.turn.Fence > last.number {
		s.fences[c.turn.Key] = simFence{c.turn.Fence, c.turn.Token}
	}
}

// shares reports whether two calls have a key in common.
func (c *simCall) shares(other *simCall) bool {
	return slices.ContainsFunc(c.keys, func(key string) bool { return slices.Contains(other.keys, key) })
}

// believes reports whether the caller may believe that it holds the lock.
func (c *simCall) believes() bool {
	switch {
	case c.over || c.w.p.dead.Load():
		return false
	case c.held != nil:
		return c.held.Err() == nil
	case c.lock != nil:
		return time.Now().Before(c.lock.ValidUntil())
	default:
		return false
	}
}

func (c *simCall) validUntil() string {
	if c.lock == nil {
		return "Do returns"
	}
	return fmt.Sprint(c.s().onClock(c.lock.ValidUntil()))
}

// ends records that the caller no longer believes that it holds the lock.
func (c *simCall) ends() {
	s := c.s()
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.lock != nil {
		c.turn.ValidUntil = s.onClock(c.lock.ValidUntil())
	} else {
		c.turn.ValidUntil = s.now()
	}
	c.turn.Release.From = s.now()
	if c.believes() && !c.style.bound && len(s.servers[0].holders(c.turn.Key)) <= 1 {
		s.released[c.turn.Key] = time.Now()
	}
	s.finish(c)
}

// watchDone times the end of the lock in a goroutine that does nothing else.
func (c *simCall) watchDone() {
	done := c.lock.Done()
	go func() {
		<-done
		now := time.Now()
		s := c.s()
		s.mu.Lock()
		defer s.mu.Unlock()
		if c.over || c.w.p.dead.Load() {
			return
		}
		c.turn.Done = s.onClock(now)
		cause := context.Cause(c.lock.Context(context.Background()))
		if late := now.Sub(c.lock.ValidUntil()); late > 0 && !strings.Contains(cause.Error(), "gone") {
			s.violationLocked(doneLate, c.turn.Key, "worker %d: by %v", c.turn.Worker, late)
		}
		overdue := strings.Contains(cause.Error(), "HoldAtMost")
		expired := overdue || strings.Contains(cause.Error(), "not refreshed")
		calm := now.Sub(s.calmSince(c.w.p))
		kept := c.watchdog != nil && !overdue && calm > 2*c.ttl+simPatience && !(c.style.brief && now.Sub(c.w.p.lastStale()) <= c.ttl)
		if kept || !expired && s.holds(c) {
			s.violationLocked(lostNoReason, c.turn.Key, "worker %d, calm for %v, held in Redis: %v: %v",
				c.turn.Worker, calm, s.holds(c), cause)
		}
	}()
}

// check looks into the servers: while a holder believes in its lock, they must agree.
func (c *simCall) check() {
	s := c.s()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !c.believes() {
		return
	}
	if longest := c.turn.Obtain.To + c.atMost; c.atMost > 0 && s.onClock(c.lock.ValidUntil()) > longest {
		s.violationLocked("held for too long", c.turn.Key, "worker %d until %v, at most %v", c.turn.Worker, c.validUntil(), longest)
	}
	if !s.holds(c) {
		s.violationLocked("believed but not held", c.turn.Key, "worker %d until %v: %s", c.turn.Worker, c.validUntil(), s.inRedis(c.turn.Key))
	}
}

// holds reports whether Redis holds the call's lock for as long as its holder believes.
func (s *simulation) holds(c *simCall) bool {
	left := time.Until(c.lock.ValidUntil())
	agree := 0
	for _, server := range s.servers {
		all := true
		for _, key := range c.lock.Keys() {
			all = all && slices.ContainsFunc(server.holders(key), func(h simHolder) bool {
				return h.value == c.lock.Token()+c.lock.Metadata() && h.left >= left
			})
		}
		if all {
			agree++
		}
	}
	return agree > len(s.servers)/2
}

func (s *simulation) inRedis(key string) string {
	var all []string
	for _, server := range s.servers {
		for _, h := range server.holders(key) {
			all = append(all, fmt.Sprintf("%q (%v) for %v", h.value, h.kind, h.left))
		}
	}
	return strings.Join(all, ", ")
}

// runs records a script that a server runs.
func (s *simulation) runs(server *simServer, script simScript, run func()) {
	s.remember(script)
	switch script.name {
	case "queue_ask":
		s.asks(script.args[0])
		s.moves(server, script, run)
	case "release_keep":
		run()
		s.leaves(script.args[0])
	case "queue_leave", "queue_release":
		s.moves(server, script, run)
		s.leaves(script.args[0])
	case "release_by_token", "holders_obtain", "holders_refresh", "holders_release":
		s.moves(server, script, run)
	case "quorum_heal":
		server.counts(script, run)
		s.checkHealed(server, script.keys[0], script.args[0], script.args[1])
	case "quorum_obtain", "refresh":
		server.counts(script, run)
	case "quorum_undo":
		s.checkUndone(server, script, run)
	default:
		run()
	}
}

// remember records a script for the history.
func (s *simulation) remember(script simScript) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scripts = append(s.scripts, fmt.Sprintf("%14.6f Redis runs %s of %q for %q", s.now().Seconds(), script.name, script.keys[0], script.args))
	if len(s.scripts) > 2*simRemembered {
		s.scripts = append(s.scripts[:0], s.scripts[simRemembered:]...)
	}
}

// checkHealed checks that a node was not given a lock that had been released before. A node
// accepts the command that heals only for a limited time.
func (s *simulation) checkHealed(server *simServer, key, value, ttl string) {
	const accepted = 300 * time.Millisecond
	now, left := server.holds(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if now != value || fmt.Sprint(left.Round(time.Millisecond).Milliseconds()) != ttl || time.Since(server.lastSet()) < simUnderWay {
		return // it was refused, or the server's clock cannot tell
	}
	for _, c := range s.ended {
		if c.lock != nil && c.lock.Token()+c.lock.Metadata() == value && c.turn.Release.made() && s.now() > c.turn.Release.From+accepted && !c.style.token {
			s.violationLocked("healed after its release", key, "worker %d", c.turn.Worker)
		}
	}
}

// stays records that Redis has confirmed the release of a lock that HoldAtLeast still keeps.
func (c *simCall) stays() {
	s := c.s()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keptUntil[c.turn.Key] = s.start.Add(c.turn.Obtain.To + c.atLeast)
}

// finish moves a call that is over to the history.
func (s *simulation) finish(c *simCall) {
	if c.over {
		return
	}
	c.over = true
	if _, running := s.calls[c]; running {
		delete(s.calls, c)
		s.ended = append(s.ended, c)
	}
	if len(s.ended) > 2*simRemembered {
		s.ended = append(s.ended[:0], s.ended[simRemembered:]...)
	}
	s.report.countCall(c)
}

// violation records a broken promise.
func (s *simulation) violation(kind, key, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.violationLocked(kind, key, format, args...)
}

func (s *simulation) violationLocked(kind, key, format string, args ...any) {
	s.violations = append(s.violations, violation{kind, key, s.now(), fmt.Sprintf(format, args...)})
	if len(s.violations) == 1 {
		for _, script := range s.scripts {
			if strings.Contains(script, fmt.Sprintf("%q", key)) {
				s.log = append(s.log, script)
			}
		}
	}
}

// turns returns what happened to a key, including calls that have not ended.
func (s *simulation) turns(key string) []turn {
	var turns []turn
	add := func(c *simCall) {
		if c.turn.Key != key {
			return
		}
		t := c.turn
		if !c.over && c.lock != nil {
			t.ValidUntil = s.onClock(c.lock.ValidUntil())
		}
		turns = append(turns, t)
	}
	for _, c := range s.ended {
		add(c)
	}
	for c := range s.calls {
		add(c)
	}
	slices.SortFunc(turns, func(a, b turn) int { return int(a.Obtain.From - b.Obtain.From) })
	return turns
}
