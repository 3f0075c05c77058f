package redislock

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// What an ask says of its waiter's time.
func TestWaiter_askCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const fields, ttl, alive, waited = 7, 1, 3, 4
		w := newWaiter(claimOn(&answering{start: time.Now()}, &noOptions), 1500*time.Microsecond, &Options{})
		w.listen()
		time.Sleep(2 * time.Second)
		first := w.askCallLocked()
		assert.Len(t, first.args, fields)
		assert.EqualValues(t, 1, first.args[ttl])
		assert.EqualValues(t, 1000, first.args[alive], "no message can reach it")
		assert.EqualValues(t, 0, first.args[waited], "not before the first ask")
		assert.Equal(t, sinceEpoch(), first.sent)

		w.state = queued
		assert.EqualValues(t, 2_000_000, w.askCallLocked().args[waited])
		w.subscription = &subscription{confirmed: true, channel: "pchannel"}
		call := w.askCallLocked()
		assert.EqualValues(t, 3000, call.args[alive])
		assert.Equal(t, "pchannel", call.args[fields-1])
	})
}

// A waiter asks once a second, or every 50 ms if no message can reach it; and when the holder's
// TTL ends, but not all the time after that.
func TestWaiter_nextAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWaiter(claimOn(&answering{start: time.Now()}, &noOptions), time.Minute, &Options{})
		w.listen()
		until := func() time.Duration { return w.nextAskLocked() - sinceEpoch() }
		w.holderEnds = sinceEpoch() + time.Hour
		for range 100 {
			w.subscription = nil
			assert.LessOrEqual(t, until(), 50*time.Millisecond)
			assert.GreaterOrEqual(t, until(), 45*time.Millisecond)
			w.subscription = &subscription{confirmed: true}
			assert.LessOrEqual(t, until(), time.Second)
			assert.GreaterOrEqual(t, until(), 900*time.Millisecond)
		}
		w.holderEnds = sinceEpoch() + 100*time.Millisecond
		assert.Equal(t, 100*time.Millisecond, until())
		w.holderEnds = sinceEpoch() + 5*time.Millisecond
		assert.Equal(t, 10*time.Millisecond, until())
		w.holderEnds = sinceEpoch() - time.Hour
		assert.Equal(t, 10*time.Millisecond, until())
	})
}

// waiterOf returns a waiter for a key of a server, whose replies to scripts are always the same.
func waiterOf(server *answering) *waiter {
	server.start = time.Now()
	lock := claimOn(server, &noOptions)
	lock.waiter = newWaiter(lock, time.Minute, &Options{})
	lock.waiter.listen()
	return lock.waiter
}

func TestWaiter_ask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := waiterOf(&answering{reply: -5000})
		held, err := w.ask(t.Context())
		assert.NoError(t, err)
		assert.False(t, held)
		assert.Equal(t, sinceEpoch()+5001*time.Millisecond, w.holderEnds)
	})
}

// A message is enough if it is recent, and no fencing token is due. Else an ask has to say that
// the lock is held.
func TestWaiter_take(t *testing.T) {
	for name, test := range map[string]struct {
		server *answering
		told   bool
		age    time.Duration
		fenced bool
		asks   int
		held   bool
	}{
		"recent message":          {server: &answering{}, told: true, age: time.Second, held: true},
		"not so recent":           {server: &answering{}, told: true, age: 6 * time.Second, held: true},
		"old message":             {server: &answering{reply: 1}, told: true, age: 10 * time.Second, asks: 1, held: true},
		"fenced":                  {server: &answering{reply: 1}, told: true, fenced: true, asks: 1, held: true},
		"not held any more":       {server: &answering{reply: -1000}, told: true, age: 10 * time.Second, asks: 1},
		"not answered":            {server: &answering{from: time.Hour}, told: true, age: 10 * time.Second, asks: 1},
		"by an ask":               {server: &answering{}, age: 10 * time.Second, fenced: true, held: true},
		"by an ask that was slow": {server: &answering{}, age: time.Minute - time.Minute/100},
		"almost":                  {server: &answering{}, age: time.Minute - time.Minute/100 - 1, held: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := waiterOf(test.server)
				if test.fenced {
					w.keys = append(w.keys, "fence")
				}
				time.Sleep(time.Hour) // for ages before the start
				held, err := w.take(t.Context(), grant{told: test.told, sent: sinceEpoch() - test.age})
				assert.NoError(t, err)
				assert.Equal(t, test.held, held)
				assert.Len(t, test.server.made(), test.asks)
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := waiterOf(&answering{from: time.Hour}).take(ctx, grant{told: true, sent: sinceEpoch() - time.Hour})
		assert.Error(t, err, "the call is over")
	})
}

// A call whose context ends while it asks again, told of its turn, was not served.
func TestWaiter_awaitEndsWhileItAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lock := claimOn(&fakeNode{after: time.Second}, &noOptions)
		lock.waiter = newWaiter(lock, time.Minute, &Options{FenceKey: "fence"})
		lock.waiter.listen()
		lock.waiter.grants <- grant{told: true, sent: sinceEpoch()}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		canceled, err := lock.waiter.await(ctx)
		assert.True(t, canceled)
		assert.ErrorIs(t, err, ErrNotObtained)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		time.Sleep(time.Minute)
	})
}

// If Redis does not answer when a waiter that was told of its turn asks again, its lane asks at once.
func TestWaiter_asksOnUnanswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &answering{from: time.Millisecond, reply: 1}
		w := waiterOf(server)
		w.subscription = &subscription{background: w.background, confirmed: true, waiters: map[string]*waiter{w.id: w},
			holders: make(map[string]*waiter), closed: make(chan struct{}), idle: time.NewTimer(time.Hour)}
		w.keys = append(w.keys, "fence")
		w.grants <- grant{told: true, sent: sinceEpoch()}
		_, err := w.await(t.Context())
		assert.NoError(t, err)
		assert.Equal(t, []time.Duration{0, answerTime}, server.made()[:2])
		w.giveUp()
		time.Sleep(time.Minute)
	})
}

// The first ask already names the channel, if there is a subscription.
func TestWaiter_listen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &answering{}
		first := waiterOf(server)
		for _, confirmed := range []bool{true, false} {
			s := &subscription{background: first.background, confirmed: confirmed, waiters: make(map[string]*waiter), idle: time.NewTimer(time.Hour)}
			locked(first.background, func() { first.subscriptions = map[string]*subscription{"": s} })
			second := waiterOf(server)
			assert.Equal(t, confirmed, second.subscription == s)
			assert.Equal(t, confirmed, s.waiters[second.id] == second)
			locked(first.background, func() { first.subscriptions, second.subscription = nil, nil })
			second.giveUp()
		}
		first.giveUp()
	})
}

// A lock that the other kind of holders has is an error of the first ask.
func TestWaiter_asksOfTheOtherKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := waiterOf(&answering{reply: otherKindWaits})
		held, err := w.ask(t.Context())
		assert.False(t, held)
		assert.True(t, isOtherKind(err), err)
		w.giveUp()
		time.Sleep(time.Minute)
	})
}

// A server that has nobody listening says so beside the holder's TTL, of which nothing may be left.
func TestWaiter_unheard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, left := range []int64{0, 5000} {
			w := waiterOf(&answering{})
			renewed := 0
			w.subscription = &subscription{background: w.background, confirmed: true, since: sinceEpoch(), renew: func() { renewed++ }}
			w.waitLocked(sinceEpoch(), -left)
			assert.True(t, w.subscription.confirmed, "it is heard")
			w.waitLocked(sinceEpoch()-1, -unheard-left)
			assert.True(t, w.subscription.confirmed, "that was before the subscription")
			w.waitLocked(sinceEpoch(), -unheard-left)
			assert.False(t, w.subscription.confirmed)
			assert.Equal(t, sinceEpoch()+time.Duration(left+1)*time.Millisecond, w.holderEnds)
			time.Sleep(time.Second)
			synctest.Wait()
			assert.Equal(t, 1, renewed)
		}
	})
}

func TestWaiter_next(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := errors.New("silent")
		ask := call{script: queueAskScript, sent: sinceEpoch()}
		w := waiterOf(&answering{})
		w.holderEnds = sinceEpoch() + time.Hour
		requireIn := func(least, most time.Duration, err error) {
			t.Helper()
			due, ok := w.nextLocked(ask, err)
			assert.True(t, ok)
			assert.GreaterOrEqual(t, due-sinceEpoch(), least)
			assert.LessOrEqual(t, due-sinceEpoch(), most)
		}
		requireIn(45*time.Millisecond, 50*time.Millisecond, nil)
		w.subscription = &subscription{confirmed: true, since: sinceEpoch()}
		requireIn(900*time.Millisecond, time.Second, nil)
		w.subscription.since++
		due, ok := w.nextLocked(ask, nil)
		assert.True(t, ok)
		assert.Equal(t, atOnce, due, "the server did not know of the subscription")
		for _, wait := range []time.Duration{20, 40, 80, 160, 320, 640, 1000, 1000} {
			requireIn(wait*time.Millisecond/2, wait*time.Millisecond*3/2, silent)
		}
	})
}

// An ask that ends when the lock is held may come after the release, if the TTL is over by then.
func TestWaiter_askAfterTheTTL(t *testing.T) {
	for name, test := range map[string]struct {
		age    time.Duration
		leaves bool
	}{
		"in time": {time.Second, false}, "after the TTL": {time.Minute, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &answering{}
				w := waiterOf(server)
				w.lock.lease.begin(sinceEpoch(), time.Minute)
				b := unusedSubscription()
				w.subscription = b
				w.becomeLocked(served)
				assert.Len(t, b.holders, 1)
				time.Sleep(test.age)
				w.end(call{sent: sinceEpoch()}, 1, nil)
				w.released()
				assert.Empty(t, b.holders)
				time.Sleep(time.Minute)
				assert.Equal(t, test.leaves, len(server.made()) > 0)
			})
		})
	}
}

// Who gives up leaves at once, and again after the asks that were under way: the caller waits for the
// last of them, but not for long. What ends later is followed by a leave of its own.
func TestWaiter_quit(t *testing.T) {
	for name, test := range map[string]struct {
		asks   int32
		lost   bool
		ends   time.Duration // when an ask ends; another ends after a second
		took   time.Duration
		leaves []time.Duration
	}{
		"none":                {0, false, 0, leaveGrace, []time.Duration{0}},
		"an ask was lost":     {0, true, 0, 0, []time.Duration{0}},
		"one":                 {1, false, time.Millisecond, leaveGrace, []time.Duration{0, time.Millisecond, time.Millisecond}},
		"one that is slow":    {1, false, time.Second, 250 * time.Millisecond, []time.Duration{0, time.Second}},
		"one beside the lost": {1, true, time.Second, 0, []time.Duration{0, time.Second}},
		"one of two":          {2, false, time.Millisecond, leaveGrace, []time.Duration{0, time.Millisecond, time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &answering{}
				w := waiterOf(server)
				w.enqueue()
				underWay := func(asks int32) {
					w.mu.Lock()
					defer w.unlock()
					w.underWay += asks
					w.lane.busy += int(asks)
				}
				underWay(test.asks)
				go func() {
					time.Sleep(test.ends)
					for left := range test.asks {
						if left > 0 {
							time.Sleep(time.Second - test.ends)
						}
						w.end(call{sent: sinceEpoch()}, -1000, nil)
						w.mu.Lock()
						w.landLocked()
						w.lane.busy--
						w.lane.wakeUp()
						w.unlock()
					}
				}()
				w.quit(test.lost)
				assert.Equal(t, test.took, time.Since(server.start))
				time.Sleep(time.Minute)
				assert.Equal(t, test.leaves, server.made())
				assert.Zero(t, Tasks(server))
			})
		})
	}
}

// A message for a waiter whose lock was lost is not its own any more.
func TestWaiter_lost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := waiterOf(&answering{})
		w.lock.lease.begin(sinceEpoch(), time.Minute)
		s := unusedSubscription()
		w.subscription = s
		w.becomeLocked(served)
		assert.Len(t, s.holders, 1)
		w.lock.lose(errGone)
		assert.Empty(t, s.holders)
		w.released()
	})
}

// The caller is told of the last ask also if that has just ended when the waiting does.
func TestWaiter_lastAskEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := waiterOf(&answering{})
		w.enqueue()
		w.mu.Lock()
		w.underWay = 2
		w.unlock()
		w.end(call{sent: sinceEpoch()}, -1000, nil)
		idle := w.giveUp()
		w.end(call{sent: sinceEpoch()}, -1000, nil)
		w.mu.Lock()
		w.landLocked()
		assert.False(t, isClosed(idle))
		w.landLocked()
		assert.True(t, isClosed(idle))
		w.unlock()
		time.Sleep(time.Minute) // until the leave has ended
	})
}

// So many leave a server that is silent, and no more. Those that wait in the queue leave all.
func TestWaiter_leavingIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &answering{from: time.Hour}
		w := waiterOf(server)
		for range 4096 {
			newWaiter(w.lock, time.Minute, &Options{}).leave()
		}
		assert.Equal(t, 4096, Leaving(server))
		assert.True(t, isClosed(w.leave()))
		assert.Equal(t, 4096, Tasks(server))
		w = newWaiter(w.lock, time.Minute, &Options{})
		w.listen()
		w.enqueue()
		w.giveUp()
		assert.False(t, isClosed(w.leave()))
		assert.Equal(t, 4096+1, Tasks(server))
		assert.Zero(t, Waiting(server))
		time.Sleep(time.Minute)
		assert.Zero(t, Tasks(server))
	})
}

// A waiter is asked for from the lane of its server, where others' asks leave with its own. The first
// ask of that comes when it is due, or at once if a message may have been lost meanwhile.
func TestWaiter_enqueue(t *testing.T) {
	for name, test := range map[string]struct {
		listened, listens bool
		least             time.Duration
	}{
		"no message can reach it":       {false, false, 45 * time.Millisecond},
		"a message has been able to":    {true, true, 900 * time.Millisecond},
		"one can, and could not before": {false, true, atOnce},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := waiterOf(&answering{reply: -1000})
				s := unusedSubscription()
				s.confirmed = true
				if test.listens {
					w.subscriptions = map[string]*subscription{"": s}
				}
				if test.listened {
					s.addLocked(w)
				}
				w.holderEnds = sinceEpoch() + time.Hour
				w.enqueue()
				w.mu.Lock()
				assert.GreaterOrEqual(t, w.due-sinceEpoch(), test.least)
				assert.Less(t, w.due-sinceEpoch(), max(test.least*10/8, 1))
				assert.Equal(t, laneKey{}, w.lane.key)
				w.subscriptions = nil
				w.unlock()
				w.giveUp()
				w.leave()
				w.mu.Lock()
				assert.Len(t, w.lanes, 1, "it leaves from there too")
				w.unlock()
				time.Sleep(time.Minute)
			})
		})
	}
}

// An ask that was about to be made is not, once the waiting is over.
func TestWaiter_beginsNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := waiterOf(&answering{})
		w.enqueue()
		_, ok := w.begin()
		assert.True(t, ok)
		w.giveUp()
		_, ok = w.begin()
		assert.False(t, ok)
		time.Sleep(time.Minute)
	})
}

// A waiter gives up when it has not been answered for long, with the last error; each answer counts.
func TestWaiter_patience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Hour)
		w := waiterOf(&answering{})
		defer w.giveUp()
		failed := errors.New("failed")
		w.answeredLocked(sinceEpoch(), 0, failed)
		time.Sleep(askPatience)
		w.answeredLocked(sinceEpoch(), 0, failed)
		assert.Empty(t, w.grants)
		w.retry = time.Second
		w.answeredLocked(sinceEpoch(), -5000, nil)
		assert.Zero(t, w.failingSince)
		assert.Zero(t, w.retry)
		assert.Equal(t, sinceEpoch()+5001*time.Millisecond, w.holderEnds)
		w.answeredLocked(sinceEpoch(), 0, failed)
		time.Sleep(askPatience + 1)
		w.answeredLocked(sinceEpoch(), 0, failed)
		assert.Equal(t, grant{err: failed}, <-w.grants)
	})
}

// An ask that was answered at once, and sent after a stray one could still come, ends that.
func TestWaiter_strayIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Hour)
		w := waiterOf(&answering{})
		defer w.giveUp()
		w.noteStrayLocked(sinceEpoch(), errors.New("not answered"))
		until := sinceEpoch() + undoGrace
		assert.Equal(t, until, w.strayUntil)
		time.Sleep(undoGrace)
		w.noteStrayLocked(sinceEpoch(), nil)
		assert.Equal(t, until, w.strayUntil)
		time.Sleep(time.Nanosecond)
		w.noteStrayLocked(sinceEpoch(), nil)
		assert.Zero(t, w.strayUntil)
	})
}

// What happens at the very moment at which something ends counts as after it.
func TestWaiter_atTheMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Hour)
		w := waiterOf(&answering{})
		w.lock.lease.begin(sinceEpoch(), time.Minute)
		w.becomeLocked(served)
		time.Sleep(w.lock.lease.remaining() - 1)
		w.end(call{sent: sinceEpoch()}, 1, nil)
		assert.Zero(t, w.strayUntil)
		time.Sleep(time.Nanosecond)
		w.end(call{sent: sinceEpoch()}, 1, nil)
		assert.Equal(t, sinceEpoch()+undoGrace, w.strayUntil, "the lock may be another's")
		w.released()

		w = waiterOf(&answering{})
		defer w.giveUp()
		sent := sinceEpoch()
		time.Sleep(50*time.Millisecond - 1)
		w.noteStrayLocked(sent, nil)
		assert.Zero(t, w.strayUntil)
		time.Sleep(time.Nanosecond)
		w.noteStrayLocked(sent, nil)
		assert.Equal(t, sinceEpoch()+undoGrace, w.strayUntil, "a slow reply")
		time.Sleep(time.Minute)
	})
}

// After a failure a waiter asks again soon, then less and less soon.
func TestWaiter_retries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := waiterOf(&answering{})
		defer w.giveUp()
		for _, want := range []time.Duration{20, 40, 80, 160, 320, 640, 1000, 1000} {
			_, ok := w.nextLocked(call{}, errors.New("failed"))
			assert.True(t, ok)
			assert.Equal(t, want*time.Millisecond, w.retry)
		}
	})
}
