package redistest

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// leakPatience is how long what was closed may take to end, on a busy machine.
const leakPatience = 10 * time.Second

// Main runs the tests of a package and returns the exit code, for its TestMain. The tests
// fail together if they leave goroutines behind: while several run at a time nobody could
// tell whose a goroutine is.
func Main(m *testing.M) int {
	flag.Parse()
	if fuzz := flag.Lookup("test.fuzz"); fuzz != nil && fuzz.Value.String() != "" {
		return m.Run() // which leaves goroutines, and computes
	}
	runManyAtOnce()
	before := runtime.NumGoroutine()
	code := m.Run()
	for end := time.Now().Add(leakPatience); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			fmt.Fprintf(os.Stderr, "goroutines: %d before the tests, %d after them\n", before, runtime.NumGoroutine())
			_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 1)
			return max(code, 1)
		}
	}
	return code
}

// runManyAtOnce has more tests run at a time than there are processors, unless it was said how
// many: what they do most is wait.
func runManyAtOnce() {
	said := false
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == "test.parallel" })
	if !said {
		_ = flag.Set("test.parallel", "24")
	}
}

// TakesLong skips the test, which takes seconds, if go test has the flag -short.
func TakesLong(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes long")
	}
}

// NoLeaks fails the test if it leaves goroutines behind. Call it first, so that it
// looks after all else has been cleaned up. No other test may run at the same time.
func NoLeaks(t testing.TB) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		require.Eventually(t, func() bool {
			// Eventually itself runs this function in a goroutine.
			return runtime.NumGoroutine()-1 <= before
		}, leakPatience, 10*time.Millisecond, "goroutines: %d before, more now", before)
	})
}
