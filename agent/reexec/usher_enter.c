/* A process that enters a container. */

#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include "usher_parts.h"

/* The namespaces to join. That of processes is the usher's to choose, by forking there. */
#define JOINED (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET)

/* is_own_user_namespace says whether a process is in the caller's: that nobody can join. */
static int is_own_user_namespace(int pidfd)
{
	return setns(pidfd, CLONE_NEWUSER) < 0 && errno == EINVAL;
}

/* usher_enter is the life of a process that was let in. Of what it has, the container's
 * processes shall see nothing. */
void usher_enter(struct usher_parsed *r, const int *fds, int home)
{
	const struct usher_request *h = r->head;
	int status = fds[USHER_STATUS];
	const char *program;

	/* The container sees this process already. */
	try(close(USHER_SOCKET));
	try(close(home));
	try(close(fds[USHER_CGROUP]));
	if (h->flags & USHER_OOM_SCORE_ADJ)
		try(usher_set_oom_score_adj(h->oom_score_adj)); /* /proc is the guest's as yet */
	try(usher_take_stdio(fds));
	try(setns(fds[USHER_PIDFD], JOINED));
	try(is_own_user_namespace(fds[USHER_PIDFD]) - 1);
	/* Nothing that is ours may be here when a path is looked up that others have made. */
	try(usher_close_all_but(status));

	try(setsid());
	try(usher_join_session_keyring(r->keyring));
	if (h->flags & USHER_UMASK)
		umask(h->umask);
	usher_become(r, status);
	usher_await_go(status);
	program = usher_find_program(r);
	if (program)
		execve(program, r->args, r->variables);
	usher_fail(status, __FILE__, __LINE__);
}
