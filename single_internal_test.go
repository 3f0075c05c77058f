package redislock

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
)

// What replicas have to confirm, one is enough, does not hold up what they have not.
func TestSingleClaim_laneKey(t *testing.T) {
	assert.True(t, claimOn(prompt{}, &Options{MinReplicas: 1}).laneKey().confirmed)
	assert.False(t, claimOn(prompt{}, &noOptions).laneKey().confirmed)
}

// A refusal leaves nothing behind: nothing is asked afterwards.
func TestSingleClaim_refused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := saying(refusal("WRONGTYPE no string"))[0]
		_, err := New(server).Obtain(t.Context(), "key", time.Hour, nil)
		assert.ErrorContains(t, err, "WRONGTYPE")
		time.Sleep(time.Minute)
		assert.Equal(t, []string{"obtain"}, server.scripts)
	})
}

// A refresh of one server that was answered at once has no stragglers: the next may lengthen the TTL.
func TestSingleClaim_refreshedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lock := &claimOn(prompt{}, &noOptions).Lock
		lock.lease.begin(sinceEpoch(), time.Minute)
		assert.NoError(t, lock.Refresh(t.Context(), time.Second, nil))
		assert.NoError(t, lock.Refresh(t.Context(), time.Minute, nil))
		assert.Equal(t, validity(time.Minute), lock.lease.remaining())
	})
}

// A release that failed goes on by itself only if its context has ended: else its caller is told,
// and may try again.
func TestSingleClaim_releaseFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct {
			err     error
			ends    bool
			orphans int
		}{{errors.New("failed"), false, 0}, {errors.New("failed"), true, 1}, {nil, true, 0}} {
			server := &answering{start: time.Now(), reply: 1, err: test.err}
			ctx, cancel := context.WithCancel(t.Context())
			if test.ends {
				cancel()
			}
			_, err := claimOn(server, &noOptions).release(ctx)
			assert.Equal(t, test.err, err)
			assert.Equal(t, test.orphans, Orphans(server))
			cancel()
			time.Sleep(time.Minute)
		}
	})
}

// slowly is a Redis that takes its time, and says no, or yes.
type slowly struct {
	redis.Scripter
	after time.Duration
	reply int64
	runs  int
}

func (s *slowly) EvalSha(context.Context, string, []string, ...any) *redis.Cmd {
	s.runs++
	time.Sleep(s.after)
	return redis.NewCmdResult(s.reply, nil)
}

// A reply after 50 ms is one to a command that may have been sent twice; one that comes just when the
// lock ends is too late.
func TestSingleClaim_atTheMoment(t *testing.T) {
	for _, test := range []struct {
		after   time.Duration
		ttl     time.Duration
		reply   int64
		held    bool
		orphans int
	}{
		{50*time.Millisecond - 1, time.Minute, 0, false, 0},
		{50 * time.Millisecond, time.Minute, 0, false, 1},
		{99*time.Millisecond - 1, 100 * time.Millisecond, 1, true, 0},
		{99 * time.Millisecond, 100 * time.Millisecond, 1, false, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			server := &slowly{after: test.after, reply: test.reply}
			ctx, cancel := context.WithTimeout(t.Context(), test.after+1)
			defer cancel()
			held, err := claimOn(server, &noOptions).take(ctx, test.ttl, &noOptions, false)
			assert.NoError(t, err)
			assert.Equal(t, test.held, held)
			assert.Equal(t, test.orphans, Orphans(server))
			time.Sleep(time.Minute)
		})
	}
}
