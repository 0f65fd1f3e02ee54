/* How much later than asked for a thread may be woken, in nanoseconds: the agent's, and
 * a container's, which is the kernel's usual. */

#define AGENT_SLACK 10000000ul
#define USUAL_SLACK 50000ul
