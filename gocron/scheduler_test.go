package rlgocron_test

import (
	"context"
	"testing"
	"time"

	"github.com/go-co-op/gocron/v2"
	"github.com/google/uuid"
	"github.com/jonboulle/clockwork"
	"github.com/stretchr/testify/require"
)

const (
	jobName  = "the-job"
	interval = time.Hour
	patience = 30 * time.Second
)

// An instance is a process that has a scheduler with a clock of its own, and one job.
type instance struct {
	t         *testing.T
	clock     *clockwork.FakeClock
	scheduler gocron.Scheduler
	ran       chan struct{}
	refused   chan error // by the locker
	hold      chan struct{}
}

// newInstance starts a scheduler whose clock says now. The job runs until hold is closed, or
// the scheduler stops.
func newInstance(t *testing.T, now time.Time, options ...gocron.SchedulerOption) *instance {
	t.Helper()
	i := &instance{
		t:       t,
		clock:   clockwork.NewFakeClockAt(now),
		ran:     make(chan struct{}, 10),
		refused: make(chan error, 10),
		hold:    make(chan struct{}),
	}
	close(i.hold)
	scheduler, err := gocron.NewScheduler(append(options, gocron.WithClock(i.clock))...)
	require.NoError(t, err)
	i.scheduler = scheduler
	_, err = scheduler.NewJob(
		gocron.DurationJob(interval),
		gocron.NewTask(func(ctx context.Context) {
			i.ran <- struct{}{}
			select {
			case <-i.hold:
			case <-ctx.Done():
			}
		}),
		gocron.WithName(jobName),
		gocron.WithEventListeners(gocron.AfterLockError(func(_ uuid.UUID, _ string, err error) { i.refused <- err })),
	)
	require.NoError(t, err)
	scheduler.Start()
	// Never is it exactly the time at which the job is due: gocron would not know whether that run is
	// over or to come.
	i.clock.Advance(time.Millisecond)
	t.Cleanup(func() { require.NoError(t, scheduler.Shutdown()) })
	return i
}

// advance lets an interval pass on the clock, so that the job is due.
func (i *instance) advance() {
	i.t.Helper()
	ctx, cancel := context.WithTimeout(i.t.Context(), patience)
	defer cancel()
	require.NoError(i.t, i.clock.BlockUntilContext(ctx, 1), "the job is scheduled")
	i.clock.Advance(interval)
}

// runs waits until the job has begun.
func (i *instance) runs() {
	i.t.Helper()
	select {
	case <-i.ran:
	case err := <-i.refused:
		require.Fail(i.t, "refused", "%v", err)
	case <-time.After(patience):
		require.Fail(i.t, "the job does not run")
	}
}

// skips waits until the locker has refused the job.
func (i *instance) skips() error {
	i.t.Helper()
	select {
	case <-i.ran:
		require.Fail(i.t, "the job runs")
		return nil
	case err := <-i.refused:
		return err
	case <-time.After(patience):
		require.Fail(i.t, "nothing happens")
		return nil
	}
}
