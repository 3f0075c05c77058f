package redistest

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// NoLeaks fails the test if it leaves goroutines behind. Call it first, so that it
// looks after all else has been cleaned up.
func NoLeaks(t testing.TB) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		require.Eventually(t, func() bool {
			// Eventually itself runs this function in a goroutine.
			return runtime.NumGoroutine()-1 <= before
		}, 10*time.Second, 10*time.Millisecond, "goroutines: %d before, more now", before)
	})
}
