package redislockotel_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"github.com/redis/go-redis/v9"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/bsm/redislock"
	"github.com/bsm/redislock/internal/redistest"
	redislockotel "github.com/bsm/redislock/otel"
)

func ExampleNewObserver() {
	addr, stop, err := redistest.RunEmbedded() // stands for your server
	if err != nil {
		log.Fatal(err)
	}
	defer stop()
	client := redis.NewClient(&redis.Options{Addr: addr})
	defer client.Close()

	spans := tracetest.NewInMemoryExporter() // stands for yours
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	observer, err := redislockotel.NewObserver(&redislockotel.Options{TracerProvider: provider})
	if err != nil {
		log.Fatal(err)
	}

	locker := redislock.New(client).WithObserver(observer)
	err = locker.Do(context.Background(), "my-key", time.Minute, nil, func(ctx context.Context) error {
		return nil // its spans are children of the hold
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, span := range spans.GetSpans() {
		fmt.Println(span.Name)
	}

	// Output:
	// redislock obtain
	// redislock hold
	// redislock release
}

func ExampleRegisterMetrics() {
	reader := sdkmetric.NewManualReader() // stands for yours
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	registration, err := redislockotel.RegisterMetrics(provider)
	if err != nil {
		log.Fatal(err)
	}
	defer registration.Unregister()

	var metrics metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &metrics); err != nil {
		log.Fatal(err)
	}
	for _, metric := range metrics.ScopeMetrics[0].Metrics {
		fmt.Println(metric.Name, metric.Unit)
	}

	// Output:
	// redislock.operations {operation}
	// redislock.backoffs {backoff}
	// redislock.watchdog.starts {lock}
	// redislock.watchdog.stops {lock}
	// redislock.watchdog.ticks {refresh}
	// redislock.locks.lost {lock}
}
