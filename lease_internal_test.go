package redislock

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
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
			{at: 7 * second, end: 2, ok: true, want: 105 * second},
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
			{at: 5 * second, end: 3, ok: true, want: 103 * second},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := sinceEpoch()
				lease := lease{validUntil: start + 50*second}
				sent := map[int]time.Duration{}
				for i, step := range steps {
					time.Sleep(step.at - (sinceEpoch() - start))
					if step.begin > 0 {
						sent[step.begin], _ = lease.beginRefresh(step.ttl)
					} else if step.ok {
						lease.endRefresh(sent[step.end], nil)
					} else {
						lease.endRefresh(sent[step.end], errors.New("failure"))
					}
					assert.Equal(t, step.want, lease.validUntil-start, "step %d", i)
				}
			})
		})
	}
}
