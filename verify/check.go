package verify

import (
	"fmt"
	"time"

	"github.com/anishathalye/porcupine"
)

// A violation is a promise that was not kept.
type violation struct {
	kind string
	key  string
	at   time.Duration
	what string
}

const (
	twoHolders   = "two holders"
	mixedKinds   = "shared and limited holders"
	tooMany      = "more holders than the limit"
	notALock     = "history is not that of a lock"
	fenceNotNew  = "fencing token not greater"
	doneLate     = "Done closed late"
	lostNoReason = "watched lock lost without a fault"
	notServed    = "not served after the fault"
	left         = "left behind"
)

var violationKinds = []string{twoHolders, mixedKinds, tooMany, notALock, fenceNotNew, doneLate, lostNoReason, notServed, left}

// check checks the turns with one key, which are in order.
func check(key string, turns []turn) []violation {
	var found []violation
	add := func(kind string, at time.Duration, format string, args ...any) {
		found = append(found, violation{kind, key, at, fmt.Sprintf(format, args...)})
	}
	var last turn // the one that ended last so far
	for i, t := range turns {
		if last.ended() > t.Obtain.To {
			add(twoHolders, t.Obtain.To, "worker %d until %.6f, worker %d from %.6f",
				last.Worker, last.ended().Seconds(), t.Worker, t.Obtain.To.Seconds())
		}
		if t.ended() > last.ended() {
			last = t
		}
		// Who returned before this one asked was served before it.
		for j := i - 1; j >= 0 && t.Fence > 0; j-- {
			if earlier := turns[j]; earlier.Obtain.To < t.Obtain.From {
				if earlier.Fence >= t.Fence {
					add(fenceNotNew, t.Obtain.To, "%d after %d", t.Fence, earlier.Fence)
				}
				break
			}
		}
		if i > 0 && t.Fence > 0 && t.Fence == turns[i-1].Fence {
			add(fenceNotNew, t.Obtain.To, "%d twice", t.Fence)
		}
		if t.Late != 0 {
			add(doneLate, t.Done, "by %v", t.Late)
		}
		if t.Lost != "" {
			add(lostNoReason, t.Done, "%s", t.Lost)
		}
	}
	return found
}

// An event is an operation of the lock model: a token obtains the lock, or its holder
// ceases to believe in it.
type event struct {
	token string
	ends  bool
}

// lockModel is a lock with a lease: from the return of Obtain its holder may act until the
// lease ends, and meanwhile nobody else obtains it.
var lockModel = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		e := input.(event)
		if e.ends {
			return state == e.token, ""
		}
		return state == "", e.token
	},
	DescribeOperation: func(input, output any) string {
		e := input.(event)
		if e.ends {
			return fmt.Sprintf("%.6s ends", e.token)
		}
		return fmt.Sprintf("%.6s obtains", e.token)
	},
	DescribeState: func(state any) string {
		if state == "" {
			return "free"
		}
		return fmt.Sprintf("held by %.6s", state)
	},
}

// checkModel checks the turns with one key by porcupine.
func checkModel(turns []turn) (porcupine.CheckResult, porcupine.LinearizationInfo) {
	var ops []porcupine.Operation
	for _, t := range turns {
		ops = append(ops,
			porcupine.Operation{
				ClientId: t.Worker, Input: event{token: t.Token},
				Call: int64(t.Obtain.From), Return: int64(t.Obtain.To),
			},
			porcupine.Operation{
				ClientId: t.Worker, Input: event{token: t.Token, ends: true},
				Call: int64(t.ended()), Return: int64(t.ended()),
			})
	}
	return porcupine.CheckOperationsVerbose(lockModel, ops, time.Minute)
}
