package redislock

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock/internal/redistest"
)

// A call that obtains may come once more, and late: the holder may have refreshed the lock since. By
// a custom token it may be another call, whose TTL counts.
func TestScripts_obtainTwice(t *testing.T) {
	rdb := redistest.Client(t, redistest.Embedded(t).Addr())
	for name, test := range map[string]struct {
		script *redis.Script
		keys   []string
		more   []any
	}{
		"one key":      {obtainScript, []string{"one"}, nil},
		"several keys": {obtainMultiScript, []string{"several", "more"}, []any{0}},
		"quorum":       {quorumObtainScript, []string{"quorum"}, []any{""}},
	} {
		for length, want := range map[any]time.Duration{-tokenLength: time.Hour, 5: time.Minute} {
			t.Run(name, func(t *testing.T) {
				keys := test.keys
				if test.script == quorumObtainScript && length == 5 {
					keys = append(keys, "mark")
				}
				obtain := func() {
					args := append([]any{"token", time.Minute.Milliseconds(), length}, test.more...)
					reply, err := call{script: test.script, keys: keys, args: args}.run(t.Context(), newServer(rdb))
					require.NoError(t, err)
					require.Positive(t, reply)
				}
				obtain()
				for _, key := range test.keys {
					require.NoError(t, rdb.PExpire(t.Context(), key, time.Hour).Err())
				}
				obtain()
				for _, key := range test.keys {
					assert.Equal(t, want, rdb.PTTL(t.Context(), key).Val(), key)
				}
				require.NoError(t, rdb.FlushAll(t.Context()).Err())
			})
		}
	}
}
