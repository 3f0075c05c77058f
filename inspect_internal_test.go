package redislock

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestInspect_script(t *testing.T) {
	const m, h = time.Minute, time.Hour
	since := func(micros int64) time.Time { return time.UnixMicro(micros) }
	for name, test := range map[string]struct {
		exclusive string // the key's value
		holders   ends
		queue     []string
		want      Info
	}{
		"nobody":                    {},
		"exclusive":                 {exclusive: "me", want: Info{Holders: []Holder{{"me", m, false, false}}, Limit: 1}},
		"exclusive beside stale":    {exclusive: "me", holders: ends{"0 you": h}, want: Info{Holders: []Holder{{"me", m, false, false}}, Limit: 1}},
		"shared":                    {holders: ends{"0 me": h, "0 you": m, "0 we": nowEnds}, want: Info{Holders: []Holder{{"you", m, true, false}, {"me", h, true, false}}}},
		"limited":                   {holders: ends{"2 me": h, "9 you": m, "3 we": 2 * m, "id me": -h}, want: Info{Holders: []Holder{{"you", m, false, false}, {"we", 2 * m, false, false}, {"me", h, false, false}}, Limit: 9}},
		"a microsecond left":        {holders: ends{"2 me": time.Microsecond}, want: Info{Holders: []Holder{{"me", time.Millisecond, false, false}}, Limit: 2}},
		"all have expired":          {holders: ends{"2 me": nowEnds}},
		"a queue without a holder":  {queue: []string{"we 1", "dead 0!", "you 2"}, want: Info{Waiters: []Waiter{{"we", since(1)}, {"you", since(3)}}}},
		"a queue behind a holder":   {exclusive: "me", queue: []string{"we 1"}, want: Info{Holders: []Holder{{"me", m, false, false}}, Limit: 1, Waiters: []Waiter{{"we", since(1)}}}},
		"a queue behind many":       {holders: ends{"0 me": h}, queue: []string{"we 1", "you 0"}, want: Info{Holders: []Holder{{"me", h, true, false}}, Waiters: []Waiter{{"we", since(1)}, {"you", since(2)}}}},
		"metadata of several words": {holders: ends{"2 me 3 and more": h}, want: Info{Holders: []Holder{{"me 3 and more", h, false, false}}, Limit: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			q := newQueueTest(t)
			if test.exclusive != "" {
				q.setStale(test.holders)
				require.NoError(t, q.Set("key", test.exclusive))
				q.SetTTL("key", time.Minute)
			} else {
				q.setHolders(test.holders)
			}
			q.enqueue(test.queue...)
			before := q.Dump()
			got, err := Inspect(t.Context(), q.server.client, "key")
			require.NoError(t, err)
			assert.Equal(t, test.want, got)
			assert.Equal(t, before, q.Dump())
		})
	}
}

// One who is in the queue without an entry is none who waits, nor is the note of whom the lock was handed to.
func TestInspect_remains(t *testing.T) {
	q := newQueueTest(t)
	_, _ = q.ZAdd(queueTestQueue, 1, "gone")
	q.HSet(queueTestWaiters, "", "me:1:bG9jaw me", "out of the queue", fmt.Sprint(q.now.UnixMicro(), " 60000 me:1:bG9jaw 1 2 "))
	got, err := Inspect(t.Context(), q.server.client, "key")
	require.NoError(t, err)
	assert.Equal(t, Info{}, got)

	require.NoError(t, q.Set("key", "for ever"))
	got, err = Inspect(t.Context(), q.server.client, "key")
	require.NoError(t, err)
	assert.Len(t, got.Holders, 1)
	assert.Negative(t, got.Holders[0].TTL)
}

func TestReleaseByToken_script(t *testing.T) {
	mine := scriptState{"key": "me and metadata"}
	testScript(t, releaseByTokenScript, map[string]scriptTest{
		"held":                 {mine, queueKeys("key"), []any{"me"}, 1, scriptState{}, nil},
		"held, all of it":      {mine, queueKeys("key"), []any{"me and metadata"}, 1, scriptState{}, nil},
		"more than it":         {mine, queueKeys("key"), []any{"me and metadata."}, 0, mine, nil},
		"what is inside of it": {mine, queueKeys("key"), []any{"and"}, 0, mine, nil},
		"missing":              {scriptState{"other": "me"}, queueKeys("key"), []any{"me"}, 0, scriptState{"other": "me"}, nil},
	})
	state := scriptState{"a": "me too", "b": "me", "c": "you"}
	testScript(t, releaseMultiByTokenScript, map[string]scriptTest{
		"held":      {state, []string{"a", "b", "a"}, []any{"me"}, 1, scriptState{"c": "you"}, nil},
		"missing":   {state, []string{"a", "d"}, []any{"me"}, 0, scriptState{"b": "me", "c": "you"}, nil},
		"another's": {state, []string{"c", "b"}, []any{"me"}, 0, scriptState{"a": "me too", "c": "you"}, nil},
		"longer":    {state, []string{"b"}, []any{"me too"}, 0, state, nil},
	})
}
