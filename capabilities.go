package redislock

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// capabilities are what a Redis client can do beside running scripts. They are kept by every
// lock whose client was made for it alone, and so are small.
type capabilities struct {
	// One of go-redis' own clients. A type of one's own may do something to the calls of
	// scripts (add a prefix to keys, count) that it does not do to commands and pipelines.
	own bool
	// Whoever embeds a client of several nodes has its nodes too.
	isCluster, isRing bool

	ownTimeout bool // it ends a command at its own timeout only, whatever the context's deadline
	comparable bool
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
	c := capabilities{comparable: reflect.ValueOf(client).Comparable()}
	switch client := client.(type) {
	case *redis.Client:
		c.own, c.ownTimeout = true, !client.Options().ContextTimeoutEnabled
	case *redis.ClusterClient:
		c.own, c.ownTimeout = true, !client.Options().ContextTimeoutEnabled
	case *redis.Ring:
		c.own, c.ownTimeout = true, !client.Options().ContextTimeoutEnabled
	case *redis.AutoPipeliner:
		c.own = true
	}
	_, c.isCluster = client.(clusterClient)
	_, c.isRing = client.(ringClient)
	return c
}

// commands is the client for plain commands; nil if it is not to be used for them.
func (c *Client) commands() commander {
	if !c.own {
		return nil
	}
	return c.client.(commander)
}

// pipelines is the client for pipelines; nil if it is not to be used for them.
func (c *Client) pipelines() pipeliner {
	if !c.own {
		return nil
	}
	return c.client.(pipeliner)
}

// identity returns what tells a Redis client from others, as a key of a map.
func (c *Client) identity() any {
	switch {
	case c.quorum != nil:
		return c.quorum
	case c.comparable:
		return c.client
	default:
		return c
	}
}

// sharded reports whether keys are spread over nodes.
func (c *Client) sharded() bool {
	return c.isCluster || c.isRing
}

// onRing reports whether the client, or one of a quorum, is a Ring.
func (c *Client) onRing() bool {
	return c.isRing || c.quorum != nil && slices.ContainsFunc(c.quorum.nodes, func(n *node) bool { return n.isRing })
}

// nodeOf returns the client of the node that has the key.
func (c *Client) nodeOf(ctx context.Context, key string) (*redis.Client, error) {
	if c.isCluster {
		return c.client.(clusterClient).MasterForKey(ctx, key)
	}
	return c.client.(ringClient).GetShardClientForKey(key)
}

// lookForNodes has a Cluster's client find out which nodes there are: after a failure in a
// pipeline it does not do so by itself.
func (c *Client) lookForNodes(ctx context.Context) {
	if nodes, ok := c.client.(nodeFinder); ok {
		nodes.ReloadState(ctx)
	}
}

// A subscribeFunc subscribes to a channel. It returns errCannotSubscribe if that is
// impossible for good.
type subscribeFunc func(ctx context.Context, channel string) (*redis.PubSub, error)

// subscribing returns the function to subscribe with to a channel on the node that the
// channel's hash tag belongs to, and whether the channel is a sharded one. It is nil if
// the client has none.
func (c *Client) subscribing() (subscribe subscribeFunc, sharded bool) {
	if c.sharded() {
		return func(ctx context.Context, channel string) (*redis.PubSub, error) {
			node, err := c.nodeOf(ctx, channel)
			switch {
			case err != nil:
				return nil, err
			case c.isCluster:
				// A plain message would go to all nodes, and nobody would know how many
				// have received it. The master's own client does so also where the
				// Cluster's is for reading from replicas.
				return node.SSubscribe(ctx, channel), nil
			default:
				return node.Subscribe(ctx, channel), nil
			}
		}, c.isCluster
	}
	client, ok := c.client.(subscriber)
	if !ok {
		return nil, false
	}
	return func(ctx context.Context, channel string) (*redis.PubSub, error) {
		if _, plain := client.(*redis.Client); !plain {
			// It may be the AutoPipeliner of a Cluster, or hide its client.
			info, err := client.Info(ctx, "cluster").Result()
			if err != nil && !refused(err) {
				return nil, err
			}
			if err != nil || strings.Contains(info, "cluster_enabled:1") {
				return nil, errCannotSubscribe
			}
		}
		return client.Subscribe(ctx, channel), nil
	}, false
}
