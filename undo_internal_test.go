package redislock

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
)

const answerTime = 400 * time.Millisecond

// answering is a Redis that answers to all scripts, but is silent for some time.
type answering struct {
	redis.Scripter
	start time.Time
	mu    sync.Mutex
	away  time.Duration // since start: is silent from then on
	from  time.Duration // until then
	reply int64
	err   error           // instead
	calls []time.Duration // since start
}

func (a *answering) EvalSha(ctx context.Context, _ string, _ []string, _ ...any) *redis.Cmd {
	at := time.Since(a.start)
	a.mu.Lock()
	a.calls = append(a.calls, at)
	a.mu.Unlock()
	time.Sleep(answerTime)
	if at >= a.away && at < a.from {
		return redis.NewCmdResult(nil, errors.New("silent"))
	}
	return redis.NewCmdResult(a.reply, a.err)
}

// made returns the calls so far.
func (a *answering) made() []time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.calls)
}

// claimOn returns a lock on a server that is yet to be taken.
func claimOn(client RedisClient, opt *Options) *singleClaim {
	c := New(client)
	return c.servers.(*server).newClaim(c, []string{"key"}, opt)
}

// The command that takes the lock may come as late as the grace allows: the last release, or
// leave, is sent after it.
func TestUndo_lastAttempt(t *testing.T) {
	for name, test := range map[string]struct{ away, answers, least, most time.Duration }{
		"answers at once": {0, 0, undoGrace + answerTime, undoGrace + 5*time.Second},
		"is silent":       {0, 10 * time.Second, 10*time.Second + undoGrace + answerTime, 20 * time.Second},
		"becomes silent":  {time.Second, 10 * time.Second, 10 * time.Second, 15 * time.Second},
		"never answers":   {0, time.Hour, undoTimeout - time.Second, undoTimeout + 5*time.Second},
	} {
		check := func(t *testing.T, release func(*singleClaim)) {
			for range 20 { // the waits vary
				synctest.Test(t, func(t *testing.T) {
					server := &answering{start: time.Now(), away: test.away, from: test.answers}
					release(claimOn(server, &noOptions))
					time.Sleep(time.Minute)
					calls := server.made()
					last := calls[len(calls)-1]
					assert.GreaterOrEqual(t, last, test.least)
					assert.LessOrEqual(t, last, test.most)
					assert.Less(t, calls[0], 100*time.Millisecond)
					assert.Greater(t, len(calls), 5)
					assert.Less(t, len(calls), 50)
					assert.Zero(t, Tasks(server))
				})
			}
		}
		t.Run(name+", release", func(t *testing.T) {
			check(t, func(lock *singleClaim) {
				lock.lease.begin(sinceEpoch(), time.Second)
				lock.releaseOrphan()
			})
		})
		t.Run(name+", leave", func(t *testing.T) {
			check(t, func(lock *singleClaim) {
				w := newWaiter(lock, time.Second, &Options{})
				w.noteStrayLocked(0, errors.New("not answered"))
				w.leave()
			})
		})
	}
}

// refusal is an error that Redis replied.
type refusal string

func (r refusal) Error() string { return string(r) }
func (r refusal) RedisError()   {}

// What Redis refuses is not tried again, unless it may answer otherwise soon.
func TestUndo_refused(t *testing.T) {
	for err, want := range map[error]bool{
		refusal("WRONGTYPE"): true,
		refusal("LOADING Redis is loading the dataset in memory"):        false,
		refusal("READONLY You can't write against a read only replica."): false,
		redis.ErrClosed:                            true,
		errors.New("i/o timeout"):                  false,
		context.DeadlineExceeded:                   false,
		refusal("CLUSTERDOWN The cluster is down"): false,
		refusal("NOPERM of any kind"):              true,
	} {
		synctest.Test(t, func(t *testing.T) {
			server := &answering{start: time.Now(), err: err}
			tried := claimOn(server, &noOptions).releaseOrphan()
			<-tried
			assert.Equal(t, answerTime, time.Since(server.start))
			time.Sleep(time.Minute)
			assert.Equal(t, want, len(server.made()) == 1, "%v", err)
			assert.Zero(t, Tasks(server))
			assert.Zero(t, Orphans(server))
		})
	}
}

// There is nothing to wait for where nobody looks after an orphan.
func TestOrphan_notLookedAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &answering{start: time.Now(), from: time.Hour}
		custom := claimOn(server, &Options{Token: "custom"})
		assert.True(t, isClosed(custom.releaseOrphan()))
		for range 256 {
			assert.False(t, isClosed(claimOn(server, &noOptions).releaseOrphan()))
		}
		assert.True(t, isClosed(claimOn(server, &noOptions).releaseOrphan()), "one too many")
		assert.Equal(t, 256, Orphans(server))
		time.Sleep(time.Minute)
		assert.Zero(t, Orphans(server))
	})
}

// A client that never gives up has an orphan not be looked after for ever.
func TestUndo_clientWithoutTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &hanging{end: make(chan struct{})}
		tried := claimOn(server, &noOptions).releaseOrphan()
		b := lockBackground(newServer(server))
		assert.Contains(t, b.lanes, laneKey{}, "where others leave too")
		b.unlock()
		time.Sleep(undoTimeout)
		assert.Equal(t, 1, Orphans(server))
		time.Sleep(10 * time.Second)
		assert.Zero(t, Orphans(server))
		assert.Zero(t, Tasks(server))
		assert.True(t, isClosed(tried), "nobody waits for ever")
		close(server.end)
	})
}

// hanging is a Redis that does not answer, and a client that waits for it.
type hanging struct {
	redis.Scripter
	end chan struct{}
}

func (h *hanging) EvalSha(context.Context, string, []string, ...any) *redis.Cmd {
	<-h.end
	return redis.NewCmdResult(int64(0), nil)
}

// An undo is tried again soon, then less and less soon.
func TestUndo_waits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &answering{start: time.Now(), from: time.Hour}
		claimOn(server, &noOptions).releaseOrphan()
		time.Sleep(time.Minute)
		var waits []time.Duration
		calls := server.made()
		for i := 1; i < 9; i++ {
			waits = append(waits, calls[i]-calls[i-1]-answerTime)
		}
		const ms = time.Millisecond
		assert.Equal(t, []time.Duration{20 * ms, 40 * ms, 80 * ms, 160 * ms, 320 * ms, 640 * ms, 1000 * ms, 1000 * ms}, waits)
	})
}

// It ends six times its patience after its last attempt, answered or not.
func TestUndo_ends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &answering{start: time.Now()}
		u := newUndo(orphan, claimOn(server, &noOptions).releasing(), true)
		b := lockBackground(newServer(server))
		u.startLocked(b.openLaneLocked(laneKey{}), 1)
		u.setDueLocked(sinceEpoch() + never)
		b.unlock()
		time.Sleep(undoTimeout + 6*time.Second - 1)
		_, ok := u.begin()
		assert.True(t, ok)
		time.Sleep(time.Nanosecond)
		_, ok = u.begin()
		assert.False(t, ok)
		time.Sleep(time.Minute)
	})
}

// An undo whose attempts end one after the other is counted once: how many there may be is limited.
func TestUndo_isCountedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &answering{start: time.Now()}
		b := lockBackground(newServer(server))
		lane := b.openLaneLocked(laneKey{})
		var undos []*undo
		for range 2 {
			u := newUndo(orphan, claimOn(server, &noOptions).releasing(), false)
			u.startLocked(lane, 2)
			undos = append(undos, u)
		}
		undos[0].finishLocked()
		undos[0].finishLocked()
		assert.Equal(t, 1, lane.undos[orphan])
		b.unlock()
		time.Sleep(time.Minute)
		assert.Zero(t, Tasks(server))
	})
}
