package verify

import (
	"bufio"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"
)

// A simServer is a Redis server in simulated time. Its TTLs pass exactly. Its clock, by which
// scripts see the time of day, may be set.
type simServer struct {
	redis *miniredis.Miniredis
	// runs is told of each script of a lock, and makes it run.
	runs func(s *simServer, script simScript, run func())

	running sync.Mutex           // held while such a script runs, or a lock is set
	inside  *server.Peer         // whose command that is; guarded by mu
	known   map[string]bool      // digests of scripts; guarded by running
	taken   map[string]simTaking // by key, unless another call has come to count on that since; guarded by running

	passing sync.Mutex // held while TTLs pass: nobody sees them before that
	passed  time.Time  // until when they have; guarded by passing

	mu       sync.Mutex
	clockOff time.Duration // what its clock is ahead by
	clockSet time.Time     // when its clock was set the last time
	mute     bool          // its users may not use channels
}

// A simScript is a run of one of the library's scripts.
type simScript struct {
	name       string // of its file
	keys, args []string
}

// scriptFiles finds, in the library's source, the files that its scripts are made of.
var scriptFiles = regexp.MustCompile(`loadScript\((".*")\)`)

// scriptNames are the names of scripts by their digests: each is that of its last file.
var scriptNames = sync.OnceValue(func() map[string]string {
	names := make(map[string]string)
	for _, found := range scriptFiles.FindAllStringSubmatch(readLibrary("scripts.go"), -1) {
		files := strings.Split(strings.Trim(found[1], `"`), `", "`)
		var script strings.Builder
		for _, file := range files {
			script.WriteString(readLibrary(filepath.Join("lua", file+".lua")))
		}
		names[digestOf(script.String())] = files[len(files)-1]
	}
	return names
})

func readLibrary(file string) string {
	source, err := os.ReadFile(filepath.Join("..", file))
	if err != nil {
		panic(err) // not run in the source tree
	}
	return string(source)
}

func digestOf(script string) string {
	digest := sha1.Sum([]byte(script))
	return hex.EncodeToString(digest[:])
}

// parseScript finds out what a client runs. A script that is not known would run without being
// looked at, and nothing that it does wrong would be noticed.
func parseScript(digest string, args []string) simScript {
	name := scriptNames()[digest]
	keys, err := strconv.Atoi(args[0])
	if name == "" || err != nil {
		panic(fmt.Sprintf("script %s with arguments %q is not from the source tree that the simulation runs in", digest, args))
	}
	return simScript{name, args[1 : 1+keys], args[1+keys:]}
}

func startSimServer(runs func(*simServer, simScript, func())) *simServer {
	s := &simServer{
		redis:  miniredis.NewMiniRedis(),
		runs:   runs,
		known:  make(map[string]bool),
		taken:  make(map[string]simTaking),
		passed: time.Now(),
	}
	conn, err := s.redis.Dial() // starts it
	if err != nil {
		panic(err) // cannot fail
	}
	_ = conn.Close()
	s.redis.Server().SetPreHook(s.before)
	return s
}

func (s *simServer) serve(conn net.Conn) { s.redis.Server().ServeConn(conn) }

// before runs before each command, those of scripts included. It reports whether it has
// answered the command.
func (s *simServer) before(peer *server.Peer, command string, args ...string) bool {
	s.mu.Lock()
	mute, inside := s.mute, s.inside == peer
	s.mu.Unlock()
	if !inside { // the script holds a mutex that the passing of time needs
		s.letTimePass()
	}
	switch command {
	case "EVAL", "EVALSHA":
		if !inside {
			s.run(peer, command, args)
			return true
		}
	case "SET":
		// Nobody takes a lock while it is looked into. That is how a client does it; no script does.
		if !inside && strings.EqualFold(args[len(args)-1], "nx") {
			s.running.Lock()
			defer s.running.Unlock()
			s.dispatchLocked(peer, command, args)
			return true
		}
	case "SCRIPT":
		// It is used only to flush. Nothing runs while it does: a script that is forgotten here, and not
		// there yet, would run without being looked at.
		if !inside {
			s.running.Lock()
			defer s.running.Unlock()
			clear(s.known)
			s.dispatchLocked(peer, command, args)
			return true
		}
	case "TIME":
		now := s.clock()
		peer.WriteLen(2)
		peer.WriteBulk(strconv.FormatInt(now.Unix(), 10))
		peer.WriteBulk(strconv.Itoa(now.Nanosecond() / 1000))
		return true
	case "SUBSCRIBE", "PUBLISH", "PUBSUB":
		if mute {
			peer.WriteError("NOPERM No permissions to access a channel")
			return true
		}
	}
	return false
}

// run runs a script while no other runs.
func (s *simServer) run(peer *server.Peer, command string, args []string) {
	s.running.Lock()
	defer s.running.Unlock()
	digest := args[0]
	if command == "EVAL" {
		digest = digestOf(args[0])
		s.known[digest] = true
	}
	run := func() { s.dispatchLocked(peer, command, args) }
	if !s.known[digest] {
		run() // says so, before anybody can load it
		return
	}
	s.runs(s, parseScript(digest, args[1:]), run)
}

func (s *simServer) dispatchLocked(peer *server.Peer, command string, args []string) {
	s.set(func(s *simServer) { s.inside = peer })
	s.redis.Server().Dispatch(peer, append([]string{command}, args...))
	s.set(func(s *simServer) { s.inside = nil })
}

// letTimePass makes TTLs pass.
func (s *simServer) letTimePass() {
	s.passing.Lock()
	defer s.passing.Unlock()
	if elapsed := time.Since(s.passed); elapsed > 0 {
		s.passed = s.passed.Add(elapsed)
		s.redis.FastForward(elapsed)
	}
}

// holds returns the value and the TTL of a key; "" if there is none.
func (s *simServer) holds(key string) (value string, ttl time.Duration) {
	s.letTimePass()
	if !s.redis.Exists(key) {
		return "", 0
	}
	value, _ = s.redis.Get(key)
	return value, s.redis.TTL(key)
}

// clock returns the time of day as scripts see it.
func (s *simServer) clock() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Add(s.clockOff)
}

// leftovers are the keys other than fencing counters.
func (s *simServer) leftovers() []string {
	s.letTimePass()
	var keys []string
	for _, key := range s.redis.Keys() {
		if !strings.HasSuffix(key, ":fence") {
			keys = append(keys, key)
		}
	}
	return keys
}

// setClock sets the clock forward, or back.
func (s *simServer) setClock(by time.Duration) {
	s.set(func(s *simServer) { s.clockOff, s.clockSet = s.clockOff+by, time.Now() })
}

// lastSet is when the clock was last set.
func (s *simServer) lastSet() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clockSet
}

func (s *simServer) set(change func(s *simServer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// do runs a command from nowhere.
func (s *simServer) do(args ...string) {
	s.redis.Server().Dispatch(server.NewPeer(bufio.NewWriter(io.Discard)), args)
}
