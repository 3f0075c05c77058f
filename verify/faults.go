package verify

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/bsm/redislock/internal/redistest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
)

// A setup is a server behind a proxy, and what faults may do to it.
type setup struct {
	server *redistest.Server
	proxy  *toxiproxy.Proxy
	admin  *redis.Client // not through the proxy
}

func newSetup(t *testing.T, args ...string) *setup {
	s := &setup{server: redistest.Start(t, args...)}
	s.admin = s.server.Client()
	metrics := toxiproxy.NewMetricsContainer(prometheus.NewRegistry())
	s.proxy = toxiproxy.NewProxy(toxiproxy.NewServer(metrics, zerolog.Nop()), "redis", "127.0.0.1:0", s.server.Addr)
	require.NoError(t, s.proxy.Start())
	t.Cleanup(s.proxy.Stop)
	return s
}

// A fault disturbs a setup once, for about half a second to two, and mends it again.
type fault struct {
	name    string
	disturb func(t *testing.T, s *setup, random *rand.Rand)
}

func pause(random *rand.Rand, from, to time.Duration) {
	time.Sleep(from + time.Duration(random.Int64N(int64(to-from))))
}

// toxic adds a toxic to the proxy for a while.
func toxic(json string, from, to time.Duration) func(t *testing.T, s *setup, random *rand.Rand) {
	return func(t *testing.T, s *setup, random *rand.Rand) {
		_, err := s.proxy.Toxics.AddToxicJson(strings.NewReader(json))
		require.NoError(t, err)
		pause(random, from, to)
		s.proxy.Toxics.ResetToxics(context.Background())
	}
}

// command has the server execute a command again and again for a while.
func command(args ...any) func(t *testing.T, s *setup, random *rand.Rand) {
	return func(t *testing.T, s *setup, random *rand.Rand) {
		for range 10 {
			require.NoError(t, s.admin.Do(context.Background(), args...).Err())
			pause(random, 20*time.Millisecond, 120*time.Millisecond)
		}
	}
}

var faults = []fault{
	{"none", func(t *testing.T, s *setup, random *rand.Rand) { pause(random, 500*time.Millisecond, time.Second) }},
	{"server killed", func(t *testing.T, s *setup, random *rand.Rand) {
		s.server.Kill()
		pause(random, 10*time.Millisecond, 500*time.Millisecond)
		s.server.Restart()
		pause(random, 500*time.Millisecond, time.Second)
	}},
	{"server stopped for less than the TTL", func(t *testing.T, s *setup, random *rand.Rand) {
		s.server.Pause()
		pause(random, lockTTL/10, lockTTL/2)
		s.server.Resume()
		pause(random, 200*time.Millisecond, 500*time.Millisecond)
	}},
	{"server stopped for longer than the TTL", func(t *testing.T, s *setup, random *rand.Rand) {
		s.server.Pause()
		pause(random, lockTTL, 2*lockTTL)
		s.server.Resume()
		pause(random, 500*time.Millisecond, time.Second)
	}},
	{"latency", toxic(`{"type":"latency","attributes":{"latency":50,"jitter":50}}`, time.Second, 2*time.Second)},
	{"latency of more than the TTL", toxic(`{"type":"latency","attributes":{"latency":1200,"jitter":300}}`, 2*time.Second, 3*time.Second)},
	{"bandwidth", toxic(`{"type":"bandwidth","attributes":{"rate":20}}`, time.Second, 2*time.Second)},
	{"half-open connections", toxic(`{"type":"timeout","stream":"downstream","attributes":{"timeout":0}}`, 500*time.Millisecond, 2*time.Second)},
	{"connections cut", func(t *testing.T, s *setup, random *rand.Rand) {
		for range 10 {
			s.proxy.Stop()
			pause(random, time.Millisecond, 20*time.Millisecond)
			require.NoError(t, s.proxy.Start())
			pause(random, 20*time.Millisecond, 200*time.Millisecond)
		}
	}},
	{"scripts flushed", command("script", "flush")},
	{"normal connections killed", command("client", "kill", "type", "normal", "skipme", "yes")},
	{"pubsub connections killed", command("client", "kill", "type", "pubsub")},
	{"out of memory", func(t *testing.T, s *setup, random *rand.Rand) {
		require.NoError(t, s.admin.ConfigSet(context.Background(), "maxmemory", "1").Err())
		pause(random, 200*time.Millisecond, time.Second)
		require.NoError(t, s.admin.ConfigSet(context.Background(), "maxmemory", "0").Err())
		pause(random, 200*time.Millisecond, 500*time.Millisecond)
	}},
	{"no permission on channels", func(t *testing.T, s *setup, random *rand.Rand) {
		acl := func(channels string) {
			require.NoError(t, s.admin.Do(context.Background(), "acl", "setuser", "default", channels).Err())
		}
		acl("resetchannels")
		pause(random, 500*time.Millisecond, 2*time.Second)
		acl("allchannels")
		pause(random, 200*time.Millisecond, 500*time.Millisecond)
	}},
}
