package verify

import (
	"fmt"

	"github.com/bsm/redislock"
)

// A kind of lock says which other holders a holder may have beside it, as the options of the same names do.
type kind struct {
	Shared bool `json:",omitempty"`
	Limit  int  `json:",omitempty"` // 0 and 1: none
}

func kindOf(opt *redislock.Options) kind { return kind{opt.Shared, opt.Limit} }

func (k kind) exclusive() bool { return !k.Shared && k.Limit <= 1 }

func (k kind) String() string {
	switch {
	case k.Shared:
		return "shared"
	case k.exclusive():
		return "exclusive"
	default:
		return fmt.Sprintf("limit %d", k.Limit)
	}
}

// admits reports whether one of this kind may join holders.
func (k kind) admits(holders []kind) bool {
	for _, other := range holders {
		if k.exclusive() || other.exclusive() || k.Shared != other.Shared {
			return false
		}
	}
	return k.Shared || len(holders) < max(k.Limit, 1)
}

// conflict says why nobody can have let in these holders one after the other; "" if somebody can
// have. The one with the largest limit may be the last.
func conflict(holders []kind) string {
	most := 1
	for _, k := range holders {
		switch {
		case len(holders) == 1:
			return ""
		case k.exclusive():
			return twoHolders
		case k.Shared != holders[0].Shared:
			return mixedKinds
		}
		most = max(most, k.Limit)
	}
	if len(holders) > most && !holders[0].Shared {
		return tooMany
	}
	return ""
}
