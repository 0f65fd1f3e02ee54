/* The least that a guest can do: say one word, and wait. */

static long call(long number, long a, long b, long c) {
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

void _start(void) {
	call(1, 1, (long)"floor\n", 6); /* write(2); the kernel gave us its console */
	for (;;)
		call(34, 0, 0, 0); /* pause(2) */
}
