package verify

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"
)

const (
	// clients of a round are in this process; a fault may have more in others.
	clients = 4
	// servedBound is how soon every worker must have had a turn once a fault was mended,
	// and all keys must be gone once the workers have stopped.
	servedBound = 20 * time.Second
)

// othersGoroutines are those of the proxies, one of which may hang if it was half-open, and
// those that each start of a server brings to look after it.
var othersGoroutines = []goleak.Option{
	goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*Proxy).server"),
	goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*Proxy).freeBlocker"),
	goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).Start.func1"),
	goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).Start.func2"),
	goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"),
	goleak.IgnoreAnyFunction("github.com/bsm/redislock/internal/redistest.(*Server).Restart.func1"),
}

// A round is a workload on a deployment that a fault disturbs, and its outcome.
type round struct {
	t        *testing.T
	d        deployment
	fault    fault
	seed     uint64
	history  history
	children []*child
	existing goleak.Option // the goroutines that existed before

	mu         sync.Mutex
	random     *rand.Rand
	violations []violation
}

// run disturbs the deployment for some time, and checks what the workers saw.
func (r *round) run(duration time.Duration) {
	r.existing = goleak.IgnoreCurrent()
	r.random = rand.New(rand.NewPCG(r.seed, 1))
	w := startWorkload(r.d, 0, clients, r.seed, r.history.add)
	r.children = make([]*child, r.fault.processes)
	for i := range r.children {
		r.startChild(i)
	}
	for end := clock() + duration; clock() < end; {
		r.fault.disturb(r)
	}

	mended := clock()
	workers := clients + len(r.children)
	if !eventually(func() bool { return r.history.servedSince(mended, r.d.styles(), workers) }) {
		r.add(violation{notServed, "", mended, fmt.Sprintf("within %v", servedBound)})
	}
	var ended sync.WaitGroup
	for _, child := range r.children {
		ended.Go(child.end)
	}
	w.end()
	ended.Wait()
	for key, turns := range r.history.byKey() {
		r.checkKey(key, turns)
	}
	r.awaitNothingLeft(w)
}

// awaitNothingLeft closes the workload's clients, and waits until nothing of it is left.
func (r *round) awaitNothingLeft(w *workload) {
	var keys []string
	if !eventually(func() (gone bool) {
		var err error
		keys, err = leftovers(r.t.Context(), r.d)
		return err == nil && len(keys) == 0
	}) {
		r.add(violation{left, "", clock(), strings.Join(keys, ", ")})
	}
	w.close()
	var leaks error
	if !eventually(func() bool {
		leaks = goleak.Find(append(othersGoroutines, r.existing)...)
		return leaks == nil
	}) {
		r.add(violation{left, "", clock(), leaks.Error()})
	}
}

func eventually(is func() bool) bool {
	for end := time.Now().Add(servedBound); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if is() {
			return true
		}
	}
	return false
}

func (r *round) startChild(i int) {
	server := r.d.(*single) // processes are clients of one server
	r.children[i] = startChild(r.t, server.proxy.Listen, clients+i, r.history.add)
}

func (r *round) checkKey(key string, turns []turn) {
	for _, v := range check(key, turns) {
		r.add(v)
	}
	result, info := checkModel(turns)
	if result == porcupine.Ok {
		return
	}
	r.add(violation{notALock, key, turns[0].Obtain.To, string(result)})
	if picture, err := drawModel(info); assert.NoError(r.t, err) {
		r.t.Logf("the history of %q by porcupine: %s", key, picture)
	}
}

// add records a violation. It fails the test unless something excuses the violation.
func (r *round) add(v violation) {
	r.violations = append(r.violations, v)
	excused := r.fault.loses != "" && v.kind != left && v.kind != notServed && v.kind != doneLate
	for _, style := range r.d.styles() {
		for k := range style.keys {
			excused = excused && (style.key(k) != v.key || !style.confirmed)
		}
	}
	if len(r.violations) == 1 && v.key != "" {
		if picture, err := draw(r.history.byKey()[v.key], v); assert.NoError(r.t, err) {
			r.t.Logf("the moment of the first violation: %s", picture)
		}
	}
	if !excused {
		r.t.Errorf("%s: %q at %.6f: %s\n-seed %d\n%s",
			v.kind, v.key, v.at.Seconds(), v.what, r.seed, r.history.around(v.key, v.at))
	}
}
