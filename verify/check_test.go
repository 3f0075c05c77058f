package verify

import (
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/assert"
)

// A holding is a turn of the given kind from one second to another.
func holding(token string, k kind, from, to time.Duration) turn {
	return turn{
		kind: k, Key: "key", Token: token,
		Obtain: call{From: (from - 1) * time.Second, To: from * time.Second}, ValidUntil: to * time.Second,
	}
}

func fenced(t turn, fence int64) turn {
	t.Fence = fence
	return t
}

// Histories of all kinds of locks, and what both checks say of them.
func TestCheck(t *testing.T) {
	reader, writer, two, three := kind{Shared: true}, kind{}, kind{Limit: 2}, kind{Limit: 3}
	for name, test := range map[string]struct {
		turns []turn
		found string // no violation: ""
	}{
		"one after the other":           {[]turn{holding("a", writer, 10, 20), holding("b", writer, 20, 30)}, ""},
		"two writers":                   {[]turn{holding("a", writer, 10, 20), holding("b", writer, 18, 30)}, twoHolders},
		"readers":                       {[]turn{holding("a", reader, 10, 20), holding("b", reader, 11, 30), holding("c", reader, 12, 20)}, ""},
		"a writer among readers":        {[]turn{holding("a", reader, 10, 30), holding("b", writer, 18, 20)}, twoHolders},
		"a reader beside a writer":      {[]turn{holding("a", writer, 10, 30), holding("b", reader, 18, 20)}, twoHolders},
		"a writer after readers":        {[]turn{holding("a", reader, 10, 18), holding("b", reader, 11, 20), holding("c", writer, 20, 30)}, ""},
		"as many as the limit":          {[]turn{holding("a", two, 10, 20), holding("b", two, 11, 20), holding("c", two, 20, 30)}, ""},
		"one more than the limit":       {[]turn{holding("a", two, 10, 20), holding("b", two, 11, 20), holding("c", two, 18, 30)}, tooMany},
		"the larger limit comes last":   {[]turn{holding("a", two, 10, 20), holding("b", two, 11, 20), holding("c", three, 18, 30)}, ""},
		"shared and limited":            {[]turn{holding("a", two, 10, 20), holding("b", reader, 18, 30)}, mixedKinds},
		"fencing tokens":                {[]turn{fenced(holding("a", reader, 10, 20), 2), fenced(holding("b", reader, 10, 20), 1), fenced(holding("c", reader, 15, 20), 3)}, ""},
		"a fencing token twice":         {[]turn{fenced(holding("a", reader, 10, 20), 1), fenced(holding("b", reader, 10, 20), 1)}, fenceNotNew},
		"a fencing token goes down":     {[]turn{fenced(holding("a", reader, 10, 20), 2), fenced(holding("b", reader, 15, 20), 1)}, fenceNotNew},
		"it goes down after some turns": {[]turn{fenced(holding("a", two, 10, 12), 2), fenced(holding("b", two, 11, 13), 3), fenced(holding("c", two, 15, 20), 1)}, fenceNotNew},
	} {
		t.Run(name, func(t *testing.T) {
			var found []string
			for _, v := range check("key", test.turns) {
				found = append(found, v.kind)
			}
			isLock, _ := checkModel(test.turns)
			switch test.found {
			case "":
				assert.Empty(t, found)
				assert.Equal(t, porcupine.Ok, isLock)
			case fenceNotNew: // the model knows nothing of that
				assert.Equal(t, []string{fenceNotNew}, found)
				assert.Equal(t, porcupine.Ok, isLock)
			default:
				assert.Equal(t, []string{test.found}, found)
				assert.Equal(t, porcupine.Illegal, isLock)
			}
		})
	}
}

// Whom the limit of one who came earlier would not let in any more was let in before it learnt of its own
// place: the model finds an order.
func TestCheck_limitsThatDiffer(t *testing.T) {
	late := holding("b", kind{Limit: 2}, 15, 30)
	late.Obtain.From = 5 * time.Second
	turns := []turn{holding("a", kind{Limit: 3}, 10, 30), holding("c", kind{Limit: 3}, 12, 30), late}
	assert.Empty(t, check("key", turns))
	isLock, _ := checkModel(turns)
	assert.Equal(t, porcupine.Ok, isLock)
}
