package rlgocron

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock"
)

func TestDefaults(t *testing.T) {
	t.Parallel()
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer client.Close()
	watchdog := redislock.NewTickWatchdog(time.Second)
	for name, test := range map[string]struct {
		opt     *redislock.Options
		atLeast time.Duration
	}{
		"none":        {nil, DefaultHoldAtLeast},
		"zero":        {&redislock.Options{}, DefaultHoldAtLeast},
		"long":        {&redislock.Options{HoldAtLeast: time.Hour}, time.Hour},
		"short":       {&redislock.Options{HoldAtLeast: time.Millisecond}, time.Millisecond},
		"less":        {&redislock.Options{HoldAtMost: time.Millisecond}, time.Millisecond},
		"at most":     {&redislock.Options{HoldAtMost: time.Hour}, DefaultHoldAtLeast},
		"of the user": {&redislock.Options{Watchdog: watchdog}, DefaultHoldAtLeast},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := NewLocker(redislock.New(client), time.Minute, test.opt)
			require.NoError(t, err)
			opt := l.(*locker).opt
			assert.Equal(t, test.atLeast, opt.HoldAtLeast)
			assert.NotNil(t, opt.Watchdog)
			assert.NotNil(t, opt.Logger)
			if name == "of the user" {
				assert.Same(t, watchdog, opt.Watchdog)
			}
		})
	}
}
