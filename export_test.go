package redislock

// Orphans is how many orphans are looked after at the moment.
func Orphans() int {
	return len(orphans)
}
