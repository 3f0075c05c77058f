package redislock

import (
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// maxUndos is how many of a kind a lane has at a time. When a server is down every call fails: only
// the first of them may have reached it.
var maxUndos = [...]int{orphan: 256, leave: 4096}

const (
	// undoTimeout is how long an undo is tried.
	undoTimeout = 30 * time.Second
	// undoGrace is how long a command may still be under way once Redis answers again.
	undoGrace = 3 * time.Second
	// undoWait is the first wait between attempts, undoPatience how long one attempt may take.
	undoWait     = 20 * time.Millisecond
	undoPatience = time.Second
)

// An undo takes back what a call that is over has left in Redis, or may yet leave there: a lock that
// nobody knows of (an orphan), or a place in a queue. Otherwise everybody else would have to wait out
// its TTL.
//
// A command of that call may still be under way, on another connection, and more than once: the
// Redis client repeats it. Where that is possible the undo is repeated too, until nothing can come
// after it.
type undo struct {
	task
	call   call
	renew  func() call // makes the call of the next attempt; nil: it stays the same
	of     undoKind
	repeat bool          // even after an answer
	tried  chan struct{} // closed after the first attempt

	// Guarded by the background's mutex.
	settled  time.Duration // since epoch: from then on, one answer is enough; 0: there was none yet
	deadline time.Duration // since epoch: what is sent then is the last attempt
	wait     time.Duration // before the next attempt
}

// An undoKind says what is undone.
type undoKind int

const (
	orphan undoKind = iota
	leave           // of a queue
)

func newUndo(of undoKind, call call, repeat bool) *undo {
	u := &undo{
		call:     call,
		of:       of,
		repeat:   repeat,
		tried:    make(chan struct{}),
		deadline: sinceEpoch() + undoTimeout,
		wait:     undoWait,
	}
	u.task = newTask(u, undoWait, undoPatience)
	return u
}

// undo starts an undo for a lock's key, and returns what startLocked does.
func (s *server) undo(key string, u *undo) (tried <-chan struct{}) {
	laneKey := s.laneKey(key, false)
	b := lockBackground(s)
	defer b.unlock()
	return u.startLocked(b.openLaneLocked(laneKey), maxUndos[u.of])
}

// startLocked starts the undo on a lane, with its background locked, unless the lane has too many of
// its kind. It returns a channel that is closed after the first attempt.
func (u *undo) startLocked(lane *lane, most int) (tried <-chan struct{}) {
	if lane.undos[u.of] < most {
		lane.undos[u.of]++
		u.task.startLocked(lane, atOnce)
	} else {
		close(u.tried)
	}
	return u.tried
}

func (u *undo) begin() (call, bool) {
	u.lane.mu.Lock()
	defer u.lane.unlock()
	now := sinceEpoch()
	if now >= u.deadline+maxPatience*undoPatience { // the last attempts are neither answered nor given up
		u.finishLocked()
		return call{}, false
	}
	if u.renew != nil {
		u.call = u.renew()
	}
	u.call.sent = now
	return u.call, true
}

// end checks when the attempt was sent: one sent too early may still be overtaken by what it should
// undo.
func (u *undo) end(call call, _ int64, err error) {
	u.lane.mu.Lock()
	defer u.lane.unlock()
	if err == nil && u.settled == 0 {
		u.settled = call.sent
		if u.repeat {
			u.settled = sinceEpoch() + undoGrace
		}
	}
	final := err != nil && refused(err) || errors.Is(err, redis.ErrClosed)
	if final || err == nil && call.sent >= u.settled || call.sent >= u.deadline {
		u.finishLocked()
	}
	if !isClosed(u.tried) {
		close(u.tried)
	}
}

// finishLocked ends the task, with its background locked.
func (u *undo) finishLocked() {
	if u.stopLocked() {
		u.lane.undos[u.of]--
	}
	if !isClosed(u.tried) {
		close(u.tried)
	}
}

func (u *undo) nextLocked(call, error) (due time.Duration, ok bool) {
	due = min(sinceEpoch()+u.wait, u.deadline)
	u.wait = min(2*u.wait, time.Second)
	return due, true
}

// refused reports whether Redis refused a command, or there was no server to ask, so that the
// command certainly changed nothing. The errors named here say only that the last attempt of the
// Redis client met a server that was not ready; an earlier one may have succeeded, unseen, before
// the server failed.
func refused(err error) bool {
	return err == errNoClient || isOtherKind(err) || answered(err) &&
		!redis.IsLoadingError(err) &&
		!redis.IsReadOnlyError(err) &&
		!redis.IsMasterDownError(err) &&
		!redis.IsClusterDownError(err) &&
		!redis.IsTryAgainError(err)
}

func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}
