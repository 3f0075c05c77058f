package verify

import (
	"strconv"
	"strings"
	"time"
)

// simMarked is for how long a node knows what a try by a custom token has taken.
const simMarked = 2 * time.Second

// A simTaking records that a try with a custom token took a key that the token did not have.
type simTaking struct {
	mark string
	at   time.Time
}

// counts runs a script by which a call takes keys of a quorum, or comes to count on them. With
// s.running held.
func (s *simServer) counts(script simScript, run func()) {
	switch script.name {
	case "quorum_obtain":
		s.countsObtained(script, run)
	case "refresh":
		value, keys := script.args[0], locksOf(script, 3)
		held := s.haveAll(keys, value)
		run()
		if held {
			s.forgetTakings(keys)
		}
	case "quorum_heal":
		value, keys := script.args[0], locksOf(script, 3)
		run()
		// It has refused, or there is no mark any more.
		if s.haveAll(keys, value) && !s.redis.Exists(script.keys[len(script.keys)-1]) {
			s.forgetTakings(keys)
		}
	}
}

func (s *simServer) countsObtained(script simScript, run func()) {
	if strings.HasPrefix(script.args[2], "-") { // a generated token
		run()
		return
	}
	value, mark := script.args[0], script.args[3]
	keys := script.keys[:len(script.keys)/2]
	before := make([]string, len(keys))
	for i, key := range keys {
		before[i], _ = s.holds(key)
	}
	run()
	if !s.haveAll(keys, value) {
		return
	}
	for i, key := range keys {
		delete(s.taken, key)
		if before[i] == "" {
			s.taken[key] = simTaking{mark, time.Now()}
		}
	}
}

// locksOf returns the keys of locks among those of a script, whose argument says how many
// they are: all, if it has none.
func locksOf(script simScript, argument int) []string {
	if argument >= len(script.args) {
		return script.keys
	}
	locks, _ := strconv.Atoi(script.args[argument])
	return script.keys[:locks]
}

func (s *simServer) haveAll(keys []string, value string) bool {
	for _, key := range keys {
		if now, _ := s.holds(key); now != value {
			return false
		}
	}
	return true
}

func (s *simServer) forgetTakings(keys []string) {
	for _, key := range keys {
		delete(s.taken, key)
	}
}

// checkUndone checks that a failed try gives back what it took, and nothing else: no key that its
// token had before, and none that another call with the token counts on.
func (s *simulation) checkUndone(server *simServer, script simScript, run func()) {
	value, mark := script.args[0], script.args[1]
	var its, others []string
	for _, key := range script.keys[:len(script.keys)/2] {
		taking := server.taken[key]
		switch now, _ := server.holds(key); {
		case now != value:
		case taking.mark != mark:
			others = append(others, key)
		case time.Since(taking.at) < simMarked:
			its = append(its, key)
		}
	}
	run()
	for _, key := range others {
		if now, _ := server.holds(key); now == "" {
			s.violation("undone by another's try", key, "%q", value)
		}
	}
	for _, key := range its {
		if now, _ := server.holds(key); now != "" {
			s.violation("not undone", key, "%q", value)
		}
	}
}
