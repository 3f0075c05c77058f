package redistest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

const slots = 16384

// Cluster is a Redis Cluster of three masters.
type Cluster struct {
	Masters  []*Server
	Replicas []*Server // of the master of the same index; or none

	t testing.TB
}

// StartCluster starts a Redis Cluster, on request with a replica of each master. That
// TakesLong.
func StartCluster(t testing.TB, replicas bool) *Cluster {
	t.Helper()
	TakesLong(t)
	c := &Cluster{t: t}
	start := func() *Server {
		return Start(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000",
			"--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0")
	}
	const masters = 3
	for range masters {
		c.Masters = append(c.Masters, start())
	}
	if replicas {
		for range masters {
			c.Replicas = append(c.Replicas, start())
		}
	}
	ctx := t.Context()
	for i, master := range c.Masters {
		first, end := slots*i/masters, slots*(i+1)/masters
		require.NoError(t, master.Client().ClusterAddSlotsRange(ctx, first, end-1).Err())
	}
	for _, server := range c.servers()[1:] {
		require.NoError(t, c.Masters[0].Client().ClusterMeet(ctx, "127.0.0.1", server.port()).Err())
	}
	c.await("all know each other", func(info, nodes string) bool {
		return strings.Count(nodes, "connected") == len(c.servers())
	})
	for i, replica := range c.Replicas {
		require.NoError(t, replica.Client().ClusterReplicate(ctx, c.Masters[i].clusterID()).Err())
	}
	c.await("the replicas follow", func(info, nodes string) bool {
		return strings.Contains(info, "cluster_state:ok") && strings.Count(nodes, "slave") == len(c.Replicas)
	})
	for i, replica := range c.Replicas {
		replica.awaitInfo("master_link_status:up")
		c.Masters[i].awaitReplicas(1)
	}
	return c
}

func (c *Cluster) servers() []*Server {
	return append(append([]*Server(nil), c.Masters...), c.Replicas...)
}

// await waits until all nodes that are alive fulfil a condition.
func (c *Cluster) await(what string, fulfilled func(info, nodes string) bool) {
	c.t.Helper()
	for _, server := range c.servers() {
		if server.stdin == nil {
			continue
		}
		client := server.Client()
		require.Eventually(c.t, func() bool {
			info, err1 := client.ClusterInfo(context.Background()).Result()
			nodes, err2 := client.ClusterNodes(context.Background()).Result()
			return err1 == nil && err2 == nil && fulfilled(info, nodes)
		}, startTimeout, 10*time.Millisecond, what)
	}
}

// Client returns a client of the Cluster that is closed with the test.
func (c *Cluster) Client(changes ...func(*redis.ClusterOptions)) *redis.ClusterClient {
	c.t.Helper()
	options := &redis.ClusterOptions{}
	for _, server := range c.servers() {
		options.Addrs = append(options.Addrs, server.Addr)
	}
	for _, change := range changes {
		change(options)
	}
	client := redis.NewClusterClient(options)
	c.t.Cleanup(func() { _ = client.Close() })
	return client
}

// MasterOf returns the index of the master that has the key's slot by the order in
// which slots were given out.
func (c *Cluster) MasterOf(key string) int {
	c.t.Helper()
	slot := c.slot(key)
	return int(slot) * len(c.Masters) / slots
}

func (c *Cluster) slot(key string) int64 {
	c.t.Helper()
	slot, err := c.Masters[0].Client().ClusterKeySlot(context.Background(), key).Result()
	require.NoError(c.t, err)
	return slot
}

// Migrate moves the key's slot with all that is in it from one master to another.
func (c *Cluster) Migrate(key string, from, to *Server) {
	c.t.Helper()
	ctx := context.Background()
	slot := c.slot(key)
	source, target := from.Client(), to.Client()
	do := func(client *redis.Client, args ...any) {
		c.t.Helper()
		require.NoError(c.t, client.Do(ctx, args...).Err())
	}
	do(target, "cluster", "setslot", slot, "importing", from.clusterID())
	do(source, "cluster", "setslot", slot, "migrating", to.clusterID())
	for {
		keys, err := source.ClusterGetKeysInSlot(ctx, int(slot), 100).Result()
		require.NoError(c.t, err)
		if len(keys) == 0 {
			break
		}
		args := []any{"migrate", "127.0.0.1", to.port(), "", 0, 5000, "keys"}
		for _, key := range keys {
			args = append(args, key)
		}
		do(source, args...)
	}
	do(target, "cluster", "setslot", slot, "node", to.clusterID())
	do(source, "cluster", "setslot", slot, "node", to.clusterID())
}

// AwaitFailover waits until the Cluster has replaced the master of that index by its
// replica.
func (c *Cluster) AwaitFailover(i int) {
	c.t.Helper()
	c.Replicas[i].awaitInfo("role:master")
	c.await("the others know", func(info, nodes string) bool {
		return strings.Contains(info, "cluster_state:ok")
	})
}

// FailOver kills the master of that index, waits until its replica has taken its place,
// and starts it again as the replica.
func (c *Cluster) FailOver(i int) {
	c.t.Helper()
	old := c.Masters[i]
	old.Kill()
	c.AwaitFailover(i)
	old.Restart()
	c.Masters[i], c.Replicas[i] = c.Replicas[i], old
	old.awaitInfo("master_link_status:up")
	c.Masters[i].awaitInfo("connected_slaves:1")
}

// Owner returns the master that has the key's slot: the one that does not send us to
// another.
func (c *Cluster) Owner(key string) *Server {
	c.t.Helper()
	for _, master := range c.Masters {
		client := master.Client()
		err := client.PTTL(context.Background(), key).Err()
		_ = client.Close()
		if err == nil {
			return master
		}
	}
	c.t.Fatalf("no master has the slot of key %q", key)
	return nil
}

func (s *Server) clusterID() string {
	s.t.Helper()
	id, err := s.Client().Do(context.Background(), "cluster", "myid").Text()
	require.NoError(s.t, err)
	return id
}

// awaitInfo waits until INFO replication contains a line.
func (s *Server) awaitInfo(line string) {
	s.t.Helper()
	s.awaitInfos(line, 1)
}

// awaitReplicas waits until n replicas have caught up, and confirm what is written from now
// on: that begins up to a second later than both sides say that they are ready.
func (s *Server) awaitReplicas(n int) {
	s.t.Helper()
	s.awaitInfos("state=online", n)
	client := s.Client()
	require.Eventually(s.t, func() bool {
		ctx := context.Background()
		var confirmed *redis.Cmd
		_, err := client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			pipe.Publish(ctx, "anything", "that is replicated")
			confirmed = pipe.Do(ctx, "wait", n, 100)
			return nil
		})
		return err == nil && confirmed.Val() == int64(n)
	}, startTimeout, time.Millisecond, fmt.Sprintf("%d replicas of %s confirm", n, s.Addr))
}

func (s *Server) awaitInfos(text string, times int) {
	s.t.Helper()
	client := s.Client()
	require.Eventually(s.t, func() bool {
		info, err := client.Info(context.Background(), "replication").Result()
		return err == nil && strings.Count(info, text) >= times
	}, startTimeout, 10*time.Millisecond, fmt.Sprintf("%s of %s", text, s.Addr))
}
