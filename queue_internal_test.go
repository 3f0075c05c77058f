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

func TestParseHandover_malformed(t *testing.T) {
	for _, message := range []string{
		"", " ", "id", "id:1", "id:1:", "id:1: value", "id:1:YQ", "id:x:YQ value", "id:1:%% value", "id::YQ value", "id 1 YQ value",
	} {
		h, ok := parseHandover(message)
		assert.False(t, ok, "%q", message)
		assert.Zero(t, h, "%q", message)
	}
}

// What an ask says of its waiter's time.
func TestWaiter_askCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const fields, ttl, alive, waited = 7, 1, 3, 4
		w := newWaiter(newLock(New(&answering{start: time.Now()}), []string{"key"}, nil), 1500*time.Microsecond, &Options{})
		time.Sleep(2 * time.Second)
		first := w.askCall()
		assert.Len(t, first.args, fields)
		assert.EqualValues(t, 1, first.args[ttl])
		assert.EqualValues(t, 1000, first.args[alive], "no message can reach it")
		assert.EqualValues(t, 0, first.args[waited], "not before the first ask")
		assert.Equal(t, sinceEpoch(), first.sent)

		w.state = queued
		assert.EqualValues(t, 2_000_000, w.askCall().args[waited])
		w.inbox = &inbox{confirmed: true, channel: "pchannel"}
		call := w.askCall()
		assert.EqualValues(t, 3000, call.args[alive])
		assert.Equal(t, "pchannel", call.args[fields-1])
	})
}

// A waiter asks once a second, or every 50 ms if no message can reach it; and when the holder's
// TTL ends, but not all the time after that.
func TestWaiter_nextAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWaiter(newLock(New(&answering{start: time.Now()}), []string{"key"}, nil), time.Minute, &Options{})
		until := func() time.Duration { return w.nextAsk() - sinceEpoch() }
		w.holderEnds = sinceEpoch() + time.Hour
		for range 100 {
			w.inbox = nil
			assert.LessOrEqual(t, until(), 50*time.Millisecond)
			assert.GreaterOrEqual(t, until(), 45*time.Millisecond)
			w.inbox = &inbox{confirmed: true}
			assert.LessOrEqual(t, until(), time.Second)
			assert.GreaterOrEqual(t, until(), 900*time.Millisecond)
		}
		w.holderEnds = sinceEpoch() + 100*time.Millisecond
		assert.Equal(t, 100*time.Millisecond, until())
		w.holderEnds = sinceEpoch() + 5*time.Millisecond
		assert.Equal(t, 10*time.Millisecond, until())
		w.holderEnds = sinceEpoch() - time.Hour
		assert.Equal(t, 10*time.Millisecond, until())
	})
}

// An inbox that somebody has come to use meanwhile is not closed.
func TestInbox_closeIfIdle(t *testing.T) {
	b := &inbox{waiters: make(map[string]*waiter), closed: make(chan struct{})}
	b.idle = time.AfterFunc(time.Hour, func() {})
	b.waiters["one"] = &waiter{}
	b.closeIfIdle()
	assert.False(t, isClosed(b.closed))
	delete(b.waiters, "one")
	b.closeIfIdle()
	assert.True(t, isClosed(b.closed))
	assert.False(t, b.idle.Stop())
}
