package verify

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bsm/redislock"
)

// A simHolder is one holder of a lock, according to Redis.
type simHolder struct {
	kind
	value string
	left  time.Duration
}

// A simLock is all that Redis has of a lock.
type simLock struct {
	holders []simHolder
	expired []string           // holders that no longer count, but are still in the set
	queue   map[string]float64 // values of waiters, and since when they wait
	waiters map[string]kind    // by value
	ends    [2]time.Duration   // TTLs of the key and of the one with several holders
}

func holdersKey(key string) string { return key + "::redislock:holders" } // keys have hash tags

// holders returns who holds a lock, of whatever kind.
func (s *simServer) holders(key string) []simHolder {
	holders, _ := s.allHolders(key)
	return holders
}

func (s *simServer) allHolders(key string) (holders []simHolder, expired []string) {
	value, left := s.holds(key)
	switch {
	case left == 0:
		return nil, nil
	case value != "":
		return []simHolder{{kind{Limit: 1}, value, left}}, nil
	}
	now := time.Duration(s.clock().UnixNano())
	scores := s.sortedSet(holdersKey(key))
	for member, score := range scores {
		limit, value, _ := strings.Cut(member, " ")
		n, _ := strconv.Atoi(limit)
		switch left := time.Duration(score)*time.Microsecond - now; {
		case score < 0: // a mark
		case left <= 0:
			expired = append(expired, member)
		default:
			holders = append(holders, simHolder{kind{Shared: n == 0, Limit: n}, value, left})
		}
	}
	return holders, expired
}

// sortedSet returns a copy of a sorted set. (miniredis' SortedSet is the set itself.)
func (s *simServer) sortedSet(key string) map[string]float64 {
	members, err := s.redis.ZMembers(key)
	if err != nil {
		return nil // there is none
	}
	set := make(map[string]float64)
	scores, _ := s.redis.ZMScore(key, members...)
	for i, score := range scores {
		set[members[i]] = score
	}
	return set
}

// lock returns all that a server has of a lock.
func (s *simServer) lock(key string) simLock {
	lock := simLock{queue: s.sortedSet(key + "::redislock:queue"), waiters: make(map[string]kind)}
	lock.holders, lock.expired = s.allHolders(key)
	for value := range lock.queue {
		if fields := strings.Fields(s.redis.HGet(key+"::redislock:waiters", value)); len(fields) > 3 {
			limit, _ := strconv.Atoi(fields[3])
			lock.waiters[value] = kind{Shared: limit == 0, Limit: limit}
		}
	}
	lock.ends = [2]time.Duration{s.redis.TTL(key), s.redis.TTL(holdersKey(key))}
	return lock
}

func (l simLock) kinds() []kind { return kindsOf(l.holders) }

func kindsOf(holders []simHolder) []kind {
	kinds := make([]kind, len(holders))
	for i, holder := range holders {
		kinds[i] = holder.kind
	}
	return kinds
}

// find returns the holder with a value.
func (l simLock) find(value string) (simHolder, bool) {
	i := slices.IndexFunc(l.holders, func(h simHolder) bool { return h.value == value })
	if i < 0 {
		return simHolder{}, false
	}
	return l.holders[i], true
}

// hasLetIn reports whether a call is one of the holders, though it may not know yet.
func (l simLock) hasLetIn(c *simCall) bool {
	return c.value != "" && slices.ContainsFunc(l.holders, func(h simHolder) bool { return strings.HasSuffix(h.value, c.value) })
}

// ending reports whether all holders have expired, but not yet the key: within the same millisecond
// nobody is let in.
func (l simLock) ending() bool { return len(l.holders) == 0 && l.ends[0] > 0 }

// first returns the value of the first in the queue.
func (l simLock) first() (value string, ok bool) {
	if len(l.queue) == 0 {
		return "", false
	}
	return slices.MinFunc(slices.Collect(maps.Keys(l.queue)), func(a, b string) int { return cmp.Compare(l.queue[a], l.queue[b]) }), true
}

// moves runs a script that may let in or remove holders, and checks that it does so by the rules.
func (s *simulation) moves(server *simServer, script simScript, run func()) {
	key, value := script.keys[0], script.args[0]
	before := server.lock(key)
	run()
	after := server.lock(key)
	violated := func(what, format string, args ...any) {
		s.violation(what, key, script.name+" for %q: "+format, append([]any{value}, args...)...)
	}

	var came, stayed []simHolder
	for _, holder := range after.holders {
		if _, there := before.find(holder.value); there {
			stayed = append(stayed, holder)
		} else {
			came = append(came, holder)
		}
	}
	left := 0
	for _, holder := range before.holders {
		now, there := after.find(holder.value)
		switch {
		case there && now.left != holder.left && holder.value != value:
			violated("end of another holder changed", "%q had %v, has %v", holder.value, holder.left, now.left)
		case there:
		case !strings.Contains(script.name, "release") && script.name != "queue_leave",
			!strings.HasPrefix(holder.value, value):
			violated("another's place taken away", "%q", holder.value)
		default:
			left++
		}
	}
	s.checkCame(server, script, before, after, came, stayed, violated)

	last := time.Duration(0)
	values := make(map[string]bool)
	for _, holder := range after.holders {
		last = max(last, holder.left)
		if values[holder.value] {
			violated("two places for one token", "%q", holder.value)
		}
		values[holder.value] = true
	}
	if len(after.holders) == 0 || after.holders[0].exclusive() {
		last = 0
	}
	for _, ends := range after.ends {
		if last > 0 && (ends < last || ends > last+time.Millisecond) {
			violated("keys do not end with the last holder", "they end in %v, holders in %v", after.ends, last)
		}
	}
	if len(came)+left > 0 && len(after.expired) > 0 {
		violated("expired holders are kept", "%q", after.expired)
	}
	if s.movesOn(script, before, left) && !after.ending() {
		if first, ok := after.first(); ok && after.waiters[first].admits(after.kinds()) {
			violated("not let in", "%q, for which there is room", first)
		}
	}
}

// checkCame checks whom a script has let in.
func (s *simulation) checkCame(server *simServer, script simScript, before, after simLock, came, stayed []simHolder, violated func(what, format string, args ...any)) {
	slices.SortFunc(came, func(a, b simHolder) int { return a.Limit - b.Limit })
	kinds := kindsOf(stayed)
	for _, holder := range came {
		if !holder.admits(kinds) {
			violated(cmp.Or(conflict(append(kinds, holder.kind)), tooMany), "%q (%v) let in beside %v", holder.value, holder.kind, kinds)
		}
		kinds = append(kinds, holder.kind)

		since, waited := before.queue[holder.value]
		asks := holder.value == script.args[0]
		if asks && !waited && script.name == "queue_ask" {
			// What it said before has not arrived, or it has left meanwhile.
			micros, _ := strconv.Atoi(script.args[4])
			since, waited = float64(server.clock().UnixMicro()-int64(micros)), micros > 0
		}
		queue := strings.HasPrefix(script.name, "queue_") || script.name == "release_by_token"
		switch {
		case script.name == "holders_obtain" && asks:
			continue
		case !queue, !waited && (!asks || script.name != "queue_ask"):
			violated("let in without having asked", "%q", holder.value)
		}
		for other, otherSince := range after.queue {
			if !waited || otherSince < since {
				violated("out of order", "%q let in before %q", holder.value, other)
			}
		}
	}
}

// movesOn reports whether a script lets in the first in the queue if there is room.
func (s *simulation) movesOn(script simScript, before simLock, left int) bool {
	several := len(before.holders) > 0 && !before.holders[0].exclusive()
	switch script.name {
	case "queue_release", "release_by_token":
		return left > 0
	case "queue_leave":
		return left > 0 || several
	case "queue_ask":
		_, held := before.find(script.args[0])
		asker := kind{Limit: 1}
		if len(script.args) > 7 {
			limit, _ := strconv.Atoi(script.args[7])
			asker = kind{Shared: limit == 0, Limit: limit}
		}
		mixed := several && !asker.exclusive() && asker.Shared != before.holders[0].Shared
		return !held && !mixed
	default:
		return false
	}
}

// checkInspected checks that what Inspect has just returned agrees with the servers, and with a
// holder.
func (s *simulation) checkInspected(c *simCall, info redislock.Info) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := make(map[string]time.Duration)
	for _, holder := range info.Holders {
		found[holder.Value] = holder.TTL
	}
	// Others may come and go at the same moment; this one may not.
	left, there := found[c.lock.Token()+c.lock.Metadata()]
	if c.believes() && (!there || left+time.Millisecond < time.Until(c.lock.ValidUntil())) {
		s.violationLocked("holder not found", c.turn.Key, "worker %d until %v; found %v", c.turn.Worker, c.validUntil(), found)
	}
	if info.Limit > 0 && len(info.Holders) > info.Limit {
		s.violationLocked(tooMany, c.turn.Key, "found %v, limit %d", found, info.Limit)
	}
}
