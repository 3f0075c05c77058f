package redislock

import (
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

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
func (s *server) checkTags(keys []string) error {
	if !s.isRing {
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
