package redislock

// SlowReply is after how long a command may have been sent more than once.
const SlowReply = slowReply

// Orphans is how many orphans of a Redis client are looked after at the moment.
func Orphans(client RedisClient) (n int) {
	forLanesOf(client, func(l *lane) { n += l.undos[orphan] })
	return n
}

// forLanesOf calls a function for the lanes of a Redis client, of all its nodes, which are locked.
func forLanesOf(client RedisClient, f func(*lane)) {
	backgrounds.mu.Lock()
	b := backgrounds.all[client]
	backgrounds.mu.Unlock()
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.unlock()
	for _, l := range b.lanes {
		f(l)
	}
}

// ScriptName tells scripts apart by their digests.
func ScriptName(digest string) string {
	switch digest {
	case obtainScript.Hash(), obtainMultiScript.Hash(), quorumObtainScript.Hash(), holdersObtainScript.Hash():
		return "obtain"
	case refreshScript.Hash(), holdersRefreshScript.Hash():
		return "refresh"
	case releaseScript.Hash(), releaseKeepScript.Hash(), queueReleaseScript.Hash(), holdersReleaseScript.Hash(), holdersReleaseKeepScript.Hash():
		return "release"
	case quorumUndoScript.Hash():
		return "undo"
	case quorumHealScript.Hash():
		return "heal"
	case ttlScript.Hash(), holdersTTLScript.Hash():
		return "ttl"
	case queueAskScript.Hash():
		return "ask"
	case queueLeaveScript.Hash():
		return "leave"
	default:
		return digest
	}
}

// Tasks is how many tasks of a Redis client are on lanes, due or under way.
func Tasks(client RedisClient) (n int) {
	forLanesOf(client, func(l *lane) { n += len(l.due) })
	return n
}

// Leaving is how many calls of a Redis client are leaving a queue.
func Leaving(client RedisClient) (n int) {
	forLanesOf(client, func(l *lane) { n += l.undos[leave] })
	return n
}

// Waiting is how many callers of a Redis client wait in a queue.
func Waiting(client RedisClient) int {
	b := lockBackground(New(client).servers)
	defer b.unlock()
	return b.queued
}
