package redislock

import (
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestQueuePrefix(t *testing.T) {
	keys := map[string]bool{
		"plain": true, "{tag}": true, "tag": true, "{tag}rest": true, "x{tag}": true,
		"{open": true, "a{b": true, "closed}": false, "{}": false, "{}x": false, "a}{b": false,
		"{{b}": true, "a}{b}": true, "\x00\xff": true,
	}
	seen := make(map[string]string)
	for key, want := range keys {
		prefix, sameSlot := queuePrefix(key)
		assert.Equal(t, want, sameSlot, "%q", key)
		assert.NotContains(t, seen, prefix, "%q and %q", key, seen[prefix])
		seen[prefix] = key
		if sameSlot {
			assert.Equal(t, hashTag(key), hashTag(prefix+":redislock:queue"), "%q", key)
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

func FuzzParseHandover(f *testing.F) {
	f.Add("process.1:2:a2V5 value")
	f.Add(":-9223372036854775808:YQ ")
	f.Add("1:2::3 x")
	f.Add(":: ")
	f.Fuzz(func(t *testing.T, message string) {
		h, ok := parseHandover(message)
		if !ok {
			return
		}
		again, ok := parseHandover(ticket(h.id, h.sent, h.key) + " " + h.value)
		assert.True(t, ok)
		assert.Equal(t, h, again)
		assert.True(t, strings.HasSuffix(message, " "+h.value))
	})
}

func TestParseHandover(t *testing.T) {
	h, ok := parseHandover(ticket("process.7", -time.Second, "a: {") + " value 1")
	assert.True(t, ok)
	assert.Equal(t, handover{id: "process.7", sent: -time.Second, key: "a: {", value: "value 1"}, h)
}

// Locks that are never released, only left to expire, are forgotten even so.
func TestInbox_forgetsExpiredLocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &inbox{served: make(map[string]*waiter)}
		for i := range 10_000 {
			w := &waiter{id: strconv.Itoa(i)}
			w.lock = &Lock{}
			w.lock.lease.begin(sinceEpoch(), time.Second)
			b.serve(w)
			time.Sleep(100 * time.Millisecond)
		}
		assert.LessOrEqual(t, len(b.served), 128)
		assert.Contains(t, b.served, "9999")
	})
}
