package redislock

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

// What replicas have to confirm, one is enough, does not hold up what they have not.
func TestSingleClaim_laneKey(t *testing.T) {
	assert.True(t, claimOn(prompt{}, &Options{MinReplicas: 1}).laneKey().confirmed)
	assert.False(t, claimOn(prompt{}, &noOptions).laneKey().confirmed)
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
