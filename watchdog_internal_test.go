package redislock

import (
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
		for _, wait := range []time.Duration{2, 4, 8, 10, 10} {
			due, ok := refresher.nextLocked(call{sent: sinceEpoch()}, failed)
			assert.True(t, ok)
			assert.GreaterOrEqual(t, due-sinceEpoch(), wait*time.Second/2)
			assert.LessOrEqual(t, due-sinceEpoch(), wait*time.Second*3/2)
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
	lock := &claimOn(&answering{}, &Options{Logger: slog.New(slog.NewTextHandler(&logged, nil))}).Lock
	NewTickWatchdog(0).Start(t.Context(), lock, time.Microsecond)
	assert.Contains(t, logged.String(), "not refreshed")
	assert.Contains(t, logged.String(), "1µs")
}
