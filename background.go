package redislock

import "sync"

// A background is everything that happens in the background for a Redis client: lanes,
// subscriptions and waiters. It exists only while there is any of them.
//
// Mutexes are locked in this order: a TickWatchdog's, a background's, that of all backgrounds, a
// lease's or a quorumClaim's.
type background struct {
	servers servers

	// mu also guards the state of each task, lane, subscription and waiter.
	mu            sync.Mutex
	closed        bool // another has taken its place
	lanes         map[laneKey]*lane
	subscriptions map[string]*subscription // by the lock's key; "" for all
	asking        int                      // waiters that are not in a queue yet
	queued        int                      // waiters that are
}

// backgrounds are all of them, by the identity of the Redis client.
var backgrounds = struct {
	mu  sync.Mutex
	all map[any]*background
}{all: make(map[any]*background)}

// lockBackground returns the background of these servers, locked.
func lockBackground(servers servers) *background {
	for identity := servers.identity(); ; {
		backgrounds.mu.Lock()
		b := backgrounds.all[identity]
		if b == nil {
			b = &background{servers: servers}
			backgrounds.all[identity] = b
		}
		backgrounds.mu.Unlock()
		b.mu.Lock()
		if !b.closed {
			return b
		}
		b.mu.Unlock()
	}
}

// unlock also closes the background if nothing is left in it.
func (b *background) unlock() {
	if !b.closed && len(b.lanes) == 0 && len(b.subscriptions) == 0 && b.asking == 0 && b.queued == 0 {
		b.closed = true
		backgrounds.mu.Lock()
		delete(backgrounds.all, b.servers.identity())
		backgrounds.mu.Unlock()
	}
	b.mu.Unlock()
}
