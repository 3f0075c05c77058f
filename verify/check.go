package verify

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// A violation is a broken promise.
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
	var holders []turn
	for _, t := range turns {
		holders = slices.DeleteFunc(holders, func(other turn) bool { return other.ended() <= t.Obtain.To })
		holders = append(holders, t)
		if what := conflict(kindsOfTurns(holders)); what != "" {
			var all []string
			for _, holder := range holders {
				all = append(all, fmt.Sprintf("worker %d (%v) until %.6f", holder.Worker, holder.kind, holder.ended().Seconds()))
			}
			add(what, t.Obtain.To, "%s", strings.Join(all, ", "))
		}
		if t.Late != 0 {
			add(doneLate, t.Done, "by %v", t.Late)
		}
		if t.Lost != "" {
			add(lostNoReason, t.Done, "%s", t.Lost)
		}
	}
	checkFences(turns, add)
	return found
}

func kindsOfTurns(turns []turn) []kind {
	kinds := make([]kind, len(turns))
	for i, t := range turns {
		kinds[i] = t.kind
	}
	return kinds
}

// checkFences checks that fencing tokens are new: who returned before another asked was served
// before it. The turns are in the order in which they obtained the lock.
func checkFences(turns []turn, add func(kind string, at time.Duration, format string, args ...any)) {
	seen := make(map[int64]bool)
	byAsking := slices.SortedFunc(slices.Values(turns), func(a, b turn) int { return cmp.Compare(a.Obtain.From, b.Obtain.From) })
	returned, greatest := 0, int64(0) // of the turns, and among them
	for _, t := range byAsking {
		for ; returned < len(turns) && turns[returned].Obtain.To < t.Obtain.From; returned++ {
			greatest = max(greatest, turns[returned].Fence)
		}
		switch {
		case t.Fence == 0:
		case seen[t.Fence]:
			add(fenceNotNew, t.Obtain.To, "%d twice", t.Fence)
		case t.Fence <= greatest:
			add(fenceNotNew, t.Obtain.To, "%d after %d", t.Fence, greatest)
		}
		seen[t.Fence] = true
	}
}

// An event is an operation of the lock model: a token obtains the lock, or its holder
// ceases to believe in it.
type event struct {
	holder holder
	ends   bool
}

// A holder is one of those in the model's state.
type holder struct {
	kind
	token string
}

func (h holder) String() string { return fmt.Sprintf("%.6s (%v)", h.token, h.kind) }

// lockModel is a lock with a lease: from the return of Obtain its holder may act until the lease
// ends, and meanwhile those alone obtain it too whom the holders' kinds and their own let in. An
// exclusive lock excludes all others, a writer's among readers too; a semaphore has so many places
// as the one says who comes. The state is the holders, in the order of their tokens.
var lockModel = porcupine.Model{
	Init: func() any { return []holder(nil) },
	Step: func(state, input, output any) (bool, any) {
		e, holders := input.(event), state.([]holder)
		at, there := slices.BinarySearchFunc(holders, e.holder.token, func(h holder, token string) int { return cmp.Compare(h.token, token) })
		if e.ends {
			return there, slices.Concat(holders[:at], holders[min(at+1, len(holders)):])
		}
		kinds := make([]kind, len(holders))
		for i, h := range holders {
			kinds[i] = h.kind
		}
		return !there && e.holder.admits(kinds), slices.Insert(slices.Clone(holders), at, e.holder)
	},
	Equal: func(a, b any) bool { return slices.Equal(a.([]holder), b.([]holder)) },
	DescribeOperation: func(input, output any) string {
		e := input.(event)
		if e.ends {
			return fmt.Sprintf("%v ends", e.holder)
		}
		return fmt.Sprintf("%v obtains", e.holder)
	},
	DescribeState: func(state any) string {
		holders := state.([]holder)
		if len(holders) == 0 {
			return "free"
		}
		return fmt.Sprintf("held by %v", holders)
	},
}

// checkModel checks the turns with one key by porcupine.
func checkModel(turns []turn) (porcupine.CheckResult, porcupine.LinearizationInfo) {
	var ops []porcupine.Operation
	for _, t := range turns {
		ops = append(ops,
			porcupine.Operation{
				ClientId: t.Worker, Input: event{holder: holder{t.kind, t.Token}},
				Call: int64(t.Obtain.From), Return: int64(t.Obtain.To),
			},
			porcupine.Operation{
				ClientId: t.Worker, Input: event{holder: holder{t.kind, t.Token}, ends: true},
				Call: int64(t.ended()), Return: int64(t.ended()),
			})
	}
	return porcupine.CheckOperationsVerbose(lockModel, ops, time.Minute)
}
