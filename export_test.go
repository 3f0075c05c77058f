package redislock

// Orphans is how many orphans are looked after at the moment.
func Orphans() int {
	return len(orphans)
}

// ScriptName tells scripts apart by their digests.
func ScriptName(digest string) string {
	switch digest {
	case obtainScript.Hash(), obtainMultiScript.Hash():
		return "obtain"
	case refreshScript.Hash():
		return "refresh"
	case releaseScript.Hash():
		return "release"
	case quorumHealScript.Hash():
		return "heal"
	case ttlScript.Hash():
		return "ttl"
	default:
		return digest
	}
}
