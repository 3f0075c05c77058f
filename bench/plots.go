package main

import (
	"image/color"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"

	"github.com/bsm/redislock/bench/scenario"
)

var colors = map[string]color.Color{
	nameBare:     color.RGBA{0x9a, 0x9a, 0x9a, 0xff},
	nameOurs:     color.RGBA{0xd6, 0x2d, 0x20, 0xff},
	nameOursPoll: color.RGBA{0xf0, 0xa8, 0xa0, 0xff},
	nameUpstream: color.RGBA{0x1f, 0x5f, 0xa8, 0xff},
	nameRedsync:  color.RGBA{0x2e, 0x8b, 0x57, 0xff},
	nameRueidis:  color.RGBA{0xe0, 0x9f, 0x1f, 0xff},
	nameAsynq:    color.RGBA{0x80, 0x5a, 0xa8, 0xff},
}

const (
	plotWidth  = 8 * vg.Inch
	plotHeight = 3.6 * vg.Inch
)

func plots(dir string, p plan, found findings) error {
	for _, chart := range []struct {
		file, title, figure string
		jobs                []scenario.Job
		log                 bool
	}{
		{"obtain.svg", "Obtain and release, goroutines and client, per second (more is better)", "ops/s", p.uncontended, false},
		{"handovers.svg", "Handovers of one lock, clients × workers, per second (more is better)", "handovers/s", p.contended, false},
		{"waits.svg", "Longest wait for that lock, ms (less is better; logarithmic)", "longest wait ms", p.contended, true},
		{"goroutines.svg", "Goroutines for locks that are kept alive (less is better; logarithmic)", "goroutines", p.kept, true},
		{"bytes.svg", "Memory for each lock that is kept alive, bytes (less is better)", "heap/lock", p.kept, false},
	} {
		if err := bars(filepath.Join(dir, chart.file), chart.title, chart.figure, chart.jobs, found, chart.log); err != nil {
			return err
		}
	}
	return nil
}

func shortTitle(job scenario.Job) string {
	return strings.NewReplacer(" goroutines, ", ", ", " goroutine, ", ", ", " client", "", "auto pipeline", "pipelined").Replace(title(job))
}

// wholeTicks labels an axis with whole numbers.
type wholeTicks struct {
	plot.DefaultTicks
}

func (t wholeTicks) Ticks(least, most float64) []plot.Tick {
	ticks := t.DefaultTicks.Ticks(least, most)
	for i, tick := range ticks {
		if tick.Label != "" {
			ticks[i].Label = strconv.FormatFloat(tick.Value, 'f', 0, 64)
		}
	}
	return ticks
}

// logScale is a logarithmic scale with room for the foot of a bar.
type logScale struct {
	plot.LogScale
}

func (s logScale) Normalize(least, most, x float64) float64 {
	return s.LogScale.Normalize(least, most, max(x, least))
}

// bars draws a group of bars for each job, with a bar for each participant.
func bars(file, heading, figure string, jobs []scenario.Job, found findings, logarithmic bool) error {
	p := plot.New()
	p.Title.Text = heading
	p.Title.Padding = vg.Points(8)
	p.BackgroundColor = color.White
	p.Legend.Top = true
	p.Legend.Left = true
	p.Legend.Padding = vg.Points(4)
	// The reader's font may be wider than the one that the plot is laid out with.
	for _, style := range []*text.Style{&p.Legend.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label} {
		style.Font.Size = vg.Points(9)
	}
	p.Y.Label.Text = " "
	p.Y.Tick.Marker = wholeTicks{}
	p.Add(plotter.NewGrid())

	taking := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !takesPart(name, jobs[0]) })
	width := vg.Points(360 / float64(len(jobs)*len(taking)))
	highest := 0.
	for i, name := range taking {
		values := make(plotter.Values, len(jobs))
		for j, job := range jobs {
			s, _ := found.spread(name, title(job), figure)
			values[j] = s.median
			if logarithmic {
				values[j] = max(s.median, 1)
			}
			highest = max(highest, values[j])
		}
		bar, err := plotter.NewBarChart(values, width)
		if err != nil {
			return err
		}
		bar.Color = colors[name]
		bar.LineStyle.Width = 0
		bar.Offset = width * vg.Length(float64(i)-float64(len(taking)-1)/2)
		p.Add(bar)
		p.Legend.Add(name, bar)
	}
	labels := make([]string, len(jobs))
	for i, job := range jobs {
		labels[i] = shortTitle(job)
	}
	p.NominalX(labels...)
	p.X.Min, p.X.Max = -.5, float64(len(jobs))-.5
	// Room for the legend above the bars.
	p.Y.Min, p.Y.Max = 0, highest*1.45
	if logarithmic {
		p.Y.Scale = logScale{}
		p.Y.Tick.Marker = plot.LogTicks{Prec: -1}
		p.Y.Min, p.Y.Max = .8, highest*math.Pow(highest, .45)
	}
	return p.Save(plotWidth, plotHeight, file)
}
