package redislock

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLease_refresh(t *testing.T) {
	const second = time.Second
	type step struct {
		at    time.Duration
		begin int           // number of a refresh that begins, or 0
		ttl   time.Duration // of that
		end   int           // number of a refresh that ends, or 0
		ok    bool
		want  time.Duration // validUntil after the step
	}
	for name, steps := range map[string][]step{
		"one after the other": {
			{at: 0, begin: 1, ttl: 100 * second, want: 50 * second},
			{at: 1 * second, end: 1, ok: true, want: 99 * second},
			{at: 10 * second, begin: 2, ttl: 100 * second, want: 99 * second},
			{at: 11 * second, end: 2, ok: true, want: 109 * second},
		},
		"failed": {
			{at: 10 * second, begin: 1, ttl: 100 * second, want: 50 * second},
			{at: 11 * second, end: 1, want: 50 * second},
		},
		"a shorter TTL counts from its sending": {
			{at: 0, begin: 1, ttl: 10 * second, want: 9900 * time.Millisecond},
			{at: 5 * second, end: 1, want: 9900 * time.Millisecond},
			{at: 6 * second, begin: 2, ttl: 100 * second, want: 9900 * time.Millisecond},
			{at: 7 * second, end: 2, ok: true, want: 15900 * time.Millisecond}, // 1 may be late
			{at: 9 * second, begin: 3, ttl: 100 * second, want: 15900 * time.Millisecond},
			{at: 10 * second, end: 3, ok: true, want: 108 * second},
		},
		"overlapping, the later sent ends first": {
			{at: 0, begin: 1, ttl: 100 * second, want: 50 * second},
			{at: 10 * second, begin: 2, ttl: 100 * second, want: 50 * second},
			{at: 11 * second, end: 2, ok: true, want: 109 * second},
			{at: 12 * second, end: 1, ok: true, want: 109 * second},
		},
		"overlapping with a shorter one, which may be the last": {
			{at: 0, begin: 1, ttl: 10 * second, want: 9900 * time.Millisecond},
			{at: 1 * second, begin: 2, ttl: 100 * second, want: 9900 * time.Millisecond},
			{at: 2 * second, end: 2, ok: true, want: 10900 * time.Millisecond},
			{at: 3 * second, end: 1, ok: true, want: 10900 * time.Millisecond},
			{at: 4 * second, begin: 3, ttl: 100 * second, want: 10900 * time.Millisecond},
			{at: 5 * second, end: 3, ok: true, want: 13900 * time.Millisecond}, // 1 may have been sent twice
			{at: 7 * second, begin: 4, ttl: 100 * second, want: 13900 * time.Millisecond},
			{at: 7 * second, end: 4, ok: true, want: 106 * second},
		},
		"slow, and sent again": {
			{at: 0, begin: 1, ttl: 10 * second, want: 9900 * time.Millisecond},
			{at: 50 * time.Millisecond, end: 1, ok: true, want: 9900 * time.Millisecond},
			{at: 3 * second, begin: 2, ttl: 100 * second, want: 9900 * time.Millisecond},
			{at: 3 * second, end: 2, ok: true, want: 12900 * time.Millisecond},
			{at: 4 * second, begin: 3, ttl: 100 * second, want: 12900 * time.Millisecond},
			{at: 4 * second, end: 3, ok: true, want: 103 * second},
		},
		"quick": {
			{at: 0, begin: 1, ttl: 10 * second, want: 9900 * time.Millisecond},
			{at: 49 * time.Millisecond, end: 1, ok: true, want: 9900 * time.Millisecond},
			{at: 3 * second, begin: 2, ttl: 100 * second, want: 9900 * time.Millisecond},
			{at: 3 * second, end: 2, ok: true, want: 102 * second},
		},
		"silence after one that was not answered": {
			{at: 0, begin: 1, ttl: 30 * second, want: 29700 * time.Millisecond},
			{at: 3 * second, end: 1, want: 29700 * time.Millisecond},
			{at: 10 * second, begin: 2, ttl: 100 * second, want: 29700 * time.Millisecond},
			{at: 12 * second, end: 2, ok: true, want: 39700 * time.Millisecond}, // 1 may come at the same moment
			{at: 16 * second, begin: 3, ttl: 100 * second, want: 39700 * time.Millisecond},
			{at: 16 * second, end: 3, ok: true, want: 115 * second},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := sinceEpoch()
				lease := lease{validUntil: start + 50*second}
				sent, ttls := map[int]time.Duration{}, map[int]time.Duration{}
				for i, step := range steps {
					time.Sleep(step.at - (sinceEpoch() - start))
					if step.begin > 0 {
						ttls[step.begin] = step.ttl
						sent[step.begin], _, _ = lease.beginRefresh(step.ttl)
					} else if step.ok {
						lease.endRefresh(sent[step.end], ttls[step.end], nil, true)
					} else {
						lease.endRefresh(sent[step.end], ttls[step.end], errors.New("failure"), true)
					}
					assert.Equal(t, step.want, lease.validUntil-start, "step %d", i)
				}
			})
		})
	}
}

// A refresh that was not answered may come into effect after one that was.
func TestLease_straggler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, inBetween := range []bool{true, false} {
			var l lease
			l.begin(sinceEpoch(), time.Minute)
			sent, _, _ := l.beginRefresh(time.Second)
			l.endRefresh(sent, time.Second, errors.New("no reply"), true)
			refresh := func() time.Duration {
				sent, _, ok := l.beginRefresh(time.Hour)
				require.True(t, ok)
				cause, expired := l.endRefresh(sent, time.Hour, nil, true)
				require.NoError(t, cause)
				require.False(t, expired)
				return l.remaining()
			}
			assert.LessOrEqual(t, refresh(), time.Second)
			time.Sleep(undoGrace)
			if inBetween {
				assert.LessOrEqual(t, refresh(), time.Second)
			}
			time.Sleep(time.Millisecond)
			assert.Greater(t, refresh(), 59*time.Minute)
		}
	})
}

// Whoever waits for refreshes waits for those that are under way, each time.
func TestLease_awaitRefreshes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lease
		l.begin(sinceEpoch(), time.Hour)
		for range 2 {
			start := time.Now()
			l.awaitRefreshes(t.Context())
			assert.Zero(t, time.Since(start), "none is under way")
			for _, takes := range []time.Duration{time.Second, 3 * time.Second} {
				go func() {
					sent, _, _ := l.beginRefresh(time.Hour)
					time.Sleep(takes)
					l.endRefresh(sent, time.Hour, nil, true)
				}()
			}
			synctest.Wait()
			impatient, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			l.awaitRefreshes(impatient)
			cancel()
			assert.Equal(t, 2*time.Second, time.Since(start))
			l.awaitRefreshes(t.Context())
			assert.Equal(t, 3*time.Second, time.Since(start))
		}
	})
}

// Of two refreshes whose replies arrive together one is too late, and the other is not.
func TestLease_oneOfTwoTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl = 10 * time.Second
		for _, lateFirst := range []bool{false, true} {
			var l lease
			l.begin(sinceEpoch(), ttl)
			late, _, _ := l.beginRefresh(ttl)
			time.Sleep(ttl)
			timely, _, _ := l.beginRefresh(ttl)
			first, second := timely, late
			if lateFirst {
				first, second = late, timely
			}
			for _, sent := range []time.Duration{first, second} {
				cause, expired := l.endRefresh(sent, ttl, nil, true)
				assert.Equal(t, lateFirst, cause != nil, "the lease does not come back to life")
				assert.Equal(t, lateFirst && sent == late, expired)
			}
		}
	})
}

// The cause of the end says since when the lock was not refreshed, and why the latest refreshes
// failed: not if they are older than one that succeeded.
func TestLease_cause(t *testing.T) {
	failure := errors.New("no reply")
	type step struct {
		refresh int // its number: the first time it begins, the second time it ends
		err     error
	}
	for name, test := range map[string]struct {
		steps []step
		since time.Duration
		want  error
	}{
		"never refreshed":             {nil, 0, nil},
		"failed":                      {[]step{{1, nil}, {1, failure}}, 0, failure},
		"succeeded":                   {[]step{{1, nil}, {1, nil}}, time.Second, nil},
		"failed, then succeeded":      {[]step{{1, nil}, {1, failure}, {2, nil}, {2, nil}}, 3 * time.Second, nil},
		"succeeded, then failed":      {[]step{{1, nil}, {1, nil}, {2, nil}, {2, failure}}, time.Second, failure},
		"an older one failed later":   {[]step{{1, nil}, {2, nil}, {2, nil}, {1, failure}}, 2 * time.Second, nil},
		"an older one succeeds later": {[]step{{1, nil}, {2, nil}, {2, nil}, {1, nil}}, 2 * time.Second, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const ttl = time.Minute
				start := sinceEpoch()
				var l lease
				l.begin(start, ttl)
				sent := make(map[int]time.Duration)
				for _, step := range test.steps {
					time.Sleep(time.Second)
					if began, ok := sent[step.refresh]; ok {
						l.endRefresh(began, ttl, step.err, true)
					} else {
						sent[step.refresh], _, _ = l.beginRefresh(ttl)
					}
				}
				time.Sleep(l.remaining())
				cause, expired := l.endIfExpired()
				assert.True(t, expired)
				assert.ErrorIs(t, cause, ErrLockNotHeld)
				assert.ErrorContains(t, cause, epoch.Add(start+test.since).Format("15:04:05.000"))
				assert.Equal(t, test.want != nil, errors.Is(cause, failure))
			})
		})
	}
}
