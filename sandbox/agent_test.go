package sandbox

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/hyperhq/hyper/proto/hyper/agent/v1"
)

func TestAnExitIsBelievedAsFarAsItIsPossible(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	soon := now.Add(-time.Second)
	for name, c := range map[string]struct {
		exit *agentv1.Exit
		want Exit
	}{
		"ordinary":        {&agentv1.Exit{Status: 7, AgoUs: 1e6, StdoutBytes: 3, OomKilled: true}, Exit{Status: 7, At: soon, StdoutBytes: 3, OOMKilled: true}},
		"no time":         {&agentv1.Exit{Status: 1}, Exit{Status: 1, At: now}},
		"too long ago":    {&agentv1.Exit{AgoUs: uint64(8 * 24 * time.Hour.Microseconds())}, Exit{At: now}},
		"out of bounds":   {&agentv1.Exit{AgoUs: 1<<64 - 1}, Exit{At: now}},
		"no valid status": {&agentv1.Exit{Status: 1 << 31}, Exit{Status: 255, At: now}},
		"nothing":         {nil, Exit{At: now}},
	} {
		if got := validExit(c.exit, now); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestAgentErrorsKeepTheirKindAndLoseTheirClaws(t *testing.T) {
	hostile := errgrpc.ToGRPC(errdefs.ErrNotFound.WithMessage("\x1b[2Jgone\n" + strings.Repeat("x", 1<<20)))
	err := guestError(t.Context(), hostile)
	if !errdefs.IsNotFound(err) {
		t.Errorf("kind of %.40v is lost", err)
	}
	if text := err.Error(); len(text) > maxErrorText || strings.ContainsAny(text, "\x1b\n") {
		t.Errorf("%d bytes: %.40q", len(text), text)
	}
	if err := guestError(t.Context(), ttrpc.ErrClosed); !errdefs.IsUnavailable(err) {
		t.Errorf("a closed connection is %v", err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 0, errors.New("too slow"))
	defer cancel()
	<-ctx.Done()
	if err := guestError(ctx, errors.New("x")); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "too slow") {
		t.Errorf("a deadline is %v", err)
	}
}

func FuzzDecodeMetrics(f *testing.F) {
	good, err := proto.Marshal(&stats.Metrics{Memory: &stats.MemoryStat{Usage: 1}, Pids: &stats.PidsStat{Current: 2}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decodeMetrics(data)
		if err != nil {
			return
		}
		if len(m.ProtoReflect().GetUnknown()) != 0 {
			t.Fatal("kept what it does not know")
		}
		if _, err := proto.Marshal(m); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzPrintable(f *testing.F) {
	f.Add("plain", 3)
	f.Add("\x1b]0;title\a\xff\u202e", 8)
	f.Add("日本語", 4)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		if limit < 0 {
			t.Skip("not a length")
		}
		got := printable(s, limit)
		if len(got) > limit || !utf8.ValidString(got) || strings.ContainsAny(got, "\n\r\x1b\x00") {
			t.Fatalf("%q of %q", got, s)
		}
	})
}
