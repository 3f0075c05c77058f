package redislock_test

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/bsm/redislock"
)

func backoffs(strategy redislock.RetryStrategy, n int) []time.Duration {
	backoffs := make([]time.Duration, n)
	for i := range backoffs {
		backoffs[i] = strategy.NextBackoff()
	}
	return backoffs
}

func TestNoRetry(t *testing.T) {
	assert.Equal(t, []time.Duration{0, 0}, backoffs(redislock.NoRetry(), 2))
}

func TestLinearBackoff(t *testing.T) {
	assert.Equal(t, []time.Duration{time.Second, time.Second}, backoffs(redislock.LinearBackoff(time.Second), 2))
}

func TestExponentialBackoff(t *testing.T) {
	const ms = time.Millisecond
	assert.Equal(t, []time.Duration{4 * ms, 8 * ms, 16 * ms, 32 * ms}, backoffs(redislock.ExponentialBackoff(0, 0), 4))
	assert.Equal(t, []time.Duration{10 * ms, 10 * ms, 16 * ms, 20 * ms, 20 * ms},
		backoffs(redislock.ExponentialBackoff(10*ms, 20*ms), 5))

	for i, backoff := range backoffs(redislock.ExponentialBackoff(0, 0), 100) {
		assert.Positive(t, backoff, "wait %d", i)
	}
}

func TestLimitRetry(t *testing.T) {
	limited := redislock.LimitRetry(redislock.LinearBackoff(time.Second), 2)
	assert.Equal(t, []time.Duration{time.Second, time.Second, 0, 0}, backoffs(limited, 4))
	assert.Zero(t, redislock.LimitRetry(redislock.LinearBackoff(time.Second), 0).NextBackoff())
	assert.Zero(t, redislock.LimitRetry(redislock.LinearBackoff(time.Second), -1).NextBackoff())
	assert.Zero(t, redislock.LimitRetry(nil, 1).NextBackoff())
}

func TestLimitRetry_sharedByGoroutines(t *testing.T) {
	const max = 1000
	limited := redislock.LimitRetry(redislock.LinearBackoff(time.Second), max)
	var granted atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range max {
				if limited.NextBackoff() > 0 {
					granted.Add(1)
				}
			}
		})
	}
	wg.Wait()
	assert.EqualValues(t, max, granted.Load())
}

func TestDiscardLogger(t *testing.T) {
	assert.False(t, redislock.DiscardLogger().Enabled(t.Context(), slog.LevelError))
}
