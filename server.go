package redislock

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// A server is one Redis, or Sentinel, Cluster or Ring, as its client knows it.
type server struct {
	client RedisClient // nil if there is none

	// What the client can do beside running scripts.

	// One of go-redis' own clients. A custom type may do something to the calls of scripts
	// (add a prefix to keys, count) that it does not do to commands and pipelines.
	own bool
	// Own, and its pipelines can be relied on.
	pipelined bool
	// A type that embeds a client of several nodes has its nodes too.
	isCluster, isRing bool

	ownTimeout bool // ends a command only at its own timeout, whatever the context's deadline
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

// newServer finds out what a client can do.
func newServer(client RedisClient) *server {
	// A nil *redis.Client is a non-nil RedisClient that panics in every call.
	if v := reflect.ValueOf(client); v.Kind() == reflect.Pointer && v.IsNil() {
		client = nil
	}
	if client == nil {
		return &server{}
	}
	s := &server{client: client, comparable: reflect.ValueOf(client).Comparable()}
	switch client := client.(type) {
	case *redis.Client:
		s.own, s.ownTimeout = true, !client.Options().ContextTimeoutEnabled
	case *redis.ClusterClient:
		s.own, s.ownTimeout = true, !client.Options().ContextTimeoutEnabled
	case *redis.Ring:
		s.own, s.ownTimeout = true, !client.Options().ContextTimeoutEnabled
	case *redis.AutoPipeliner:
		s.own = true
	}
	_, s.isCluster = client.(clusterClient)
	_, s.isRing = client.(ringClient)
	// A Ring that is closed while it sends a pipeline panics, in a goroutine of its own.
	s.pipelined = s.own && !s.isRing
	return s
}

// pipelines is the client for pipelines, if it is [server.pipelined].
func (s *server) pipelines() pipeliner { return s.client.(pipeliner) }

// identity returns what distinguishes a Redis client from others, as a key of a map.
func (s *server) identity() any {
	if s.comparable {
		return s.client
	}
	return s
}

// sharded reports whether keys are spread over nodes.
func (s *server) sharded() bool {
	return s.isCluster || s.isRing
}

// nodeOf returns the client of the node that has the key.
func (s *server) nodeOf(ctx context.Context, key string) (*redis.Client, error) {
	if s.isCluster {
		return s.client.(clusterClient).MasterForKey(ctx, key)
	}
	return s.client.(ringClient).GetShardClientForKey(key)
}

// nodeTimeout bounds the search for a key's node, which may have to ask a Cluster for its nodes.
const nodeTimeout = 200 * time.Millisecond

// node returns the client of the node that has the key; nil if there is only one, or it
// cannot be told. After a failover or a migration it may be the wrong one for a while.
func (s *server) node(key string) *redis.Client {
	if !s.sharded() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), nodeTimeout)
	defer cancel()
	node, err := s.nodeOf(ctx, key)
	if err != nil {
		return nil
	}
	return node
}

// lookForNodes makes a Cluster's client find out which nodes there are: after a failure in a
// pipeline it does not do so on its own.
func (s *server) lookForNodes(ctx context.Context) {
	if nodes, ok := s.client.(nodeFinder); ok {
		nodes.ReloadState(ctx)
	}
}

// A subscribeFunc subscribes to a channel. It returns errCannotSubscribe if that is
// impossible for good.
type subscribeFunc func(ctx context.Context, channel string) (*redis.PubSub, error)

// subscribing returns the function to subscribe with to a channel on the node that the
// channel's hash tag belongs to, and whether the channel is a sharded one. It is nil if
// the client has none.
func (s *server) subscribing() (subscribe subscribeFunc, sharded bool) {
	if s.sharded() {
		return func(ctx context.Context, channel string) (*redis.PubSub, error) {
			node, err := s.nodeOf(ctx, channel)
			switch {
			case err != nil:
				return nil, err
			case s.isCluster:
				// A plain message would go to all nodes, and nobody would know how many
				// received it. The master's own client subscribes there even if the
				// Cluster's reads from replicas.
				return node.SSubscribe(ctx, channel), nil
			default:
				return node.Subscribe(ctx, channel), nil
			}
		}, s.isCluster
	}
	client, ok := s.client.(subscriber)
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

// hashTag returns the part of a key by which it is assigned to a node.
func hashTag(key string) string {
	if _, rest, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(rest, "}"); ok && tag != "" {
			return tag
		}
	}
	return key
}

// checkTags reports keys that may be on different nodes of a Ring. A Ring runs a script on the node
// of its first key, and nobody would notice.
func (s *server) checkTags(keys []string) error {
	if !s.isRing {
		return nil
	}
	if one, other, ok := differentTags(keys); ok {
		return fmt.Errorf("redislock: keys %q and %q may be on different nodes of the Ring: "+
			"give all of them the same {hash tag}", one, other)
	}
	return nil
}

// nameTags turns the error of a Redis Cluster about keys in different slots into one that names two
// of them.
func nameTags(keys []string, err error) error {
	if err == nil || !redis.HasErrorPrefix(err, "CROSSSLOT") {
		return err
	}
	if one, other, ok := differentTags(keys); ok {
		return fmt.Errorf("redislock: keys %q and %q are in different slots of the Redis Cluster: "+
			"give all of them the same {hash tag}: %w", one, other, err)
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

// prefixOf is what the names of the keys beside a lock's key begin with, so that all are in its
// slot. No two locks have the same. It is not in the slot, and that is false, if the key has a brace
// that ends the tag too early.
func prefixOf(key string) (prefix string, sameSlot bool) {
	if hashTag(key) != key {
		return key + "::redislock:", true
	}
	return "{" + key + "}:redislock:", !strings.Contains(key, "}")
}

// besideKeys reports whether the keys beside a lock's key are on its node.
func (s *server) besideKeys(key string) bool {
	if !s.sharded() {
		return true
	}
	_, sameSlot := prefixOf(key)
	return sameSlot
}

// checkBeside finds out that an option which needs those keys cannot be met.
func (s *server) checkBeside(key, what string) error {
	if !s.besideKeys(key) {
		return fmt.Errorf("redislock: key %q cannot be used with %s: its closing brace would put "+
			"the keys beside it into another slot; give it a {hash tag}", key, what)
	}
	return nil
}
