package verify

import (
	"strings"
	"time"
)

// checkOrder checks that nobody was passed over who has waited for longer and was not disturbed.
func (s *simulation) checkOrder(c *simCall) {
	if !c.style.fair || c.since.IsZero() {
		return
	}
	lock := s.servers[0].lock(c.turn.Key)
	for other := range s.calls {
		if other.turn.Key == c.turn.Key && other.waits() && !lock.hasLetIn(other) && other.since.Before(c.since) && !other.style.token &&
			other.calmSince().Add(simSettled).Before(other.since) {
			s.violationLocked("out of order", c.turn.Key, "worker %d, who first asked at %v, before worker %d at %v",
				c.turn.Worker, s.onClock(c.since), other.turn.Worker, s.onClock(other.since))
		}
	}
}

// calmSince is since when nothing has kept the call from its turn. A connection that hangs does so
// if the Redis client waits for it longer than the lock lives.
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
	return c.turn.Obtain.To == 0 && !c.since.IsZero() && !c.gone && !c.w.p.dead.Load() && c.ctx.Err() == nil
}

// asks records that a server runs an ask for a place in its queue.
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

// leaves records that a server has taken a call out of the queue, or passed on its lock.
func (s *simulation) leaves(value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.callOf(value); c != nil {
		delete(s.toLeave, c)
		c.gone = true
	}
}

// callOf returns the only call that has the value; nil if there is none.
func (s *simulation) callOf(value string) *simCall {
	if i := strings.LastIndex(value, simCallPrefix); i >= 0 {
		return s.byValue[value[i:]]
	}
	return nil
}

// checkLeft checks that an ask which arrived after its call was over has been followed by a script
// that undoes it.
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

// checkWaiting checks that no lock lies idle while somebody waits for it in order.
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

// checkHandedOver checks that no lock is held for a call that is over, or for a process that had
// died or had not been heard from when the lock was handed to it.
func (s *simulation) checkHandedOver() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.servers) > 1 {
		return
	}
	now := time.Now()
	for _, style := range s.styles {
		for _, c := range s.ended {
			left := s.leftOf(c, style)
			if left == 0 || c.turn.Token != "" {
				continue
			}
			set := now.Add(left - c.ttl)
			switch {
			case c.w.p.dead.Load():
				p := c.w.p
				known := p.died.Add(4 * time.Second) // not heard from for that long
				if !p.machine && s.disturbedAll.Before(p.died) && later(p.disturbed.Add(simSettled), c.since.Add(2*time.Second)).Before(p.died) {
					known = p.died.Add(100 * time.Millisecond) // the server has seen its connections end
				}
				if s.servers[0].lastSet().After(c.since) {
					continue // the clock decides who has been heard from
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

// leftOf returns the TTL of the lock that a server holds for a call; 0 if it does not, or that
// cannot be told.
func (s *simulation) leftOf(c *simCall, style simStyle) time.Duration {
	if c.value == "" || c.style.name != style.name {
		return 0
	}
	for _, h := range s.servers[0].holders(style.key()) {
		if strings.HasSuffix(h.value, c.value) {
			return h.left
		}
	}
	return 0
}

// checkHandover checks that a lock that was released has come, in the same step, to this call,
// which waited for it.
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
