package redistest

import (
	"context"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// AwaitQueue waits until n callers wait in the FairQueue of a lock.
func AwaitQueue(ctx context.Context, client redis.Cmdable, key string, n int) error {
	if !strings.Contains(key, "{") {
		key = "{" + key + "}"
	}
	for {
		waiting, err := client.ZCard(ctx, key+":redislock:queue").Result()
		if err != nil || waiting >= int64(n) {
			return err
		}
		time.Sleep(time.Millisecond) // ctx ends ZCard
	}
}
