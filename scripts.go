package redislock

import (
	"context"
	"embed"
	"errors"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var lua embed.FS

var (
	obtainScript      = loadScript("token", "obtain")
	obtainMultiScript = loadScript("token", "fence", "obtain_multi")
	refreshScript     = loadScript("refresh")
	releaseScript     = loadScript("release")
	releaseKeepScript = loadScript("release_keep")
	ttlScript         = loadScript("ttl")
	holderScript      = loadScript("holder")

	holdersObtainScript      = loadScript("token", "holders", "holders_obtain")
	holdersRefreshScript     = loadScript("holders", "holders_refresh")
	holdersReleaseScript     = loadScript("holders", "holders_release")
	holdersReleaseKeepScript = loadScript("holders", "holders_release_keep")
	holdersTTLScript         = loadScript("holders", "holders_ttl")

	queueAskScript     = loadScript("token", "fence", "holders", "queue", "queue_ask")
	queueLeaveScript   = loadScript("holders", "queue", "queue_leave")
	queueReleaseScript = loadScript("holders", "queue", "queue_release")

	releaseByTokenScript      = loadScript("holders", "queue", "release_by_token")
	releaseMultiByTokenScript = loadScript("release_multi_by_token")
	inspectScript             = loadScript("holders", "inspect")

	quorumObtainScript = loadScript("token", "quorum_obtain")
	quorumUndoScript   = loadScript("quorum_undo")
	quorumHealScript   = loadScript("quorum_heal")
)

// loadScript makes one script of the named files.
func loadScript(names ...string) *redis.Script {
	var script []byte
	for _, name := range names {
		source, err := lua.ReadFile("lua/" + name + ".lua")
		if err != nil {
			panic(err) // not built in: impossible
		}
		script = append(script, source...)
	}
	return redis.NewScript(string(script))
}

// A call is one run of a script.
type call struct {
	script *redis.Script
	keys   []string
	args   []any
	sent   time.Duration // since epoch: just before

	// Of calls that take or refresh a lock.
	ttl      time.Duration // that they set
	replicas int           // how many have to confirm what they write
	quorum   *quorumClaim  // of whose lock it is, instead of all this but the TTL
}

// run asks Redis to run the script: by its digest, and by its source where the server does not
// know it yet. The scripts of calls reply with an integer.
func (c call) run(ctx context.Context, s *server) (int64, error) {
	if s.client == nil {
		return 0, errNoClient
	}
	if c.replicas > 0 {
		return c.runConfirmed(ctx, s)
	}
	reply, err := replyOf(c.script.Run(ctx, s.client, c.keys, c.args...))
	return reply, nameTags(c.keys, err)
}

// A result is what a call came to.
type result struct {
	reply int64
	err   error
}

// runAll runs scripts in one pipeline.
func runAll(ctx context.Context, pipelines pipeliner, calls []call) []result {
	cmds := make([]*redis.Cmd, len(calls))
	_, _ = pipelines.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, c := range calls {
			cmds[i] = c.script.EvalSha(ctx, pipe, c.keys, c.args...)
		}
		return nil // each command has its own error
	})
	if slices.ContainsFunc(cmds, func(cmd *redis.Cmd) bool { return noScript(cmd.Err()) }) {
		// By its source: that also makes the script known, wherever the keys are.
		_, _ = pipelines.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for i, c := range calls {
				if noScript(cmds[i].Err()) {
					cmds[i] = c.script.Eval(ctx, pipe, c.keys, c.args...)
				}
			}
			return nil
		})
	}
	results := make([]result, len(calls))
	for i, cmd := range cmds {
		results[i].reply, results[i].err = replyOf(cmd)
	}
	return results
}

func noScript(err error) bool {
	return errors.Is(err, redis.ErrNoScript) || redis.HasErrorPrefix(err, "NOSCRIPT")
}

// replyOf returns what a script replied. OK stands for 1 and nil for 0: these are the
// replies of other implementations of a lock, which fakes of a Redis client imitate.
func replyOf(cmd *redis.Cmd) (int64, error) {
	switch {
	case errors.Is(cmd.Err(), redis.Nil):
		return 0, nil
	case cmd.Err() == nil && cmd.Val() == "OK":
		return 1, nil
	default:
		return cmd.Int64()
	}
}
