/*
 * Go's runtime has a thread that looks at the others, at first every 20 microseconds, and
 * sleeps in between. Where a guest is emulated, each time it wakes costs more than what it
 * looks at: two switches between processes, after which an emulator has to look up
 * again all code that is executed. So there the agent's threads are woken with others, or
 * late. On a processor proper to look often costs little, and saves who waits for a
 * processor that another has blocked.
 */

#include <cpuid.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "slack.h"

/* is_emulated says whether it is QEMU's emulator that executes this, as its CPUID leaf
 * 0x40000000 says, which is any hypervisor's place for its name. */
static int is_emulated(void)
{
	unsigned int max, name[3];

	__cpuid(0x40000000, max, name[0], name[1], name[2]);
	return memcmp(name, "TCGTCGTCGTCG", sizeof(name)) == 0;
}

/* Before Go has a thread: each has what the one had that made it, and so do processes. */
static void __attribute__((constructor(101))) slack(void)
{
	if (getpid() == 1 && getppid() == 0 && is_emulated())
		prctl(PR_SET_TIMERSLACK, AGENT_SLACK, 0, 0, 0);
}
