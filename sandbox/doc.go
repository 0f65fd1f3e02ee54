// Package sandbox is one pod: its virtual machine, the connection to its agent,
// and its containers.
//
//	       Boot or first CreateContainer     agent answered
//	(new) ────────────────────────▶ booting ───────────────▶ ready
//	  │                                │                       │
//	  │ Stop                           │ VM died, Stop         │ VM died, Stop
//	  ▼                                ▼                       ▼
//	stopped ◀──────────────────────────────────────────────────
//
// A process, be it a container's init or an exec:
//
//	created ──Start──▶ running ──exit──▶ stopped ──Delete──▶ (gone)
//	   │                 │  ▲               ▲
//	   │           Pause ▼  │ Resume        │
//	   │                paused ─────────────┤  (killed, or the VM died)
//	   └──────────────────────exit──────────┘
//
// The VM ends with its last container if no pod wants it any longer: see endsWith.
//
// When the VM ends, for whatever reason, every process of it stops with status
// 137 (killed) at once. Nothing holds a lock across a boot, a wait or a stream.
package sandbox
