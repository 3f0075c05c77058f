package redislock

import (
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

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
	key := s.laneKey(h.key, false)
	b := lockBackground(s)
	defer b.unlock()
	lane := b.openLane(key)
	newUndo(leaving(queueKeys(h.key), h.value, h.id, false), false).start(lane, &lane.leaving, maxLeaving)
}
