package redislock

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// What tells go-redis' clients of several nodes from others.
type (
	clusterClient interface {
		MasterForKey(ctx context.Context, key string) (*redis.Client, error)
	}
	ringClient interface {
		GetShardClientForKey(key string) (*redis.Client, error)
	}
)

// sharded reports whether keys are spread over nodes.
func (c *Client) sharded() bool {
	switch c.client.(type) {
	case clusterClient, ringClient:
		return true
	default:
		return false
	}
}

// nodeTimeout bounds the asking for a key's node, for which a Cluster may have to be asked
// for its nodes.
const nodeTimeout = 200 * time.Millisecond

// node returns the client of the node that has the key; nil if there is only one, or it
// cannot be told. After a failover or a migration it may be the wrong one for a while.
func (c *Client) node(key string) *redis.Client {
	var node *redis.Client
	switch client := c.client.(type) {
	case clusterClient:
		ctx, cancel := context.WithTimeout(context.Background(), nodeTimeout)
		defer cancel()
		node, _ = client.MasterForKey(ctx, key)
	case ringClient:
		node, _ = client.GetShardClientForKey(key)
	}
	return node
}

// lookForNodes has a Cluster's client find out which nodes there are: after a failure in a
// pipeline it does not do so by itself.
func (c *Client) lookForNodes(ctx context.Context) {
	if client, ok := c.client.(interface{ ReloadState(ctx context.Context) }); ok {
		client.ReloadState(ctx)
	}
}

// hashTag returns the part of a key by which it is assigned to a node.
func hashTag(key string) string {
	if _, rest, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(rest, "}"); ok && tag != "" {
			return tag
		}
	}
	return key
}

// checkTags finds out that keys may be on different nodes of a Ring. There a script runs
// on the node of its first key, and nobody would notice.
func (c *Client) checkTags(keys []string) error {
	if _, ok := c.client.(ringClient); !ok {
		return nil
	}
	if one, other, ok := differentTags(keys); ok {
		return fmt.Errorf("redislock: keys %q and %q may be on different nodes of the Ring: "+
			"give all of them one {hash tag}", one, other)
	}
	return nil
}

// nameTags makes an error of a Redis Cluster about keys in different slots one that names
// two of them.
func nameTags(keys []string, err error) error {
	if !redis.HasErrorPrefix(err, "CROSSSLOT") {
		return err
	}
	if one, other, ok := differentTags(keys); ok {
		return fmt.Errorf("redislock: keys %q and %q are in different slots of the Redis Cluster: "+
			"give all of them one {hash tag}: %w", one, other, err)
	}
	return err
}

func differentTags(keys []string) (one, other string, ok bool) {
	for _, key := range keys {
		if hashTag(key) != hashTag(keys[0]) {
			return keys[0], key, true
		}
	}
	return "", "", false
}

// subscriber returns the function to subscribe with to a channel on the node that the
// channel's hash tag belongs to, and whether the channel is a sharded one. It is nil if
// the client has none.
func (c *Client) subscriber() (subscribe subscribeFunc, sharded bool) {
	switch client := c.client.(type) {
	case clusterClient:
		// A plain message would go to all nodes, and nobody would know how many have
		// received it. The master's own client does so also where the Cluster's is for
		// reading from replicas.
		return func(ctx context.Context, channel string) (*redis.PubSub, error) {
			node, err := client.MasterForKey(ctx, channel)
			if err != nil {
				return nil, err
			}
			return node.SSubscribe(ctx, channel), nil
		}, true
	case ringClient:
		return func(ctx context.Context, channel string) (*redis.PubSub, error) {
			node, err := client.GetShardClientForKey(channel)
			if err != nil {
				return nil, err
			}
			return node.Subscribe(ctx, channel), nil
		}, false
	case *redis.Client:
		return func(ctx context.Context, channel string) (*redis.PubSub, error) {
			return client.Subscribe(ctx, channel), nil
		}, false
	case interface {
		Subscribe(ctx context.Context, channels ...string) *redis.PubSub
		Info(ctx context.Context, sections ...string) *redis.StringCmd
	}:
		return func(ctx context.Context, channel string) (*redis.PubSub, error) {
			// It may be the AutoPipeliner of a Cluster, or hide its client.
			info, err := client.Info(ctx, "cluster").Result()
			if err != nil && !refused(err) {
				return nil, err
			}
			if err != nil || strings.Contains(info, "cluster_enabled:1") {
				return nil, errCannotSubscribe
			}
			return client.Subscribe(ctx, channel), nil
		}, false
	default:
		return nil, false
	}
}
