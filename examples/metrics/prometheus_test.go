package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bsm/redislock/internal/redistest"
)

// requirePrometheus names the environment variable that turns the skipping of tests
// without a prometheus into their failure.
const requirePrometheus = "REDISLOCK_REQUIRE_PROMETHEUS"

// program returns the path of a program of Prometheus.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	help := "no " + name + " in PATH: install it (Debian, Ubuntu: apt-get install prometheus)"
	if os.Getenv(requirePrometheus) != "" {
		t.Fatal(help)
	}
	t.Skip(help)
	return ""
}

const (
	docs       = "../../docs/"
	alertRules = docs + "prometheus-alerts.yml"
)

func TestAlerts(t *testing.T) {
	promtool := program(t, "promtool")
	for _, args := range [][]string{{"check", "rules", alertRules}, {"test", "rules", "alerts_test.yml"}} {
		out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput()
		assert.NoError(t, err, "%s", out)
	}
}

// promServer is a Prometheus that scrapes the example.
type promServer struct {
	url string
}

const scrapeInterval = "250ms"

func startPrometheus(t *testing.T, target string) *promServer {
	t.Helper()
	path := program(t, "prometheus")
	rules, err := filepath.Abs(alertRules)
	require.NoError(t, err)
	target = strings.TrimSuffix(strings.TrimPrefix(target, "http://"), "/metrics")
	config := fmt.Sprintf("global: {scrape_interval: %s, evaluation_interval: %s}\n"+
		"rule_files: [%q]\n"+
		"scrape_configs: [{job_name: example, static_configs: [{targets: [%q]}]}]\n",
		scrapeInterval, scrapeInterval, rules, target)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600))

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := listener.Addr().String()
	require.NoError(t, listener.Close())
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	defer log.Close()

	// It is killed when the test's context ends, and waited for before the directory goes.
	command := exec.CommandContext(t.Context(), path, "--config.file="+filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr)
	command.Stdout, command.Stderr = log, log
	require.NoError(t, command.Start())
	exited := make(chan struct{})
	go func() {
		_ = command.Wait()
		close(exited)
	}()
	t.Cleanup(func() { <-exited })

	p := &promServer{url: "http://" + addr}
	require.Eventually(t, func() bool { return ended(exited) || p.ready() }, time.Minute, 50*time.Millisecond)
	if ended(exited) {
		said, _ := os.ReadFile(log.Name())
		require.FailNow(t, "Prometheus has ended", "%s", said)
	}
	return p
}

func ended(exited <-chan struct{}) bool {
	select {
	case <-exited:
		return true
	default:
		return false
	}
}

func (p *promServer) ready() bool {
	response, err := http.Get(p.url + "/-/ready")
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// get asks the API and decodes its data.
func (p *promServer) get(ctx context.Context, path string, data any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+path, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	answer := struct {
		Status string
		Error  string
		Data   any
	}{Data: data}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("%w: %s", err, body)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", answer.Status, answer.Error)
	}
	return nil
}

// query returns the values that a query has now, as text.
func (p *promServer) query(ctx context.Context, expr string) ([]string, error) {
	var data struct {
		Result []struct{ Value [2]any }
	}
	if err := p.get(ctx, "/api/v1/query?query="+url.QueryEscape(expr), &data); err != nil {
		return nil, fmt.Errorf("%s: %w", expr, err)
	}
	var values []string
	for _, series := range data.Result {
		values = append(values, fmt.Sprint(series.Value[1]))
	}
	return values, nil
}

// dashboard is what of Grafana's format is needed here.
type dashboard struct {
	Templating struct {
		List []struct{ Name, Type, Definition string }
	}
	Panels []struct {
		Title, Type, Description string
		Targets                  []struct{ Expr string }
	}
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	text, err := os.ReadFile(docs + "grafana-dashboard.json")
	require.NoError(t, err)
	var d dashboard
	require.NoError(t, json.Unmarshal(text, &d))
	return d
}

// variables stands for what Grafana puts in their place.
var variables = strings.NewReplacer("$__rate_interval", "5s", "$__range", "1m", "$job", ".*", "$instance", ".*")

// Every query of the dashboard, and of its variables, returns data; the alerts get to see
// the losses.
func TestDashboard(t *testing.T) {
	program(t, "prometheus") // skips before the work begins
	p := startPrometheus(t, start(t, redistest.Start(t).Addr))
	d := readDashboard(t)
	queries := 0
	for _, panel := range d.Panels {
		if panel.Type != "row" {
			assert.NotEmpty(t, panel.Description, panel.Title)
			assert.NotEmpty(t, panel.Targets, panel.Title)
		}
		for _, target := range panel.Targets {
			queries++
			expr := variables.Replace(target.Expr)
			require.NotContains(t, expr, "$")
			require.EventuallyWithT(t, func(c *assert.CollectT) {
				values, err := p.query(t.Context(), expr)
				require.NoError(c, err)
				assert.NotEmpty(c, values, "%s: %s", panel.Title, expr)
				assert.NotContains(c, values, "NaN", "%s: %s", panel.Title, expr)
			}, time.Minute, 100*time.Millisecond)
		}
	}
	assert.Greater(t, queries, 20)

	for _, variable := range d.Templating.List {
		if variable.Type != "query" {
			continue
		}
		matched, label, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(variable.Definition, "label_values("), ")"), ", ")
		require.True(t, ok, variable.Definition)
		var found []string
		require.NoError(t, p.get(t.Context(), "/api/v1/label/"+label+"/values?match[]="+url.QueryEscape(variables.Replace(matched)), &found))
		assert.Len(t, found, 1, variable.Name)
	}

	require.EventuallyWithT(t, func(c *assert.CollectT) {
		var data struct {
			Alerts []struct {
				Labels map[string]string
				State  string
			}
		}
		require.NoError(c, p.get(t.Context(), "/api/v1/alerts", &data))
		firing := false
		for _, alert := range data.Alerts {
			firing = firing || alert.Labels["alertname"] == "RedislockLockLost" && alert.State == "firing"
		}
		assert.True(c, firing)
	}, time.Minute, 100*time.Millisecond)
}
