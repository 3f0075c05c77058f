package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// story is what the handler's clients see.
type story struct {
	start time.Time
	url   string

	begun  chan string   // ids of reports that are being made
	finish chan error    // finishes one
	ended  chan error    // why one was given up
	left   chan struct{} // a request has been served whose client had gone away
}

func (s *story) watch(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		handler.ServeHTTP(w, request)
		if request.Context().Err() != nil {
			s.left <- struct{}{}
		}
	})
}

// create takes as long as the story wants.
func (s *story) create(ctx context.Context, id string) error {
	s.begun <- id
	select {
	case err := <-s.finish:
		return err
	case <-ctx.Done():
		s.ended <- context.Cause(ctx)
		return ctx.Err()
	}
}

func (s *story) refuse() error {
	anna := s.request(context.Background(), "7")
	if err := s.begins("Anna asks", anna); err != nil {
		return err
	}
	if err := s.expect("Ben asks for the same", s.request(context.Background(), "7"), http.StatusConflict); err != nil {
		return err
	}
	cleo := s.request(context.Background(), "8")
	if err := s.begins("Cleo asks", cleo); err != nil {
		return err
	}
	s.finish <- nil
	s.finish <- nil
	if err := errors.Join(s.expect("Anna's request", anna, http.StatusOK), s.expect("Cleo's request", cleo, http.StatusOK)); err != nil {
		return err
	}
	return s.succeed("Ben asks again")
}

func (s *story) goAway() error {
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	anna := s.request(ctx, "7")
	if err := s.begins("Anna asks", anna); err != nil {
		return err
	}
	leave()
	s.tell("Anna goes away. The work ends: %q.", <-s.ended)
	<-s.left
	return s.succeed("Ben asks")
}

func (s *story) fail() error {
	anna := s.request(context.Background(), "7")
	if err := s.begins("Anna asks", anna); err != nil {
		return err
	}
	s.finish <- errors.New("there is no data")
	if err := s.expect("It fails. Anna's request", anna, http.StatusInternalServerError); err != nil {
		return err
	}
	return s.succeed("Ben asks")
}

func (s *story) succeed(who string) error {
	answer := s.request(context.Background(), "7")
	if err := s.begins(who, answer); err != nil {
		return err
	}
	s.finish <- nil
	return s.expect("Ben's request", answer, http.StatusOK)
}

func (s *story) tell(format string, args ...any) {
	fmt.Printf("%6.2fs  %s\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, args...))
}

// begins waits until a report is being made. That the request is refused is an error.
func (s *story) begins(who string, refused <-chan answer) error {
	select {
	case id := <-s.begun:
		s.tell("%s: report %s is being made.", who, id)
		return nil
	case a := <-refused:
		return fmt.Errorf("%s: status %d, error %v", who, a.status, a.err)
	}
}

func (s *story) expect(who string, answers <-chan answer, status int) error {
	a := <-answers
	if a.err != nil || a.status != status {
		return fmt.Errorf("%s: status %d instead of %d, error %v", who, a.status, status, a.err)
	}
	retry := ""
	if a.retryAfter != "" {
		retry = fmt.Sprintf(", Retry-After: %s", a.retryAfter)
	}
	s.tell("%s: %d %s%s.", who, a.status, http.StatusText(a.status), retry)
	return nil
}

type answer struct {
	status     int
	retryAfter string
	err        error
}

// request asks for a report.
func (s *story) request(ctx context.Context, id string) <-chan answer {
	answers := make(chan answer, 1)
	go func() {
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+id, nil)
		if err != nil {
			answers <- answer{err: err}
			return
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			answers <- answer{err: err}
			return
		}
		_ = response.Body.Close()
		answers <- answer{status: response.StatusCode, retryAfter: response.Header.Get("Retry-After")}
	}()
	return answers
}
