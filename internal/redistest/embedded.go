package redistest

import (
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"
)

// Embedded starts a server inside this process, which ends with the test. Time
// does not pass on it by itself: use FastForward.
func Embedded(t testing.TB) *miniredis.Miniredis {
	t.Helper()
	server, err := miniredis.Run()
	require.NoError(t, err)
	t.Cleanup(server.Close)
	return server
}

// RunEmbedded starts a server inside this process on which time passes, for
// programs that are no tests. Call stop to end it.
func RunEmbedded() (addr string, stop func(), err error) {
	server, err := miniredis.Run()
	if err != nil {
		return "", nil, err
	}
	stopClock, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		ticker := time.NewTicker(time.Millisecond)
		defer ticker.Stop()
		for last := time.Now(); ; {
			select {
			case <-stopClock:
				return
			case <-ticker.C:
				now := time.Now()
				server.FastForward(now.Sub(last))
				last = now
			}
		}
	}()
	return server.Addr(), func() {
		close(stopClock)
		<-stopped
		server.Close()
	}, nil
}
