package harness

import (
	"strings"
	"testing"
)

func TestALogIsShortened(t *testing.T) {
	const theirs = "level=debug msg=theirs\n"
	early := "level=error msg=\"the machine is gone\" runtime=io.containerd.hyper.v2\n"
	ours := "level=debug msg=ours runtime=io.containerd.hyper.v2\n"
	last := "level=info msg=last\n"
	got := shortened(early + strings.Repeat(theirs+ours, 10000) + last)
	if !strings.HasPrefix(got, early+ours) || !strings.HasSuffix(got, ours+last) || strings.Contains(got, theirs) {
		t.Errorf("%.100q … %q", got, got[max(0, len(got)-100):])
	}
	if len(got) > 64<<10 {
		t.Errorf("%d bytes are left", len(got))
	}
	if got := shortened(ours + theirs + last); got != ours+last {
		t.Errorf("of a short one: %q", got)
	}
}
