package redislock

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestPrefixOf(t *testing.T) {
	keys := map[string]bool{
		"plain": true, "{tag}": true, "tag": true, "{tag}rest": true, "x{tag}": true,
		"{open": true, "a{b": true, "closed}": false, "{}": false, "{}x": false, "a}{b": false,
		"{{b}": true, "a}{b}": true, "\x00\xff": true,
	}
	seen := make(map[string]string)
	for key, want := range keys {
		prefix, sameSlot := prefixOf(key)
		assert.Equal(t, want, sameSlot, "%q", key)
		assert.NotContains(t, seen, prefix, "%q and %q", key, seen[prefix])
		seen[prefix] = key
		if sameSlot {
			assert.Equal(t, hashTag(key), hashTag(prefix+"queue"), "%q", key)
		}
	}
}

func TestHashTag(t *testing.T) {
	for key, want := range map[string]string{
		"": "", "plain": "plain", "{tag}": "tag", "a{tag}b{c}": "tag", "{}a": "{}a", "{}{a}": "{}{a}",
		"{a": "{a", "a}": "a}", "}{a}": "a", "{{a}}": "{a",
	} {
		assert.Equal(t, want, hashTag(key), "%q", key)
	}
}
