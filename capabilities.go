package redislock

import (
	"context"
	"reflect"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// capabilities are what a Redis client can do beside running scripts.
type capabilities struct {
	// Of go-redis' own clients only. A type of one's own may do something to the calls of
	// scripts (add a prefix to keys, count) that it does not do to commands and pipelines.
	commands  commander
	pipelines pipeliner

	// Whoever embeds a client of several nodes has its nodes too.
	cluster clusterClient
	ring    ringClient
	nodes   nodeFinder

	channels   subscriber
	ownTimeout bool // it ends a command at its own timeout only, whatever the context's deadline
	identity   any  // tells Redis clients apart, as a key of a map
}

type (
	commander interface {
		SetNX(ctx context.Context, key string, value any, expiration time.Duration) *redis.BoolCmd
	}
	pipeliner interface {
		Pipelined(ctx context.Context, fn func(redis.Pipeliner) error) ([]redis.Cmder, error)
	}
	clusterClient interface {
		MasterForKey(ctx context.Context, key string) (*redis.Client, error)
	}
	ringClient interface {
		GetShardClientForKey(key string) (*redis.Client, error)
	}
	nodeFinder interface {
		ReloadState(ctx context.Context)
	}
	subscriber interface {
		Subscribe(ctx context.Context, channels ...string) *redis.PubSub
		Info(ctx context.Context, sections ...string) *redis.StringCmd
	}
)

// capabilitiesOf finds out what a client can do.
func capabilitiesOf(client RedisClient) capabilities {
	var c capabilities
	switch client := client.(type) {
	case *redis.Client:
		c.commands, c.pipelines = client, client
		c.ownTimeout = !client.Options().ContextTimeoutEnabled
	case *redis.ClusterClient:
		c.commands, c.pipelines = client, client
		c.ownTimeout = !client.Options().ContextTimeoutEnabled
	case *redis.Ring:
		c.commands, c.pipelines = client, client
		c.ownTimeout = !client.Options().ContextTimeoutEnabled
	case *redis.AutoPipeliner:
		c.commands, c.pipelines = client, client
	}
	c.cluster, _ = client.(clusterClient)
	c.ring, _ = client.(ringClient)
	c.nodes, _ = client.(nodeFinder)
	c.channels, _ = client.(subscriber)
	if reflect.ValueOf(client).Comparable() {
		c.identity = client
	} else {
		c.identity = new(int) // each call of New is another
	}
	return c
}

// A subscribeFunc subscribes to a channel. It returns errCannotSubscribe if that is
// impossible for good.
type subscribeFunc func(ctx context.Context, channel string) (*redis.PubSub, error)

// subscribing returns the function to subscribe with to a channel on the node that the
// channel's hash tag belongs to, and whether the channel is a sharded one. It is nil if
// the client has none.
func (c *capabilities) subscribing() (subscribe subscribeFunc, sharded bool) {
	switch {
	case c.cluster != nil:
		// A plain message would go to all nodes, and nobody would know how many have
		// received it. The master's own client does so also where the Cluster's is for
		// reading from replicas.
		return func(ctx context.Context, channel string) (*redis.PubSub, error) {
			node, err := c.cluster.MasterForKey(ctx, channel)
			if err != nil {
				return nil, err
			}
			return node.SSubscribe(ctx, channel), nil
		}, true
	case c.ring != nil:
		return func(ctx context.Context, channel string) (*redis.PubSub, error) {
			node, err := c.ring.GetShardClientForKey(channel)
			if err != nil {
				return nil, err
			}
			return node.Subscribe(ctx, channel), nil
		}, false
	case c.channels == nil:
		return nil, false
	}
	if _, plain := c.channels.(*redis.Client); plain {
		return func(ctx context.Context, channel string) (*redis.PubSub, error) {
			return c.channels.Subscribe(ctx, channel), nil
		}, false
	}
	return func(ctx context.Context, channel string) (*redis.PubSub, error) {
		// It may be the AutoPipeliner of a Cluster, or hide its client.
		info, err := c.channels.Info(ctx, "cluster").Result()
		if err != nil && !refused(err) {
			return nil, err
		}
		if err != nil || strings.Contains(info, "cluster_enabled:1") {
			return nil, errCannotSubscribe
		}
		return c.channels.Subscribe(ctx, channel), nil
	}, false
}
