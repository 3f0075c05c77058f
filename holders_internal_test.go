package redislock

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const queueTestHolders = "{key}:redislock:holders"

// ends are the members of a set of holders, each with the time that is left of it. That of a mark is
// negative.
type ends map[string]time.Duration

// score is what the set has for a member with so much time left.
func (q *queueTest) score(left time.Duration) float64 {
	if left < 0 {
		return -float64(q.now.Add(-left).UnixMicro())
	}
	return float64(q.now.Add(left).UnixMicro())
}

// lifetime is the TTL of keys that end with a holder: scores are in microseconds, TTLs in milliseconds.
func (q *queueTest) lifetime(left time.Duration) time.Duration {
	end := q.now.Add(left)
	if whole := end.Truncate(time.Millisecond); whole.Before(end) {
		end = whole.Add(time.Millisecond)
	}
	return end.Sub(q.now)
}

// setStale sets the holders without the lock's key.
func (q *queueTest) setStale(members ends) {
	q.Helper()
	for member, left := range members {
		_, err := q.ZAdd(queueTestHolders, q.score(left), member)
		require.NoError(q, err)
	}
	if len(members) > 0 {
		q.SetTTL(queueTestHolders, q.lifetime(slices.Max(slices.Collect(maps.Values(members)))))
	}
}

func (q *queueTest) setHolders(members ends) {
	q.Helper()
	q.setStale(members)
	if len(members) > 0 {
		require.NoError(q, q.Set("key", ""))
		q.SetTTL("key", max(q.TTL(queueTestHolders), time.Millisecond))
	}
}

// requireHolders requires that these are the members, and that both keys end with the last of them.
func (q *queueTest) requireHolders(want ends) {
	q.Helper()
	if len(want) == 0 {
		require.False(q, q.Exists("key"))
		require.False(q, q.Exists(queueTestHolders))
		return
	}
	value, err := q.Get("key")
	require.NoError(q, err)
	require.Empty(q, value)
	got := make(ends)
	members, err := q.ZMembers(queueTestHolders)
	require.NoError(q, err)
	for _, member := range members {
		score, err := q.ZScore(queueTestHolders, member)
		require.NoError(q, err)
		if score < 0 {
			got[member] = -time.UnixMicro(int64(-score)).Sub(q.now)
		} else {
			got[member] = time.UnixMicro(int64(score)).Sub(q.now)
		}
	}
	require.Equal(q, want, got)
	last := q.lifetime(slices.Max(slices.Collect(maps.Values(want))))
	require.Equal(q, last, q.TTL("key"))
	require.Equal(q, last, q.TTL(queueTestHolders))
}

// holdersTest is a run of a script on a lock with several holders, its reply, and who holds it then.
type holdersTest struct {
	before ends
	args   []any
	reply  int64
	after  ends // nil: as before, to the last bit
}

func testHolders(t *testing.T, run func(q *queueTest, args ...any) int64, tests map[string]holdersTest) {
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			q := newQueueTest(t)
			q.setHolders(test.before)
			before := q.Dump()
			assert.Equal(t, test.reply, run(q, test.args...))
			if test.after == nil {
				assert.Equal(t, before, q.Dump())
			} else {
				q.requireHolders(test.after)
			}
		})
	}
}

// none is nobody left: no keys.
var none = ends{}

const nowEnds = time.Duration(0) // of a holder: that has expired

func holdersObtain(q *queueTest, args ...any) int64 {
	q.Helper()
	return q.run(holdersObtainScript, holdersKeys("key"), args...)
}

func TestHoldersObtain(t *testing.T) {
	const m, h = time.Minute, time.Hour
	ask := func(length, limit int) []any { return []any{"me", m.Milliseconds(), length, limit} }
	testHolders(t, holdersObtain, map[string]holdersTest{
		"free":                           {none, ask(-2, 2), 1, ends{"2 me": m}},
		"free, shared":                   {none, ask(-2, 0), 1, ends{"0 me": m}},
		"room":                           {ends{"2 you": h}, ask(-2, 2), 1, ends{"2 you": h, "2 me": m}},
		"room, shared":                   {ends{"0 you": h, "0 her": time.Second}, ask(-2, 0), 1, ends{"0 you": h, "0 her": time.Second, "0 me": m}},
		"the last to end":                {ends{"2 you": time.Second}, ask(-2, 2), 1, ends{"2 you": time.Second, "2 me": m}},
		"full":                           {ends{"2 you": h, "2 her": h}, ask(-2, 2), 0, nil},
		"full, beside one who is gone":   {ends{"2 you": h, "2 her": h, "2 him": nowEnds}, ask(-2, 2), 0, nil},
		"one ends now":                   {ends{"2 you": h, "2 her": nowEnds}, ask(-2, 2), 1, ends{"2 you": h, "2 me": m}},
		"one ends next":                  {ends{"2 you": h, "2 her": time.Microsecond}, ask(-2, 2), 0, nil},
		"all end now":                    {ends{"2 you": nowEnds, "2 her": nowEnds}, ask(-2, 2), 0, nil},
		"a smaller limit of one's own":   {ends{"9 you": h, "9 her": h}, ask(-2, 2), 0, nil},
		"a larger limit of one's own":    {ends{"2 you": h, "2 her": h}, ask(-2, 3), 1, ends{"2 you": h, "2 her": h, "3 me": m}},
		"again":                          {ends{"2 me": h, "2 you": h}, ask(2, 2), 1, ends{"2 me": m, "2 you": h}},
		"again, a smaller limit":         {ends{"3 me": h, "3 you": h, "3 her": h}, ask(2, 2), 1, ends{"2 me": m, "3 you": h, "3 her": h}},
		"again, other metadata":          {ends{"2 me too": h, "2 you": h}, ask(2, 2), 1, ends{"2 me": m, "2 you": h}},
		"again, but it is over":          {ends{"2 me": nowEnds, "2 you": h, "2 her": h}, ask(2, 2), 0, nil},
		"again, shared":                  {ends{"0 me too": h}, ask(2, 0), 1, ends{"0 me": m}},
		"late":                           {ends{"2 me": h, "2 you": h}, ask(-2, 2), 1, ends{"2 me": h, "2 you": h}},
		"late, and longer":               {ends{"2 me": time.Second, "2 you": h}, ask(-2, 2), 1, ends{"2 me": m, "2 you": h}},
		"a value that begins like it":    {ends{"2 me too": h, "2 you": h}, ask(-2, 2), 0, nil},
		"a value that it begins with":    {ends{"2 m": h, "2 you": h}, ask(2, 2), 0, nil},
		"shared beside a limit":          {ends{"2 you": h}, ask(-2, 0), otherKind, nil},
		"a limit beside shared":          {ends{"0 you": h}, ask(-2, 2), otherKind, nil},
		"a limit beside the same shared": {ends{"0 me": h}, ask(2, 2), otherKind, nil},
		"a limit after shared":           {ends{"0 you": nowEnds}, ask(-2, 2), 0, nil},
		"a mark is no holder":            {ends{"2 you": h, "id you": -h}, ask(-2, 2), 1, ends{"2 you": h, "id you": -h, "2 me": m}},
		"a mark that ends now":           {ends{"2 you": h, "id you": -1}, ask(-2, 2), 1, ends{"2 you": h, "2 me": m}},
	})
}

// What stands beside a key that is gone, or of an exclusive lock, means nothing.
func TestHolders_stale(t *testing.T) {
	stale := ends{"2 me": time.Hour, "2 you": time.Hour, "id me": -time.Hour}
	for _, holder := range []string{"", "me", "you"} {
		run := func(script string) *queueTest {
			q := newQueueTest(t)
			q.setStale(stale)
			if holder != "" {
				require.NoError(t, q.Set("key", holder))
			}
			before := q.Dump()
			var reply int64
			switch script {
			case "obtain":
				for _, length := range []int{2, -2} {
					reply += holdersObtain(q, "me", 60000, length, 2)
				}
			case "refresh":
				reply = q.run(holdersRefreshScript, holdersKeys("key"), "me", 60000, 0, 2)
			case "release":
				reply = q.run(holdersReleaseScript, holdersKeys("key"), "me", 2)
			case "ttl":
				reply = q.run(holdersTTLScript, holdersKeys("key"), "me", 2)
			case "leave":
				reply = q.run(queueLeaveScript, queueKeys("key"), "me", "id", 1, 2)
			case "release in turn":
				reply = q.run(queueReleaseScript, queueKeys("key"), "me", 2)
			}
			if script == "obtain" && holder == "" {
				assert.EqualValues(t, 2, reply)
				q.requireHolders(ends{"2 me": time.Minute})
				return q
			}
			assert.Zero(t, reply, "%s beside %q", script, holder)
			assert.Equal(t, before, q.Dump(), "%s beside %q", script, holder)
			return q
		}
		for _, script := range []string{"obtain", "refresh", "release", "ttl", "leave", "release in turn"} {
			run(script)
		}
	}
}

// Several hold the lock at a time: a number names one obtaining, not one token.
func TestHoldersObtain_fence(t *testing.T) {
	q := newQueueTest(t)
	keys := append(holdersKeys("key"), "counter")
	for i, value := range []string{"me", "you", "me"} {
		assert.EqualValues(t, i+1, q.run(holdersObtainScript, keys, value, 60000, len(value), 2))
	}
	assert.EqualValues(t, 0, q.run(holdersObtainScript, keys, "her", 60000, 3, 2))
	assert.EqualValues(t, otherKind, q.run(holdersObtainScript, keys, "her", 60000, 3, 0))
	number, _ := q.Get("counter")
	assert.Equal(t, "3", number)

	require.NoError(t, q.Set("counter", "no number"))
	before := q.Dump()
	for _, value := range []string{"me", "her"} {
		_, err := call{script: holdersObtainScript, keys: keys, args: []any{value, 1, len(value), 3}}.run(t.Context(), q.server)
		assert.ErrorContains(t, err, "not an integer")
		assert.Equal(t, before, q.Dump())
	}
}

func TestHoldersRefresh(t *testing.T) {
	const m, h = time.Minute, time.Hour
	refresh := func(q *queueTest, args ...any) int64 {
		return q.run(holdersRefreshScript, holdersKeys("key"), args...)
	}
	ask := func(keepLonger, limit int) []any { return []any{"me", m.Milliseconds(), keepLonger, limit} }
	testHolders(t, refresh, map[string]holdersTest{
		"longer":                       {ends{"2 me": time.Second, "2 you": time.Second}, ask(0, 2), 1, ends{"2 me": m, "2 you": time.Second}},
		"shorter":                      {ends{"2 me": h, "2 you": time.Second}, ask(0, 2), 1, ends{"2 me": m, "2 you": time.Second}},
		"shorter, alone":               {ends{"0 me": h}, ask(0, 0), 1, ends{"0 me": m}},
		"the longer is kept":           {ends{"2 me": h, "2 you": time.Second}, ask(1, 2), 1, ends{"2 me": h, "2 you": time.Second}},
		"the longer is new":            {ends{"2 me": time.Second}, ask(1, 2), 1, ends{"2 me": m}},
		"ends next":                    {ends{"2 me": time.Microsecond}, ask(0, 2), 1, ends{"2 me": m}},
		"ends now":                     {ends{"2 me": nowEnds, "2 you": h}, ask(0, 2), 0, nil},
		"ends now, alone":              {ends{"2 me": nowEnds}, ask(0, 2), 0, nil},
		"another ends now":             {ends{"2 me": h, "2 you": nowEnds}, ask(0, 2), 1, ends{"2 me": m}},
		"not held":                     {ends{"2 you": h}, ask(0, 2), 0, nil},
		"nobody holds it":              {none, ask(0, 2), 0, nil},
		"held with another limit":      {ends{"3 me": h}, ask(0, 2), 0, nil},
		"held with another kind":       {ends{"0 me": h}, ask(0, 2), 0, nil},
		"held with other metadata":     {ends{"2 me too": h}, ask(0, 2), 0, nil},
		"beside more than one's limit": {ends{"2 me": h, "9 you": h, "9 her": h}, ask(0, 2), 1, ends{"2 me": m, "9 you": h, "9 her": h}},
	})
}

func TestHoldersRelease(t *testing.T) {
	const h = time.Hour
	release := func(q *queueTest, args ...any) int64 {
		return q.run(holdersReleaseScript, holdersKeys("key"), args...)
	}
	inTurn := func(q *queueTest, args ...any) int64 {
		return q.run(queueReleaseScript, queueKeys("key"), args...)
	}
	byToken := func(q *queueTest, args ...any) int64 {
		return q.run(releaseByTokenScript, queueKeys("key"), args[0])
	}
	tests := map[string]holdersTest{
		"others stay":       {ends{"2 me": h, "2 you": time.Second}, []any{"me", 2}, 1, ends{"2 you": time.Second}},
		"others are gone":   {ends{"0 me": h, "0 you": nowEnds}, []any{"me", 0}, 1, none},
		"the last":          {ends{"2 me": h}, []any{"me", 2}, 1, none},
		"ends next":         {ends{"2 me": time.Microsecond, "2 you": h}, []any{"me", 2}, 1, ends{"2 you": h}},
		"ends now":          {ends{"2 me": nowEnds, "2 you": h}, []any{"me", 2}, 0, nil},
		"not held":          {ends{"2 you": h}, []any{"me", 2}, 0, nil},
		"nobody holds it":   {none, []any{"me", 2}, 0, nil},
		"part of a value":   {ends{"2 m": h, "2 you me": h}, []any{"me", 2}, 0, nil},
		"a mark alone":      {ends{"2 you": h, "id me": -h}, []any{"me", 2}, 0, nil},
		"all but a mark":    {ends{"2 me": h, "id you": -h}, []any{"me", 2}, 1, none},
		"by a token's name": {ends{"2 me": h, "2 you": h, "id you": -h}, []any{"me", 2}, 1, ends{"2 you": h, "id you": -h}},
	}
	for name, script := range map[string]func(q *queueTest, args ...any) int64{"plain": release, "in turn": inTurn, "by token": byToken} {
		t.Run(name, func(t *testing.T) { testHolders(t, script, tests) })
	}
	exact := map[string]holdersTest{
		"held with another limit":  {ends{"3 me": h}, []any{"me", 2}, 0, nil},
		"held with another kind":   {ends{"0 me": h}, []any{"me", 2}, 0, nil},
		"held with other metadata": {ends{"2 me too": h}, []any{"me", 2}, 0, nil},
	}
	for name, script := range map[string]func(q *queueTest, args ...any) int64{"plain": release, "in turn": inTurn} {
		t.Run(name, func(t *testing.T) { testHolders(t, script, exact) })
	}
	t.Run("by token", func(t *testing.T) {
		testHolders(t, byToken, map[string]holdersTest{
			"whatever the limit":    {ends{"3 me": h}, []any{"me"}, 1, none},
			"whatever the kind":     {ends{"0 me": h}, []any{"me"}, 1, none},
			"whatever the metadata": {ends{"2 me too": h, "2 you": h}, []any{"me"}, 1, ends{"2 you": h}},
		})
	})
}

// A release with a token, of which a value begins, makes room for the next call with that token.
func TestHoldersRelease_byTokenThatWaits(t *testing.T) {
	q := newQueueTest(t)
	q.setHolders(ends{"2 me1": time.Hour, "2 us": time.Hour})
	q.enqueue("me2 2", "we 2")
	assert.EqualValues(t, 1, q.run(releaseByTokenScript, queueKeys("key"), "me"))
	q.requireHolders(marked(ends{"2 us": time.Hour, "2 me2": time.Minute}, "me2"))
	assert.Equal(t, []string{"we"}, q.waiting())
}

func TestHoldersReleaseKeep(t *testing.T) {
	const m, h = time.Minute, time.Hour
	release := func(q *queueTest, args ...any) int64 {
		return q.run(holdersReleaseKeepScript, holdersKeys("key"), append([]any{"me", "kept"}, args...)...)
	}
	ask := []any{m.Milliseconds(), 2}
	testHolders(t, release, map[string]holdersTest{
		"held":                     {ends{"2 me": h, "2 you": h}, ask, 1, ends{"2 kept": m, "2 you": h}},
		"held for less":            {ends{"2 me": time.Second}, ask, 1, ends{"2 kept": m}},
		"once more":                {ends{"2 kept": h, "2 you": h}, ask, 1, nil},
		"kept until now":           {ends{"2 kept": nowEnds, "2 you": h}, ask, 0, nil},
		"kept with another limit":  {ends{"3 kept": h}, ask, 0, nil},
		"not held":                 {ends{"2 you": h}, ask, 0, nil},
		"ends now":                 {ends{"2 me": nowEnds, "2 you": h}, ask, 0, nil},
		"held with another limit":  {ends{"3 me": h}, ask, 0, nil},
		"held with other metadata": {ends{"2 me too": h}, ask, 0, nil},
		"nobody holds it":          {none, ask, 0, nil},
	})
}

func TestHoldersTTL(t *testing.T) {
	ttl := func(q *queueTest, args ...any) int64 {
		return q.run(holdersTTLScript, holdersKeys("key"), args...)
	}
	testHolders(t, ttl, map[string]holdersTest{
		"one's own":              {ends{"2 me": time.Minute, "2 you": time.Hour}, []any{"me", 2}, 60000, nil},
		"a millisecond":          {ends{"2 me": time.Millisecond}, []any{"me", 2}, 1, nil},
		"less than a second one": {ends{"2 me": 2*time.Millisecond - time.Microsecond}, []any{"me", 2}, 1, nil},
		"less than one":          {ends{"2 me": time.Millisecond - time.Microsecond}, []any{"me", 2}, 0, nil},
		"ends now":               {ends{"2 me": nowEnds, "2 you": time.Hour}, []any{"me", 2}, 0, nil},
		"not held":               {ends{"2 you": time.Hour}, []any{"me", 2}, 0, nil},
		"another limit":          {ends{"3 me": time.Hour}, []any{"me", 2}, 0, nil},
		"nobody holds it":        {none, []any{"me", 2}, 0, nil},
	})
}
