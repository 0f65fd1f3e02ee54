/*
 * Go's runtime has a thread that looks at the others, at first every 20 microseconds, and
 * sleeps in between. Where a guest is emulated, each time it wakes costs more than what it
 * looks at: two switches between processes, after which an emulator has to look up
 * again all code that is executed. So the agent's threads are woken with others, or late.
 */

#include <sys/prctl.h>
#include <unistd.h>

#include "slack.h"

/* Before Go has a thread: each has what the one had that made it, and so do processes. */
static void __attribute__((constructor(101))) slack(void)
{
	if (getpid() == 1 && getppid() == 0)
		prctl(PR_SET_TIMERSLACK, AGENT_SLACK, 0, 0, 0);
}
