package rlgocron_test

import (
	"fmt"
	"log"
	"time"

	"github.com/go-co-op/gocron/v2"
	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/bsm/redislock"
	rlgocron "github.com/bsm/redislock/gocron"
	"github.com/bsm/redislock/internal/redistest"
)

// Two processes have the same job, which one of them runs.
func ExampleNewLocker() {
	addr, stop, err := redistest.RunEmbedded() // stands for your server
	if err != nil {
		log.Fatal(err)
	}
	defer stop()

	client := redis.NewClient(&redis.Options{Addr: addr})
	defer client.Close()

	done := make(chan string)
	process := func() gocron.Scheduler {
		locker, err := rlgocron.NewLocker(redislock.New(client), 10*time.Second, &redislock.Options{
			HoldAtLeast: time.Minute, // half of the interval
		})
		if err != nil {
			log.Fatal(err)
		}
		scheduler, err := gocron.NewScheduler(gocron.WithDistributedLocker(locker))
		if err != nil {
			log.Fatal(err)
		}
		_, err = scheduler.NewJob(
			gocron.DurationJob(2*time.Minute),
			gocron.NewTask(func() { done <- "the job runs" }),
			gocron.WithName("send-report"),
			gocron.WithStartAt(gocron.WithStartImmediately()),
			gocron.WithEventListeners(gocron.AfterLockError(func(_ uuid.UUID, _ string, err error) {
				done <- err.Error()
			})),
		)
		if err != nil {
			log.Fatal(err)
		}
		return scheduler
	}
	for range 2 {
		scheduler := process()
		scheduler.Start()
		defer scheduler.Shutdown()
		fmt.Println(<-done)
	}

	// Output:
	// the job runs
	// rlgocron: job "send-report" is not run here: redislock: not obtained
}

func ExampleNewElector() {
	addr, stop, err := redistest.RunEmbedded() // stands for your server
	if err != nil {
		log.Fatal(err)
	}
	defer stop()
	client := redis.NewClient(&redis.Options{Addr: addr})
	defer client.Close()

	elector, err := rlgocron.NewElector(redislock.New(client), "scheduler-leader", 10*time.Second, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer elector.Close() // after the scheduler has been shut down

	scheduler, err := gocron.NewScheduler(gocron.WithDistributedElector(elector))
	if err != nil {
		log.Fatal(err)
	}
	defer scheduler.Shutdown()

	ran := make(chan struct{}, 1)
	_, err = scheduler.NewJob(
		gocron.DurationJob(10*time.Millisecond),
		gocron.NewTask(func() {
			select {
			case ran <- struct{}{}:
			default:
			}
		}),
	)
	if err != nil {
		log.Fatal(err)
	}
	scheduler.Start()
	<-ran
	fmt.Println("the leader runs the job")

	// Output: the leader runs the job
}
