package redistest

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/stretchr/testify/require"
)

// Simulated starts a server in a bubble of testing/synctest, which ends with the test, and returns
// a client of it. TTLs pass exactly, in the time of the bubble, and commands take none. So a
// test can say to the millisecond when something happens. Each change may adapt the client's
// options.
func Simulated(t testing.TB, changes ...func(*redis.Options)) *redis.Client {
	t.Helper()
	redisServer := miniredis.NewMiniRedis()
	conn, err := redisServer.Dial() // starts it
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	t.Cleanup(redisServer.Close)

	var mu sync.Mutex
	passed := time.Now()
	redisServer.Server().SetPreHook(func(*server.Peer, string, ...string) bool {
		mu.Lock()
		defer mu.Unlock()
		// Not for a command in a script, which holds a mutex that this needs: no time has
		// passed since the script began.
		if elapsed := time.Since(passed); elapsed > 0 {
			passed = passed.Add(elapsed)
			redisServer.FastForward(elapsed)
		}
		return false
	})

	dial := func(context.Context, string, string) (net.Conn, error) { return redisServer.Dial() }
	return Client(t, "192.0.2.1:6379", append(changes, func(o *redis.Options) {
		o.Dialer = dial
		o.PoolSize = 1000 // nobody waits for a connection
		o.DisableIdentity = true
		o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	})...)
}
