package redislock

import (
	"fmt"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
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

// queueTest runs scripts of the queue on an embedded server, whose time stands still.
type queueTest struct {
	*testing.T
	*miniredis.Miniredis
	server *server
	now    time.Time
}

const (
	queueTestQueue   = "{key}:redislock:queue"
	queueTestWaiters = "{key}:redislock:waiters"
)

func newQueueTest(t *testing.T) *queueTest {
	embedded := redistest.Embedded(t)
	now := time.UnixMicro(1_700_000_000_123_456)
	embedded.SetTime(now)
	return &queueTest{t, embedded, newServer(redistest.Client(t, embedded.Addr())), now}
}

// scriptAsk is an ask of a waiter with a custom token, its value.
type scriptAsk struct {
	value, channel string
	waited         time.Duration
	fenced         bool
	limit          string // "" for an exclusive lock
	generated      bool   // the token, rather
}

func (q *queueTest) run(script *redis.Script, keys []string, args ...any) int64 {
	q.Helper()
	reply, err := call{script: script, keys: keys, args: args}.run(q.Context(), q.server)
	require.NoError(q, err)
	return reply
}

func (q *queueTest) ask(a scriptAsk) int64 {
	q.Helper()
	keys := queueKeys("key")
	if a.fenced {
		keys = append(keys, "counter")
	}
	length := len(a.value)
	if a.generated {
		length = -length
	}
	args := []any{a.value, 60000, length, 3000, a.waited.Microseconds(), a.value + ":1:bG9jaw", a.channel}
	if a.limit != "" {
		args = append(args, a.limit)
	}
	return q.run(queueAskScript, keys, args...)
}

func (q *queueTest) holder() string {
	value, _ := q.Get("key")
	return value
}

func (q *queueTest) waiting() []string {
	queued, _ := q.ZMembers(queueTestQueue)
	return queued
}

func (q *queueTest) entries() map[string]string {
	entries := make(map[string]string)
	keys, _ := q.HKeys(queueTestWaiters)
	for _, key := range keys {
		entries[key] = q.HGet(queueTestWaiters, key)
	}
	return entries
}

// Who asks first, or has no channel, has the lock by the reply. Any other is told by a message, or by
// its next ask: it may have gone since.
func TestQueueAsk_free(t *testing.T) {
	for _, test := range []struct {
		ask     scriptAsk
		byReply bool
	}{
		{scriptAsk{value: "me"}, true},
		{scriptAsk{value: "me", channel: "pnobody"}, true},
		{scriptAsk{value: "me", waited: 5 * time.Millisecond}, true},
		{scriptAsk{value: "me", channel: "pnobody", waited: 5 * time.Millisecond}, false},
	} {
		for _, queued := range []bool{false, true} { // behind one that is dead
			q := newQueueTest(t)
			if queued {
				_, _ = q.ZAdd(queueTestQueue, 1, "dead")
				q.HSet(queueTestWaiters, "dead", "1 60000 dead:1:bG9jaw 1 4 ")
			}
			reply := q.ask(test.ask)
			assert.Equal(t, "me", q.holder())
			assert.Equal(t, test.byReply, reply > 0, "%+v", test)
			assert.Empty(t, q.waiting())
			if test.byReply {
				assert.Empty(t, q.entries())
			} else {
				assert.Equal(t, map[string]string{"": "me:1:bG9jaw me"}, q.entries())
			}
			assert.Equal(t, time.Minute, q.TTL("key"))
		}
	}
}

// Each that newly takes the lock gets the next number; who holds it gets the same again, and the next if
// it was handed over without one.
func TestQueueAsk_fence(t *testing.T) {
	for name, told := range map[string]string{"held": "", "told another": "you:1:bG9jaw you", "handed over": "me:1:bG9jaw me"} {
		t.Run(name, func(t *testing.T) {
			q := newQueueTest(t)
			require.NoError(t, q.Set("counter", "7"))
			assert.EqualValues(t, 8, q.ask(scriptAsk{value: "me", fenced: true}))
			if told != "" {
				q.HSet(queueTestWaiters, "", told)
			}
			want := int64(8)
			if name == "handed over" {
				want = 9
			}
			assert.Equal(t, want, q.ask(scriptAsk{value: "me", fenced: true, waited: time.Second, channel: "pnobody"}))
			if name == "told another" {
				assert.Equal(t, map[string]string{"": told}, q.entries())
			} else {
				assert.Empty(t, q.entries())
			}
		})
	}
}

// Who finds the lock its own is not in the queue any more.
func TestQueueAsk_mine(t *testing.T) {
	q := newQueueTest(t)
	require.NoError(t, q.Set("key", "me"))
	_, _ = q.ZAdd(queueTestQueue, 1, "me")
	_, _ = q.ZAdd(queueTestQueue, 2, "you")
	q.HSet(queueTestWaiters, "me", "1 60000 me:1:bG9jaw 1 4 ", "you", "1 60000 you:1:bG9jaw 1 4 ")
	assert.EqualValues(t, 1, q.ask(scriptAsk{value: "me", waited: time.Second, channel: "pnobody"}))
	assert.Equal(t, []string{"you"}, q.waiting())
	assert.NotContains(t, q.entries(), "me")
}

// Who has to wait has its place by when it first asked, behind those that asked before also if the
// clock was set back, and keeps it. The reply says how long the holder's TTL is.
func TestQueueAsk_taken(t *testing.T) {
	q := newQueueTest(t)
	require.NoError(t, q.Set("key", "holder"))
	q.SetTTL("key", 5*time.Second)
	score := func(value string) float64 {
		score, err := q.ZScore(queueTestQueue, value)
		require.NoError(t, err)
		return score
	}
	now := float64(q.now.UnixMicro())
	assert.EqualValues(t, -5000, q.ask(scriptAsk{value: "first"}))
	assert.Equal(t, now, score("first"))
	assert.Equal(t, map[string]string{"first": fmt.Sprint(q.now.UnixMicro()+3_000_000, " 60000 first:1:bG9jaw 1 5 ")}, q.entries())
	assert.Equal(t, 13*time.Second, q.TTL(queueTestQueue))
	assert.Equal(t, 13*time.Second, q.TTL(queueTestWaiters))
	assert.EqualValues(t, -5000, q.ask(scriptAsk{value: "second"}))
	assert.Equal(t, now+1, score("second"))
	assert.EqualValues(t, -5000, q.ask(scriptAsk{value: "came before", waited: time.Second}))
	assert.Equal(t, now-1_000_000, score("came before"))
	q.SetTime(q.now.Add(-time.Hour))
	assert.EqualValues(t, -5000, q.ask(scriptAsk{value: "third"}))
	assert.Equal(t, now+2, score("third"))
	assert.EqualValues(t, -5000, q.ask(scriptAsk{value: "first", waited: time.Minute}))
	assert.Equal(t, now, score("first"))
	assert.Equal(t, []string{"came before", "first", "second", "third"}, q.waiting())

	assert.EqualValues(t, -5000-unheard, q.ask(scriptAsk{value: "unheard", channel: "pnobody", waited: time.Second}))
	assert.Equal(t, fmt.Sprint(q.now.Add(-time.Hour).UnixMicro()+3_000_000, " 60000 unheard:1:bG9jaw 1 7 "), q.entries()["unheard"])
	q.SetTTL("key", 2*time.Hour)
	assert.EqualValues(t, -3600000, q.ask(scriptAsk{value: "first", waited: time.Second}))
	require.NoError(t, q.Set("key", "holder")) // somebody made it persist
	assert.EqualValues(t, -3600000, q.ask(scriptAsk{value: "first", waited: time.Second}))
}

// A release hands the lock to the first that is alive, for its TTL; that is noted until it knows.
func TestQueueRelease(t *testing.T) {
	q := newQueueTest(t)
	assert.EqualValues(t, 0, q.run(queueReleaseScript, queueKeys("key"), "holder"))
	require.NoError(t, q.Set("key", "holder"))
	for i, value := range []string{"dead", "gone", "next", "last"} {
		_, _ = q.ZAdd(queueTestQueue, float64(i+1), value)
	}
	alive := q.now.UnixMicro()
	q.HSet(queueTestWaiters, "dead", fmt.Sprint(alive-1, " 60000 dead:1:bG9jaw 1 4 "),
		"next", fmt.Sprint(alive, " 7000 next:1:bG9jaw 1 4 "), "last", fmt.Sprint(alive, " 60000 last:1:bG9jaw 1 4 "))
	assert.EqualValues(t, 0, q.run(queueReleaseScript, queueKeys("key"), "another"))
	assert.Equal(t, "holder", q.holder())
	assert.EqualValues(t, 1, q.run(queueReleaseScript, queueKeys("key"), "holder"))
	assert.Equal(t, "next", q.holder())
	assert.Equal(t, 7*time.Second, q.TTL("key"))
	assert.Equal(t, []string{"last"}, q.waiting())
	assert.Equal(t, map[string]string{"": "next:1:bG9jaw next", "last": fmt.Sprint(alive, " 60000 last:1:bG9jaw 1 4 ")}, q.entries())
	assert.EqualValues(t, 1, q.run(queueReleaseScript, queueKeys("key"), "next"))
	assert.EqualValues(t, 1, q.run(queueReleaseScript, queueKeys("key"), "last"))
	assert.Empty(t, q.Keys())
}

// Who leaves is out of the queue, and passes on what it was handed: a call with a token of its own
// whatever it holds; one with a token that others may have only what was handed to itself.
func TestQueueLeave(t *testing.T) {
	leave := func(q *queueTest, id string, unique int) int64 {
		return q.run(queueLeaveScript, queueKeys("key"), "me", id, unique)
	}
	for name, test := range map[string]struct {
		holder, entry, told string
		unique              int
		passedOn, waits     bool
	}{
		"waits":                          {"holder", "1 60000 id:1:bG9jaw 1 4 ", "", 1, false, false},
		"waits, with a custom token":     {"holder", "1 60000 id:1:bG9jaw 1 4 ", "", 0, false, false},
		"another call waits by it":       {"holder", "1 60000 other:1:bG9jaw 1 4 ", "", 0, false, true},
		"another's, by a name like that": {"holder", "1 60000 xid:1:bG9jaw 1 4 ", "", 0, false, true},
		"has the lock":                   {"me", "", "", 1, true, false},
		"was handed the lock":            {"me", "", "id:1:bG9jaw me", 0, true, false},
		"another call was handed it":     {"me", "", "other:1:bG9jaw me", 0, false, false},
		"a call holds it by the token":   {"me", "", "", 0, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			q := newQueueTest(t)
			require.NoError(t, q.Set("key", test.holder))
			if test.entry != "" {
				_, _ = q.ZAdd(queueTestQueue, 1, "me")
				q.HSet(queueTestWaiters, "me", test.entry)
			}
			if test.told != "" {
				q.HSet(queueTestWaiters, "", test.told)
			}
			reply := leave(q, "id", test.unique)
			assert.Equal(t, test.passedOn, reply == 1)
			assert.Equal(t, test.waits, len(q.waiting()) == 1)
			_, has := q.entries()["me"]
			assert.Equal(t, test.waits, has)
			if test.passedOn {
				assert.Empty(t, q.holder())
			} else {
				assert.Equal(t, test.holder, q.holder())
			}
		})
	}
}

// An ask that finds the lock its own sets the TTL; but one that may be late does not shorten it.
func TestQueueAsk_ttl(t *testing.T) {
	for name, test := range map[string]struct {
		length  int
		waited  time.Duration
		shorter bool
	}{
		"the first, by a custom token": {2, 0, true},
		"another":                      {2, time.Second, false},
		"by a generated token":         {-tokenLength, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			q := newQueueTest(t)
			require.NoError(t, q.Set("key", "me"))
			q.SetTTL("key", time.Hour)
			q.run(queueAskScript, queueKeys("key"), "me", 60000, test.length, 3000, test.waited.Microseconds(), "me:1:bG9jaw", "")
			assert.Equal(t, test.shorter, q.TTL("key") == time.Minute)
			q.SetTTL("key", time.Second)
			q.run(queueAskScript, queueKeys("key"), "me", 60000, test.length, 3000, test.waited.Microseconds(), "me:1:bG9jaw", "")
			assert.Equal(t, time.Minute, q.TTL("key"))
		})
	}
}

// Who is told by the reply gets no message; any other gets one.
func TestQueueAsk_message(t *testing.T) {
	for _, waited := range []time.Duration{0, time.Second} {
		q := newQueueTest(t)
		subscription := q.server.client.(*redis.Client).Subscribe(t.Context(), "channel")
		defer subscription.Close()
		_, err := subscription.Receive(t.Context())
		require.NoError(t, err)
		_, _ = q.ZAdd(queueTestQueue, 1, "dead")
		reply := q.ask(scriptAsk{value: "me", channel: "pchannel", waited: waited})
		assert.Equal(t, waited == 0, reply > 0)
		assert.EqualValues(t, 1, q.Publish("channel", "the last"))
		message, err := subscription.ReceiveMessage(t.Context())
		require.NoError(t, err)
		if waited > 0 {
			assert.Equal(t, "me:1:bG9jaw me", message.Payload)
		} else {
			assert.Equal(t, "the last", message.Payload)
		}
	}
}

// scriptState is keys with their values; each that has one has a TTL of a minute.
type scriptState map[string]string

// scriptTest is a run of a script on some keys, its reply, and what the keys are then.
type scriptTest struct {
	before scriptState
	keys   []string
	args   []any
	reply  int64
	after  scriptState
	ttls   map[string]time.Duration // of keys whose TTL is not a minute
}

func testScript(t *testing.T, script *redis.Script, tests map[string]scriptTest) {
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			q := newQueueTest(t)
			for key, value := range test.before {
				require.NoError(t, q.Set(key, value))
				q.SetTTL(key, time.Minute)
			}
			assert.Equal(t, test.reply, q.run(script, test.keys, test.args...))
			after := make(scriptState)
			for _, key := range q.Keys() {
				after[key], _ = q.Get(key)
				ttl, other := test.ttls[key]
				if !other {
					ttl = time.Minute
				}
				assert.Equal(t, ttl, q.TTL(key), key)
			}
			assert.Equal(t, test.after, after)
		})
	}
}

func TestScripts_release(t *testing.T) {
	mine := scriptState{"a": "me", "b": "me"}
	testScript(t, releaseScript, map[string]scriptTest{
		"held":      {mine, []string{"a", "b", "a"}, []any{"me"}, 1, scriptState{}, nil},
		"missing":   {mine, []string{"a", "c"}, []any{"me"}, 0, scriptState{"b": "me"}, nil},
		"another's": {scriptState{"a": "me", "b": "you"}, []string{"a", "b"}, []any{"me"}, 0, scriptState{"b": "you"}, nil},
	})
}

func TestScripts_ttl(t *testing.T) {
	state := scriptState{"a": "me", "b": "me", "c": "you"}
	testScript(t, ttlScript, map[string]scriptTest{
		"held":      {state, []string{"a", "b"}, []any{"me"}, 60000, state, nil},
		"missing":   {state, []string{"a", "d"}, []any{"me"}, 0, state, nil},
		"another's": {state, []string{"a", "c"}, []any{"me"}, 0, state, nil},
	})
	q := newQueueTest(t)
	for key, ttl := range map[string]time.Duration{"for ever": 0, "long": time.Hour, "short": time.Second} {
		require.NoError(t, q.Set(key, "me"))
		if ttl > 0 {
			q.SetTTL(key, ttl)
		}
	}
	assert.EqualValues(t, 1000, q.run(ttlScript, []string{"for ever", "long", "short"}, "me"))
	assert.EqualValues(t, 1000, q.run(ttlScript, []string{"short", "long"}, "me"))
	assert.EqualValues(t, 0, q.run(ttlScript, []string{"for ever"}, "me"))
}

func TestScripts_refresh(t *testing.T) {
	state := scriptState{"a": "me", "b": "me", "c": "you", "mark": "mark"}
	short, long := int64(30_000), int64(90_000)
	shorter := map[string]time.Duration{"a": 30 * time.Second, "b": 30 * time.Second}
	longer := map[string]time.Duration{"a": 90 * time.Second, "b": 90 * time.Second}
	unmarked := scriptState{"a": "me", "b": "me", "c": "you"}
	nodeTime := int64(-1_700_000_000_123)
	testScript(t, refreshScript, map[string]scriptTest{
		"longer":                   {state, []string{"a", "b"}, []any{"me", long, 0}, 1, state, longer},
		"shorter":                  {state, []string{"a", "b"}, []any{"me", short, 0}, 1, state, shorter},
		"longer, or as it is":      {state, []string{"a", "b"}, []any{"me", long, 1}, 1, state, longer},
		"shorter, which it is not": {state, []string{"a", "b"}, []any{"me", short, 1}, 1, state, nil},
		"missing":                  {state, []string{"a", "d"}, []any{"me", long, 0}, 0, state, nil},
		"another's":                {state, []string{"a", "c"}, []any{"me", long, 0}, 0, state, nil},
		"on a node":                {state, []string{"a", "b"}, []any{"me", long, 0, 2}, 1, state, longer},
		"on a node, marked":        {state, []string{"a", "mark"}, []any{"me", long, 0, 1}, 1, unmarked, map[string]time.Duration{"a": 90 * time.Second}},
		"missing on a node":        {state, []string{"a", "d", "mark"}, []any{"me", long, 0, 2}, nodeTime, state, nil},
		"another's on a node":      {state, []string{"d", "c", "mark"}, []any{"me", long, 0, 2}, 0, state, nil},
	})
}

func TestScripts_quorumObtain(t *testing.T) {
	held := scriptState{"a": "me", "x": "old"}
	marks := map[string]time.Duration{"x": 2 * time.Second, "y": 2 * time.Second}
	testScript(t, quorumObtainScript, map[string]scriptTest{
		"free":                   {scriptState{}, []string{"a", "b", "x", "y"}, []any{"me", 60000, 2, "new"}, 2, scriptState{"a": "me", "b": "me", "x": "new", "y": "new"}, marks},
		"held":                   {held, []string{"a", "x"}, []any{"me", 60000, 2, "new"}, 1, scriptState{"a": "me"}, nil},
		"held by other metadata": {scriptState{"a": "me too"}, []string{"a", "x"}, []any{"me", 60000, 2, "new"}, 1, scriptState{"a": "me"}, nil},
		"held in part":           {held, []string{"a", "b", "x", "y"}, []any{"me", 60000, 2, "new"}, 2, scriptState{"a": "me", "b": "me", "y": "new"}, marks},
		"another's":              {scriptState{"b": "you"}, []string{"a", "b", "x", "y"}, []any{"me", 60000, 2, "new"}, 0, scriptState{"b": "you"}, nil},
		"generated, free":        {scriptState{}, []string{"a", "b"}, []any{"me", 60000, -2, ""}, 2, scriptState{"a": "me", "b": "me"}, nil},
		"generated, once more":   {scriptState{"a": "me"}, []string{"a"}, []any{"me", 60000, -2, ""}, 1, scriptState{"a": "me"}, nil},
		"generated, another's":   {scriptState{"a": "you"}, []string{"a"}, []any{"me", 60000, -2, ""}, 0, scriptState{"a": "you"}, nil},
		"for longer":             {held, []string{"a", "x"}, []any{"me", 90000, 2, "new"}, 1, scriptState{"a": "me"}, map[string]time.Duration{"a": 90 * time.Second}},
	})
}

func TestScripts_quorumUndo(t *testing.T) {
	state := scriptState{"a": "me", "b": "me", "x": "mark", "y": "other"}
	testScript(t, quorumUndoScript, map[string]scriptTest{
		"taken":         {state, []string{"a", "b", "x", "y"}, []any{"me", "mark"}, 1, scriptState{"b": "me", "y": "other"}, nil},
		"counted on":    {state, []string{"b", "y"}, []any{"me", "mark"}, 0, state, nil},
		"not marked":    {state, []string{"a", "z"}, []any{"me", "mark"}, 0, state, nil},
		"taken by you":  {scriptState{"a": "you", "x": "mark"}, []string{"a", "x"}, []any{"me", "mark"}, 0, scriptState{"a": "you"}, nil},
		"all are taken": {scriptState{"a": "me", "b": "me", "x": "mark", "y": "mark"}, []string{"a", "b", "x", "y"}, []any{"me", "mark"}, 2, scriptState{}, nil},
	})
}

func TestScripts_quorumHeal(t *testing.T) {
	const now = 1_700_000_000_123 // and a fraction
	state := scriptState{"b": "me", "c": "you", "mark": "mark"}
	healed := scriptState{"a": "me", "b": "me", "c": "you"}
	testScript(t, quorumHealScript, map[string]scriptTest{
		"in time":   {state, []string{"a", "b", "mark"}, []any{"me", 60000, now + 1, 2}, 1, healed, nil},
		"for long":  {state, []string{"a", "b", "mark"}, []any{"me", 90000, now + 1, 2}, 1, healed, map[string]time.Duration{"a": 90 * time.Second, "b": 90 * time.Second}},
		"shorter":   {state, []string{"a", "b", "mark"}, []any{"me", 30000, now + 1, 2}, 1, healed, map[string]time.Duration{"a": 30 * time.Second}},
		"too late":  {state, []string{"a", "b", "mark"}, []any{"me", 60000, now, 2}, 0, state, nil},
		"another's": {state, []string{"a", "c", "mark"}, []any{"me", 60000, now + 1, 2}, 0, state, nil},
		"the first": {state, []string{"c", "a", "mark"}, []any{"me", 90000, now + 1, 2}, 0, state, nil},
	})
}

func TestScripts_obtain(t *testing.T) {
	testScript(t, obtainScript, map[string]scriptTest{
		"free":                   {scriptState{}, []string{"a"}, []any{"me", 60000, 2}, 1, scriptState{"a": "me"}, nil},
		"held by other metadata": {scriptState{"a": "me too"}, []string{"a"}, []any{"me", 90000, 2}, 1, scriptState{"a": "me"}, map[string]time.Duration{"a": 90 * time.Second}},
		"another's":              {scriptState{"a": "you"}, []string{"a"}, []any{"me", 90000, 2}, 0, scriptState{"a": "you"}, nil},
		"of which it begins":     {scriptState{"a": "m"}, []string{"a"}, []any{"me", 90000, 2}, 0, scriptState{"a": "m"}, nil},
	})
	forEver := map[string]time.Duration{"n": 0, "a": 90 * time.Second, "b": 90 * time.Second}
	held := map[string]time.Duration{"n": time.Minute, "a": 90 * time.Second, "b": 90 * time.Second}
	testScript(t, obtainMultiScript, map[string]scriptTest{
		"free":              {scriptState{}, []string{"a", "b", "n"}, []any{"me", 90000, 2, 1}, 1, scriptState{"a": "me", "b": "me", "n": "1"}, forEver},
		"held":              {scriptState{"a": "me", "b": "me", "n": "7"}, []string{"a", "b", "n"}, []any{"me", 90000, 2, 1}, 7, scriptState{"a": "me", "b": "me", "n": "7"}, held},
		"held in part":      {scriptState{"b": "me", "n": "7"}, []string{"a", "b", "n"}, []any{"me", 90000, 2, 1}, 8, scriptState{"a": "me", "b": "me", "n": "8"}, held},
		"held, not counted": {scriptState{"a": "me"}, []string{"a", "n"}, []any{"me", 90000, 2, 1}, 1, scriptState{"a": "me", "n": "1"}, forEver},
		"without a counter": {scriptState{}, []string{"a", "b"}, []any{"me", 90000, 2, 0}, 1, scriptState{"a": "me", "b": "me"}, held},
		"another's":         {scriptState{"b": "you", "n": "7"}, []string{"a", "b", "n"}, []any{"me", 90000, 2, 1}, 0, scriptState{"b": "you", "n": "7"}, nil},
	})
}
