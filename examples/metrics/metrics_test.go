package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock/internal/redistest"
)

// start runs the example until the test ends and returns its URL.
func start(t *testing.T, addr string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	said, saying := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := run(ctx, "127.0.0.1:0", addr, saying)
		_ = saying.CloseWithError(err)
		done <- err
	}()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
	})
	url, err := bufio.NewReader(said).ReadString('\n')
	require.NoError(t, err)
	return strings.TrimSpace(url)
}

func scrape(t *testing.T, url string) map[string]*dto.MetricFamily {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(response.Body)
	require.NoError(t, err)
	return families
}

// values returns the series of a family by the value of their only label.
func values(family *dto.MetricFamily) map[string]float64 {
	values := make(map[string]float64)
	for _, metric := range family.GetMetric() {
		value := metric.GetCounter().GetValue()
		if histogram := metric.GetHistogram(); histogram != nil {
			value = float64(histogram.GetSampleCount())
		}
		labels := metric.GetLabel() // sorted: op alone, or kind and result
		values[labels[len(labels)-1].GetValue()] = value
	}
	return values
}

func TestScrape(t *testing.T) {
	for name, addr := range map[string]func() string{
		"embedded": func() string { return "" },
		"real":     func() string { return redistest.Start(t).Addr },
	} {
		t.Run(name, func(t *testing.T) {
			url := start(t, addr())
			assert.Len(t, values(scrape(t, url)["redislock_count"]), 17)
			for metric, labels := range map[string][]string{
				"redislock_count": {
					"obtain_success", "obtain_failed", "obtain_error", "obtain_cancel",
					"release_success", "release_failed", "refresh_success", "refresh_failed",
					"backoff", "watchdog", "watchdog_done", "watchdog_tick", "lost",
				},
				"redislock_wait_seconds": {"success", "failed", "error", "cancel"},
				"redislock_hold_seconds": {"success", "lost"},
			} {
				before := values(scrape(t, url)[metric])
				require.EventuallyWithT(t, func(c *assert.CollectT) {
					now := values(scrape(t, url)[metric])
					for _, label := range labels {
						assert.Greater(c, now[label], before[label], "%s %s", metric, label)
					}
				}, time.Minute, 100*time.Millisecond)
			}
		})
	}
}

func TestRun_fails(t *testing.T) {
	err := run(t.Context(), "127.0.0.1:0", "127.0.0.1:1", io.Discard)
	assert.ErrorContains(t, err, "127.0.0.1:1")
	err = run(t.Context(), "nowhere", "", io.Discard)
	assert.ErrorContains(t, err, "nowhere")
}
