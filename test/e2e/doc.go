// Package e2e holds the end-to-end tests: real containers by a real containerd
// in real virtual machines, as a user and as an operator would meet them, and
// what bad input and bad luck do to them.
//
// One file is one subject. Every test runs on each containerd and with each guest
// kernel, in as few pairs as that takes, but for those that neither matters to
// (test.once), and after each of them nothing may be left on the host.
//
// Where guests are emulated nearly all of the suite's time is theirs: a machine that
// boots takes more than twice what one from a template does, and to build a template takes
// more than to boot. So a test has no more machines than it is about. What does not depend
// on whose machine it is has its containers in a pod that tests share (test.shares), and
// at least one test of each subject has a machine of its own. No test has a template built
// that nobody uses (see withoutTemplates), or that another has had built (keptTemplate),
// and what its guests compute is cheap (see package pattern).
package e2e
