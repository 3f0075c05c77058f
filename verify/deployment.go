package verify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
)

// A service is what a workload needs.
type service interface {
	styles() []style
	connect() client
}

// A client is a Redis client with connections of its own.
type client struct {
	*redislock.Client
	// answers reports whether the servers of all keys take writes.
	answers func(ctx context.Context) error
	close   func()
}

// A deployment is the servers that locks are obtained from.
type deployment interface {
	service
	// keys returns all keys on the servers.
	keys(ctx context.Context) ([]string, error)
	faults() []fault
}

const persistent, forgetful = true, false

var deployments = []struct {
	name  string
	start func(t *testing.T) deployment
}{
	{"one server", func(t *testing.T) deployment { return startSingle(t, persistent) }},
	{"one server without persistence", func(t *testing.T) deployment { return startSingle(t, forgetful) }},
	{"Sentinel", startReplicated},
	{"Cluster", startCluster},
	{"quorum of five", startQuorum},
}

var singleStyles = []style{
	{name: "plain", keys: 2},
	{name: "watched", keys: 2},
	{name: "fenced", keys: 1},
	{name: "fair", keys: 2},
	{name: "fair, fenced and watched", keys: 1},
	{name: "shared, fair and watched", keys: 1},
	{name: "limited, fair and fenced", keys: 1},
	{name: "limited", keys: 1},
}

func confirmedStyles(replicas int) []style {
	opt := redislock.Options{MinReplicas: replicas}
	return []style{
		{name: "plain", keys: 1},
		{name: "fair and watched", keys: 1},
		{name: "fair and limited", keys: 1},
		{name: "confirmed", keys: 2, confirmed: true, opt: opt},
		{name: "confirmed, fenced and watched", keys: 1, confirmed: true, opt: opt},
		{name: "confirmed, fair and fenced", keys: 1, confirmed: true, opt: opt},
		{name: "confirmed, fair and shared", keys: 1, confirmed: true, opt: opt},
	}
}

var quorumStyles = []style{
	{name: "quorum", keys: 3},
	{name: "quorum, watched", keys: 3},
}

// proxied is a server behind a proxy.
type proxied struct {
	server *redistest.Server
	proxy  *toxiproxy.Proxy
	admin  *redis.Client // not through the proxy
}

func startProxied(t *testing.T, persistence bool) *proxied {
	var args []string
	if persistence {
		args = []string{"--appendonly", "yes", "--appendfsync", "always"}
	}
	p := &proxied{server: redistest.Start(t, args...)}
	metrics := toxiproxy.NewMetricsContainer(prometheus.NewRegistry())
	p.proxy = toxiproxy.NewProxy(toxiproxy.NewServer(metrics, zerolog.Nop()), "redis", "127.0.0.1:0", p.server.Addr)
	require.NoError(t, p.proxy.Start())
	t.Cleanup(p.proxy.Stop)
	p.admin = p.server.Client()
	return p
}

func (p *proxied) client() *redis.Client {
	return clientOf(p.proxy.Listen)
}

// clientOf returns a client whose connections time out before a lock's TTL is over.
func clientOf(addr string) *redis.Client {
	return redis.NewClient(&redis.Options{Addr: addr, ReadTimeout: patience, DialTimeout: patience})
}

const patience = lockTTL / 2

// connection makes a client of the library from one of Redis.
func connection(rdb redis.UniversalClient, keys ...string) client {
	return client{
		Client: redislock.New(rdb),
		answers: func(ctx context.Context) error {
			for _, key := range keys {
				if err := touch(ctx, rdb, key); err != nil {
					return err
				}
			}
			return nil
		},
		close: func() { _ = rdb.Close() },
	}
}

// touch writes without leaving anything behind, on the node of the key.
func touch(ctx context.Context, client redis.Cmdable, key string) error {
	return client.PExpire(ctx, "{"+key+"}:touch", lockTTL).Err()
}

func keysOf(ctx context.Context, servers ...*redistest.Server) (keys []string, err error) {
	for _, server := range servers {
		client := clientOf(server.Addr)
		more, err := client.Keys(ctx, "*").Result()
		_ = client.Close()
		if err != nil {
			return nil, err
		}
		keys = append(keys, more...)
	}
	return keys, nil
}

// single is one server.
type single struct {
	*proxied
	persistence bool
}

func startSingle(t *testing.T, persistence bool) deployment {
	return &single{startProxied(t, persistence), persistence}
}

func (s *single) styles() []style { return singleStyles }
func (s *single) connect() client { return connection(s.client(), "any") }

func (s *single) keys(ctx context.Context) ([]string, error) {
	return keysOf(ctx, s.server)
}

// replicated is a master with two replicas and three Sentinels.
type replicated struct{ *redistest.Replicated }

func startReplicated(t *testing.T) deployment {
	return replicated{redistest.StartSentinel(t, 3)}
}

func (r replicated) styles() []style { return confirmedStyles(2) }

func (r replicated) connect() client {
	return connection(r.Client(func(o *redis.FailoverOptions) { o.ReadTimeout, o.DialTimeout = patience, patience }), "any")
}

func (r replicated) keys(ctx context.Context) ([]string, error) {
	return keysOf(ctx, r.Master)
}

// cluster is three masters with a replica each.
type cluster struct{ *redistest.Cluster }

func startCluster(t *testing.T) deployment {
	return cluster{redistest.StartCluster(t, true)}
}

func (c cluster) styles() []style { return confirmedStyles(1) }

func (c cluster) connect() client {
	var keys []string
	for _, style := range c.styles() {
		for k := range style.keys {
			keys = append(keys, style.key(k))
		}
	}
	return connection(c.Client(func(o *redis.ClusterOptions) { o.ReadTimeout, o.DialTimeout = patience, patience }), keys...)
}

func (c cluster) keys(ctx context.Context) ([]string, error) {
	return keysOf(ctx, c.Masters...)
}

// independent is five masters that know nothing of each other.
type independent struct{ nodes []*proxied }

func startQuorum(t *testing.T) deployment {
	q := independent{}
	for range 5 {
		q.nodes = append(q.nodes, startProxied(t, persistent))
	}
	return q
}

func (q independent) styles() []style { return quorumStyles }

func (q independent) connect() client {
	var all client
	nodes := make([]client, len(q.nodes))
	rdbs := make([]redislock.RedisClient, len(q.nodes))
	for i, node := range q.nodes {
		rdb := node.client()
		nodes[i], rdbs[i] = connection(rdb, "any"), rdb
	}
	all.Client = redislock.NewQuorum(rdbs...)
	all.answers = func(ctx context.Context) error {
		errs := make([]error, len(nodes))
		var asked sync.WaitGroup
		for i, node := range nodes {
			asked.Go(func() { errs[i] = node.answers(ctx) })
		}
		asked.Wait()
		return errors.Join(errs...)
	}
	all.close = func() {
		for _, node := range nodes {
			node.close()
		}
	}
	return all
}

func (q independent) keys(ctx context.Context) ([]string, error) {
	var servers []*redistest.Server
	for _, node := range q.nodes {
		servers = append(servers, node.server)
	}
	return keysOf(ctx, servers...)
}

// leftovers returns the keys that should no longer be there: all but the fencing counters.
func leftovers(ctx context.Context, d deployment) ([]string, error) {
	keys, err := d.keys(ctx)
	var rest []string
	for _, key := range keys {
		if !strings.HasSuffix(key, ":fence") {
			rest = append(rest, fmt.Sprintf("%q", key))
		}
	}
	return rest, err
}
