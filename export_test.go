package redislock

// Orphans is how many orphans are looked after at the moment.
func Orphans() (n int) {
	schedule.mu.Lock()
	defer schedule.mu.Unlock()
	for _, l := range schedule.lanes {
		n += l.orphans
	}
	return n
}

// ScriptName tells scripts apart by their digests.
func ScriptName(digest string) string {
	switch digest {
	case obtainScript.Hash(), obtainMultiScript.Hash(), quorumObtainScript.Hash():
		return "obtain"
	case refreshScript.Hash(), quorumRefreshScript.Hash():
		return "refresh"
	case releaseScript.Hash():
		return "release"
	case quorumUndoScript.Hash():
		return "undo"
	case quorumHealScript.Hash():
		return "heal"
	case ttlScript.Hash():
		return "ttl"
	case queueAskScript.Hash():
		return "ask"
	case queueLeaveScript.Hash():
		return "leave"
	default:
		return digest
	}
}

// Tasks is how many tasks are on lanes, due or under way.
func Tasks() (n int) {
	schedule.mu.Lock()
	defer schedule.mu.Unlock()
	for _, l := range schedule.lanes {
		n += len(l.due)
	}
	return n
}

// TasksUnderWay is how many tasks on lanes have been sent and not answered.
func TasksUnderWay() (n int) {
	schedule.mu.Lock()
	defer schedule.mu.Unlock()
	for _, l := range schedule.lanes {
		for _, t := range l.due {
			n += min(t.underWay, 1)
		}
	}
	return n
}
