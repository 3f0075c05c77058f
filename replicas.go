package redislock

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// confirmTimeout bounds the waiting for replicas.
const confirmTimeout = time.Second

// unconfirmedError says why a write that reached the master is not confirmed by enough replicas.
type unconfirmedError string

func (e unconfirmedError) Error() string { return "redislock: " + string(e) }

func isUnconfirmed(err error) bool {
	_, ok := err.(unconfirmedError)
	return ok
}

// runConfirmed waits until the replicas have what the script wrote, for at most as long as the TTL
// allows. It takes one round trip: WAIT follows the script on the same connection, because it counts
// the writes of its connection.
func (c call) runConfirmed(ctx context.Context, s *server) (reply int64, err error) {
	run := c.script.EvalSha
	for retries := 0; ; retries++ {
		reply, err = c.runAndWait(ctx, s, run)
		switch {
		case err == nil:
			return reply, nil
		case noScript(err):
			run = c.script.Eval
		case retries < maxRedirects && redirected(err):
			// This asks the node itself, so nobody else follows where the slot went.
			s.lookForNodes(ctx)
			select {
			case <-time.After(redirectWait << retries):
			case <-ctx.Done():
				return 0, err
			}
		default:
			return 0, nameTags(c.keys, err)
		}
	}
}

const (
	maxRedirects = 5
	redirectWait = 20 * time.Millisecond
)

func redirected(err error) bool {
	_, moved := redis.IsMovedError(err)
	_, asked := redis.IsAskError(err)
	return moved || asked
}

type runner func(ctx context.Context, client redis.Scripter, keys []string, args ...any) *redis.Cmd

func (c call) runAndWait(ctx context.Context, s *server, run runner) (int64, error) {
	connection, err := s.oneConnection(c.keys[0])
	if err != nil {
		return 0, err
	}
	timeout := waitTimeout(ctx, connection, c.ttl)
	var written *redis.Cmd
	var confirmed *redis.Cmd
	var info *redis.StringCmd
	_, _ = connection.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		written = run(ctx, pipe, c.keys, c.args...)
		confirmed = pipe.Do(ctx, "wait", c.replicas, timeout.Milliseconds())
		if _, plain := connection.(*redis.Client); !plain {
			// The AutoPipeliner of a Cluster would send WAIT to any node.
			info = pipe.Info(ctx, "cluster")
		}
		return nil // each command has its own error
	})
	reply, err := replyOf(written)
	if err != nil || reply <= 0 {
		return reply, err
	}
	if info != nil && strings.Contains(info.Val(), "cluster_enabled:1") {
		return 0, unconfirmedError(fmt.Sprintf("MinReplicas does not work with a %T of a Redis Cluster, "+
			"which lacks the method MasterForKey: use the *redis.ClusterClient itself", s.client))
	}
	n, err := confirmed.Int64()
	if err != nil {
		return 0, err
	}
	if n < int64(c.replicas) {
		return 0, unconfirmedError(fmt.Sprintf("only %d of %d replicas confirmed the lock within %v", n, c.replicas, timeout))
	}
	return reply, nil
}

// oneConnection returns what sends a pipeline to the node of the key in one piece.
func (s *server) oneConnection(key string) (pipeliner, error) {
	if s.sharded() {
		node := s.node(key)
		if node == nil {
			return nil, fmt.Errorf("redislock: could not find the node of key %q", key)
		}
		return node, nil
	}
	return s.pipelines(), nil
}

// waitTimeout is how long WAIT may block the connection: the client must not give up
// earlier, and enough of the TTL must be left.
func waitTimeout(ctx context.Context, client pipeliner, ttl time.Duration) time.Duration {
	timeout := min(confirmTimeout, ttl/2)
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(deadline))
	}
	if client, ok := client.(interface{ Options() *redis.Options }); ok {
		if read := client.Options().ReadTimeout; read > 0 {
			timeout = min(timeout, read/2)
		}
	}
	return max(timeout, time.Millisecond) // 0 would mean forever
}
