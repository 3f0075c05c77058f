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
	over     bool            // it does not believe that it holds the lock any more
	forgot   bool            // to release it
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
	s.calls[c] = struct{}{}
	if c.value != "" {
		s.byValue[c.value] = c
	}
}

// obtained takes in how it ended.
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

// done takes in that Do has obtained the lock.
func (c *simCall) done(held context.Context) {
	c.succeeded(func() {
		c.held = held
		c.turn.Token = "in Do"
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

// succeeded checks what has to hold at the moment at which a lock is obtained.
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
	for other := range s.calls {
		if other != c && other.shares(c) && other.believes() && other.turn.Token != c.turn.Token {
			s.violationLocked(twoHolders, key, "worker %d obtains it while worker %d holds it until %v",
				c.turn.Worker, other.turn.Worker, other.validUntil())
		}
	}
	if c.turn.Fence > 0 {
		if last := s.fences[key]; c.turn.Fence <= last.number && c.turn.Token != last.token {
			s.violationLocked(fenceNotNew, key, "%d after %d", c.turn.Fence, last.number)
		}
		s.fences[key] = simFence{c.turn.Fence, c.turn.Token}
	}
	if until := s.keptUntil[key]; time.Now().Before(until) {
		s.violationLocked("not held for its least", key, "worker %d obtains it %v too early", c.turn.Worker, time.Until(until))
	}
	s.checkOrder(c)
	s.checkHandover(c)
	s.released[key] = time.Time{}
}

// shares reports whether two calls have a key in common.
func (c *simCall) shares(other *simCall) bool {
	return slices.ContainsFunc(c.keys, func(key string) bool { return slices.Contains(other.keys, key) })
}

// believes reports whether the caller may take the lock for its own.
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

// ends notes that the caller does not believe any more.
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
	if c.believes() && !c.style.bound {
		s.released[c.turn.Key] = time.Now()
	}
	s.finish(c)
}

// watchDone has the end of the lock timed by somebody who does nothing else.
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
		overdue := strings.Contains(cause.Error(), "held for its longest")
		expired := overdue || strings.Contains(cause.Error(), "not refreshed")
		calm := now.Sub(s.calmSince(c.w.p))
		kept := c.watchdog != nil && !overdue && calm > 2*c.ttl+simPatience && !(c.style.brief && now.Sub(c.w.p.lastStale()) <= c.ttl)
		if kept || !expired && s.holds(c) {
			s.violationLocked(lostNoReason, c.turn.Key, "worker %d, calm for %v, held in Redis: %v: %v",
				c.turn.Worker, calm, s.holds(c), cause)
		}
	}()
}

// check looks into the servers: while a holder believes, they have to agree with it.
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
			value, ttl := server.holds(key)
			all = all && value == c.lock.Token()+c.lock.Metadata() && ttl >= left
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
		value, ttl := server.holds(key)
		all = append(all, fmt.Sprintf("%q for %v", value, ttl))
	}
	return strings.Join(all, ", ")
}

// checkOrder finds out whether anybody has been passed over who has waited for longer and was
// not disturbed.
func (s *simulation) checkOrder(c *simCall) {
	if !c.style.fair || c.since.IsZero() {
		return
	}
	for other := range s.calls {
		if other.turn.Key == c.turn.Key && other.waits() && other.since.Before(c.since) && !other.style.token &&
			other.calmSince().Add(simSettled).Before(other.since) {
			s.violationLocked("out of order", c.turn.Key, "worker %d, who first asked at %v, before worker %d at %v",
				c.turn.Worker, s.onClock(c.since), other.turn.Worker, s.onClock(other.since))
		}
	}
}

// calmSince is since when nothing has kept the call from its turn. A connection that hangs does
// if the Redis client waits on it for longer than the lock lives.
func (c *simCall) calmSince() time.Time {
	calm := c.s().calmSince(c.w.p)
	if c.ttl <= simPatience {
		calm = later(calm, c.w.p.hung)
	}
	return calm
}

// waits reports whether the call is in a queue.
func (c *simCall) waits() bool {
	if _, ok := c.ctx.Deadline(); !ok && c.s().now() >= c.turn.Obtain.From+c.ttl {
		return false
	}
	return c.turn.Obtain.To == 0 && !c.since.IsZero() && !c.w.p.dead.Load() && c.ctx.Err() == nil
}

// runs takes in a script that a server runs.
func (s *simulation) runs(server *simServer, script simScript, run func()) {
	s.remember(script)
	switch script.name {
	case "queue_ask":
		s.asks(script.args[0])
		run()
	case "queue_leave", "queue_release", "release_keep":
		run()
		s.leaves(script.args[0])
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

// remember notes a script for the history.
func (s *simulation) remember(script simScript) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scripts = append(s.scripts, fmt.Sprintf("%14.6f Redis runs %s of %q for %q", s.now().Seconds(), script.name, script.keys[0], script.args))
	if len(s.scripts) > 2*simRemembered {
		s.scripts = append(s.scripts[:0], s.scripts[simRemembered:]...)
	}
}

// asks notes that a server runs an ask for a place in its queue.
func (s *simulation) asks(value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.callOf(value)
	switch {
	case c == nil:
	case c.over:
		if s.now() < max(c.turn.Obtain.To, c.turn.Release.From)+simReckoned {
			c.asked = time.Now()
			s.toLeave[c] = struct{}{}
		}
	case c.since.IsZero():
		c.since = time.Now()
	}
}

// leaves notes that a server has run what takes a call out of the queue, or passes on its lock.
func (s *simulation) leaves(value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.callOf(value); c != nil {
		delete(s.toLeave, c)
	}
}

// callOf returns the call whose value that is alone; nil if there is none.
func (s *simulation) callOf(value string) *simCall {
	if i := strings.LastIndex(value, simCallPrefix); i >= 0 {
		return s.byValue[value[i:]]
	}
	return nil
}

// checkLeft finds out whether what asked for a place in a queue when its call was over has
// been followed by what undoes that.
func (s *simulation) checkLeft() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.toLeave {
		p := c.w.p
		switch {
		case p.dead.Load() || c.forgot:
			delete(s.toLeave, c)
		case time.Since(later(c.asked, p.disturbed)) > simLeaves:
			delete(s.toLeave, c)
			s.violationLocked("did not leave", c.turn.Key, "worker %d, an ask of whose call came at %v, which was over: %v",
				c.turn.Worker, s.onClock(c.asked), c.turn)
		}
	}
}

// checkHealed finds out whether a node has been given a lock that was released before the
// command to do so could still be accepted.
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

// checkWaiting finds out whether a lock lies idle while somebody waits for it in order.
func (s *simulation) checkWaiting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for c := range s.calls {
		if c.believes() {
			s.lastHeld[c.turn.Key] = now
		}
	}
	for c := range s.calls {
		if !c.style.fair || c.turn.Obtain.To != 0 || c.w.p.dead.Load() {
			continue
		}
		idle := now.Sub(later(later(s.lastHeld[c.turn.Key], s.calmSince(nil)), s.start.Add(c.turn.Obtain.From)))
		if idle > simLongestTTL+simSettled {
			s.violationLocked(notServed, c.turn.Key, "worker %d waits; nobody has held the lock for %v: %s",
				c.turn.Worker, idle, s.inRedis(c.turn.Key))
			s.lastHeld[c.turn.Key] = now
		}
	}
}

// stays notes that Redis has confirmed the release of a lock that nobody may have before its time.
func (c *simCall) stays() {
	s := c.s()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keptUntil[c.turn.Key] = s.start.Add(c.turn.Obtain.To + c.atLeast)
}

// checkHandedOver finds out whether a lock is held for a call that is over, or for a process
// that had died or not been heard of when it was handed the lock.
func (s *simulation) checkHandedOver() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.servers) > 1 {
		return
	}
	now := time.Now()
	for _, style := range s.styles {
		value, left := s.servers[0].holds(style.key())
		if value == "" {
			continue
		}
		for _, c := range s.ended {
			if c.value == "" || !strings.HasSuffix(value, c.value) || c.turn.Token != "" {
				continue
			}
			set := now.Add(left - c.ttl)
			switch {
			case c.w.p.dead.Load():
				p := c.w.p
				known := p.died.Add(4 * time.Second) // not heard of for so long
				if !p.machine && s.disturbedAll.Before(p.died) && later(p.disturbed.Add(simSettled), c.since.Add(2*time.Second)).Before(p.died) {
					known = p.died.Add(100 * time.Millisecond) // the server has seen its connections end
				}
				if s.servers[0].lastSet().After(c.since) {
					continue // who is heard of goes by the clock
				}
				if style.fair && set.After(known) {
					s.violationLocked("handed to the dead", style.key(), "worker %d, %v after its death", c.turn.Worker, set.Sub(c.w.p.died))
				}
			case now.Sub(later(set, s.calmSince(c.w.p))) > 3*time.Second:
				s.violationLocked("lock without a holder", style.key(), "set %v ago for %v", now.Sub(set), c.turn)
			}
		}
	}
}

// checkHandover finds out whether a lock that was given back has come to this call, which
// waited for it, in the same step.
func (s *simulation) checkHandover(c *simCall) {
	released := s.released[c.turn.Key]
	if !c.style.fair || c.since.IsZero() || released.IsZero() || len(s.servers) > 1 {
		return
	}
	calm := later(s.calmSince(nil), s.slowed).Add(simSettled)
	// Who has no channel yet, and dies, is alive until the clock says that it is not.
	calm = later(calm, s.servers[0].lastSet().Add(simClockStep+simSettled))
	for _, p := range s.processes {
		calm = later(calm, p.started.Add(simSettled))
	}
	if idle := time.Since(released); calm.Before(released) && c.since.Add(time.Second).Before(released) && idle > 100*time.Millisecond {
		s.violationLocked("handed over late", c.turn.Key, "to worker %d, who first asked at %v, %v after its release",
			c.turn.Worker, s.onClock(c.since), idle)
	}
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

// violation notes that a promise was not kept.
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

// turns returns what happened to a key, calls that go on included.
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
