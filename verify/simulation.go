package verify

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/bsm/redislock"
)

const (
	processes         = 4
	workersOfAProcess = 3
	simPatience       = time.Second             // of a client for a reply
	simLongestTTL     = 10 * time.Second        // that a lock is given
	simBriefTTL       = 10 * time.Millisecond   // as long as tasks wait for others to leave with
	simRefused        = 10 * time.Second        // after which a subscription that was refused is tried again
	simKeepAlive      = 30 * time.Second        // after which a server ends connections of which it hears nothing
	simClockStep      = 10 * time.Second        // by which a clock is set, at most
	simReckoned       = 3 * time.Second         // for which the library reckons with what is late
	simStall          = 2900 * time.Millisecond // of a connection, at most
	simHeard          = 7 * time.Second         // within which a subscription that hangs is replaced
	simSettled        = 5 * time.Second         // after which no fault has an effect any more
	simStorm, simCalm = 40 * time.Second, 30 * time.Second
	simUnderWay       = 20 * time.Second // for which a command is under way, at most
	simLeaves         = 10 * time.Second // within which a call that nothing disturbs has left a queue
	simLeftover       = 90 * time.Second // after which nothing is left
	simRemembered     = 2000
)

var locks = flag.String("locks", "", "simulate only the kinds of locks whose names match this regular expression, on one server")

// simCallPrefix begins the metadata of calls.
const simCallPrefix = "call "

// A simStyle is a way of using a lock, which has a key of its own.
type simStyle struct {
	name                                         string
	fair, watched, fenced, token, several, plain bool
	brief                                        bool // for a moment
	bound                                        bool // held at least, and at most
	shared, limited                              bool // and exclusive ones
}

var simStyles = []simStyle{
	{name: "plain", plain: true},
	{name: "retrying"},
	{name: "watched", watched: true},
	{name: "watched, for a moment", watched: true, brief: true},
	{name: "fenced", fenced: true},
	{name: "fair", fair: true},
	{name: "fair and watched", fair: true, watched: true},
	{name: "fair and fenced", fair: true, fenced: true, watched: true},
	{name: "custom tokens", token: true, watched: true},
	{name: "fair, with custom tokens", fair: true, token: true},
	{name: "bound", watched: true, bound: true},
	{name: "fair and bound", fair: true, watched: true, bound: true},
	{name: "shared", shared: true, watched: true},
	{name: "shared, fair", shared: true, fair: true, watched: true},
	{name: "shared, fair and fenced", shared: true, fair: true, fenced: true},
	{name: "limited, fenced", limited: true, fenced: true},
	{name: "limited, fair", limited: true, fair: true, watched: true},
	{name: "limited, fair, with custom tokens", limited: true, fair: true, token: true},
	{name: "limited, with custom tokens", limited: true, token: true},
	{name: "several keys", several: true},
	{name: "several keys, with custom tokens", several: true, token: true},
}

func (s simStyle) key() string { return "{" + s.name + "}" }

// keys are those of one call. By custom tokens calls obtain different ones, in any order: some
// by the token that holds them.
func (s simStyle) keys(w *simWorker) []string {
	keys := []string{s.key(), s.key() + " too", s.key() + " as well"}
	switch {
	case !s.several:
		return keys[:1]
	case !s.token:
		return keys[:2]
	}
	w.random.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	return keys[:1+w.random.IntN(len(keys))]
}

func (s simStyle) options(w *simWorker, c *simCall) *redislock.Options {
	opt := &redislock.Options{}
	switch {
	case s.fair:
		opt.RetryStrategy = redislock.FairQueue()
	case s.plain:
	case w.chance(50):
		opt.RetryStrategy = redislock.LimitRetry(redislock.LinearBackoff(200*time.Millisecond), 20)
	default:
		opt.RetryStrategy = redislock.ExponentialBackoff(100*time.Millisecond, time.Second)
	}
	if s.token {
		opt.Token = w.token
	} else {
		c.value = fmt.Sprint(simCallPrefix, c.s().number())
		opt.Metadata = c.value
	}
	opt.Shared, opt.Limit = s.kind(w)
	c.kind = kindOf(opt)
	if s.fenced {
		opt.FenceKey = s.key() + ":fence"
	}
	if s.watched && w.chance(70) || s.brief {
		opt.Watchdog = w.p.watchdog
		c.watchdog = opt.Watchdog
	}
	if s.bound {
		opt.HoldAtLeast, opt.HoldAtMost = w.upTo(2*time.Second), 4*time.Second+w.upTo(4*time.Second)
		c.atLeast, c.atMost = opt.HoldAtLeast, opt.HoldAtMost
	}
	return opt
}

// kind chooses the kind of one call: at times one that does not go with the others. A custom token
// always has the same kind.
func (s simStyle) kind(w *simWorker) (shared bool, limit int) {
	random := w.random
	if s.token {
		random = rand.New(rand.NewPCG(uint64(w.number), uint64(w.tokens)))
	}
	n := random.IntN(100)
	switch {
	case !s.severalHolders() || n < 25:
		return false, 0
	case s.limited != (n < 28):
		return false, 2 + random.IntN(3)
	default:
		return true, 0
	}
}

// severalHolders reports whether locks may have more than one holder.
func (s simStyle) severalHolders() bool { return s.shared || s.limited }

// A simulation is a round in which processes use locks while faults happen. All of it runs in
// simulated time.
type simulation struct {
	seed       uint64
	random     *rand.Rand
	start      time.Time
	stop       chan struct{} // closed when workers should stop
	styles     []simStyle
	clockRules bool // whether a server's clock decides how long locks are held
	servers    []*simServer
	processes  []*simProcess
	burying    sync.WaitGroup

	mu           sync.Mutex
	seeds        *rand.Rand
	numbers      int
	calls        map[*simCall]struct{} // that go on, or whose locks are held
	ended        []*simCall            // the latest of the others
	byValue      map[string]*simCall
	toLeave      map[*simCall]struct{} // of which an ask came when they were over
	fences       map[string]simFence   // the latest, by key
	lastHeld     map[string]time.Time  // by key
	released     map[string]time.Time  // by key: when the last holder gave it back; zero: it did not
	keptUntil    map[string]time.Time  // by key: until when nobody may have it
	disturbed    time.Time             // until when any process is
	disturbedAll time.Time             // until when all are, those that start meanwhile included
	slowed       time.Time             // until when any process may have to wait for an answer
	scripts      []string              // the latest, as they were run
	log          []string              // of faults
	violations   []violation
	report       *simReport
}

type simFence struct {
	number int64
	token  string
}

// simulate runs a round. It must be called in a bubble of simulated time.
func simulate(seed uint64, duration time.Duration, report *simReport) *simulation {
	s := &simulation{
		seed:      seed,
		random:    rand.New(rand.NewPCG(seed, 0)),
		seeds:     rand.New(rand.NewPCG(seed, 1)),
		start:     time.Now(),
		stop:      make(chan struct{}),
		calls:     make(map[*simCall]struct{}),
		byValue:   make(map[string]*simCall),
		toLeave:   make(map[*simCall]struct{}),
		fences:    make(map[string]simFence),
		lastHeld:  make(map[string]time.Time),
		released:  make(map[string]time.Time),
		keptUntil: make(map[string]time.Time),
		report:    report,
	}
	s.setUp()
	s.run(duration)
	s.tearDown()
	return s
}

// setUp chooses servers, and styles that are few enough to be contended for.
func (s *simulation) setUp() {
	nodes := 1
	if s.random.IntN(4) == 0 && *locks == "" {
		nodes = 3
	}
	for range nodes {
		s.servers = append(s.servers, startSimServer(s.runs))
	}
	named := regexp.MustCompile(*locks)
	for _, style := range simStyles {
		// A quorum has neither counters nor queues, nor several holders.
		if (nodes == 1 || !style.fenced && !style.fair && !style.severalHolders()) && named.MatchString(style.name) {
			s.styles = append(s.styles, style)
		}
	}
	if len(s.styles) == 0 {
		panic(fmt.Sprintf("-locks %q matches no kind of locks: see simStyles", *locks))
	}
	s.random.Shuffle(len(s.styles), func(i, j int) { s.styles[i], s.styles[j] = s.styles[j], s.styles[i] })
	s.styles = s.styles[:min(2+s.random.IntN(3), len(s.styles))]
	for _, style := range s.styles {
		s.clockRules = s.clockRules || style.severalHolders()
	}
	for i := range processes {
		p := s.startProcess(i)
		s.mu.Lock()
		s.processes = append(s.processes, p)
		s.mu.Unlock()
	}
}

// run makes faults happen, with quiet times between them, in which everything must come right again.
func (s *simulation) run(duration time.Duration) {
	for time.Since(s.start) < duration {
		s.weather(simStorm, 1500*time.Millisecond, false)
		s.weather(simCalm, 4*time.Second, true)
	}
}

// weather makes faults happen for some time, with the given mean gap between them.
func (s *simulation) weather(lasts, gap time.Duration, harmless bool) {
	for end := time.Now().Add(lasts); time.Now().Before(end); {
		s.sleep(time.Duration(s.random.ExpFloat64() * float64(gap)))
		s.disturb(s.anyFault(harmless))
	}
}

func (s *simulation) sleep(d time.Duration) {
	const step = time.Second
	for ; d > step; d -= step {
		time.Sleep(step)
		s.checkWaiting()
		s.checkHandedOver()
		s.checkLeft()
	}
	time.Sleep(d)
}

// tearDown ends the workers, and looks for what is left.
func (s *simulation) tearDown() {
	close(s.stop)
	for _, p := range s.processes {
		p.workers.Wait()
	}
	s.burying.Wait()
	time.Sleep(simLeftover)
	s.checkLeft()
	for _, server := range s.servers {
		if keys := server.leftovers(); len(keys) > 0 {
			s.violation(left, "", "%s", strings.Join(keys, ", "))
		}
		if channels := server.redis.PubSubChannels(""); len(channels) > 0 {
			s.violation(left, "", "subscriptions to %s", strings.Join(channels, ", "))
		}
	}
	if library := libraryGoroutines(); len(library) > 0 {
		s.violation(left, "", "goroutines:\n%s", strings.Join(library, "\n\n"))
	}
	for _, p := range s.processes {
		p.kill()
		p.close()
	}
	for _, server := range s.servers {
		server.redis.Close()
	}
	s.report.count(s)
}

// libraryGoroutines are those that the library has started: for lanes that have tasks, for
// subscriptions, and for releases that have not ended.
func libraryGoroutines() []string {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	var library []string
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(stack, "created by github.com/bsm/redislock.") {
			library = append(library, stack)
		}
	}
	return library
}

// replaceProcess makes a process die, or its machine, and lets another take its place.
func (s *simulation) replaceProcess(slot int, machine bool) {
	old := s.processes[slot]
	old.die(machine)
	s.burying.Go(old.bury)
	successor := s.startProcess(slot)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.processes[slot] = successor
	s.processes[slot].disturbed = s.disturbedAll
}

// anyProcess chooses a process.
func (s *simulation) anyProcess(random *rand.Rand) *simProcess {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.processes[random.IntN(len(s.processes))]
}

// mayBeLate reports whether commands that a process has sent since then may still come into effect,
// or may have done so late.
func (s *simulation) mayBeLate(p *simProcess, since time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !p.late.Before(since)
}

// forget drops the calls of a process that has died.
func (s *simulation) forget(p *simProcess) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.calls {
		if c.w.p == p {
			s.finish(c)
		}
	}
}

// calmSince is since when nothing has disturbed a process, or any if there is none named.
func (s *simulation) calmSince(p *simProcess) time.Time {
	if p == nil {
		return later(s.disturbed, s.start)
	}
	return later(p.disturbed, s.start)
}

func (s *simulation) now() time.Duration { return s.onClock(time.Now()) }

func (s *simulation) onClock(t time.Time) time.Duration { return t.Sub(s.start) }

func (s *simulation) record(do func() error) call {
	c := call{From: s.now()}
	if err := do(); err != nil {
		c.Err = err.Error()
	}
	c.To = s.now()
	return c
}

func (s *simulation) newRandom() *rand.Rand {
	s.mu.Lock()
	defer s.mu.Unlock()
	return rand.New(rand.NewPCG(s.seeds.Uint64(), 0))
}

func (s *simulation) number() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.numbers++
	return s.numbers
}
