package redislock

import (
	"context"
	"embed"
	"errors"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var lua embed.FS

var (
	obtainScript      = loadScript("obtain")
	obtainMultiScript = loadScript("obtain_multi")
	refreshScript     = loadScript("refresh")
	releaseScript     = loadScript("release")
	ttlScript         = loadScript("ttl")

	queueAskScript     = loadScript("queue", "queue_ask")
	queueLeaveScript   = loadScript("queue", "queue_leave")
	queueReleaseScript = loadScript("queue", "queue_release")

	quorumObtainScript  = loadScript("quorum_obtain")
	quorumUndoScript    = loadScript("quorum_undo")
	quorumRefreshScript = loadScript("quorum_refresh")
	quorumHealScript    = loadScript("quorum_heal")
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

// run asks Redis to run a script: by its digest, and by its source where the
// server does not know it yet. All scripts reply with an integer.
func (c *Client) run(ctx context.Context, script *redis.Script, keys []string, args ...any) (int64, error) {
	if c == nil || c.client == nil {
		return 0, errNoClient
	}
	reply, err := replyOf(script.Run(ctx, c.client, keys, args...))
	if err != nil {
		err = nameTags(keys, err)
	}
	return reply, err
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
