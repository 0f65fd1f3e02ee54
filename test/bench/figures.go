package main

import (
	"fmt"
	"slices"

	"github.com/hyperhq/hyper/test/bench/report"
)

// figures are what Hyper promises. Those of containers at once are about the most
// that were to be started.
func figures(at counts) []report.Figure {
	most := slices.Max(at)
	return slices.Concat(
		beside("`ctr run`, Hyper ÷ runc", hyper, 2, 1.5),
		beside("`ctr run`, Hyper with a pool ÷ runc", pool, 1.3, 1),
		[]report.Figure{
			{What: "cold ÷ clone, whole command", Least: true, Must: 5, Aim: 10,
				Ours: ref(runWhole, cold), Over: ref(runWhole, hyper)},
			{What: fmt.Sprint(most) + " at once until all run ÷ runc", Must: 2, Aim: 1.2,
				Ours: refAt(parallelUp, hyper, most), Over: refAt(parallelUp, runc, most)},
			{What: fmt.Sprint(most) + " at once until all are gone ÷ runc", Must: 1.5, Aim: 1,
				Ours: refAt(parallelDown, hyper, most), Over: refAt(parallelDown, runc, most)},
			{What: "memory of a further sandbox, by ΣPSS", Must: 40, Aim: 25, Unit: "MB", Ours: ref(slopePSS, hyper)},
			{What: "memory of a further sandbox, by MemAvailable", Must: 40, Aim: 25, Unit: "MB", Ours: ref(slopeTaken, hyper)},
			{What: "cold boot ÷ that of a bare guest", Must: 1.3, Aim: 1, Ours: ref(bootFirstWord, cold), Over: ref(bootFirstWord, bare)},
			{What: "exec ÷ runc", Must: 2, Aim: 1, Ours: ref(execWhole, hyper), Over: ref(execWhole, runc)},
			{What: "delete until nothing is left ÷ runc", Must: 2, Aim: 1, Ours: ref(deleteAll, hyper), Over: ref(deleteAll, runc)},
		})
}

// beside are the two figures of a start.
func beside(what, ours string, must, aim float64) []report.Figure {
	return []report.Figure{
		{What: what + ", first byte", Must: must, Aim: aim, Ours: ref(runFirstByte, ours), Over: ref(runFirstByte, runc)},
		{What: what + ", whole command", Must: must, Aim: aim, Ours: ref(runWhole, ours), Over: ref(runWhole, runc)},
	}
}

func ref(q report.Quantity, of string) report.Ref { return refAt(q, of, 0) }

func refAt(q report.Quantity, of string, at int) report.Ref {
	return report.Ref{Quantity: q.Name, Of: of, At: at}
}
