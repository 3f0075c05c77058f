package redislock

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

func refresherOf(server *answering, interval, ttl time.Duration) *refresher {
	server.start = time.Now()
	lock := &claimOn(server, &noOptions).Lock
	lock.lease.begin(sinceEpoch(), ttl)
	return newRefresher(NewTickWatchdog(interval), lock, ttl)
}

func TestRefresher_interval(t *testing.T) {
	const ttl = 3 * time.Second
	for interval, want := range map[time.Duration]time.Duration{
		-1: time.Second, 0: time.Second, 1: 1, validity(ttl) - 1: validity(ttl) - 1, validity(ttl): time.Second, ttl: time.Second,
	} {
		assert.Equal(t, want, refresherOf(&answering{}, interval, ttl).interval, "%v", interval)
	}
}

// The first refresh comes when it is due, or when half of what is left has passed.
func TestRefresher_start(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for left, want := range map[time.Duration]time.Duration{
			time.Minute: 9 * time.Second, 10 * time.Second: 9 * time.Second, 8 * time.Second: 4 * time.Second,
		} {
			refresher := refresherOf(&answering{}, 10*time.Second, 2*time.Minute)
			refresher.lock.lease.validUntil = sinceEpoch() + left
			refresher.start(t.Context())
			assert.GreaterOrEqual(t, refresher.due-sinceEpoch(), want, "%v", left)
			assert.LessOrEqual(t, refresher.due-sinceEpoch(), want*10/9, "%v", left)
			refresher.remove()
		}
	})
}

func TestRefresher_next(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl, interval = 100 * time.Second, 40 * time.Second
		time.Sleep(time.Hour)
		refresher := refresherOf(&answering{}, interval, ttl)
		refresher.start(t.Context())
		defer refresher.remove()
		failed := errors.New("failed")
		for i := range 100 {
			wait := min(2*time.Second<<min(i, 10), 10*time.Second)
			due, ok := refresher.nextLocked(call{sent: sinceEpoch()}, failed)
			assert.True(t, ok)
			assert.Equal(t, wait, refresher.retry)
			assert.GreaterOrEqual(t, due-sinceEpoch(), wait/2)
			assert.LessOrEqual(t, due-sinceEpoch(), wait*3/2)
		}
		sent := sinceEpoch()
		time.Sleep(time.Second)
		due, ok := refresher.nextLocked(call{sent: sent}, nil)
		assert.True(t, ok)
		assert.GreaterOrEqual(t, due-sent, interval*9/10)
		assert.LessOrEqual(t, due-sent, interval)
		assert.Zero(t, refresher.retry)
		_, ok = refresher.nextLocked(call{sent: sent - 1}, failed)
		assert.False(t, ok, "overtaken by one that succeeded")
		_, ok = refresher.nextLocked(call{sent: sent}, failed)
		assert.True(t, ok)
	})
}

// A refresh that is due just when the lock ends is not sent.
func TestRefresher_endsBeforeItIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &answering{}
		refresher := refresherOf(server, time.Second, time.Minute)
		refresher.start(t.Context())
		assert.Equal(t, 1, Tasks(server))
		refresher.lock.lease.end(errReleased)
		_, ok := refresher.begin()
		assert.False(t, ok)
		assert.Zero(t, Tasks(server))
		assert.Empty(t, refresher.watchdog.refreshers)
		time.Sleep(time.Minute)
		assert.Empty(t, server.made())
	})
}

// Refreshing that is over before it starts does not start, nor end twice.
func TestRefresher_overBeforeItStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &answering{}
		before := GetStats()
		refresher := refresherOf(server, time.Second, time.Minute)
		refresher.remove()
		refresher.start(t.Context())
		refresher.remove()
		assert.Zero(t, Tasks(server))
		after := GetStats()
		assert.Equal(t, before.Watchdog, after.Watchdog)
		assert.Equal(t, before.WatchdogDone, after.WatchdogDone)
	})
}

// Stop waits for refreshes that are under way.
func TestTickWatchdog_stopWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &answering{reply: 1}
		refresher := refresherOf(server, time.Second, time.Minute)
		refresher.start(t.Context())
		for len(server.made()) == 0 {
			time.Sleep(answerTime / 4)
		}
		refresher.watchdog.Stop()
		assert.Equal(t, server.made()[0]+answerTime, time.Since(server.start))
		refresher.lock.lose(errGone)
	})
}

// A TTL that a lock cannot have is logged: nobody else would hear of it.
func TestTickWatchdog_badTTL(t *testing.T) {
	var logged strings.Builder
	server := &answering{}
	lock := &claimOn(server, &Options{Logger: slog.New(slog.NewTextHandler(&logged, nil))}).Lock
	watchdog := NewTickWatchdog(0)
	watchdog.Start(t.Context(), lock, time.Microsecond)
	assert.Nil(t, watchdog.refreshers)
	assert.Contains(t, logged.String(), "not refreshed")
	assert.Contains(t, logged.String(), "1µs")
	assert.Empty(t, server.made())
	assert.NotContains(t, logged.String(), "lost")
}

// A refresh that failed is logged; one that succeeded is not, and a lock that is gone is logged as lost.
func TestRefresher_logs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged strings.Builder
		refresher := refresherOf(&answering{}, time.Second, time.Minute)
		refresher.lock.logger = slog.New(slog.NewTextHandler(&logged, nil))
		for _, test := range []struct {
			reply int64
			err   error
			says  string
		}{{1, nil, ""}, {0, errors.New("failed"), "could not be refreshed"}, {0, nil, "lock lost"}} {
			logged.Reset()
			call, ok := refresher.begin()
			assert.True(t, ok)
			refresher.end(call, test.reply, test.err)
			assert.Contains(t, logged.String(), test.says)
			assert.Equal(t, len(test.says) > 0, strings.Count(logged.String(), "\n") == 1, logged.String())
		}
	})
}

// endless is a watchdog that does nothing until its context ends, and does not stop.
type endless struct{ started chan context.Context }

func (e endless) Start(ctx context.Context, _ *Lock, _ time.Duration) { e.started <- ctx; <-ctx.Done() }
func (e endless) Stop()                                               { time.Sleep(time.Hour) }

// The context of a watchdog of one's own ends with the lock, not with that of obtaining, and has its values.
func TestCustomKeeper_context(t *testing.T) {
	type name struct{}
	synctest.Test(t, func(t *testing.T) {
		watchdog := endless{make(chan context.Context, 1)}
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), name{}, "value"))
		lock, err := New(&answering{reply: 1}).Obtain(ctx, "key", time.Minute, &Options{Watchdog: watchdog})
		assert.NoError(t, err)
		watching := <-watchdog.started
		cancel()
		assert.NoError(t, watching.Err())
		assert.Equal(t, "value", watching.Value(name{}))
		lock.lose(errGone)
		synctest.Wait()
		assert.ErrorIs(t, watching.Err(), context.Canceled)
	})
}

// Half of the time that a release has is for the watchdog's Stop, the other half for the release.
func TestCustomKeeper_stop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keeper := &customKeeper{watchdog: endless{}}
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		start := time.Now()
		keeper.stop(ctx)
		assert.Equal(t, 2*time.Second, time.Since(start))
		time.Sleep(2 * time.Hour)
	})
}
