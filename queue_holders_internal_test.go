package redislock

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// enqueue puts waiters in the queue that have no channel, and so are never passed over while they are
// alive: each is "value limit length", with a custom token of that length, 2 if it is left out, and a TTL
// of a minute. The limit of a dead one is followed by an exclamation mark.
func (q *queueTest) enqueue(waiters ...string) {
	q.Helper()
	for i, waiter := range waiters {
		var value, limit string
		length := 2
		_, _ = fmt.Sscan(waiter, &value, &limit, &length)
		alive := q.now.UnixMicro()
		if limit[len(limit)-1] == '!' {
			limit, alive = limit[:len(limit)-1], alive-1
		}
		_, err := q.ZAdd(queueTestQueue, float64(i+1), value)
		require.NoError(q, err)
		q.HSet(queueTestWaiters, value, fmt.Sprint(alive, " 60000 ", value, ":1:bG9jaw ", limit, " ", length, " "))
	}
}

// marked are the holders with the marks of those that have been let in just now.
func marked(members ends, values ...string) ends {
	all := make(ends)
	for member, left := range members {
		all[member] = left
	}
	for _, value := range values {
		all[value+" "+value] = -time.Minute
	}
	return all
}

// A queueHoldersTest is an ask with a limit, its reply, who holds the lock then, and who waits.
type queueHoldersTest struct {
	holders ends
	queue   []string
	ask     scriptAsk
	reply   int64
	after   ends
	waiting []string
}

func TestQueueAsk_holders(t *testing.T) {
	const s, m, h = time.Second, time.Minute, time.Hour
	limit := func(limit string) scriptAsk { return scriptAsk{value: "me", limit: limit} }
	generated := scriptAsk{value: "me", limit: "2", generated: true}
	again := scriptAsk{value: "me", limit: "2", waited: s, channel: "pnobody"}
	late := scriptAsk{value: "me", limit: "2", waited: s}
	for name, test := range map[string]queueHoldersTest{
		"free":                                {none, nil, limit("2"), 1, ends{"2 me": m}, nil},
		"free, shared":                        {none, nil, limit("0"), 1, ends{"0 me": m}, nil},
		"free, generated":                     {none, nil, generated, 1, ends{"2 me": m}, nil},
		"room":                                {ends{"2 you": h}, nil, limit("2"), 1, ends{"2 you": h, "2 me": m}, nil},
		"room, shared":                        {ends{"0 you": h, "0 us": h}, nil, limit("0"), 1, ends{"0 you": h, "0 us": h, "0 me": m}, nil},
		"a mark that has outlived its holder": {ends{"0 you": h, "id me": -h}, nil, limit("0"), 1, ends{"0 you": h, "0 me": m}, nil},
		"full":                                {ends{"2 us": s, "2 we": 3 * s}, nil, limit("2"), -1000, ends{"2 us": s, "2 we": 3 * s}, []string{"me"}},
		"full for some time":                  {ends{"9 us": s, "9 we": 3 * s, "9 he": 5 * s}, nil, limit("2"), -3000, ends{"9 us": s, "9 we": 3 * s, "9 he": 5 * s}, []string{"me"}},
		"full for a fraction":                 {ends{"2 us": h, "2 we": 1001 * time.Microsecond}, nil, limit("2"), -2, ends{"2 us": h, "2 we": 1001 * time.Microsecond}, []string{"me"}},
		"full for hours":                      {ends{"2 us": 2 * h, "2 we": 2 * h}, nil, limit("2"), -3600000, ends{"2 us": 2 * h, "2 we": 2 * h}, []string{"me"}},
		"one ends now":                        {ends{"2 us": nowEnds, "2 we": 3 * s}, nil, limit("2"), 1, ends{"2 we": 3 * s, "2 me": m}, nil},
		"mine":                                {ends{"2 me": h, "2 us": s}, []string{"me 2", "us 2"}, limit("2"), 1, ends{"2 me": m, "2 us": s}, []string{"us"}},
		"mine, other metadata":                {ends{"3 me too": h, "2 us": h, "2 we": h}, nil, limit("2"), 1, ends{"2 me": m, "2 us": h, "2 we": h}, nil},
		"mine, and late":                      {ends{"2 me": h}, nil, late, 1, ends{"2 me": h}, nil},
		"mine, late and longer":               {ends{"2 me": s}, nil, late, 1, ends{"2 me": m}, nil},
		"mine, generated":                     {ends{"2 me": h}, nil, generated, 1, ends{"2 me": h}, nil},
		"mine, marked":                        {ends{"2 me": h, "id me": -h, "id us": -h}, nil, again, 1, ends{"2 me": h, "id us": -h}, nil},
		"generated, not mine":                 {ends{"2 me too": s, "2 us": h}, nil, generated, -1000, ends{"2 me too": s, "2 us": h}, []string{"me"}},
		"behind a writer":                     {ends{"0 you": s}, []string{"we 1"}, limit("0"), -1000, ends{"0 you": s}, []string{"we", "me"}},
		"behind a smaller limit":              {ends{"3 us": s, "3 we": h}, []string{"he 2"}, limit("3"), -1000, ends{"3 us": s, "3 we": h}, []string{"he", "me"}},
		"behind the dead":                     {ends{"0 us": s}, []string{"we 1!"}, limit("0"), 1, ends{"0 us": s, "0 me": m}, nil},
		"behind the dead, free":               {none, []string{"we 1!", "he 0!"}, limit("0"), 1, ends{"0 me": m}, nil},
		"behind those who fit":                {ends{"3 us": s}, []string{"we 3", "he 3!"}, limit("3"), 1, marked(ends{"3 us": s, "3 we": m, "3 me": m}, "we"), nil},
		"behind those who fill it":            {ends{"3 us": s}, []string{"we 3", "he 3"}, limit("3"), -1000, marked(ends{"3 us": s, "3 we": m, "3 he": m}, "we", "he"), []string{"me"}},
		"to be told":                          {none, nil, again, -m.Milliseconds() - unheard, marked(ends{"2 me": m}, "me"), nil},
		"a writer behind those who fit":       {ends{"3 us": s}, []string{"we 3"}, limit(""), -m.Milliseconds(), marked(ends{"3 us": s, "3 we": m}, "we"), []string{"me"}},
		"a writer waits for the end":          {ends{"0 us": s, "0 we": 3 * s}, nil, limit(""), -3000, ends{"0 us": s, "0 we": 3 * s}, []string{"me"}},
		"shared beside a limit":               {ends{"2 us": h}, []string{"me 0", "we 2"}, limit("0"), otherKindWaits, ends{"2 us": h}, []string{"me", "we"}},
		"a limit beside shared":               {ends{"0 us": h}, nil, limit("2"), otherKindWaits, ends{"0 us": h}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			q := newQueueTest(t)
			q.setHolders(test.holders)
			q.enqueue(test.queue...)
			before := q.Dump()
			assert.Equal(t, test.reply, q.ask(test.ask))
			q.requireHolders(test.after)
			assert.Equal(t, test.waiting, q.waiting())
			assert.Len(t, q.entries(), len(test.waiting))
			if test.reply == otherKindWaits {
				assert.Equal(t, before, q.Dump())
			}
		})
	}
}

// A key without a holder is not touched: it ends in a moment, or is somebody else's.
func TestQueueAsk_afterHolders(t *testing.T) {
	for _, waited := range []time.Duration{0, time.Second} {
		for _, queue := range [][]string{nil, {"we 1!"}} {
			q := newQueueTest(t)
			q.setHolders(ends{"0 you": nowEnds})
			q.enqueue(queue...)
			assert.EqualValues(t, -1, q.ask(scriptAsk{value: "me", waited: waited}))
			assert.Empty(t, q.holder())
			assert.Contains(t, q.waiting(), "me")
			assert.EqualValues(t, -1, q.ask(scriptAsk{value: "her", waited: waited, limit: "2"}))
			assert.EqualValues(t, 0, q.run(queueLeaveScript, queueKeys("key"), "me", "me", 1))
			members, err := q.ZMembers(queueTestHolders)
			require.NoError(t, err)
			assert.Equal(t, []string{"0 you"}, members)
		}
	}
}

// While an exclusive holder has the lock, nobody joins it.
func TestQueueAsk_holdersBesideExclusive(t *testing.T) {
	for _, limit := range []string{"0", "2"} {
		q := newQueueTest(t)
		q.setStale(ends{"2 me": time.Hour})
		require.NoError(t, q.Set("key", "me")) // it has nothing to do with the waiter's token
		q.SetTTL("key", time.Second)
		assert.EqualValues(t, -1000, q.ask(scriptAsk{value: "me", limit: limit}))
		assert.Equal(t, "me", q.holder())
		assert.Equal(t, map[string]string{"me": fmt.Sprint(q.now.UnixMicro()+3_000_000, " 60000 me:1:bG9jaw ", limit, " 2 ")}, q.entries())
		assert.EqualValues(t, -1000, q.ask(scriptAsk{value: "we", limit: limit, generated: true}))
		assert.Equal(t, fmt.Sprint(q.now.UnixMicro()+3_000_000, " 60000 we:1:bG9jaw ", limit, " -2 "), q.entries()["we"])
	}
}

// One release lets in all who have room, the first ones first, and nobody past one who has none.
func TestQueueRelease_letsIn(t *testing.T) {
	const m, h = time.Minute, time.Hour
	for name, test := range map[string]struct {
		holders ends // that stay, beside the one who releases with the limit of the first; nil: it is exclusive
		queue   []string
		after   ends
		waiting []string
	}{
		"readers after a writer":        {nil, []string{"r1 0", "r2 0", "r3 0", "w1 1", "r4 0"}, marked(ends{"0 r1": m, "0 r2": m, "0 r3": m}, "r1", "r2", "r3"), []string{"w1", "r4"}},
		"as many as the limit":          {nil, []string{"l1 2", "l2 2", "l3 2"}, marked(ends{"2 l1": m, "2 l2": m}, "l1", "l2"), []string{"l3"}},
		"each by its own limit":         {nil, []string{"l1 2", "l2 3", "l3 3", "l4 3", "l5 9"}, marked(ends{"2 l1": m, "3 l2": m, "3 l3": m}, "l1", "l2", "l3"), []string{"l4", "l5"}},
		"the dead are passed over":      {nil, []string{"d1 1!", "r1 0", "d2 1!", "r2 0", "d3 0!"}, marked(ends{"0 r1": m, "0 r2": m}, "r1", "r2"), nil},
		"not past the other kind":       {nil, []string{"l1 3", "r1 0", "l2 3"}, marked(ends{"3 l1": m}, "l1"), []string{"r1", "l2"}},
		"one place is free":             {ends{"2 us": h}, []string{"l1 2", "l2 2"}, marked(ends{"2 us": h, "2 l1": m}, "l1"), []string{"l2"}},
		"no place is free":              {ends{"2 us": h, "2 we": h}, []string{"l1 2", "l2 9"}, ends{"2 us": h, "2 we": h}, []string{"l1", "l2"}},
		"a writer waits for the last":   {ends{"0 us": h}, []string{"w1 1", "r1 0"}, ends{"0 us": h}, []string{"w1", "r1"}},
		"one token twice":               {nil, []string{"me1 2", "me2 2", "us 2"}, marked(ends{"2 me2": m, "2 us": m}, "me1", "me2", "us"), nil},
		"one token twice beside others": {ends{"3 us": h}, []string{"me1 3", "me2 3", "we 3"}, marked(ends{"3 us": h, "3 me2": m, "3 we": m}, "me1", "me2", "we"), nil},
		"a token that begins a token":   {ends{"3 me1": h}, []string{"her 3 3", "me2 3 2", "me1 3 3", "us 3"}, marked(ends{"3 her": m, "3 me2": m, "3 me1": m}, "her", "me2", "me1"), []string{"us"}},
		"a token of a byte":             {nil, []string{"m 2 1"}, marked(ends{"2 m": m}, "m"), nil},
		"a token that has a place":      {ends{"2 me1": h, "2 us": h}, []string{"me2 2", "we 2"}, marked(ends{"2 me2": m, "2 us": h}, "me2"), []string{"we"}},
		"one who would be both at once": {ends{"2 me1": h, "2 us": h}, []string{"me2 0"}, ends{"2 me1": h, "2 us": h}, []string{"me2"}},
	} {
		t.Run(name, func(t *testing.T) {
			q := newQueueTest(t)
			limit := []any{"holder"}
			if test.holders == nil {
				require.NoError(t, q.Set("key", "holder"))
			} else {
				var first string
				for holder := range test.holders {
					first = holder[:1]
				}
				test.holders[first+" holder"] = 2 * h
				q.setHolders(test.holders)
				limit = append(limit, first)
			}
			q.enqueue(test.queue...)
			assert.EqualValues(t, 1, q.run(queueReleaseScript, queueKeys("key"), limit...))
			q.requireHolders(test.after)
			assert.Equal(t, test.waiting, q.waiting())
			assert.Len(t, q.entries(), len(test.waiting))
		})
	}
}

// The last of several holders makes room for a writer, and the token of a release may be all that is known.
func TestQueueRelease_lastOfSeveral(t *testing.T) {
	for _, byToken := range []bool{false, true} {
		q := newQueueTest(t)
		q.setHolders(ends{"0 me": time.Hour, "0 we": nowEnds})
		q.enqueue("w1 1", "r1 0")
		if byToken {
			assert.EqualValues(t, 1, q.run(releaseByTokenScript, queueKeys("key"), "m"))
		} else {
			assert.EqualValues(t, 1, q.run(queueReleaseScript, queueKeys("key"), "me", 0))
		}
		assert.Equal(t, "w1", q.holder())
		assert.Equal(t, time.Minute, q.TTL("key"))
		assert.Equal(t, []string{"r1"}, q.waiting())
		assert.Equal(t, "w1:1:bG9jaw w1", q.entries()[""])

		assert.EqualValues(t, 1, q.run(releaseByTokenScript, queueKeys("key"), "w1"))
		q.requireHolders(marked(ends{"0 r1": time.Minute}, "r1"))
		assert.EqualValues(t, 1, q.run(queueReleaseScript, queueKeys("key"), "r1", 0))
		assert.Empty(t, q.Keys())
	}
}

// Who leaves gives back what it holds, if that is certain to be its own, and in any case lets in those who
// have waited for it alone.
func TestQueueLeave_holders(t *testing.T) {
	const m, h = time.Minute, time.Hour
	for name, test := range map[string]struct {
		holders ends
		queue   []string
		args    []any // but for the value
		reply   int64
		after   ends
		waiting []string
	}{
		"waits":                              {ends{"2 us": h, "2 we": h}, []string{"me 2"}, []any{"me", 0, 2}, 0, ends{"2 us": h, "2 we": h}, nil},
		"another call waits":                 {ends{"2 us": h, "2 we": h}, []string{"me 2"}, []any{"id", 0, 2}, 0, ends{"2 us": h, "2 we": h}, []string{"me"}},
		"has a place":                        {ends{"2 me": h, "2 us": m}, nil, []any{"id", 1, 2}, 1, ends{"2 us": m}, nil},
		"has the last place":                 {ends{"2 me": h}, nil, []any{"id", 1, 2}, 1, none, nil},
		"has a place, others wait":           {ends{"2 me": h, "2 us": h}, []string{"l1 2", "l2 2"}, []any{"id", 1, 2}, 1, marked(ends{"2 us": h, "2 l1": m}, "l1"), []string{"l2"}},
		"its place is over":                  {ends{"2 me": nowEnds, "2 us": h}, nil, []any{"id", 1, 2}, 0, ends{"2 me": nowEnds, "2 us": h}, nil},
		"was let in":                         {ends{"2 me": h, "2 us": h, "id me": -h}, nil, []any{"id", 0, 2}, 1, ends{"2 us": h}, nil},
		"another call was let in":            {ends{"2 me": h, "2 us": h, "xid me": -h}, nil, []any{"id", 0, 2}, 0, ends{"2 me": h, "2 us": h, "xid me": -h}, nil},
		"a call has a place by its token":    {ends{"2 me": h, "2 us": h}, nil, []any{"id", 0, 2}, 0, ends{"2 me": h, "2 us": h}, nil},
		"that of another limit":              {ends{"3 me": h, "id me": -h}, nil, []any{"id", 1, 2}, 0, ends{"3 me": h, "id me": -h}, nil},
		"those behind a writer":              {ends{"0 us": h}, []string{"me 1", "r1 0", "r2 0"}, []any{"me", 1}, 0, marked(ends{"0 us": h, "0 r1": m, "0 r2": m}, "r1", "r2"), nil},
		"those behind a smaller limit":       {ends{"3 us": h, "3 we": h}, []string{"me 2", "l1 3", "l2 3"}, []any{"me", 1, 2}, 0, marked(ends{"3 us": h, "3 we": h, "3 l1": m}, "l1"), []string{"l2"}},
		"those behind one of the other kind": {ends{"0 us": h}, []string{"me 2", "r1 0"}, []any{"me", 1, 2}, 0, marked(ends{"0 us": h, "0 r1": m}, "r1"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			q := newQueueTest(t)
			q.setHolders(test.holders)
			q.enqueue(test.queue...)
			assert.Equal(t, test.reply, q.run(queueLeaveScript, queueKeys("key"), append([]any{"me"}, test.args...)...))
			q.requireHolders(test.after)
			assert.Equal(t, test.waiting, q.waiting())
			assert.Len(t, q.entries(), len(test.waiting))
		})
	}
}

// What marks a call as let in ends with the place: a leave that comes late must not take the place that the
// token has obtained since.
func TestQueueLeave_lateMark(t *testing.T) {
	for name, release := range map[string]func(q *queueTest) int64{
		"released": func(q *queueTest) int64 { return q.run(queueReleaseScript, queueKeys("key"), "me", 2) },
		"by token": func(q *queueTest) int64 { return q.run(releaseByTokenScript, queueKeys("key"), "me") },
	} {
		t.Run(name, func(t *testing.T) {
			q := newQueueTest(t)
			held := ends{"2 me": time.Hour, "2 us": time.Hour, "id me": -time.Hour, "id us": -time.Hour}
			q.setHolders(held)
			assert.EqualValues(t, 1, release(q))
			assert.EqualValues(t, 1, q.ask(scriptAsk{value: "me", limit: "2"}))
			assert.EqualValues(t, 0, q.run(queueLeaveScript, queueKeys("key"), "me", "id", 0, 2))
			q.requireHolders(ends{"2 me": time.Minute, "2 us": time.Hour, "id us": -time.Hour})
		})
	}
}

// Each obtaining has a number of its own. One who was let in without has it when it asks.
func TestQueueAsk_holdersFence(t *testing.T) {
	q := newQueueTest(t)
	require.NoError(t, q.Set("counter", "7"))
	first := scriptAsk{value: "me", limit: "2", fenced: true}
	assert.EqualValues(t, 8, q.ask(first))
	assert.EqualValues(t, 9, q.ask(first))
	q.enqueue("we 2")
	assert.EqualValues(t, 1, q.run(queueReleaseScript, queueKeys("key"), "me", 2))
	assert.EqualValues(t, 10, q.ask(scriptAsk{value: "we", limit: "2", fenced: true, waited: time.Second, channel: "pnobody"}))
	q.requireHolders(ends{"2 we": time.Minute})
	assert.EqualValues(t, 11, q.ask(scriptAsk{value: "us", limit: "2", fenced: true}))
	assert.Negative(t, q.ask(scriptAsk{value: "he", limit: "2", fenced: true}))
	number, _ := q.Get("counter")
	assert.Equal(t, "11", number)

	require.NoError(t, q.Set("counter", "no number"))
	before := q.Dump()
	for _, value := range []string{"we", "he", "new"} {
		args := []any{value, 60000, len(value), 3000, 0, value + ":1:bG9jaw", "", 3}
		_, err := call{script: queueAskScript, keys: append(queueKeys("key"), "counter"), args: args}.run(t.Context(), q.server)
		assert.ErrorContains(t, err, "not an integer")
		assert.Equal(t, before, q.Dump())
	}
}

// Each that is let in is told once, if anybody listens; if nobody does, it is passed over.
func TestQueueRelease_tellsAll(t *testing.T) {
	q := newQueueTest(t)
	subscription := q.server.client.(*redis.Client).Subscribe(t.Context(), "channel")
	defer subscription.Close()
	_, err := subscription.Receive(t.Context())
	require.NoError(t, err)
	require.NoError(t, q.Set("key", "holder"))
	q.enqueue("r1 0", "r2 0", "r3 0")
	for value, channel := range map[string]string{"r1": "pchannel", "r2": "pnobody", "r3": "pchannel"} {
		q.HSet(queueTestWaiters, value, fmt.Sprint(q.now.UnixMicro(), " 60000 ", value, ":1:bG9jaw 0 -2 ", channel))
	}
	assert.EqualValues(t, 1, q.run(queueReleaseScript, queueKeys("key"), "holder"))
	q.requireHolders(ends{"0 r1": time.Minute, "0 r3": time.Minute}) // generated tokens need no marks
	assert.Empty(t, q.waiting())
	assert.Empty(t, q.entries())
	assert.EqualValues(t, 1, q.Publish("channel", "the last"))
	for _, want := range []string{"r1:1:bG9jaw r1", "r3:1:bG9jaw r3", "the last"} {
		message, err := subscription.ReceiveMessage(t.Context())
		require.NoError(t, err)
		assert.Equal(t, want, message.Payload)
	}
}

// Who has no room is not overtaken because it reconnects, but only once it has not been heard of for too long.
func TestQueueAsk_notOvertaken(t *testing.T) {
	for alive, want := range map[int64]int64{0: -time.Minute.Milliseconds(), -1: 1} {
		q := newQueueTest(t)
		q.setHolders(ends{"0 us": time.Minute})
		q.enqueue("w1 1")
		q.HSet(queueTestWaiters, "w1", fmt.Sprint(q.now.UnixMicro()+alive, " 60000 w1:1:bG9jaw 1 2 pnobody"))
		assert.Equal(t, want, q.ask(scriptAsk{value: "me", limit: "0"}))
		assert.Equal(t, want < 0, len(q.waiting()) == 2)
	}
}
